//! Exit codes and logs of a service's containers that were replaced.
//!
//! Each has a directory of its id beside the containers', with a manifest and hard links of the log's files, made before the container
//! is removed. A crash between the two leaves both; the container counts then. Names and labels of the container are in the manifest
//! alone, so none of them becomes a path.

use crate::engine::record::{ContainerRecord, LogSpec};
use crate::engine::state::directories::{
    self, DirectoryEntry, DirectoryRemoval, Draft, manifest_of, read_manifest, write_manifest,
};
use crate::engine::{Config, locked};
use crate::labels::{LABEL_NUMBER, LABEL_PROJECT, LABEL_SERVICE};
use crate::wire::Incarnation;
use jiff::Timestamp;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;
use std::sync::{Arc, Mutex};

/// Incarnations that are kept of each number of a service.
const KEPT: usize = 5;

/// The parts of a removed container that are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) enum Leaves {
    Nothing,
    /// Its log and how it has ended, with why it was removed.
    Log(&'static str),
}

/// The containers that are gone.
pub struct Incarnations {
    config: Arc<Config>,
    /// `None` until somebody asks. The oldest first.
    known: Mutex<Option<Vec<Incarnation>>>,
}

/// A container, as it is told of when it is gone.
pub(in crate::engine) fn describe(record: &ContainerRecord) -> Incarnation {
    let label = |key: &str| record.spec.labels.get(key).cloned().unwrap_or_default();
    Incarnation {
        id: record.id.clone(),
        name: record.replaces.as_ref().map_or(&record.name, |replaced| &replaced.name).clone(),
        project: label(LABEL_PROJECT),
        service: label(LABEL_SERVICE),
        number: label(LABEL_NUMBER).parse().unwrap_or(1),
        image_id: record.image_id_text(),
        created_at: record.created_at,
        removed_at: None,
        removed_for: String::new(),
        ends: record.state.ends.clone(),
    }
}

impl Incarnations {
    pub(in crate::engine) fn new(config: Arc<Config>) -> Self {
        Incarnations { config, known: Mutex::new(None) }
    }

    /// Keeps the log of a container that is about to be removed. The removal goes on where that fails, as on a full disk.
    pub(in crate::engine) fn keep(&self, record: &ContainerRecord, why: &str) {
        let gone = Incarnation { removed_at: Some(Timestamp::now()), removed_for: why.into(), ..describe(record) };
        if gone.project.is_empty() || gone.service.is_empty() {
            return;
        }
        let mut known = locked(&self.known);
        let known = known.get_or_insert_with(|| read(&self.config.incarnations()));
        // That of a removal which a crash has broken off.
        known.retain(|other| other.id != gone.id);
        if let Err(error) = self.write(&gone) {
            tracing::warn!("the log of {} is not kept: {error}", record.name);
            return;
        }
        known.push(gone.clone());
        let bound = bound(&record.spec.log);
        let of_number: Vec<&Incarnation> = known.iter().filter(|other| is_same(other, &gone)).collect();
        let sizes: Vec<u64> = of_number.iter().map(|other| size(&self.config.incarnations().join(&other.id))).collect();
        let beyond: Vec<String> = of_number[..oldest_beyond(&sizes, bound)].iter().map(|other| other.id.clone()).collect();
        self.drop_all(known, |other| beyond.contains(&other.id));
    }

    fn write(&self, gone: &Incarnation) -> io::Result<()> {
        let parent = self.config.incarnations();
        fs::DirBuilder::new().mode(0o700).recursive(true).create(&parent)?;
        DirectoryRemoval::begin(&parent.join(&gone.id))?.finish()?;
        let draft = Draft::new(&parent, &gone.id)?;
        for entry in fs::read_dir(self.config.container_directory(&gone.id))? {
            let entry = entry?;
            let name = entry.file_name();
            if is_of_log(&name.to_string_lossy()) && entry.file_type()?.is_file() {
                fs::hard_link(entry.path(), draft.path().join(&name))?;
            }
        }
        write_manifest(&manifest_of(draft.path()), gone)?;
        draft.finish()
    }

    /// Those of a project that are gone, the oldest first; `exists` tells of a container's id whether it is still there.
    pub fn of_project(&self, project: &str, exists: impl Fn(&str) -> bool) -> Vec<Incarnation> {
        let mut known = locked(&self.known);
        let known = known.get_or_insert_with(|| read(&self.config.incarnations()));
        known.iter().filter(|gone| gone.project == project && !exists(&gone.id)).cloned().collect()
    }

    /// Forgets those of a project: of the named services, or of all where none is named.
    pub(in crate::engine) fn forget(&self, project: &str, services: &[String]) {
        let mut known = locked(&self.known);
        let known = known.get_or_insert_with(|| read(&self.config.incarnations()));
        self.drop_all(known, |gone| gone.project == project && (services.is_empty() || services.contains(&gone.service)));
    }

    fn drop_all(&self, known: &mut Vec<Incarnation>, which: impl Fn(&Incarnation) -> bool) {
        let (going, staying) = std::mem::take(known).into_iter().partition(which);
        *known = staying;
        for gone in going {
            let removed = DirectoryRemoval::begin(&self.config.incarnations().join(&gone.id)).and_then(DirectoryRemoval::finish);
            if let Err(error) = removed {
                tracing::warn!("removing the log of {}, which is gone: {error}", gone.name);
            }
        }
    }
}

fn is_same(one: &Incarnation, other: &Incarnation) -> bool {
    (&one.project, &one.service, one.number) == (&other.project, &other.service, other.number)
}

/// Whether a file of a container's directory is one of its log.
fn is_of_log(name: &str) -> bool {
    let number = name.strip_prefix("log.").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    name == "log" || number
}

/// Bytes that the kept logs of a number may have together: as many as the container's own log. `None` is without limit.
fn bound(log: &LogSpec) -> Option<u64> {
    (log.max_size > 0).then(|| log.max_size.saturating_mul(u64::from(log.max_files.max(1))))
}

/// How many of the oldest go, of logs of these sizes. The newest stays, since its container was kept to the same bound.
fn oldest_beyond(sizes: &[u64], bound: Option<u64>) -> usize {
    let mut total = 0u64;
    let fits = |size: &&u64| {
        total = total.saturating_add(**size);
        bound.is_none_or(|bound| total <= bound)
    };
    let kept = sizes.iter().rev().take(KEPT).take_while(fits).count().max(1);
    sizes.len().saturating_sub(kept)
}

fn size(directory: &Path) -> u64 {
    let files = fs::read_dir(directory).into_iter().flatten().flatten();
    let of_log = files.filter(|entry| is_of_log(&entry.file_name().to_string_lossy()));
    of_log.filter_map(|entry| entry.metadata().ok()).map(|file| file.size()).sum()
}

/// Reads what there is. What is unfinished is removed; what another version has written and this one does not understand stays.
fn read(parent: &Path) -> Vec<Incarnation> {
    let entries = directories::entries(parent).unwrap_or_else(|error| {
        tracing::warn!("reading {}: {error}", parent.display());
        Vec::new()
    });
    let mut known = Vec::new();
    for entry in entries {
        match entry {
            DirectoryEntry::Whole(id) => match read_manifest::<Incarnation>(&manifest_of(&parent.join(&id))) {
                Ok(gone) if gone.id == id => known.push(gone),
                Ok(_) => tracing::warn!("{} has another's manifest", parent.join(&id).display()),
                Err(error) => tracing::warn!("reading what is kept of the container {id}: {error}"),
            },
            DirectoryEntry::New(name) | DirectoryEntry::Removing(name) => drop(directories::remove_unfinished(parent, &name)),
        }
    }
    known.sort_by_key(|gone| gone.removed_at);
    known
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::record::ContainerSpec;

    #[test]
    fn the_newest_are_kept_within_the_bound() {
        // Sizes from the oldest on, the bound, how many go.
        for (sizes, bound, gone) in [
            (&[1, 1, 1][..], None, 0),
            (&[9; 7][..], None, 2),
            (&[5, 5, 5], Some(10), 1),
            (&[5, 5, 11], Some(10), 2),
            (&[0; 6], Some(0), 1),
            (&[], Some(10), 0),
            (&[u64::MAX, u64::MAX], Some(u64::MAX), 0),
        ] {
            assert_eq!(oldest_beyond(sizes, bound), gone, "{sizes:?} {bound:?}");
        }
        for (name, expected) in
            [("log", true), ("log.12", true), ("log.", false), ("log.1x", false), ("logs", false), ("manifest.json", false)]
        {
            assert_eq!(is_of_log(name), expected, "{name}");
        }
    }

    fn record(id: &str, service: &str) -> ContainerRecord {
        let labels = [(LABEL_PROJECT, "../p"), (LABEL_SERVICE, service), (LABEL_NUMBER, "1")];
        let labels = labels.into_iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        let log = LogSpec { none: false, max_size: 10, max_files: 2 };
        let spec = ContainerSpec { labels, log, ..ContainerSpec::default() };
        ContainerRecord::new(id.into(), format!("p-{service}-1"), spec, Vec::new())
    }

    #[test]
    fn what_is_kept_survives_the_engine_and_crashes() {
        let dir = tempfile::tempdir().expect("dir");
        let config = Arc::new(Config {
            data_root: dir.path().to_path_buf(),
            run_root: dir.path().join("run"),
            listening: Default::default(),
        });
        let parent = config.incarnations();
        let make = |id: &str| {
            let directory = config.container_directory(id);
            fs::create_dir_all(&directory).expect("directory");
            fs::write(directory.join("log"), "1234").expect("log");
            fs::write(directory.join("log.1"), "567").expect("log");
            fs::write(directory.join("log.txt"), "another's").expect("file");
        };
        let ids =
            |known: &Incarnations| known.of_project("../p", |id| id == "there").into_iter().map(|i| i.id).collect::<Vec<_>>();
        let kept = Incarnations::new(config.clone());
        for id in ["a", "b", "c", "there"] {
            make(id);
            kept.keep(&record(id, "web"), "replaced");
        }
        assert_eq!(ids(&kept), ["c"], "two logs of seven bytes fit into twenty");
        assert!(!parent.join("b").exists() && parent.join("there").exists());
        assert_eq!(fs::read_dir(parent.join("c")).expect("dir").count(), 3, "two files and a manifest");
        // A removal that was broken off is done again; what a crash has left of a making goes.
        kept.keep(&record("c", "web"), "replaced");
        fs::create_dir(parent.join(".new-d")).expect("unfinished");
        fs::create_dir(parent.join("older")).expect("without a manifest");
        fs::create_dir(parent.join("e")).expect("of a later version");
        fs::write(parent.join("e/manifest.json"), r#"{"Id": "e", "Later": 1}"#).expect("manifest");
        let next = Incarnations::new(config.clone());
        assert_eq!(ids(&next), ids(&kept));
        assert!(!parent.join(".new-d").exists() && parent.join("e").exists());
        // A disk that refuses.
        fs::remove_dir_all(config.container_directory("b")).expect("remove");
        next.keep(&record("b", "other"), "replaced");
        assert!(!ids(&next).contains(&"b".to_string()));
        next.forget("../p", &["none".into()]);
        assert!(parent.join("c").exists());
        next.forget("../p", &[]);
        assert_eq!((ids(&next), parent.join("c").exists()), (Vec::new(), false));
    }
}
