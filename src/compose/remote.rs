//! Files of a project that are not on this machine: of an OCI artifact (`oci://...`), of a Git repository.

use std::fmt::Debug;
use std::path::{Path, PathBuf};

/// Fetches such files. It is the caller's: this room knows no network.
pub trait Remote: Debug + Send + Sync {
    /// Whether a name of `-f`, `include` or `extends` is one of them.
    fn is_remote(&self, name: &str) -> bool;

    /// Fetches what has a name, or finds it where it was fetched to.
    ///
    /// # Errors
    /// A sentence.
    fn fetch(&self, name: &str) -> Result<FetchedResource, String>;
}

/// What was fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedResource {
    /// The Compose file.
    pub file: PathBuf,
    /// The directory of all that came with it.
    pub root: PathBuf,
}

/// How many a project may have: one could name the next without an end.
const MOST: usize = 64;

/// A file that was fetched, and from where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteFile {
    pub name: String,
    pub fetched: FetchedResource,
}

/// The files of one load that were fetched.
#[derive(Debug, Default)]
pub struct RemoteFiles(Vec<RemoteFile>);

impl RemoteFiles {
    /// The file under a name, fetched once; `None` for a file of this machine.
    ///
    /// # Errors
    /// Why it is not there.
    pub fn get(&mut self, remote: Option<&dyn Remote>, name: &str) -> Result<Option<FetchedResource>, String> {
        let Some(remote) = remote.filter(|remote| remote.is_remote(name)) else { return Ok(None) };
        if let Some(known) = self.0.iter().find(|file| file.name == name) {
            return Ok(Some(known.fetched.clone()));
        }
        if self.0.len() >= MOST {
            return Err(format!("the project has more than {MOST} files from elsewhere"));
        }
        let fetched = remote.fetch(name)?;
        self.0.push(RemoteFile { name: name.to_string(), fetched: fetched.clone() });
        Ok(Some(fetched))
    }

    /// Refuses a file that was fetched and names one outside of what came with it; and one that a link leads out.
    ///
    /// # Errors
    /// A sentence.
    pub fn check(&self, from: &Path, to: &Path) -> Result<(), String> {
        let root_of = |path: &Path| self.0.iter().map(|file| file.fetched.root.as_path()).find(|root| path.starts_with(root));
        if let Some(root) = root_of(from)
            && root_of(to) != Some(root)
            && !self.0.iter().any(|file| file.fetched.file == to)
        {
            return Err(format!("{} comes from elsewhere, and may not read {}, which does not", from.display(), to.display()));
        }
        self.check_links(to)
    }

    /// As [`Self::check`], of a file alone.
    ///
    /// # Errors
    /// A sentence.
    pub fn check_links(&self, to: &Path) -> Result<(), String> {
        let root = self.0.iter().map(|file| file.fetched.root.as_path()).find(|root| to.starts_with(root));
        let Some(root) = root.and_then(|root| root.canonicalize().ok()) else { return Ok(()) };
        match to.canonicalize() {
            Ok(whole) if !whole.starts_with(&root) => {
                Err(format!("{} comes from elsewhere, and a link in it leads out of it", to.display()))
            }
            _ => Ok(()),
        }
    }

    pub fn into_vec(self) -> Vec<RemoteFile> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Fixed(PathBuf);

    impl Remote for Fixed {
        fn is_remote(&self, name: &str) -> bool {
            name.starts_with("oci://")
        }

        fn fetch(&self, name: &str) -> Result<FetchedResource, String> {
            let root = self.0.join(name.trim_start_matches("oci://"));
            Ok(FetchedResource { file: root.join("compose.yaml"), root })
        }
    }

    #[test]
    fn nothing_leads_out() {
        let directory = tempfile::tempdir().expect("directory");
        let remote = Fixed(directory.path().to_path_buf());
        let mut files = RemoteFiles::default();
        assert_eq!(files.get(Some(&remote), "./local.yaml"), Ok(None));
        assert_eq!(files.get(None, "oci://a"), Ok(None));
        let a = files.get(Some(&remote), "oci://a").expect("fetched").expect("remote");
        let b = files.get(Some(&remote), "oci://b").expect("fetched").expect("remote");
        std::fs::create_dir(&a.root).expect("directory");
        std::fs::write(directory.path().join("outside"), "").expect("file");
        std::fs::write(a.root.join("inside"), "").expect("file");
        std::os::unix::fs::symlink("../outside", a.root.join("link")).expect("link");
        let local = directory.path().join("local.yaml");
        for (from, to, expected) in [
            (&a.file, a.root.join("inside"), true),
            (&a.file, a.root.join("missing"), true),
            (&a.file, b.file.clone(), true),
            (&a.file, b.root.join("other"), false),
            (&a.file, directory.path().join("outside"), false),
            (&a.file, a.root.join("link"), false),
            (&local, directory.path().join("outside"), true),
            (&local, a.root.join("link"), false),
        ] {
            assert_eq!(files.check(from, &to).is_ok(), expected, "{} to {}", from.display(), to.display());
        }
        for n in 2..MOST {
            files.get(Some(&remote), &format!("oci://{n}")).expect("fetched");
        }
        assert!(files.get(Some(&remote), "oci://more").expect_err("too many").contains("more than 64"));
    }
}
