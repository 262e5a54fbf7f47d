//! The files of an export, written where somebody else may write as well: nothing is followed and nothing is half there.

use crate::cli::{Failure, Outcome};
use crate::kubernetes::OutputFile;
use crate::random;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat, renameat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);
const DRAFT: OFlag = OFlag::O_WRONLY.union(OFlag::O_CREAT).union(OFlag::O_EXCL).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// Writes the files. Those that an earlier export left, and that this one does not have, would still be applied: they are named.
pub fn write(directory: &Path, files: &[OutputFile]) -> Outcome {
    let failed = |path: &Path, error: io::Error| Failure::Message(format!("writing {}: {error}", path.display()));
    std::fs::create_dir_all(directory).map_err(|error| failed(directory, error))?;
    // The directory itself is the user's: links on the way to it are, too.
    let top = open(directory, DIRECTORY, Mode::empty()).map_err(|error| failed(directory, error.into()))?;
    for file in files {
        written(&top, file).map_err(|error| failed(&directory.join(&file.path), error))?;
    }
    let mut left: Vec<String> = stale(directory, files);
    left.sort();
    if !left.is_empty() {
        eprintln!("warning: files that are not of this export are in {}: {}", directory.display(), left.join(", "));
    }
    Ok(())
}

fn written(top: &OwnedFd, file: &OutputFile) -> io::Result<()> {
    match file.path.split_once('/') {
        None => replace(top, &file.path, file),
        Some((parent, name)) => {
            match mkdirat(top, parent, Mode::from_bits_truncate(0o777)) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(error) => return Err(error.into()),
            }
            replace(&openat(top, parent, DIRECTORY | OFlag::O_NOFOLLOW, Mode::empty())?, name, file)
        }
    }
}

/// Complete or not at all: who applies the directory meanwhile gets no half of a file.
fn replace(directory: &OwnedFd, name: &str, file: &OutputFile) -> io::Result<()> {
    // A name that nobody guesses: nobody can lay a link or a file there before.
    let draft = format!(".wharf-{}.new", random::hex::<16>()?);
    let mode = Mode::from_bits_truncate(if file.is_secret { 0o600 } else { 0o666 });
    let opened = File::from(openat(directory, draft.as_str(), DRAFT, mode)?);
    let filled = fill(opened, &file.text).and_then(|()| Ok(renameat(directory, draft.as_str(), directory, name)?));
    if filled.is_err() {
        let _ = unlinkat(directory.as_fd(), draft.as_str(), UnlinkatFlags::NoRemoveDir);
    }
    filled
}

fn fill(mut file: File, text: &str) -> io::Result<()> {
    file.write_all(text.as_bytes())
}

fn stale(directory: &Path, files: &[OutputFile]) -> Vec<String> {
    let mut left = Vec::new();
    for part in ["", "templates/"] {
        let Ok(entries) = directory.join(part).read_dir() else { continue };
        for entry in entries.flatten() {
            let name = format!("{part}{}", entry.file_name().to_string_lossy());
            let is_object = [".yaml", ".yml", ".json"].into_iter().any(|ending| name.ends_with(ending));
            if is_object && !files.iter().any(|file| file.path == name) {
                left.push(crate::printable::line(&name).into_owned());
            }
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::{Format, files};
    use k8s_openapi::api::core::v1::Secret;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn chart(format: Format) -> Vec<OutputFile> {
        let mut secret = Secret::default();
        secret.metadata.name = Some("x".into());
        secret.string_data = Some([("x".to_string(), "hidden".to_string())].into());
        files(&[secret.into()], format, "test")
    }

    #[test]
    fn secrets_are_the_users_own_and_links_are_not_followed() {
        for (format, path) in
            [(Format::Yaml, "x-secret.yaml"), (Format::Kustomize, "x-secret.yaml"), (Format::Helm, "templates/x-secret.yaml")]
        {
            let directory = tempfile::tempdir().expect("a directory");
            let (out, precious) = (directory.path().join("out"), directory.path().join("precious"));
            std::fs::create_dir_all(out.join(path).parent().expect("a parent")).expect("a directory");
            std::fs::write(&precious, "precious").expect("a file");
            // The name itself, and the draft's name of old.
            let draft = Path::new(path).with_file_name(".x-secret.yaml.new");
            symlink(&precious, out.join(path)).expect("a link");
            symlink(&precious, out.join(&draft)).expect("a link");
            write(&out, &chart(format)).unwrap_or_else(|_| panic!("{path} is not written"));
            assert_eq!(std::fs::read_to_string(&precious).expect("a file"), "precious");
            let metadata = out.join(path).symlink_metadata().expect("a file");
            assert!(metadata.is_file() && metadata.permissions().mode() & 0o777 == 0o600, "{path}: {metadata:?}");
            assert!(std::fs::read_to_string(out.join(path)).expect("a file").contains("hidden"));
            let left = out.join(path).parent().expect("a parent").read_dir().expect("a directory").flatten();
            let drafts = left.filter(|entry| entry.file_name().to_string_lossy().starts_with(".wharf-")).count();
            assert_eq!(drafts, 0);
        }
    }

    #[test]
    fn a_directory_of_the_chart_is_no_link() {
        let directory = tempfile::tempdir().expect("a directory");
        let (out, other) = (directory.path().join("out"), directory.path().join("other"));
        [&out, &other].into_iter().for_each(|path| std::fs::create_dir(path).expect("a directory"));
        symlink(&other, out.join("templates")).expect("a link");
        assert!(write(&out, &chart(Format::Helm)).is_err());
        assert_eq!(other.read_dir().expect("a directory").count(), 0);
    }

    #[test]
    fn a_file_that_cannot_be_replaced_leaves_no_draft() {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(directory.path().join("x-secret.yaml")).expect("a directory");
        assert!(write(directory.path(), &chart(Format::Yaml)).is_err());
        assert_eq!(directory.path().read_dir().expect("a directory").count(), 1);
    }
}
