//! Any text as an env file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf::compose::dotenv;

fuzz_target!(|text: &str| {
    let outer = |name: &str| (name.len() % 2 == 0).then(|| name.to_lowercase());
    let _ = dotenv::parse(text, &outer);
    let _ = dotenv::parse_raw(text);
});
