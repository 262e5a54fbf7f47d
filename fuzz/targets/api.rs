//! Any bytes as the body and the query of a request to the API.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use wharf::api::{reply, spec};
use wharf::engine::EngineError;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(query) = std::str::from_utf8(bytes) {
        let query = reply::Query::of(Some(query));
        let _ = (query.flag("a"), query.number::<u32>("a"), query.filters());
        let escaped = reply::escape(&reply::unescape(&reply::escape(&bytes.escape_ascii().to_string())));
        assert_eq!(reply::unescape(&escaped), bytes.escape_ascii().to_string());
    }
    let Ok(body) = reply::parse_body::<Value>(bytes) else { return };
    let nobody = |name: &str| Err(EngineError::no_container(name));
    let _ = spec::of(&nobody, &body);
    let _ = spec::network(&body);
    let _ = spec::exec(&body);
    let _ = spec::endpoint("n", &body);
    let _ = spec::restart_policy(&body);
    let _ = reply::parse_body::<wharf::engine::projects::UpRequest>(bytes);
    let _ = reply::parse_body::<wharf::plan::DownOptions>(bytes);
});
