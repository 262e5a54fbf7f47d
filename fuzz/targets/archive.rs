//! Any bytes as an archive of images, `docker save`'s or an OCI layout: nothing is written outside of the store.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::path::PathBuf;
use std::sync::OnceLock;
use wharf::image::{Store, archive};

/// A directory on a memory file system: `outer/store` takes the images.
fn outer() -> &'static PathBuf {
    static OUTER: OnceLock<PathBuf> = OnceLock::new();
    OUTER.get_or_init(|| {
        let outer = PathBuf::from(format!("/dev/shm/wharf-fuzz-archive-{}", std::process::id()));
        std::fs::create_dir_all(&outer).expect("directory");
        outer
    })
}

fuzz_target!(|bytes: &[u8]| {
    let root = outer().join("store");
    let staging = root.join("staging");
    {
        let store = Store::open(&root).expect("store");
        if let Ok(loaded) = archive::load(&store, bytes, &staging) {
            for (name, image) in loaded {
                let found = store.find(&name).expect("readable").expect("it is known");
                assert!(image.layers.iter().all(|layer| store.has_layer(layer).is_some()));
                store.remove(&name, &|_| false).expect("removed");
                drop(found);
            }
        }
        assert_eq!(std::fs::read_dir(&staging).expect("staging").count(), 0, "something is left");
    }
    assert_eq!(std::fs::read_dir(outer()).expect("directory").count(), 1, "something is beside the store");
    std::fs::remove_dir_all(&root).expect("removed");
});
