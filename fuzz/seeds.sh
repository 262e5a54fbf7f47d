#!/bin/sh
# Puts inputs that are right into the corpus of the targets whose input has digests: no fuzzer finds those.
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p corpus/manifest corpus/answer corpus/archive "$work/saved" "$work/layout/blobs/sha256"
head -c 512 /dev/zero > "$work/saved/layer.tar"
digest() { sha256sum "$1" | cut -d' ' -f1; }
layer=$(digest "$work/saved/layer.tar")
printf '{"architecture":"amd64","os":"linux","config":{"Cmd":["sh"],"Env":["A=b"],"Healthcheck":{"Test":["CMD","true"]}},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]},"history":[{"created_by":"x"}]}' "$layer" > "$work/saved/config.json"
printf '[{"Config":"config.json","RepoTags":["a:1"],"Layers":["layer.tar"]}]' > "$work/saved/manifest.json"
tar -b 1 -cf corpus/archive/saved -C "$work/saved" manifest.json config.json layer.tar
config=$(digest "$work/saved/config.json")
printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"digest":"sha256:%s","size":%s},"layers":[{"digest":"sha256:%s","size":512}],"annotations":{"dev.wharf.attestations":"sha256:%s"}}' \
	"$config" "$(stat -c %s "$work/saved/config.json")" "$layer" "$config" > "$work/manifest"
manifest=$(digest "$work/manifest")
cp "$work/manifest" "$work/layout/blobs/sha256/$manifest"
cp "$work/saved/config.json" "$work/layout/blobs/sha256/$config"
cp "$work/saved/layer.tar" "$work/layout/blobs/sha256/$layer"
printf '{"schemaVersion":2,"manifests":[{"digest":"sha256:%s","size":1,"annotations":{"org.opencontainers.image.ref.name":"b:1"},"platform":{"os":"linux","architecture":"amd64"}}]}' "$manifest" > "$work/layout/index.json"
tar -b 1 -cf corpus/archive/layout -C "$work/layout" index.json "blobs/sha256/$manifest" "blobs/sha256/$config" "blobs/sha256/$layer"
cp "$work/manifest" corpus/manifest/manifest
cp "$work/saved/config.json" corpus/manifest/config
cp "$work/layout/index.json" corpus/manifest/index
printf '{"token":"a","access_token":"b"}' > corpus/answer/token
printf '{"errors":[{"code":"DENIED","message":"no"}]}' > corpus/answer/error
printf 'realm="https://x/token",service="y",scope="repository:a:pull,push"' > corpus/answer/challenge
