//! Any text with variables in it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf::compose::interpolate::{Unset, expand, variables};
use wharf::compose::node::{At, Node};

fuzz_target!(|text: &str| {
    let outer = |name: &str| (name.len() % 2 == 0).then(|| name.to_lowercase());
    let _ = expand(text, &outer, &mut Unset::new());
    variables(&Node::string(text, &At { file: 0, line: 1, column: 1, len: 1 }), &mut Default::default());
});
