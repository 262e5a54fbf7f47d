//! Filters of Docker's lists and prunes: each of them acts, and what is not known is refused. A filter that is ignored deletes.

use crate::support::Stack;
use serde_json::{Value, json};

fn asked(stack: &Stack, method: &str, path: &str, filters: &Value) -> (u16, Value) {
    let text: String = filters.to_string().bytes().map(|byte| format!("%{byte:02X}")).collect();
    let mark = if path.contains('?') { '&' } else { '?' };
    stack.api(method, &format!("/v1.45{path}{mark}filters={text}"), None)
}

fn names(stack: &Stack) -> Vec<String> {
    let (_, images) = stack.api("GET", "/v1.45/images/json", None);
    let tags =
        images.as_array().into_iter().flatten().flat_map(|image| image["RepoTags"].as_array().cloned().unwrap_or_default());
    let mut names: Vec<String> = tags.filter_map(|tag| tag.as_str().map(str::to_string)).collect();
    names.sort();
    names
}

#[test]
fn a_prune_of_images_removes_only_what_its_filters_mean() {
    let stack = Stack::new("nothing");
    stack.write("Dockerfile", "FROM scratch\nLABEL keep=yes\nCOPY Dockerfile /\n");
    stack.wharf(&["image", "build", "-t", "kept:1", "."]).ok();
    let before = names(&stack);
    assert_eq!(before, ["busybox:local", "kept:1"]);
    let prune = |filters: Value| asked(&stack, "POST", "/images/prune", &filters);
    let nothing = [
        json!({"dangling": ["false"], "until": ["24h"]}),
        json!({"dangling": ["false"], "label": ["nosuch"]}),
        json!({"dangling": ["false"], "label": ["keep=no"]}),
        json!({"dangling": {"true": true}}),
    ];
    for filters in nothing {
        let (status, answer) = prune(filters.clone());
        assert_eq!((status, &answer["ImagesDeleted"], names(&stack)), (200, &Value::Null, before.clone()), "{filters}: {answer}");
    }
    let refused = [
        json!({"dangling": ["false"], "until": ["1h", "2h"]}),
        json!({"dangling": ["false"], "until": []}),
        json!({"dangling": ["false"], "until": ["soon"]}),
        json!({"dangling": ["maybe"]}),
        json!({"dangling": ["false"], "reference": ["x"]}),
    ];
    for filters in refused {
        let (status, answer) = prune(filters.clone());
        assert_eq!((status, names(&stack)), (400, before.clone()), "{filters}: {answer}");
    }
    let (_, answer) = prune(json!({"dangling": ["false"], "label!": ["keep"]}));
    assert_eq!(names(&stack), ["kept:1"], "{answer}");
    assert_eq!(answer["ImagesDeleted"][0]["Untagged"], "busybox:local");
    assert!(answer["ImagesDeleted"][1]["Deleted"].as_str().is_some_and(|id| id.starts_with("sha256:")), "{answer}");
    assert!(answer["SpaceReclaimed"].as_u64() > Some(100_000), "{answer}");
    let builds = |query: &str, filters: Value| asked(&stack, "POST", &format!("/build/prune{query}"), &filters);
    for (query, filters) in [
        ("?all=1", json!({"until": ["24h"]})),
        ("?all=1", json!({"type": ["frontend"]})),
        ("?all=1", json!({"inuse": ["true"]})),
        ("?all=1", json!({"id": ["nosuch"]})),
        ("?all=1&keep-storage=1000000000", json!({})),
        // The image has its layers.
        ("", json!({})),
    ] {
        let (status, answer) = builds(query, filters.clone());
        assert_eq!((status, &answer["CachesDeleted"]), (200, &Value::Null), "{query} {filters}: {answer}");
    }
    for (query, filters) in [
        ("?all=1", json!({"color": ["red"]})),
        ("?all=1&keep-storage=much", json!({})),
        ("", json!({"until": ["1h"], "unused-for": ["1h"]})),
    ] {
        assert_eq!(builds(query, filters.clone()).0, 400, "{query} {filters}");
    }
    let (_, answer) = builds("?all=1", json!({}));
    assert!(answer["CachesDeleted"].as_array().is_some_and(|steps| !steps.is_empty()), "{answer}");
    assert_eq!(names(&stack), ["kept:1"]);
}

#[test]
fn a_prune_of_volumes_and_containers_removes_only_what_it_may() {
    let stack = Stack::new("nothing");
    let device = stack.path("").display().to_string();
    for (name, options) in
        [("plain", json!({})), ("bound", json!({"type": "none", "o": "bind", "device": device})), ("labelled", json!({}))]
    {
        let labels = if name == "labelled" { json!({"k": "v"}) } else { json!({}) };
        let body = json!({"Name": name, "DriverOpts": options, "Labels": labels});
        assert_eq!(stack.api("POST", "/v1.45/volumes/create", Some(&body)).0, 201, "{name}");
    }
    let volumes = || {
        let (_, answer) = stack.api("GET", "/v1.45/volumes", None);
        let list = answer["Volumes"].as_array().cloned().unwrap_or_default();
        list.iter().map(|volume| volume["Name"].as_str().unwrap_or_default().to_string()).collect::<Vec<_>>()
    };
    let prune = |filters: Value| asked(&stack, "POST", "/volumes/prune", &filters);
    for filters in [json!({"until": ["24h"]}), json!({"all": ["true"], "until": ["24h"]}), json!({"all": ["perhaps"]})] {
        let (status, answer) = prune(filters.clone());
        assert_eq!((status, volumes().len()), (400, 3), "{filters}: {answer}");
    }
    assert_eq!(prune(json!({"all": ["true"], "label!": ["k=v"]})).0, 200);
    assert_eq!(volumes(), ["bound", "labelled"]);
    assert_eq!(prune(json!({"all": ["true"]})).0, 200);
    assert_eq!(volumes(), ["bound"], "the definition of one with options is nowhere else");
    for (kind, filters) in [("containers", json!({"status": ["exited"]})), ("networks", json!({"name": ["x"]}))] {
        assert_eq!(asked(&stack, "POST", &format!("/{kind}/prune"), &filters).0, 400, "{kind}");
    }
    let body = json!({"Image": "busybox:local", "Cmd": ["sleep", "100"], "ExposedPorts": {"80/tcp": {}},
        "HostConfig": {"PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "18347"}]}}});
    let (status, _) = stack.api("POST", "/v1.45/containers/create?name=one", Some(&body));
    assert_eq!(status, 201);
    for filters in [json!({"label": ["x"]}), json!({"until": ["1h"]})] {
        assert_eq!(asked(&stack, "POST", "/containers/prune", &filters).1["ContainersDeleted"], Value::Null, "{filters}");
    }
    assert_eq!(stack.api("POST", "/v1.45/containers/one/start", None).0, 204);
    let found = |filters: Value| asked(&stack, "GET", "/containers/json?all=1", &filters).1.as_array().map(Vec::len);
    for (filters, count) in [
        (json!({"publish": ["18347"]}), 1),
        (json!({"publish": ["80"]}), 0),
        (json!({"publish": ["18340-18350/tcp"]}), 1),
        (json!({"expose": ["80"]}), 1),
        (json!({"expose": ["18347"]}), 0),
    ] {
        assert_eq!(found(filters.clone()), Some(count), "{filters}");
    }
    assert_eq!(stack.api("DELETE", "/v1.45/containers/one?force=1", None).0, 204);
}
