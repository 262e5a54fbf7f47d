//! Any text as an image's name: what is read is written the same, and leads nowhere as a path or a URL.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf::image::ImageRef;

fuzz_target!(|text: &str| {
    if let Ok(name) = text.parse::<ImageRef>() {
        let again: ImageRef = name.to_string().parse().expect("what was written is read");
        assert_eq!(again.to_string(), name.to_string());
        let familiar: ImageRef = name.familiar().parse().expect("the short form is read");
        assert_eq!(familiar.to_string(), name.to_string());
        let url = format!("https://{}/v2/{}/manifests/{}", name.host, name.path, name.version());
        assert!(url.is_ascii() && !url.contains(['?', '#', '@', '%', '\\', ' ']), "{url}");
        assert!(url.split('/').skip(2).all(|part| !part.is_empty() && part != "." && part != ".."), "{url}");
        assert!(name.path.split('/').all(|part| !part.is_empty() && !part.starts_with('.')));
    }
});
