//! Any bytes as the other answers of registries: challenges, tokens, errors.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf::image::answers;

fuzz_target!(|bytes: &[u8]| {
    let _ = answers::token(bytes);
    if let Some(message) = answers::error_message(bytes) {
        assert!(message.chars().count() <= 300 && !message.contains(char::is_control));
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = answers::challenge_parameters(text);
    }
});
