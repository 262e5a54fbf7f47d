use super::*;
use tar::EntryType;

fn layer(build: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    build(&mut builder);
    builder.into_inner().expect("tar")
}

fn header(kind: EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_000_000);
    header
}

/// Writes a name that the tar crate itself would refuse to write.
fn raw(builder: &mut tar::Builder<Vec<u8>>, mut header: tar::Header, name: &str, link: &str) {
    let old = header.as_old_mut();
    old.name[..name.len()].copy_from_slice(name.as_bytes());
    old.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    builder.append(&header, io::empty()).expect("append");
}

fn unpack(bytes: &[u8]) -> (tempfile::TempDir, Result<Unpacked, UnpackError>) {
    let outer = tempfile::tempdir().expect("dir");
    let root = outer.path().join("root");
    std::fs::create_dir(&root).expect("root");
    let fd = File::open(&root).expect("open");
    let result = apply(bytes, fd.as_fd());
    (outer, result)
}

#[test]
fn names_that_lead_out_are_refused() {
    for name in ["../out", "a/../../out", "/../out"] {
        let bytes = layer(|b| raw(b, header(EntryType::Regular, 0o644, 0), name, ""));
        let (outer, result) = unpack(&bytes);
        assert!(matches!(result, Err(UnpackError::Refused { .. })), "{name}");
        assert!(!outer.path().join("out").exists());
    }
}

#[test]
fn dots_within_a_name_are_taken_away() {
    let (outer, result) = unpack(&layer(|b| {
        raw(b, header(EntryType::Regular, 0o644, 0), "a/../f", "");
        raw(b, header(EntryType::Directory, 0o755, 0), "./d/e/..", "");
        raw(b, header(EntryType::Link, 0o644, 0), "d/link", "x/y/../../f");
        raw(b, header(EntryType::Directory, 0o711, 0), "d/..", "");
        raw(b, header(EntryType::Regular, 0o644, 0), "/d/../.wh.g", "");
    }));
    result.expect("unpacks");
    let root = outer.path().join("root");
    let inode = |name: &str| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(root.join(name)).expect(name));
    assert_eq!(inode("d/link"), inode("f"));
    assert!(!root.join("a").exists() && root.join("d").is_dir() && !root.join("d/e").exists());
    assert!(root.join("g").symlink_metadata().is_ok(), "a whiteout");
    let mode = std::os::unix::fs::PermissionsExt::mode(&root.metadata().expect("root").permissions());
    assert_eq!(mode & 0o777, 0o711);
    for (name, link) in [("f/..", ""), ("l", "a/.."), ("l", "a/../../f")] {
        let kind = if link.is_empty() { EntryType::Regular } else { EntryType::Link };
        let (_, result) = unpack(&layer(|b| raw(b, header(kind, 0o644, 0), name, link)));
        assert!(matches!(result, Err(UnpackError::Refused { .. })), "{name} {link}");
    }
}

#[test]
fn symlinks_and_links_stay_inside() {
    let (outer, result) = unpack(&layer(|b| {
        raw(b, header(EntryType::Symlink, 0o777, 0), "up", "../..");
        raw(b, header(EntryType::Symlink, 0o777, 0), "abs", "/");
        raw(b, header(EntryType::Regular, 0o644, 0), "up/through-up", "");
        raw(b, header(EntryType::Regular, 0o644, 0), "abs/through-abs", "");
    }));
    result.expect("unpacks");
    assert!(outer.path().join("root/through-up").exists());
    assert!(outer.path().join("root/through-abs").exists());
    assert!(!outer.path().join("through-up").exists() && !Path::new("/through-abs").exists());
    let (_, result) = unpack(&layer(|b| raw(b, header(EntryType::Link, 0o644, 0), "passwd", "../../../etc/passwd")));
    assert!(matches!(result, Err(UnpackError::Refused { .. })));
}

#[test]
fn whiteouts_become_overlayfs_ones() {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let (outer, result) = unpack(&layer(|b| {
        b.append_data(&mut header(EntryType::Regular, 0o644, 0), "d/.wh.gone", io::empty()).expect("append");
        b.append_data(&mut header(EntryType::Regular, 0o644, 0), "d/.wh..wh..opq", io::empty()).expect("append");
    }));
    result.expect("unpacks");
    let gone = std::fs::symlink_metadata(outer.path().join("root/d/gone")).expect("whiteout");
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    let opaque = xattr::get(outer.path().join("root/d"), "trusted.overlay.opaque").expect("xattr");
    assert_eq!(opaque.as_deref(), Some(&b"y"[..]));
    let (_, hidden) = unpack(&layer(|b| raw(b, header(EntryType::Char, 0o644, 0), "sly", "")));
    assert!(matches!(hidden, Err(UnpackError::Refused { .. })));
}

#[test]
fn a_bomb_of_zeros_takes_no_place() {
    use std::os::unix::fs::MetadataExt;
    const SIZE: u64 = 4 << 30;
    let mut head = header(EntryType::Regular, 0o644, 0);
    head.set_path("zeros").expect("path");
    // Above 8 GiB the field is another; 4 GiB are eleven octal digits.
    head.set_size(SIZE);
    head.set_cksum();
    let outer = tempfile::tempdir().expect("dir");
    let fd = File::open(outer.path()).expect("open");
    let stream = head.as_bytes().chain(io::repeat(0).take(SIZE + 1024));
    let unpacked = apply(io::BufReader::with_capacity(1 << 18, stream), fd.as_fd()).expect("unpacks");
    let found = std::fs::metadata(outer.path().join("zeros")).expect("file");
    assert_eq!((unpacked.bytes, found.len()), (SIZE, SIZE));
    assert!(found.blocks() * 512 < 1 << 20, "{} blocks", found.blocks());
}

#[test]
fn holes_are_where_the_zeros_were() {
    let mut content = vec![7u8; 100_000];
    content.extend(vec![0; 300_000]);
    content.extend(b"end");
    for tail in [&b""[..], &[0; 200_000]] {
        let whole = [&content[..], tail].concat();
        let (outer, result) = unpack(&layer(|b| {
            let mut h = header(EntryType::Regular, 0o644, whole.len() as u64);
            b.append_data(&mut h, "file", &whole[..]).expect("append");
        }));
        result.expect("unpacks");
        assert!(std::fs::read(outer.path().join("root/file")).expect("file") == whole);
    }
}

#[test]
fn whiteouts_reach_no_parent() {
    for name in ["d/.wh...", "d/.wh..", ".wh."] {
        let bytes = layer(|b| raw(b, header(EntryType::Regular, 0o644, 0), name, ""));
        let (outer, result) = unpack(&bytes);
        assert!(matches!(result, Err(UnpackError::Refused { .. })), "{name}");
        assert!(outer.path().join("root").exists());
    }
}

#[test]
fn links_to_links_and_deep_trees_stay_inside() {
    // A hard link to a symlink that leads out is the symlink, not what it leads to.
    let (outer, result) = unpack(&layer(|b| {
        raw(b, header(EntryType::Symlink, 0o777, 0), "out", "/etc/passwd");
        raw(b, header(EntryType::Link, 0o644, 0), "hard", "out");
        raw(b, header(EntryType::Regular, 0o644, 0), "hard/../x", "");
    }));
    result.expect("unpacks");
    // `..` behind a link takes the link's name away, and does not follow it.
    assert!(outer.path().join("root/hard").is_symlink() && outer.path().join("root/x").exists());
    let name = "n".repeat(255);
    let deep = "d/".repeat(300);
    let (outer, result) = unpack(&layer(|b| {
        b.append_data(&mut header(EntryType::Regular, 0o644, 0), &name, io::empty()).expect("append");
        b.append_data(&mut header(EntryType::Regular, 0o4755, 1), format!("{deep}f"), &b"x"[..]).expect("append");
    }));
    result.expect("names of 255 bytes and paths of many parts are right");
    assert!(outer.path().join("root").join(&name).exists() && outer.path().join("root").join(&deep).join("f").exists());
    let long = "n".repeat(256);
    let (_, result) = unpack(&layer(|b| {
        b.append_data(&mut header(EntryType::Regular, 0o644, 0), &long, io::empty()).expect("append");
    }));
    assert!(matches!(result, Err(UnpackError::Write { .. })), "the kernel refuses 256");
}

#[test]
fn a_hundred_thousand_entries_cost_time_alone() {
    let bytes = layer(|b| {
        for n in 0..100_000 {
            let name = format!("d{}/f{n}", n % 50);
            b.append_data(&mut header(EntryType::Regular, 0o644, 0), name, io::empty()).expect("append");
        }
    });
    let (_outer, result) = unpack(&bytes);
    assert_eq!(result.expect("unpacks").entries, 100_000);
}

#[test]
fn modes_owners_and_times_are_kept() {
    use std::os::unix::fs::MetadataExt;
    let (outer, result) = unpack(&layer(|b| {
        let mut h = header(EntryType::Regular, 0o4755, 3);
        h.set_uid(33);
        h.set_gid(44);
        b.append_data(&mut h, "bin/su", &b"abc"[..]).expect("append");
    }));
    assert_eq!(result.expect("unpacks").bytes, 3);
    let meta = std::fs::metadata(outer.path().join("root/bin/su")).expect("file");
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid(), meta.mtime()), (0o4755, 33, 44, 1_000_000));
}

#[test]
fn what_a_layer_deletes_stays_away_whatever_its_name() {
    use std::os::unix::fs::FileTypeExt;
    let name = OsStr::from_bytes(b"d/.wh.\xe9t\xe9.txt");
    let (outer, result) = unpack(&layer(|b| {
        b.append_data(&mut header(EntryType::Regular, 0o644, 0), Path::new(name), io::empty()).expect("append");
    }));
    result.expect("unpacks");
    let hidden = outer.path().join("root/d").join(OsStr::from_bytes(b"\xe9t\xe9.txt"));
    assert!(std::fs::symlink_metadata(hidden).expect("whiteout").file_type().is_char_device());
    assert_eq!(std::fs::read_dir(outer.path().join("root/d")).expect("directory").count(), 1);
}

#[test]
fn owners_that_no_file_can_have_are_refused() {
    use std::os::unix::fs::MetadataExt;
    let bytes = |kind, uid: u64, gid: u64| {
        layer(|b| {
            let mut h = header(kind, 0o4755, 0);
            h.set_uid(uid);
            h.set_gid(gid);
            b.append_link(&mut h, "file", "target").expect("append");
        })
    };
    for (uid, gid) in [(1 << 40, 0), (0, 1 << 32), (u64::from(u32::MAX), 0), (0, u64::from(u32::MAX))] {
        for kind in [EntryType::Regular, EntryType::Directory, EntryType::Symlink, EntryType::Fifo] {
            let (_outer, result) = unpack(&bytes(kind, uid, gid));
            let error = result.expect_err("it is nobody").to_string();
            assert!(error.contains("is none that a file can have"), "{error}");
        }
        // Where another owner is asked for, the archive's is of no account.
        let outer = tempfile::tempdir().expect("dir");
        let root = File::open(outer.path()).expect("open");
        extract(&bytes(EntryType::Regular, uid, gid)[..], root.as_fd(), Some((7, 8))).expect("unpacks");
        let found = std::fs::metadata(outer.path().join("file")).expect("file");
        assert_eq!((found.uid(), found.gid()), (7, 8));
    }
}

#[test]
fn times_before_1970_and_parts_of_seconds_are_kept() {
    use std::os::unix::fs::MetadataExt;
    let (outer, result) = unpack(&layer(|b| {
        b.append_pax_extensions([("mtime", &b"-1.25"[..])]).expect("append");
        b.append_data(&mut header(EntryType::Regular, 0o644, 0), "file", io::empty()).expect("append");
        let mut h = header(EntryType::Directory, 0o755, 0);
        crate::image::tar_paths::set_time(&mut h, -7);
        b.append_data(&mut h, "d", io::empty()).expect("append");
    }));
    result.expect("unpacks");
    let time = |name: &str| std::fs::metadata(outer.path().join("root").join(name)).map(|m| (m.mtime(), m.mtime_nsec()));
    assert_eq!((time("file").expect("file"), time("d").expect("directory")), ((-2, 750_000_000), (-7, 0)));
}
