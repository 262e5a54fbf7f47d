//! Images from files: a root file system as a tar (`import`), and what `docker save` or an OCI layout holds (`load`).

use super::arrival::{Arrived, Expected, KeepBlob};
use super::digest::{DiffId, Digest, Hashing};
use super::documents::{
    ConfigDocument, HistoryEntry, ImageSettings, Member, NewDescriptor, NewIndex, NewManifest, OCI_CONFIG, OCI_LAYER,
    OCI_MANIFEST, to_bytes,
};
use super::drafts::BlobDraft;
use super::entries::{Entries, EntryKind};
use super::manifest::{self, AnsweredManifest, Configuration, Index, MAX_DOCUMENT, Manifest};
use super::store::Store;
use super::tar_paths::SizedReader;
use super::{Image, ImageError, ImageRef, compression};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};

/// Imports a root file system: one layer, and a configuration made of Dockerfile-like changes (`CMD [...]`, `ENV A=b`, ...).
///
/// # Errors
/// A change that is not understood, a damaged tar, a full disk.
pub fn import(store: &Store, tar: impl Read, name: &ImageRef, comment: &str, changes: &[String]) -> Result<Image, ImageError> {
    let mut configuration = ConfigDocument::new();
    changes.iter().try_for_each(|change| apply_change(&mut configuration.config, change))?;
    let stream = compression::plain_of_any(tar).map_err(ImageError::store("reading the archive".into()))?;
    let copy = store.blob_draft()?;
    let staged = store.stage(copy.copying(stream)?)?;
    let _held = store.hold_blob(staged.diff_id.digest());
    if !store.can_be_made_again(&staged)? {
        store.keep_blob(copy, staged.diff_id.digest())?;
    }
    let diff_id = staged.diff_id.clone();
    let now = jiff::Timestamp::now().to_string();
    configuration.history.push(HistoryEntry {
        created: Some(now.clone()),
        comment: Some(comment.to_string()),
        ..HistoryEntry::default()
    });
    configuration.created = Some(now);
    configuration.add_layer(&diff_id);
    let size = staged.bytes;
    write_image(store, name, &configuration.to_bytes()?, vec![(diff_id, size)], vec![Arrived::Staged(staged)])
}

/// An image in the `manifest.json` of `docker save`: names of the archive's members.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Writes images as `docker save` does: an archive that is an OCI layout as well, layers uncompressed. Each has its names there,
/// or none.
///
/// # Errors
/// The disk's, or the writer's.
pub fn save(store: &Store, images: &[(Vec<ImageRef>, Image)], mut out: impl io::Write) -> Result<(), ImageError> {
    let failed = ImageError::store("writing the archive".into());
    // A builder that is dropped writes the end, which an archive that is not whole must not have.
    let mut archive = ManuallyDrop::new(tar::Builder::new(&mut out));
    let mut add = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, name, bytes)
    };
    let mut listed = Vec::new();
    let mut entries = Vec::new();
    let mut layers: BTreeMap<DiffId, (LayerTar, u64)> = BTreeMap::new();
    for (names_of, image) in images {
        let config = store.configuration(image)?;
        let names: Vec<String> = image.diff_ids.iter().map(|diff_id| member(diff_id.digest())).collect();
        add(&member(&image.id), &config).map_err(&failed)?;
        let tags: Vec<String> = names_of.iter().map(ImageRef::familiar).collect();
        listed.push(Saved { config: member(&image.id), repo_tags: Some(tags), layers: names });
        let mut described = Vec::new();
        for (tar, diff_id) in LayerTar::of(store, image)?.into_iter().zip(&image.diff_ids) {
            if !layers.contains_key(diff_id) {
                let mut length = Counting(0);
                tar.write(&mut length).map_err(&failed)?;
                layers.insert(diff_id.clone(), (tar, length.0));
            }
            let size = layers.get(diff_id).map_or(0, |(_, length)| *length);
            described.push(NewDescriptor::new(OCI_LAYER, diff_id.digest(), size));
        }
        let config = NewDescriptor::new(OCI_CONFIG, &image.id, config.len() as u64);
        let manifest = NewManifest::new(config, described).to_bytes()?;
        let entry = NewDescriptor::of(OCI_MANIFEST, &manifest);
        add(&member(&entry.digest), &manifest).map_err(&failed)?;
        if names_of.is_empty() {
            entries.push(entry.clone());
        }
        for name in names_of {
            let mut entry = entry.clone();
            entry.annotations = BTreeMap::from([
                ("io.containerd.image.name", name.to_string()),
                ("org.opencontainers.image.ref.name", name.version().to_string()),
            ]);
            entries.push(entry);
        }
    }
    add("manifest.json", &to_bytes("archive", &listed)?).map_err(&failed)?;
    add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#).map_err(&failed)?;
    add("index.json", &to_bytes("index", &NewIndex::of_layout(entries))?).map_err(&failed)?;
    for (diff_id, (tar, length)) in layers {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(length);
        let (reader, writer) = io::pipe().map_err(&failed)?;
        // The layer's archive goes into the outer one while it is made.
        let algorithm = diff_id.digest().algorithm();
        let making = std::thread::spawn(move || {
            let mut hashing = Hashing::new(io::BufWriter::with_capacity(1 << 17, writer), algorithm);
            tar.write(&mut hashing)?;
            let (mut written, digest) = hashing.finish();
            io::Write::flush(&mut written).map(|()| digest)
        });
        let content = SizedReader { inner: reader, left: length };
        let written = archive.append_data(&mut header, member(diff_id.digest()), content);
        let made = making.join().map_err(|_| ImageError::Build("the archive was not written to its end".into()))?;
        let is_short = written.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::UnexpectedEof);
        if !is_short {
            written.map_err(&failed)?;
        }
        match made {
            Ok(made) if made == *diff_id.digest() && !is_short => {}
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {
                return Err(ImageError::Build(format!(
                    "the archive is not whole: the layer {diff_id} was removed while it was written, or is damaged (`wharf system check`)"
                )));
            }
        }
    }
    ManuallyDrop::into_inner(archive).finish().map_err(&failed)?;
    out.flush().map_err(&failed)
}

/// A blob's path in an OCI layout.
fn member(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

/// Counts what is written, and forgets it.
struct Counting(u64);

impl io::Write for Counting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A layer that is put on top of an image.
pub struct Added<'a> {
    /// Its archive, plain.
    pub archive: BlobDraft,
    pub comment: &'a str,
    /// Dockerfile instructions.
    pub changes: &'a [String],
}

/// Makes an image of another one with a layer on top, and a configuration that is the other's, changed.
///
/// # Errors
/// A change that is not understood, or the disk's.
pub fn add_layer(
    store: &Store,
    name: Option<&ImageRef>,
    base: &Image,
    mut config: ConfigDocument,
    added: Added<'_>,
) -> Result<Image, ImageError> {
    added.changes.iter().try_for_each(|change| apply_change(&mut config.config, change))?;
    let reading = ImageError::store("reading the container's layer".into());
    let size = std::fs::metadata(added.archive.path()).map_err(&reading)?.len();
    let staged = store.stage(File::open(added.archive.path()).map_err(&reading)?)?;
    // A file of the container's that is called `.wh.NAME` is no file of the layer.
    let _held = store.hold_blob(staged.diff_id.digest());
    if !store.can_be_made_again(&staged)? {
        store.keep_blob(added.archive, staged.diff_id.digest())?;
    }
    let created = jiff::Timestamp::now().to_string();
    config.add_layer(&staged.diff_id);
    let comment = Some(added.comment.to_string());
    config.history.push(HistoryEntry { comment, ..HistoryEntry::new(&created, "wharf commit") });
    config.created = Some(created);
    let config = config.to_bytes()?;
    let below = store.manifest(base)?.layers.into_iter();
    let mut described: Vec<_> = below.map(|layer| NewDescriptor::new(layer.media_type, &layer.digest, layer.size)).collect();
    described.push(NewDescriptor::new(OCI_LAYER, staged.diff_id.digest(), size));
    let manifest = NewManifest::new(NewDescriptor::of(OCI_CONFIG, &config), described).to_bytes()?;
    let layers = base.known_layers().chain([Arrived::Staged(staged)]).collect();
    store.commit_as(name, &config, &manifest, layers)
}

fn write_image(
    store: &Store,
    name: &ImageRef,
    configuration: &[u8],
    layers: Vec<(DiffId, u64)>,
    arrived: Vec<Arrived>,
) -> Result<Image, ImageError> {
    let layers = layers.iter().map(|(diff_id, size)| NewDescriptor::new(OCI_LAYER, diff_id.digest(), *size)).collect();
    let manifest = NewManifest::new(NewDescriptor::of(OCI_CONFIG, configuration), layers).to_bytes()?;
    store.commit(name, configuration, &manifest, arrived)
}

/// One `--change`, as `docker import` takes them.
fn apply_change(config: &mut ImageSettings, change: &str) -> Result<(), ImageError> {
    let bad = |why: &str| ImageError::Change(format!("the change `{change}` is not understood: {why}"));
    let (instruction, rest) =
        change.trim().split_once(char::is_whitespace).ok_or_else(|| bad("write INSTRUCTION VALUE, such as `CMD [\"sh\"]`"))?;
    let rest = rest.trim();
    let list = |text: &str| -> Result<Vec<String>, ImageError> {
        if text.starts_with('[') {
            return serde_json::from_str(text).map_err(|_| bad("the list is not valid JSON"));
        }
        Ok(vec!["/bin/sh".into(), "-c".into(), text.into()])
    };
    let pairs = |text: &str| -> Result<Vec<(String, String)>, ImageError> {
        let words = shell_words::split(text).map_err(|_| bad("a quote is not closed"))?;
        if let Some((name, value)) = text.split_once(char::is_whitespace).filter(|(name, _)| !name.contains('=')) {
            return Ok(vec![(name.into(), value.trim().into())]);
        }
        words
            .iter()
            .map(|w| w.split_once('=').map(|(k, v)| (k.into(), v.into())).ok_or_else(|| bad("write NAME=VALUE")))
            .collect()
    };
    match instruction.to_ascii_uppercase().as_str() {
        "CMD" => config.cmd = Some(list(rest)?),
        "ENTRYPOINT" => config.entrypoint = Some(list(rest)?),
        "ENV" => {
            for (name, value) in pairs(rest)? {
                config.env.retain(|e| !e.starts_with(&format!("{name}=")));
                config.env.push(format!("{name}={value}"));
            }
        }
        "LABEL" => config.labels.extend(pairs(rest)?),
        "USER" => config.user = rest.into(),
        "WORKDIR" => config.working_dir = rest.into(),
        "STOPSIGNAL" => config.stop_signal = Some(rest.into()),
        "EXPOSE" => {
            let port = |p: &str| if p.contains('/') { p.to_string() } else { format!("{p}/tcp") };
            config.exposed_ports.extend(rest.split_whitespace().map(|p| (port(p), Member {})));
        }
        "VOLUME" => {
            let more: Vec<String> =
                if rest.starts_with('[') { list(rest)? } else { rest.split_whitespace().map(str::to_string).collect() };
            config.volumes.extend(more.into_iter().map(|path| (path, Member {})));
        }
        other => {
            return Err(bad(&format!(
                "`{other}` is not one of CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME, WORKDIR"
            )));
        }
    }
    Ok(())
}

/// Members of an archive that is loaded: each is remembered by its name.
const MAX_MEMBERS: usize = 100_000;

/// Loads every image of an archive: `docker save`, or an OCI layout in a tar.
///
/// # Errors
/// A damaged archive, a wrong digest, a full disk.
pub fn load(store: &Store, tar: impl Read, work: &Path) -> Result<Vec<(ImageRef, Image)>, ImageError> {
    // An archive may name a blob before or after it holds it, so it is laid out on disk first; its members are read by
    // their names alone, never as paths.
    let directory = tempdir(work)?;
    let members = lay_out(tar, &directory.0)?;
    let read = |name: &str| -> Result<Vec<u8>, ImageError> {
        let path = members
            .get(name.trim_start_matches("./"))
            .ok_or_else(|| ImageError::Malformed { what: "archive", why: format!("it has no `{name}`") })?;
        let failed = ImageError::store(format!("reading `{name}` of the archive"));
        let mut bytes = Vec::new();
        // One byte more than is allowed: who reads it refuses it.
        File::open(path).map_err(&failed)?.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes).map_err(&failed)?;
        Ok(bytes)
    };
    if members.contains_key("index.json") && !members.contains_key("manifest.json") {
        return load_oci(store, &members, &read);
    }
    let saved: Vec<Saved> = manifest::read("archive's manifest.json", &read("manifest.json")?)?;
    let mut loaded = Vec::new();
    for image in saved {
        let document = read(&image.config)?;
        let configuration = Configuration::arriving(&document)?;
        if image.layers.len() != configuration.diff_ids.len() {
            let why = format!(
                "its manifest.json has {} layers for `{}`, whose configuration has {}",
                image.layers.len(),
                image.config,
                configuration.diff_ids.len()
            );
            return Err(ImageError::Malformed { what: "archive", why });
        }
        let names: Vec<ImageRef> = image.repo_tags.unwrap_or_default().iter().map(|tag| tag.parse()).collect::<Result<_, _>>()?;
        let Some(first) = names.first() else { continue };
        let _held: Vec<_> = configuration.diff_ids.iter().map(|diff_id| store.hold_blob(diff_id.digest())).collect();
        let mut arrived = Vec::new();
        let mut layers = Vec::new();
        for (layer, (diff_id, chain)) in image.layers.iter().zip(configuration.diff_ids.iter().zip(configuration.chain_ids())) {
            let path = members
                .get(layer.trim_start_matches("./"))
                .ok_or_else(|| ImageError::Malformed { what: "archive", why: format!("it has no `{layer}`") })?;
            let one = store.arrive(open(path)?, &Expected { chain, diff_id: diff_id.clone(), blob: None }, KeepBlob::Nothing)?;
            if let Arrived::Staged(new) = &one
                && !store.can_be_made_again(new)?
            {
                keep_plain(store, path, diff_id)?;
            }
            arrived.push(one);
            layers.push((diff_id.clone(), std::fs::metadata(path).map_or(0, |m| m.len())));
        }
        let stored = write_image(store, first, &document, layers, arrived)?;
        for name in names {
            store.tag(&stored, &name)?;
            loaded.push((name, stored.clone()));
        }
    }
    Ok(loaded)
}

fn open(path: &Path) -> Result<File, ImageError> {
    File::open(path).map_err(ImageError::store(format!("reading {}", path.display())))
}

/// Keeps a layer's archive, without its compression, under its digest.
fn keep_plain(store: &Store, path: &Path, diff_id: &DiffId) -> Result<(), ImageError> {
    let digest = diff_id.digest();
    if store.find_blob(digest).is_some() {
        return Ok(());
    }
    let failed = ImageError::store(format!("keeping {}", path.display()));
    let copy = store.blob_draft()?;
    let mut hashing = Hashing::sha256(copy.copying(compression::plain(open(path)?).map_err(&failed)?)?);
    io::copy(&mut hashing, &mut io::sink()).map_err(&failed)?;
    let (_, got) = hashing.finish();
    if got != *digest {
        return Err(ImageError::wrong_digest("layer", digest, &got));
    }
    store.keep_blob(copy, digest)
}

/// Where the archive of a layer comes from: the one that was kept, or its files.
enum LayerTar {
    Kept(PathBuf),
    Files(PathBuf),
}

impl LayerTar {
    /// Those of an image, the lowest first.
    fn of(store: &Store, image: &Image) -> Result<Vec<LayerTar>, ImageError> {
        let blobs = store.manifest(image)?.layers;
        let layers = image.layers.iter().zip(blobs).map(|(chain, blob)| match store.find_blob(&blob.digest) {
            Some((file, _)) => LayerTar::Kept(file),
            None => LayerTar::Files(store.layer(chain)),
        });
        Ok(layers.collect())
    }

    /// Writes it, plain.
    fn write(&self, mut out: impl io::Write) -> io::Result<()> {
        match self {
            LayerTar::Kept(file) => io::copy(&mut compression::plain(File::open(file)?)?, &mut out).map(drop),
            LayerTar::Files(directory) => crate::image::build::tarball::write(directory, &mut out).map(drop),
        }?;
        out.flush()
    }
}

fn load_oci(
    store: &Store,
    members: &HashMap<String, PathBuf>,
    read: &dyn Fn(&str) -> Result<Vec<u8>, ImageError>,
) -> Result<Vec<(ImageRef, Image)>, ImageError> {
    let checked = |digest: &Digest| -> Result<Vec<u8>, ImageError> {
        let bytes = read(&member(digest))?;
        digest.matches(&bytes).map_err(|got| ImageError::wrong_digest("blob", digest, &got))?;
        Ok(bytes)
    };
    let index = Index::parse(&read("index.json")?)?;
    let mut loaded = Vec::new();
    for entry in &index.manifests {
        let Some(name) = entry.name() else { continue };
        let name: ImageRef = name.parse::<ImageRef>()?;
        let mut bytes = checked(entry.digest.as_ref().map_err(Clone::clone)?)?;
        let parsed = match AnsweredManifest::parse(&bytes)? {
            AnsweredManifest::Manifest(parsed) => parsed,
            AnsweredManifest::Index(platforms) => {
                bytes = checked(platforms.choose_platform(&name)?)?;
                Manifest::parse(&bytes)?
            }
        };
        let config = checked(&parsed.config.digest)?;
        let arrived = Expected::all(&parsed, &Configuration::arriving(&config)?)?
            .iter()
            .zip(&parsed.layers)
            .map(|(expected, layer)| load_layer(store, members, expected, layer))
            .collect::<Result<_, _>>()?;
        let image = store.commit(&name, &config, &bytes, arrived)?;
        loaded.push((name, image));
    }
    if loaded.is_empty() {
        return Err(ImageError::Malformed { what: "archive", why: "it holds no image with a name".into() });
    }
    Ok(loaded)
}

/// A layer of an OCI layout. One that is missing there may be here, where its blob was seen before.
fn load_layer(
    store: &Store,
    members: &HashMap<String, PathBuf>,
    expected: &Expected,
    layer: &manifest::Descriptor,
) -> Result<Arrived, ImageError> {
    let name = member(&layer.digest);
    let Some(path) = members.get(&name) else {
        let known = store.known_layer(expected);
        return known.map(Arrived::Here).ok_or_else(|| ImageError::Malformed {
            what: "archive",
            why: format!("it has no `{name}`, and that layer was never pulled or loaded here"),
        });
    };
    let file = open(path)?;
    let length = file.metadata().map_err(ImageError::store(format!("reading {}", path.display())))?.len();
    if length != layer.size {
        let why = format!("`{name}` has {length} bytes, and its descriptor says {}", layer.size);
        return Err(ImageError::Malformed { what: "archive", why });
    }
    store.arrive(file, expected, KeepBlob::Blob)
}

/// Bytes of a member's name. What an image's archive names is a blob, or a file of the layout.
const MAX_NAME: usize = 256;

/// Writes each member of a tar to a numbered file, and returns which is which. Links between members (old `docker save`
/// has them) are followed by name.
fn lay_out(tar: impl Read, directory: &Path) -> Result<HashMap<String, PathBuf>, ImageError> {
    let damaged = |e: io::Error| ImageError::Malformed { what: "archive", why: e.to_string() };
    let plain = compression::plain_of_any(tar).map_err(damaged)?;
    let refused = |why: String| ImageError::Malformed { what: "archive", why };
    let mut members = HashMap::new();
    let mut links = Vec::new();
    let mut count = 0;
    Entries::new(plain).each(damaged, |entry| {
        count += 1;
        if count > MAX_MEMBERS {
            return Err(refused(format!("it has more than {MAX_MEMBERS} members")));
        }
        let name = entry.head.path.to_string_lossy().trim_start_matches("./").to_string();
        if name.len() > MAX_NAME {
            return Err(refused(format!("it has a name of more than {MAX_NAME} bytes")));
        }
        match entry.head.kind {
            EntryKind::Regular => {
                let path = directory.join(count.to_string());
                let mut file = File::create(&path).map_err(ImageError::store("unpacking the archive".into()))?;
                io::copy(entry, &mut file).map_err(ImageError::store("unpacking the archive".into()))?;
                members.insert(name, path);
            }
            EntryKind::Symlink | EntryKind::HardLink => {
                let target = entry.head.link.to_string_lossy();
                if target.len() <= MAX_NAME {
                    links.push((name, target.trim_start_matches("../").to_string()));
                }
            }
            _ => {}
        }
        Ok(())
    })?;
    for (name, target) in links {
        if let Some(path) = members.get(&target).cloned() {
            members.insert(name, path);
        }
    }
    Ok(members)
}

struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = crate::sys::removal::remove_tree(&self.0);
    }
}

fn tempdir(work: &Path) -> Result<Temporary, ImageError> {
    let path = work.join(format!("load-{}-{:?}", std::process::id(), std::thread::current().id()));
    std::fs::create_dir_all(&path).map_err(ImageError::store(format!("making {}", path.display())))?;
    Ok(Temporary(path))
}
