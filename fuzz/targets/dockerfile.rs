//! Any text as a Dockerfile: its instructions, stages and words.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf::image::build::{dockerfile, expand, mounts, stages};

fuzz_target!(|text: &str| {
    let Ok(file) = dockerfile::parse(text) else { return };
    let lookup = |name: &str| (name.len() % 2 == 0).then(|| name.to_lowercase());
    for instruction in &file.instructions {
        let _ = expand::word(&instruction.rest, file.escape, &lookup);
        let _ = expand::words(&instruction.rest, file.escape, &lookup);
        let _ = expand::variables(&instruction.rest, file.escape, &lookup);
        let _ = dockerfile::pairs(instruction, file.escape);
        let _ = dockerfile::json_form(&instruction.rest);
        for (_, value) in &instruction.flags {
            let _ = mounts::parse(value, instruction.line);
            let _ = wharf::image::build::copy::ModeChange::parse(value);
        }
    }
    for instruction in &file.instructions {
        for word in instruction.rest.split_whitespace() {
            let _ = wharf::image::build::git::GitRef::parse(word);
        }
    }
    if let Ok(stages) = stages::split(file) {
        (0..stages.stages.len()).for_each(|stage| drop(stages.copied_from(stage, |_| false)));
    }
});
