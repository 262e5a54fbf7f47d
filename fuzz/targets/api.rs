//! Any bytes as the body and the query of a request to the API.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf::api::types::{
    ContainerCreate, EndpointSettings, ExecCreate, NetworkCreate, RestartPolicyConfig, parse, parse_optional,
};
use wharf::api::{reply, spec};
use wharf::engine::EngineError;
use wharf::engine::containers::exec::NewExec;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(query) = std::str::from_utf8(bytes) {
        let query = reply::Query::of(Some(query), (1, 52));
        let _ = (query.flag("a"), query.number::<u32>("a"), query.filters(&["label"]));
        let text = bytes.escape_ascii().to_string();
        let query = reply::Query::of(Some(&format!("a={}", reply::escape(&text))), (1, 52));
        assert_eq!(query.get("a"), Some(&*text));
    }
    let nobody = |name: &str| Err(EngineError::no_container(name));
    let _ = parse::<ContainerCreate>(bytes).and_then(|create| spec::of(nobody, create));
    let _ = parse::<NetworkCreate>(bytes).and_then(spec::network);
    let _ = parse::<ExecCreate>(bytes).and_then(NewExec::try_from);
    let _ = parse::<EndpointSettings>(bytes).and_then(|settings| spec::endpoint("n", &settings));
    let _ = parse_optional::<RestartPolicyConfig>(bytes).and_then(|policy| spec::restart_policy(&policy));
    let _ = parse::<wharf::wire::UpRequest>(bytes);
    let _ = parse::<wharf::plan::DownOptions>(bytes);
});
