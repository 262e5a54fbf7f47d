//! Any packets of a client that sends a directory: nothing is written outside it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message;
use std::fs::File;
use wharf::api::buildkit::fsutil::Packet;
use wharf::api::buildkit::fsutil::writer::Writer;

fuzz_target!(|bytes: &[u8]| {
    // In memory: a file system for each input would be the whole time of a run.
    let outer = std::path::Path::new("/dev/shm").join(format!("wharf-fuzz-{}", std::process::id()));
    let root = outer.join("root");
    std::fs::create_dir_all(&root).expect("a directory");
    let mut rest = bytes;
    let packets = std::iter::from_fn(|| (!rest.is_empty()).then(|| Packet::decode_length_delimited(&mut rest).ok())?);
    let _ = Writer::new(File::open(&root).expect("the directory").into()).run(packets, |_| Ok(()));
    let beside = std::fs::read_dir(&outer).expect("the directory").count();
    assert_eq!(beside, 1, "a file was made outside the directory");
    std::fs::remove_dir_all(&outer).expect("removing the directory");
});
