use super::*;
use crate::image::entries::EntryKind;
use crate::image::entries::tests::read;
use crate::image::tar_paths::write_archive;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

/// Gives bytes to an archive, and changes a file when the first of them come.
struct ChangingWriter<'a> {
    written: Vec<u8>,
    change: Option<&'a dyn Fn()>,
}

impl Write for ChangingWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(change) = self.change.take() {
            change();
        }
        self.written.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn packed(path: &Path, of_client: bool, change: &dyn Fn()) -> (io::Result<()>, Vec<u8>) {
    let mut out = ChangingWriter { written: Vec::new(), change: Some(change) };
    let packed = write_archive(&mut out, |builder| {
        let mut packer = if of_client { Packer::of_client(builder) } else { Packer::of_container(builder) };
        packer.below(&Tree::directory(path)?, Path::new(""), Path::new("d"), &Patterns::default())
    });
    (packed, out.written)
}

#[test]
fn a_file_that_changes_meanwhile_breaks_no_archive() {
    let directory = tempfile::tempdir().expect("directory");
    let file = directory.path().join("file");
    let other = directory.path().join("next");
    std::fs::write(&other, "next").expect("file");
    for (of_client, sparse) in [(true, false), (true, true), (false, false)] {
        let begin = || {
            std::fs::write(&file, vec![b'a'; 10_000]).expect("file");
            if sparse {
                File::options().write(true).open(&file).expect("file").set_len(1 << 20).expect("length");
            }
        };
        let size: u64 = if sparse { 1 << 20 } else { 10_000 };
        let resize = |size: u64| File::options().write(true).open(&file).expect("file").set_len(size).expect("length");
        begin();
        let (grown, archive) = packed(directory.path(), of_client, &|| resize(size * 2));
        grown.expect("it is as long as it was");
        let found = read(&archive).expect("an archive");
        let sizes: Vec<_> = found.iter().map(|(head, content)| (head.path.clone(), content.len() as u64)).collect();
        assert_eq!(sizes, [(PathBuf::from("d/file"), size), (PathBuf::from("d/next"), 4)], "{of_client} {sparse}");
        begin();
        let replace = || {
            std::fs::remove_file(&file).expect("removed");
            std::fs::write(&file, "another").expect("file");
        };
        let (replaced, archive) = packed(directory.path(), of_client, &replace);
        replaced.expect("it is the one that was opened");
        assert_eq!(read(&archive).expect("an archive")[0].1.len() as u64, size);
        begin();
        let (shrunk, archive) = packed(directory.path(), of_client, &|| resize(5));
        let error = shrunk.expect_err("it is not whole");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(error.to_string().contains("d/file has become shorter"), "{error}");
        // It has no end that could be taken for one.
        assert!(read(&archive).expect_err("it is not whole").to_string().contains("ends within an entry"));
    }
}

#[test]
fn what_is_packed_is_as_it_was() {
    let directory = tempfile::tempdir().expect("directory");
    let at = |name: &str| directory.path().join(name);
    for (number, target) in ["a//b", "a/./b", "/", "a/", "../x", &"t/./".repeat(60), &"/".repeat(300)].into_iter().enumerate() {
        symlink(target, at(&format!("link{number}"))).expect("link");
    }
    std::fs::write(at("capable"), "x").expect("file");
    let capability = [1, 0, 0, 2, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    xattr::set(at("capable"), CAPABILITIES, &capability).expect("a capability");
    let old = nix::sys::time::TimeSpec::new(-1_000_000, 0);
    nix::sys::stat::utimensat(nix::fcntl::AT_FDCWD, &at("capable"), &old, &old, nix::sys::stat::UtimensatFlags::FollowSymlink)
        .expect("a time");
    for of_client in [true, false] {
        let (done, archive) = packed(directory.path(), of_client, &|| ());
        done.expect("packed");
        for (head, _) in read(&archive).expect("an archive") {
            let path = at(&head.path.file_name().expect("name").to_string_lossy());
            if head.kind == EntryKind::Symlink {
                assert_eq!(head.link.as_os_str(), path.read_link().expect("link").as_os_str());
            } else {
                assert_eq!(head.attributes, [(OsString::from(CAPABILITIES), capability.to_vec())]);
                assert_eq!(head.mtime, (-1_000_000, 0));
            }
        }
    }
}

#[test]
fn holes_stay_holes() {
    use std::os::unix::fs::FileExt;
    let directory = tempfile::tempdir().expect("directory");
    let file = File::create(directory.path().join("sparse")).expect("file");
    for pieces in [0u64, 1, 4, 5, 30] {
        file.set_len(0).expect("empty");
        file.set_len(32 << 20).expect("length");
        (0..pieces).for_each(|piece| file.write_all_at(&[b'd'; 5000], piece << 20).expect("piece"));
        let (done, archive) = packed(directory.path(), true, &|| ());
        done.expect("packed");
        assert!(archive.len() < 1 << 20, "{} bytes", archive.len());
        let whole = std::fs::read(directory.path().join("sparse")).expect("file");
        assert!(read(&archive).expect("an archive")[0].1 == whole, "{pieces}");
        let other = tempfile::tempdir().expect("directory");
        std::fs::write(other.path().join("t.tar"), &archive).expect("write");
        let tar = std::process::Command::new("tar").args(["-xf", "t.tar"]).current_dir(other.path()).status().expect("tar");
        assert!(tar.success() && std::fs::read(other.path().join("d/sparse")).expect("file") == whole, "{pieces}");
    }
}

/// An attribute of the network device `lo` that cannot be read: it has 4096 bytes, and EINVAL is all that comes.
const UNREADABLE: &str = "/sys/class/net/lo/speed";

#[test]
fn a_file_that_cannot_be_read_is_not_taken_for_one_that_is_gone() {
    use nix::mount::{MsFlags, mount};
    let none = None::<&str>;
    let errors = std::thread::spawn(move || {
        // The mounts are this thread's alone.
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("a mount namespace");
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("private mounts");
        let directory = tempfile::tempdir().expect("directory");
        for name in ["a", "b", "c"] {
            std::fs::write(directory.path().join(name), name).expect("file");
        }
        mount(Some(UNREADABLE), &directory.path().join("b"), none, MsFlags::MS_BIND, none).expect("a mount");
        let errors = [
            packed(directory.path(), true, &|| ()).0.expect_err("a client's archive").to_string(),
            packed(directory.path(), false, &|| ()).0.expect_err("a container's archive").to_string(),
            crate::image::build::tarball::write(directory.path(), &mut Vec::new()).expect_err("a layer").to_string(),
        ];
        nix::mount::umount(&directory.path().join("b")).expect("no mount");
        errors
    });
    let names = ["d/b", "d/b", "b"];
    for (error, name) in errors.join().expect("the thread").iter().zip(names) {
        assert_eq!(error, &format!("reading {name}: Invalid argument (os error 22)"));
    }
}

#[test]
fn a_file_that_is_gone_or_another_is_left_out() {
    let directory = tempfile::tempdir().expect("directory");
    let files = Tree::directory(directory.path()).expect("tree");
    let mut builder = Builder::new(Vec::new());
    let mut packer = Packer::of_client(&mut builder);
    symlink("target", directory.path().join("link")).expect("link");
    let of = |mode: u32| {
        let mut stat = nix::sys::stat::stat(directory.path()).expect("stat");
        stat.st_mode = mode;
        stat
    };
    for (name, mode) in [("gone", libc::S_IFREG), ("link", libc::S_IFREG), ("gone", libc::S_IFLNK)] {
        let added = packer.add((files.root(), Path::new(name)), &of(mode), Path::new(name)).expect("no error");
        assert_eq!(added, Packed::Changed, "{name}");
    }
    let gone = packer.add_path(&directory.path().join("gone"), Path::new("gone")).expect("no error");
    assert!(gone.or_missing(Path::new("gone")).expect_err("it is gone").to_string().starts_with("gone was removed or replaced"));
    assert!(builder.get_ref().is_empty());
}
