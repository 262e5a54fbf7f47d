//! Any text as a `.dockerignore`, on paths of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::path::Path;
use wharf::image::build::ignore::{Pattern, Patterns};

fuzz_target!(|input: (&str, &str)| {
    let (text, path) = input;
    let patterns = Patterns::parse(text);
    let excluded = patterns.excludes(Path::new(path));
    let below = patterns.may_take_back_below(Path::new(path));
    // What is taken back below a directory that is left out, the walk must look for.
    for name in ["a", "a/b", "*"] {
        let inner = Path::new(path).join(name);
        assert!(!excluded || below || patterns.excludes(&inner), "{inner:?} is not met");
    }
    if let Some(pattern) = Pattern::parse(text) {
        let _ = pattern.matches(Path::new(path));
    }
});
