//! Any text as a Git URL: nothing of it is an option of git or of ssh, and nothing is a local path.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf::image::build::git::GitRef;

fuzz_target!(|text: &str| {
    let Some(git) = GitRef::parse(text) else { return };
    assert!(!git.remote.starts_with('-'), "{git:?}");
    let host = match git.remote.split_once("://") {
        Some((scheme, rest)) => {
            assert!(["git", "ssh", "http", "https"].contains(&scheme), "{git:?}");
            rest
        }
        None => git.remote.as_str(),
    };
    assert!(!host.starts_with('-') && !host.is_empty(), "{git:?}");
});
