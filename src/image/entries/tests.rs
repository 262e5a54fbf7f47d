use super::*;
use std::path::Path;
use std::process::Command;

/// A header in the form of GNU, without its checksum.
fn header(kind: u8, name: &[u8], size: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    block[..name.len()].copy_from_slice(name);
    block[100..107].copy_from_slice(b"0000644");
    block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    block[136..147].copy_from_slice(format!("{:011o}", 1_000_000).as_bytes());
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar  \0");
    block
}

fn summed(mut block: [u8; BLOCK]) -> [u8; BLOCK] {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// An entry whose size is the content's.
fn entry(kind: u8, name: &[u8], content: &[u8]) -> Vec<u8> {
    with_content(header(kind, name, content.len() as u64), content)
}

fn with_content(block: [u8; BLOCK], content: &[u8]) -> Vec<u8> {
    let mut bytes = [&summed(block)[..], content].concat();
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let body = [format!(" {key}=").as_bytes(), value, b"\n"].concat();
    let length = (1..).find(|length| body.len() + length.to_string().len() == *length).expect("a length");
    [length.to_string().as_bytes(), &body].concat()
}

fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    entry(b'x', b"pax", &records.iter().flat_map(|(key, value)| record(key, value)).collect::<Vec<_>>())
}

/// The entries of an archive, and their content.
pub fn read(archive: &[u8]) -> io::Result<Vec<(EntryHead, Vec<u8>)>> {
    let mut found = Vec::new();
    Entries::new(archive).each(std::convert::identity, |entry| {
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        found.push((entry.head.clone(), content));
        Ok(())
    })?;
    Ok(found)
}

fn why(archive: &[u8]) -> String {
    read(archive).expect_err("it is damaged").to_string()
}

/// Kinds and paths of an archive's entries.
fn listed(archive: &[u8]) -> Vec<(EntryKind, String)> {
    let found = read(archive).expect("an archive");
    found.into_iter().map(|(head, _)| (head.kind, head.path.display().to_string())).collect()
}

#[test]
fn records_are_as_long_as_they_say() {
    let capability = b"\x01\0\0\x02\x0a\0\0\0\n\n12 path=evil\n\0\0";
    let archive = [
        pax(&[
            ("SCHILY.xattr.security.capability", capability),
            ("SCHILY.xattr.user.empty", b""),
            ("mtime", b"-1.25"),
            ("path", b"long\xe9"),
            ("size", b"4"),
            ("uid", b"1099511627776"),
        ]),
        with_content(header(b'0', b"short", 2), b"text"),
        entry(b'0', b"next", b""),
    ]
    .concat();
    let found = read(&archive).expect("an archive");
    let (head, content) = &found[0];
    assert_eq!((head.path.as_os_str().as_encoded_bytes(), &content[..]), (&b"long\xe9"[..], &b"text"[..]));
    assert_eq!((head.size, head.uid, head.mtime), (4, 1 << 40, (-2, 750_000_000)));
    let attributes = [(OsString::from("security.capability"), capability.to_vec()), (OsString::from("user.empty"), Vec::new())];
    assert_eq!(head.attributes, attributes);
    assert_eq!((found[1].0.path.as_path(), found[1].0.attributes.len()), (Path::new("next"), 0));
    for wrong in
        [&b"8 a=bc\n"[..], b"99 a=b\n", b"6 a=b\n7", b"5 abc", b"-6 a=b\n", b"6 a=bc\n", b" a=b\n", b"8 pa\0h=\n", b"6  =b\n\n"]
    {
        let archive = [entry(b'x', b"pax", wrong), entry(b'0', b"f", b"")].concat();
        assert!(read(&archive).is_err(), "{:?}", String::from_utf8_lossy(wrong));
    }
    for (key, value) in [("size", &b"-1"[..]), ("size", b"x"), ("uid", b"0x1"), ("mtime", b"1.x"), ("path", b"a\0b")] {
        assert!(read(&[pax(&[(key, value)]), entry(b'0', b"f", b"")].concat()).is_err(), "{key}");
    }
}

#[test]
fn what_another_tar_reads_is_read() {
    let (long, link) = ("d/".repeat(80) + "f", "l/".repeat(70));
    let named = |kind, text: &str| entry(kind, b"././@LongLink", &[text.as_bytes(), b"\0"].concat());
    let mut ustar = header(b'0', b"name", 0);
    ustar[257..265].copy_from_slice(b"ustar\x0000");
    ustar[345..351].copy_from_slice(b"prefix");
    let mut star = ustar;
    star[476..488].fill(b'7');
    star[508..].copy_from_slice(b"tar\0");
    let mut v7 = header(0, b"old/", 0);
    v7[257..265].fill(0);
    let archive = [
        &[named(b'L', &long), named(b'K', &link), with_content(header(b'2', b"short", 9), b"")].concat()[..],
        &summed(ustar),
        &summed(star),
        &summed(v7),
        &entry(b'V', b"label", b""),
        &pax(&[("path", b"of nothing")]),
        &entry(b'g', b"global", &record("path", b"of all")),
        &entry(b'0', b"slash/", b"x"),
        // What is no file has no content, whatever its header says.
        &summed(header(b'5', b"directory", 512)),
        &summed(header(b'1', b"hard", 512)),
        &summed(header(b'3', b"device", 512)),
        &entry(b'7', b"contiguous", b"x"),
        &entry(b'M', b"of another volume", b"x"),
    ]
    .concat();
    let found = listed(&archive);
    let expected = [
        (EntryKind::Symlink, long.as_str()),
        (EntryKind::Regular, "prefix/name"),
        (EntryKind::Regular, "prefix/name"),
        (EntryKind::Directory, "old/"),
        (EntryKind::Regular, "slash/"),
        (EntryKind::Directory, "directory"),
        (EntryKind::HardLink, "hard"),
        (EntryKind::Character, "device"),
        (EntryKind::Regular, "contiguous"),
        (EntryKind::Other(b'M'), "of another volume"),
    ];
    assert_eq!(found, expected.map(|(kind, path)| (kind, path.to_string())));
    assert_eq!(read(&archive).expect("an archive")[0].0.link, Path::new(&link));
}

#[test]
fn numbers_are_read_as_go_reads_them() {
    let number = |text: &[u8]| header::number(text).ok();
    assert_eq!(number(b"0000644\0"), Some(0o644));
    assert_eq!(number(b" 644 \0\0\0"), Some(0o644));
    assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Some(0));
    assert_eq!(number(b"\x80\0\0\0\0\0\x01\0"), Some(256));
    assert_eq!(number(b"\xff\xff\xff\xff\xff\xff\xff\xfe"), Some(-2));
    assert_eq!(number(b"\xff\xff\xff\xff\x80\0\0\0\0\0\0\0"), Some(i64::MIN));
    for wrong in [&b"8"[..], b"-1", b"+1", b"1 1", b"0x1", b"\x80\0\0\0\x80\0\0\0\0\0\0\0", b"\x81\0\0\0\0\0\0\0\0\0\0\0"] {
        assert_eq!(number(wrong), None, "{wrong:?}");
    }
    let mut wrong = summed(header(b'0', b"f", 0));
    wrong[0] = b'g';
    assert!(why(&wrong).contains("checksum"));
    assert!(!Entries::new(&wrong[..]).begin() && Entries::new(&entry(b'0', b"f", b"")[..]).begin());
    // Signed bytes, as some writers of old add them.
    let mut signed = summed(header(b'0', b"\xe9", 0));
    let sum = u32::from_str_radix(std::str::from_utf8(&signed[148..154]).expect("digits"), 8).expect("a sum") - 256;
    signed[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    assert_eq!(read(&signed).expect("an archive").len(), 1);
}

#[test]
fn an_archive_ends_where_it_may() {
    let one = entry(b'0', b"f", b"text");
    assert_eq!(read(&one[..BLOCK + 4]).expect("padding may be missing").len(), 1);
    assert_eq!(read(&[&one[..], &[0; BLOCK]].concat()).expect("a block of zeros").len(), 1);
    assert_eq!(read(&[&one[..], &[0; 2 * BLOCK], b"anything"].concat()).expect("two blocks").len(), 1);
    assert_eq!(read(b"").expect("nothing").len(), 0);
    for cut in [1, 511, 513, BLOCK + 3] {
        assert!(why(&one[..cut]).contains("the archive ends within"), "{cut}");
    }
    assert!(why(&[&one[..], &[0; BLOCK], &one[..]].concat()).contains("zeros"));
    assert!(read(&with_content(header(b'0', b"f", 1 << 30), b"")).is_err());
}

#[test]
fn the_headers_of_an_entry_are_bounded() {
    let huge = vec![b'a'; MAX_HEADERS as usize];
    for archive in [
        entry(b'L', b"long", &huge),
        entry(b'x', b"pax", &record("comment", &huge)),
        // Larger than it is: nothing of it is taken.
        with_content(header(b'x', b"pax", 0o77_777_777_777), b""),
        entry(b'L', b"long", b"").repeat(3000),
    ] {
        assert!(why(&archive).contains("the headers of one entry have more than"));
    }
    // The same of many entries is none.
    assert_eq!(
        read(&[pax(&[("comment", &huge[..500_000])]), entry(b'0', b"f", b"")].concat().repeat(4)).expect("right").len(),
        4
    );
}

/// A file with a hole at each place: before, between and behind pieces.
const SIZE: usize = 3 << 20;

fn sparse_content() -> Vec<u8> {
    let mut content = vec![0; SIZE];
    for at in [1 << 20, 2 << 20] {
        content[at..at + 5000].fill(b'd');
    }
    content
}

fn sparse_file(directory: &Path, pieces: usize) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::create(directory.join("sparse")).expect("file");
    file.set_len((pieces.max(3) << 20) as u64).expect("length");
    for piece in 1..pieces {
        file.write_all_at(&[b'd'; 5000], (piece << 20) as u64).expect("piece");
    }
}

#[test]
fn the_sparse_files_of_gnu_tar_are_whole() {
    let directory = tempfile::tempdir().expect("directory");
    sparse_file(directory.path(), 3);
    for form in ["gnu", "posix --sparse-version=0.0", "posix --sparse-version=0.1", "posix --sparse-version=1.0"] {
        let command = format!("tar -C {} -S --format={form} -cf - sparse", directory.path().display());
        let archive = Command::new("sh").args(["-c", &command]).output().expect("tar").stdout;
        assert!(archive.len() < 100_000, "{form}: {} bytes", archive.len());
        let found = read(&archive).expect(form);
        let (head, content) = &found[0];
        assert_eq!((head.path.as_path(), head.size, found.len()), (Path::new("sparse"), SIZE as u64, 1), "{form}");
        assert!(*content == sparse_content(), "{form}");
    }
    // More pieces than a header has room for.
    sparse_file(directory.path(), 60);
    for form in ["gnu", "posix"] {
        let command = format!("tar -C {} -S --format={form} -cf - sparse", directory.path().display());
        let archive = Command::new("sh").args(["-c", &command]).output().expect("tar").stdout;
        let whole = std::fs::read(directory.path().join("sparse")).expect("file");
        assert!(read(&archive).expect(form)[0].1 == whole, "{form}");
    }
}

#[test]
fn maps_of_sparse_files_that_are_wrong_are_refused() {
    let by_records = |map: &str, blocks: &str, content: &[u8]| {
        let records: [(&str, &[u8]); 4] = [
            ("GNU.sparse.major", b"0"),
            ("GNU.sparse.size", b"1000"),
            ("GNU.sparse.map", map.as_bytes()),
            ("GNU.sparse.numblocks", blocks.as_bytes()),
        ];
        [pax(&[&records[..], &[("GNU.sparse.minor", b"1")]].concat()), entry(b'0', b"f", content)].concat()
    };
    let right = read(&by_records("10,5,20,0,1000,0", "3", b"pices")).expect("right");
    assert_eq!((right[0].1.len(), &right[0].1[9..16]), (1000, &b"\0pices\0"[..]));
    for (map, blocks) in [
        ("10,5", "2"),
        ("10", "1"),
        ("10,5", ""),
        ("10,5", "-1"),
        ("10,5", "9223372036854775807"),
        ("-1,5", "1"),
        ("10,-5", "1"),
        ("20,5,10,5", "2"),
        ("10,5,14,5", "2"),
        ("996,5", "1"),
        ("9223372036854775807,9223372036854775807", "1"),
        ("1,x", "1"),
    ] {
        assert!(read(&by_records(map, blocks, b"pices")).is_err(), "{map} {blocks}");
    }
    assert!(why(&by_records("10,5", "1", b"p")).contains("less content"));
    assert!(why(&by_records("10,5", "1", b"pieces")).contains("more content"));
    let before_content = |text: &[u8]| {
        let records: [(&str, &[u8]); 3] = [("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"9")];
        [pax(&records), entry(b'0', b"f", text)].concat()
    };
    for text in [
        &b""[..],
        b"1\n",
        b"-1\n",
        b"99999999999\n",
        b"x\n",
        &[b'1'; 600],
        &[b"9000000\n".repeat(200), vec![b'\n'; 512]].concat(),
    ] {
        assert!(read(&before_content(text)).is_err(), "{:?}", String::from_utf8_lossy(text));
    }
    let mut star = header(b'S', b"f", 0);
    star[257..265].copy_from_slice(b"ustar\x0000");
    assert!(read(&summed(star)).is_err());
    let unknown = [pax(&[("GNU.sparse.major", b"2"), ("GNU.sparse.minor", b"0")]), entry(b'0', b"f", b"")].concat();
    assert!(why(&unknown).contains("not known"));
    let directory = [pax(&[("GNU.sparse.map", b"0,0"), ("GNU.sparse.numblocks", b"1")]), entry(b'5', b"f", b"")].concat();
    assert!(read(&directory).is_err());
    // Holes take no room in an archive: they are bounded by themselves.
    let mut huge = header(b'S', b"f", 0);
    huge[483..495].copy_from_slice(&[&[0x80, 0, 0, 0][..], &(1u64 << 42).to_be_bytes()].concat());
    let refused = Entries::new(&summed(huge)[..]).each(std::convert::identity, |_| Ok(()));
    assert!(refused.expect_err("too much").to_string().contains("sparse files have more than"));
}

#[test]
fn the_archives_of_another_writer_are_read() {
    const SCRIPT: &str = r#"
import io, sys, tarfile
out = sys.stdout.buffer
with tarfile.open(fileobj=out, mode="w|", format=getattr(tarfile, sys.argv[1]), encoding="utf-8", errors="surrogateescape") as tar:
    def add(name, **fields):
        info = tarfile.TarInfo(name)
        content = fields.pop("content", b"")
        info.size = len(content)
        for key, value in fields.items():
            setattr(info, key, value)
        tar.addfile(info, io.BytesIO(content))
    long = "/".join(["directory"] * 9) + "/" + "n" * 60
    add(long, content=b"content", uid=70000, mode=0o4755, mtime=1234)
    add("link", type=tarfile.SYMTYPE, linkname="a//./b")
    add("\udce9t\udce9", type=tarfile.DIRTYPE)
    if sys.argv[1] != "USTAR_FORMAT":
        add("big", uid=1 << 33, mtime=-5)
        add("far", type=tarfile.SYMTYPE, linkname="/" + "t" * 200)
"#;
    for form in ["USTAR_FORMAT", "GNU_FORMAT", "PAX_FORMAT"] {
        let output = Command::new("python3").args(["-c", SCRIPT, form]).output().expect("python3 is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let found = read(&output.stdout).expect(form);
        let long = ["directory"; 9].join("/") + "/" + &"n".repeat(60);
        let (first, content) = &found[0];
        assert_eq!((first.path.as_path(), &content[..]), (Path::new(&long), &b"content"[..]), "{form}");
        assert_eq!((first.uid, first.mode, first.mtime), (70000, 0o4755, (1234, 0)), "{form}");
        assert_eq!(found[1].0.link, Path::new("a//./b"), "{form}");
        assert_eq!(found[2].0.kind, EntryKind::Directory);
        // Python's has U+DCE9 in a record that is to be UTF-8.
        if form != "PAX_FORMAT" {
            assert_eq!(found[2].0.path.as_os_str().as_encoded_bytes(), b"\xe9t\xe9/", "{form}");
        }
        if form != "USTAR_FORMAT" {
            assert_eq!((found[3].0.uid, found[3].0.mtime), (1 << 33, (-5, 0)), "{form}");
            assert_eq!(found[4].0.link, Path::new(&("/".to_string() + &"t".repeat(200))), "{form}");
        }
    }
}

/// No byte that is changed, and no place where an archive is cut, makes more of it than an error.
#[test]
fn a_damaged_archive_is_an_error_at_most() {
    let directory = tempfile::tempdir().expect("directory");
    std::fs::write(directory.path().join("a"), "content").expect("file");
    std::os::unix::fs::symlink("t".repeat(150), directory.path().join("b")).expect("link");
    sparse_file(directory.path(), 6);
    let mut random: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut next = |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % below as u64) as usize
    };
    for form in ["gnu", "posix --sparse-version=0.0", "posix --sparse-version=1.0"] {
        let command = format!("tar -C {} -S --format={form} -cf - a b sparse", directory.path().display());
        let right = Command::new("sh").args(["-c", &command]).output().expect("tar").stdout;
        for _ in 0..2000 {
            let mut archive = right.clone();
            let block = next(archive.len().min(6000) / BLOCK) * BLOCK;
            for _ in 0..=next(3) {
                let at = block + next(BLOCK);
                archive[at] = [b'0', b'9', 0xff, 0x80, b'\n', b'=', 0, next(256) as u8][next(8)];
            }
            let header: [u8; BLOCK] = archive[block..block + BLOCK].try_into().expect("a block");
            archive[block..block + BLOCK].copy_from_slice(&summed(header));
            archive.truncate(if next(4) == 0 { next(archive.len()) } else { archive.len() });
            let mut bytes = 0;
            let _ = Entries::new(&archive[..]).each(std::convert::identity, |entry| {
                bytes += io::copy(&mut entry.take(1 << 16), &mut io::sink())?;
                Ok(())
            });
            assert!(bytes < 10 << 20);
        }
    }
}
