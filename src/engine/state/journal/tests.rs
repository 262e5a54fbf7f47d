use super::*;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

fn open(path: &Path) -> Journal {
    Journal::open(path).expect("open").0
}

fn put(journal: &Journal, key: &str, value: i32) {
    journal.put(key, &value).expect("put");
}

fn understood<T: DeserializeOwned>(journal: &Journal, prefix: &str) -> Vec<(String, T)> {
    journal.all(prefix).into_iter().filter_map(|(key, value)| Some((key, value.ok()?))).collect()
}

#[test]
fn a_torn_tail_is_dropped_and_written_over() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("state.journal");
    let journal = open(&path);
    put(&journal, "a/1", 1);
    put(&journal, "a/2", 2);
    journal.delete("a/1").expect("delete");
    put(&journal, "b/1", 3);
    let whole = fs::read(&path).expect("read");
    for cut in 0..whole.len() {
        fs::write(&path, &whole[..cut]).expect("cut");
        let (journal, found) = Journal::open(&path).expect("open");
        assert!(found.damage.is_none(), "cut at {cut}: {found:?}");
        put(&journal, "c", 9);
        let (again, found) = Journal::open(&path).expect("open");
        assert_eq!((again.get::<i32>("c"), found.damage.is_none()), (Some(9), true), "cut at {cut}");
    }
    fs::write(&path, &whole).expect("whole");
    assert_eq!(understood::<i32>(&open(&path), "a/"), [("2".to_string(), 2)]);
    assert_eq!(fs::read_dir(dir.path()).expect("dir").count(), 1, "nothing is kept aside");
}

#[test]
fn compaction_keeps_what_is_live_and_the_reserve() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir_in("/var/tmp").expect("dir");
    let path = dir.path().join("state.journal");
    let journal = open(&path);
    let big = "x".repeat(100_000);
    for i in 0..120 {
        journal.put("big", &format!("{i}{big}")).expect("put");
    }
    let file = fs::metadata(&path).expect("file");
    assert!(file.len() < 6 << 20);
    assert!(file.blocks() * 512 > file.len() + 3 * LARGEST_UNIT, "{} of {} bytes", file.blocks() * 512, file.len());
    let last: String = open(&path).get("big").expect("value");
    assert!(last.starts_with("119"));
}

#[test]
fn a_damaged_file_is_kept_and_the_rest_of_it_goes_on() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("state.journal");
    let journal = open(&path);
    (1..=4).for_each(|n| put(&journal, &format!("a/{n}"), n));
    let mut bytes = fs::read(&path).expect("read");
    let third = bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').nth(1).expect("line").0 + 20;
    bytes[third] ^= 4;
    bytes.extend(b"torn");
    fs::write(&path, &bytes).expect("write");
    let (journal, found) = Journal::open(&path).expect("open");
    let damage = found.damage.expect("damage");
    assert_eq!(damage.lines, [3]);
    assert_eq!(fs::read(&damage.kept).expect("kept"), bytes, "as it was, to the last byte");
    put(&journal, "a/5", 5);
    let (journal, found) = Journal::open(&path).expect("open");
    assert!(found.damage.is_none(), "the file that goes on is a good one");
    assert_eq!(understood::<i32>(&journal, "a/").into_iter().map(|(_, n)| n).collect::<Vec<_>>(), [1, 3, 4, 5]);
}

#[test]
fn a_newer_format_is_refused_and_an_older_one_read() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("state.journal");
    let newer = encode("format", Some(&serde_json::value::to_raw_value(&(FORMAT + 1)).expect("JSON"))).expect("line");
    fs::write(&path, &newer).expect("write");
    let refused = Journal::open(&path).map(drop).expect_err("newer").to_string();
    assert!(refused.contains("newer wharf") && refused.contains("--data-root"), "{refused}");
    assert_eq!(fs::read(&path).expect("read"), newer, "it is left as it is");
    // Of before there was a first line.
    let old = encode("a/1", Some(&serde_json::value::to_raw_value(&1).expect("JSON"))).expect("line");
    fs::write(&path, &old).expect("write");
    assert_eq!(open(&path).get::<i32>("a/1"), Some(1));
    assert_eq!(fs::read(&path).expect("read"), [header().expect("header"), old].concat());
}

#[test]
fn a_record_that_is_not_understood_goes_through_compaction_as_it_is() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("state.journal");
    let journal = open(&path);
    let later = RawValue::from_string(r#"{"z": 1.50, "a" : "\u00e9"}"#.into()).expect("JSON");
    journal.put("container/x", &later).expect("put");
    journal.lock().compact(&path).expect("compact");
    drop(journal);
    let known = open(&path).all::<i32>("container/");
    assert_eq!(known, [("x".to_string(), Err(later.get().to_string()))]);
}

/// A file of so many bytes on what is a full disk: nothing beyond them can be written or taken.
fn full_disk(bytes: u64, seals: SealFlag) -> File {
    let file = File::from(memfd_create("disk", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).expect("file"));
    file.set_len(bytes).expect("length");
    fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_GROW | seals)).expect("seals");
    file
}

#[test]
fn what_is_ordinary_leaves_the_reserve_to_the_ends_however_often_it_is_tried() {
    let dir = tempfile::tempdir().expect("dir");
    let journal = open(&dir.path().join("state.journal"));
    {
        let mut inner = journal.lock();
        inner.reserve.unit = SMALLEST_UNIT;
        inner.reserve.until = Some(inner.bytes + UNITS * SMALLEST_UNIT);
        inner.file = full_disk(inner.bytes + UNITS * SMALLEST_UNIT, SealFlag::empty());
    }
    let (probe, end) = ("x".repeat(2000), "x".repeat(500));
    let mut owed = 0;
    for n in 0..100 {
        owed += u32::from(journal.put_anyway("a/probed", &format!("{n}{probe}"), Room::Ordinary).is_err());
        let _ = journal.write_deferred();
    }
    assert!(owed > 80, "{owed}");
    journal.put_within("b/stopped", &end, Room::Ending).expect("the reserve is there for it");
    // One that is refused holds no other up.
    journal.lock().owed.insert("b/stopped".into(), Room::Ending);
    journal.write_deferred().expect_err("the other is refused still");
    assert_eq!(journal.lock().owed.keys().collect::<Vec<_>>(), ["a/probed"]);
    // An end that could not be written is one whatever happens to the same key later.
    journal.lock().owed.insert("a/probed".into(), Room::Removal);
    journal.put_anyway("a/probed", &1, Room::Ordinary).expect("as far as its end may go");
    assert!(journal.lock().owed.is_empty());
}

#[test]
fn half_of_a_line_that_cannot_be_cut_off_is_followed_by_none() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("state.journal");
    let journal = open(&path);
    let before = fs::read(&path).expect("read");
    let disk = full_disk(4096, SealFlag::F_SEAL_SHRINK);
    disk.write_all_at(&before, 0).expect("the same");
    {
        let mut inner = journal.lock();
        inner.reserve.until = None;
        inner.file = disk.try_clone().expect("file");
    }
    journal.put("a/1", &"x".repeat(5000)).expect_err("it does not fit");
    let mut bytes = vec![0; 4096];
    disk.read_exact_at(&mut bytes, 0).expect("read");
    assert!(bytes.ends_with(b"xxx"), "half of it is there");
    journal.put("a/2", &2).expect_err("as long as that is there");
    fs::write(&path, &bytes).expect("the disk is well again");
    journal.lock().file = File::options().read(true).write(true).open(&path).expect("file");
    put(&journal, "a/3", 3);
    let (again, found) = Journal::open(&path).expect("open");
    assert!(found.damage.is_none(), "{found:?}");
    assert_eq!(understood::<i32>(&again, "a/"), [("3".to_string(), 3)]);
}

#[test]
fn a_damaged_file_is_copied_where_it_can_have_no_second_name() {
    let dir = tempfile::tempdir().expect("dir");
    let (path, kept) = (dir.path().join("file"), dir.path().join("kept"));
    fs::write(&path, "damaged").expect("write");
    fs::write(&kept, "of before").expect("write");
    assert!(is_taken(&keep(&path, &kept)), "another damaged file is not written over");
    assert_eq!(fs::read(&kept).expect("read"), b"of before");
    // Another file system, for which a link fails as well.
    let other = tempfile::tempdir_in("/dev/shm").expect("dir");
    keep(&path, &other.path().join("kept")).expect("a copy");
    assert_eq!(fs::read(other.path().join("kept")).expect("read"), b"damaged");
}
