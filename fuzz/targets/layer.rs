//! Any bytes as a layer: nothing is written outside of its directory.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::OnceLock;
use wharf::image::unpack;

/// A directory on a memory file system: `outer/root` takes the layers.
fn outer() -> &'static PathBuf {
    static OUTER: OnceLock<PathBuf> = OnceLock::new();
    OUTER.get_or_init(|| {
        let outer = PathBuf::from(format!("/dev/shm/wharf-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&outer).expect("directory");
        outer
    })
}

fuzz_target!(|bytes: &[u8]| {
    let root = outer().join("root");
    std::fs::create_dir(&root).expect("directory");
    let _ = unpack::apply(bytes, File::open(&root).expect("directory").as_fd());
    std::fs::remove_dir_all(&root).expect("removed");
    assert_eq!(std::fs::read_dir(outer()).expect("directory").count(), 0, "something is beside the root");
});
