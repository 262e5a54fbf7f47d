//! Any text as a `.dockerignore`, on paths of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::path::Path;
use wharf::image::build::ignore::Patterns;

fuzz_target!(|input: (&str, &str)| {
    let (text, path) = input;
    // Patterns of stars alone take exponential time in any matcher of this kind; Docker's are short.
    if text.len() > 64 || path.len() > 64 {
        return;
    }
    let patterns = Patterns::parse(text);
    let _ = patterns.excludes(Path::new(path));
    let _ = patterns.may_take_back_below(Path::new(path));
});
