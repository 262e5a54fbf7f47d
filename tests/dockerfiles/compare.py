#!/usr/bin/env python3
"""Builds every Dockerfile of cases.txt and compares the images with what Docker (BuildKit) makes of them.

  compare.py --write docker         writes expected.json from Docker's answers
  compare.py wharf                  compares; exits with 1 where something differs
  compare.py --only REGEX COMMAND...

COMMAND understands `image build` and `image save`, and has an image busybox:local. Of each image the files above the base are
compared (path, kind, mode, owner, link target, content) and the configuration; times are not.
"""
import argparse, gzip, hashlib, io, json, os, re, shlex, subprocess, sys, tarfile, tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
arguments = argparse.ArgumentParser()
arguments.add_argument('--write', action='store_true')
arguments.add_argument('--only', default='')
arguments.add_argument('command', nargs='+')
options = arguments.parse_args()


def context(root):
    """The files that the cases copy, with modes and links that a repository would not keep."""
    def put(path, text, mode=0o644):
        path = os.path.join(root, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, 'w') as file: file.write(text)
        os.chmod(path, mode)
    put('a.txt', 'a\n'); put('b.txt', 'b\n'); put('with space.txt', 's\n')
    put('run.sh', '#!/bin/sh\n', 0o755); put('private', 'p\n', 0o600)
    put('dir/one', '1\n'); put('dir/sub/two', '2\n', 0o640); put('dir/ignored.log', 'no\n')
    put('empty-ignored/keep', 'k\n'); put('empty-ignored/drop', 'd\n')
    os.makedirs(f'{root}/links', exist_ok=True)
    os.symlink('../a.txt', f'{root}/links/to-a'); os.symlink('/absolute', f'{root}/links/absolute')
    put('pkg/fake.tar.gz', 'not an archive\n')
    for name in ['plain.tar', 'archive.tar.gz']:
        # Without a time in the compressed one's header, it is the same each time.
        out = open(f'{root}/pkg/{name}', 'wb')
        if name.endswith('.gz'): out = gzip.GzipFile('', 'wb', fileobj=out, mtime=0)
        with out, tarfile.open(fileobj=out, mode='w') as tar:
            def add(path, kind=tarfile.REGTYPE, text=b'', owner=(1, 2), perm=0o644, link=''):
                info = tarfile.TarInfo(path)
                info.type, info.size, info.mode, info.uid, info.gid, info.linkname, info.mtime = kind, len(text), perm, *owner, link, 1000000000
                tar.addfile(info, io.BytesIO(text))
            add('in', tarfile.DIRTYPE, perm=0o750); add('in/file', text=b'packed\n'); add('in/link', tarfile.SYMTYPE, link='file', perm=0o777)
    put('.dockerignore', '# what stays out\n**/*.log\nempty-ignored/*\n!empty-ignored/keep\nDockerfile*\n')
    os.chmod(f'{root}/dir', 0o755)
    os.chmod(f'{root}/dir/sub', 0o711)


def cases():
    name, flags, text = None, [], []
    for line in open(f'{HERE}/cases.txt').read().split('\n')[1:]:
        if line.startswith('== '):
            if name: yield name, flags, '\n'.join(text) + '\n'
            name, *flags = shlex.split(line[3:])
            text = []
        else: text.append(line)
    yield name, flags, '\n'.join(text).rstrip('\n') + '\n'


def image(tag):
    """Files and configuration of a saved image."""
    saved = subprocess.run(options.command + ['image', 'save', tag], capture_output=True)
    if saved.returncode: raise RuntimeError(saved.stderr.decode())
    outer = tarfile.open(fileobj=io.BytesIO(saved.stdout))
    manifest = json.load(outer.extractfile('manifest.json'))[0]
    config = json.load(outer.extractfile(manifest['Config']))
    return outer, manifest['Layers'], config


def files(outer, layers):
    tree = {}
    for layer in layers:
        for info in (tar := tarfile.open(fileobj=outer.extractfile(layer))):
            path = info.name.strip('/')
            directory, base = os.path.split(path)
            if base == '.wh..wh..opq':
                tree = {p: v for p, v in tree.items() if not p.startswith(directory + '/')}
                tree[f'{directory}/(opaque)'] = True
            elif base.startswith('.wh.'):
                gone = os.path.join(directory, base[4:])
                tree = {p: v for p, v in tree.items() if p != gone and not p.startswith(gone + '/')}
                tree[gone] = 'removed'
            elif path:
                kind = 'file' if info.isfile() or info.islnk() else 'link' if info.issym() else 'directory' if info.isdir() else 'other'
                entry = {'kind': kind, 'mode': oct(info.mode), 'owner': f'{info.uid}:{info.gid}'}
                if info.issym(): entry['target'] = info.linkname; del entry['mode']
                if info.isfile(): entry['content'] = hashlib.sha256(tar.extractfile(info).read()).hexdigest()[:16]
                if info.islnk(): entry = dict(tree[info.linkname.strip('/')])
                if kind != 'directory': tree = {p: v for p, v in tree.items() if not p.startswith(path + '/')}
                tree[path] = entry
    return tree


def answer(name, flags, text, root, base, base_tree):
    dockerfile = f'{root}.{name}'
    with open(dockerfile, 'w') as file: file.write(text)
    tag = f'dockerfile-case:{name}'
    built = subprocess.run(options.command + ['image', 'build', '-q', '-t', tag, '-f', dockerfile] + flags + ['.'], cwd=root, capture_output=True, text=True, env=dict(os.environ, DOCKER_BUILDKIT='1'))
    os.unlink(dockerfile)
    if built.returncode: return {'failed': built.stderr.strip()[-600:] if not options.write else True}
    outer, layers, config = image(tag)
    diff_ids = config['rootfs']['diff_ids']
    above = [layer for layer, diff_id in zip(layers, diff_ids) if diff_id not in base]
    # Directories of the base that a step only wrote into come along unchanged, and what a builder has mounted something on stays.
    def told(path, entry):
        if path in ('dev', 'etc', 'proc', 'sys', 'etc/hosts', 'etc/resolv.conf'): return False
        return entry != base_tree.get(path) or entry['kind'] != 'directory'
    tree = {path: entry for path, entry in files(outer, above).items() if told(path, entry)}
    inner = {key: value for key, value in config.get('config', {}).items() if value not in (None, '', [], {}, False) and key not in ('Image', 'Hostname', 'ArgsEscaped')}
    return {'files': tree, 'config': inner, 'author': config.get('author', '')}


def difference(a, b, at=''):
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(a.keys() | b.keys()):
            if a.get(key) != b.get(key): return difference(a.get(key), b.get(key), f'{at}/{key}')
    return f'{at}: expected {json.dumps(a)[:200]}, got {json.dumps(b)[:200]}'


with tempfile.TemporaryDirectory() as top:
    root = f'{top}/context'
    context(root)
    outer, layers, config = image('busybox:local')
    base, base_tree = set(config['rootfs']['diff_ids']), files(outer, layers)
    answers = {name: answer(name, flags, text, root, base, base_tree) for name, flags, text in cases() if re.search(options.only, name)}
path = f'{HERE}/expected.json'
if options.write:
    with open(path, 'w') as file: json.dump(answers, file, indent=1, sort_keys=True); file.write('\n')
    print(f'{len(answers)} answers; failed: {[name for name, value in answers.items() if "failed" in value]}')
    sys.exit(0)
expected = json.load(open(path))
wrong = {name: difference(expected.get(name), value) for name, value in answers.items() if value != expected.get(name)}
for name, text in wrong.items(): print(f'{name}: {text}')
print(f'{len(answers) - len(wrong)} of {len(answers)} as Docker has them')
sys.exit(1 if wrong else 0)
