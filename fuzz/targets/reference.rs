//! Any text as an image's name: what is read is written the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf::image::ImageRef;

fuzz_target!(|text: &str| {
    if let Ok(name) = text.parse::<ImageRef>() {
        let again: ImageRef = name.to_string().parse().expect("what was written is read");
        assert_eq!(again.to_string(), name.to_string());
        let familiar: ImageRef = name.familiar().parse().expect("the short form is read");
        assert_eq!(familiar.to_string(), name.to_string());
    }
});
