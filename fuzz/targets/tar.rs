//! Archives made of header kinds in any order: GNU's long names, PAX records, sparse maps, links and directories, as a layer and
//! as what `load` and ADD take apart. Random bytes are hardly ever an archive; these nearly always are.
#![no_main]

use libfuzzer_sys::{
    arbitrary::{self, Arbitrary},
    fuzz_target,
};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::OnceLock;
use wharf::image::unpack;

#[derive(Arbitrary, Debug)]
struct Entry<'a> {
    kind: u8,
    name: &'a [u8],
    link: &'a [u8],
    data: &'a [u8],
    /// Said in the header, where it is not the data's.
    size: Option<u64>,
    numbers: [u64; 4],
    ustar: bool,
    flip: Option<(u16, u8)>,
}

fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let body = key.len() + value.len() + 3;
    let mut length = body + 1;
    while length != body + length.to_string().len() {
        length += 1;
    }
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

fn archive(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    for entry in entries.iter().take(24) {
        const KINDS: &[u8] = b"0123456LKxgSV7D\0";
        let kind = KINDS[usize::from(entry.kind) % KINDS.len()];
        let mut header = if entry.ustar { tar::Header::new_ustar() } else { tar::Header::new_gnu() };
        header.set_entry_type(tar::EntryType::new(kind));
        let mut data = entry.data.to_vec();
        if kind == b'x' || kind == b'g' {
            // Records that are right in their form, with names that mean something.
            const KEYS: [&str; 8] =
                ["path", "linkpath", "size", "uid", "mtime", "SCHILY.xattr.user.a", "GNU.sparse.map", "GNU.sparse.offset"];
            data = record(KEYS[(entry.numbers[0] % 8) as usize], &[entry.name, entry.data].concat());
            // The forms of sparse files, of which a right one has several.
            if entry.numbers[0] & 0x100 != 0 {
                let digits = entry.numbers.map(|number| number.wrapping_shr(9) % 1000);
                data.extend(record("GNU.sparse.major", (digits[0] % 2).to_string().as_bytes()));
                data.extend(record("GNU.sparse.minor", (digits[1] % 2).to_string().as_bytes()));
                data.extend(record("GNU.sparse.size", digits[2].to_string().as_bytes()));
                data.extend(record("GNU.sparse.numblocks", b"1"));
                data.extend(record("GNU.sparse.map", format!("{},{}", digits[3] % 100, digits[0] % 10).as_bytes()));
            }
        }
        {
            let old = header.as_old_mut();
            let length = entry.name.len().min(100);
            old.name[..length].copy_from_slice(&entry.name[..length]);
            let length = entry.link.len().min(100);
            old.linkname[..length].copy_from_slice(&entry.link[..length]);
        }
        header.set_size(entry.size.filter(|size| *size < 1 << 20).unwrap_or(data.len() as u64));
        header.set_mode(entry.numbers[1] as u32 & 0o7777);
        header.set_uid(entry.numbers[2] & 0xffff);
        header.set_gid(entry.numbers[2] >> 48);
        header.set_mtime(entry.numbers[3] & 0xffff_ffff);
        if let Some(gnu) = header.as_gnu_mut().filter(|_| kind == b'S') {
            for (block, number) in gnu.sparse.iter_mut().zip(entry.numbers) {
                block.offset[..11].copy_from_slice(format!("{:011o}", number & 0xffff).as_bytes());
                block.numbytes[..11].copy_from_slice(format!("{:011o}", (number >> 16) & 0x3ff).as_bytes());
            }
            gnu.realsize[..11].copy_from_slice(format!("{:011o}", entry.numbers[3] & 0xf_ffff).as_bytes());
            gnu.set_is_extended(entry.numbers[0] & 1 == 1);
        }
        if let Some((at, value)) = entry.flip {
            header.as_mut_bytes()[usize::from(at) % 512] ^= value;
        }
        header.set_cksum();
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(&data);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out
}

/// A directory on a memory file system: `outer/root` takes the layers.
fn outer() -> &'static PathBuf {
    static OUTER: OnceLock<PathBuf> = OnceLock::new();
    OUTER.get_or_init(|| {
        let outer = PathBuf::from(format!("/dev/shm/wharf-fuzz-tar-{}", std::process::id()));
        std::fs::create_dir_all(&outer).expect("directory");
        outer
    })
}

fuzz_target!(|entries: Vec<Entry<'_>>| {
    let bytes = archive(&entries);
    let root = outer().join("root");
    std::fs::create_dir(&root).expect("directory");
    let directory = File::open(&root).expect("directory");
    if unpack::apply(&bytes[..], directory.as_fd()).is_ok() {
        // What was unpacked can be packed again.
        wharf::image::build::tarball::digest(&root).expect("packed");
    }
    let _ = unpack::extract(&bytes[..], directory.as_fd(), Some((0, 0)));
    let _ = unpack::merge(&bytes[..], directory.as_fd(), None);
    wharf::sys::removal::remove_tree(&root).expect("removed");
    assert_eq!(std::fs::read_dir(outer()).expect("directory").count(), 0, "something is beside the root");
});
