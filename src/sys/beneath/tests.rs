use super::*;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};

/// A root with links, in a directory with a canary beside it.
fn root_with(links: &[(&str, &str)]) -> (tempfile::TempDir, File) {
    let outer = tempfile::tempdir().unwrap();
    let root = outer.path().join("root");
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::create_dir_all(root.join("there")).unwrap();
    fs::write(root.join("file"), "").unwrap();
    for (link, text) in links {
        symlink(text, root.join(link)).unwrap();
    }
    let opened = File::open(&root).unwrap();
    (outer, opened)
}

#[test]
fn what_a_link_leads_to_is_made_beneath_the_root() {
    let table = [
        ("etc/resolv.conf", "../run/systemd/resolve/stub.conf", "etc/resolv.conf", "run/systemd/resolve/stub.conf"),
        ("data", "/srv/none/data", "/data", "srv/none/data"),
        ("data", "/srv/none/data", "/data/below/it", "srv/none/data/below/it"),
        ("out", "../../../../../outside/x", "out", "outside/x"),
        ("lib", "there", "lib/x/y", "there/x/y"),
        ("a", "none/../other/./b/", "a", "other/b"),
        ("a", "there/../none/../../../../c", "a/../d/e", "d/e"),
        ("a", "/", "a/new", "new"),
    ];
    for (link, text, path, place) in table {
        for end in [MissingEnd::Directory, MissingEnd::File] {
            let (outer, root) = root_with(&[(link, text)]);
            let found = place_beneath(root.as_fd(), Path::new(path)).expect(path);
            assert_eq!(found.path, Path::new(place), "{link} -> {text}");
            assert!(found.missing > 0);
            make_beneath(root.as_fd(), Path::new(path), end, Beneath::AsRoot, None).expect(path);
            let made = fs::symlink_metadata(outer.path().join("root").join(place)).expect(place);
            assert_eq!((made.is_dir(), made.is_file()), (end == MissingEnd::Directory, end == MissingEnd::File), "{place}");
            assert_eq!(fs::read_link(outer.path().join("root").join(link)).unwrap(), Path::new(text), "the link stays");
            assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 1, "{link} -> {text} leads out");
            assert_eq!(place_beneath(root.as_fd(), Path::new(path)).unwrap().missing, 0);
        }
    }
}

#[test]
fn links_that_lead_nowhere_are_refused() {
    let long = "x/".repeat(2045);
    let links = [
        ("loop", "loop"),
        ("one", "two/x"),
        ("two", "/one"),
        ("below", "file/x"),
        ("above", "file/../x"),
        ("long", &long),
        ("longer", "long/a/b/c/d"),
    ];
    let (outer, root) = root_with(&links);
    let before = fs::read_dir(outer.path().join("root")).unwrap().count();
    let table = [
        ("loop", libc::ELOOP),
        ("loop/x", libc::ELOOP),
        ("one", libc::ELOOP),
        ("below", libc::ENOTDIR),
        ("above", libc::ENOTDIR),
        ("long/more/of/it/x", libc::ENAMETOOLONG),
        ("longer", libc::ENAMETOOLONG),
    ];
    for (path, error) in table {
        let made = make_beneath(root.as_fd(), Path::new(path), MissingEnd::Directory, Beneath::AsRoot, None);
        assert_eq!(made.unwrap_err().raw_os_error(), Some(error), "{path}");
    }
    let made = make_beneath(root.as_fd(), Path::new("loop/x"), MissingEnd::Directory, Beneath::NoSymlinks, None);
    assert_eq!(made.unwrap_err().raw_os_error(), Some(libc::ELOOP), "no link is followed where none may be");
    assert_eq!(fs::read_dir(outer.path().join("root")).unwrap().count(), before, "nothing was made");
    assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 1);
}

#[test]
fn nothing_is_made_among_the_kernels_files_nor_through_links_of_procfs() {
    let outer = tempfile::tempdir().unwrap();
    let here = fs::canonicalize(outer.path()).unwrap();
    let root = File::open("/").unwrap();
    let own = format!("/proc/{}/cwd/none", std::process::id());
    let refused = (io::ErrorKind::PermissionDenied, None);
    let many_links = (io::Error::from_raw_os_error(libc::ELOOP).kind(), Some(libc::ELOOP));
    let table = [
        ("/proc/none/x", refused),
        ("/sys/none/x", refused),
        ("/proc/self/none", many_links),
        ("/proc/self/root/tmp/none", many_links),
        (&own, many_links),
    ];
    for (at, (text, error)) in table.iter().enumerate() {
        let link = here.join(at.to_string());
        symlink(text, &link).unwrap();
        let inside = link.strip_prefix("/").unwrap();
        for end in [MissingEnd::Directory, MissingEnd::File] {
            let made = make_beneath(root.as_fd(), inside, end, Beneath::AsRoot, None).expect_err(text);
            assert_eq!((made.kind(), made.raw_os_error()), *error, "{text}: {made}");
        }
    }
}

/// Somebody swaps a directory for a link that leads out, and back, while it is walked through.
#[test]
fn a_link_that_is_swapped_leads_nowhere_else() {
    let (outer, root) = root_with(&[("there/link", "../../../outside")]);
    let outside = outer.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::create_dir(outer.path().join("root/there/directory")).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (one, two) = (outer.path().join("root/there/link"), outer.path().join("root/there/directory"));
            while !done.load(Ordering::Relaxed) {
                let flags = nix::fcntl::RenameFlags::RENAME_EXCHANGE;
                nix::fcntl::renameat2(nix::fcntl::AT_FDCWD, &one, nix::fcntl::AT_FDCWD, &two, flags).unwrap();
            }
        });
        let mut through = [0, 0];
        for n in 0..4000 {
            let path = PathBuf::from(format!("there/directory/x{n}/y"));
            let _ = make_beneath(root.as_fd(), &path, MissingEnd::File, Beneath::AsRoot, None);
            let named = |name: &str| outer.path().join("root").join(name).join(format!("x{n}")).exists();
            through[0] += usize::from(named("outside"));
            through[1] += usize::from(named("there/link") || named("there/directory"));
        }
        done.store(true, Ordering::Relaxed);
        assert!(through.iter().all(|times| *times > 0), "both were met: {through:?}");
    });
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "something was made outside");
}
