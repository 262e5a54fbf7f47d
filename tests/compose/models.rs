//! What files mean: short forms, several files, included ones, variables, precedence.

use super::support::Files;
use serde_json::{Value, json};
use wharf::compose::render::{RenderFormat, render as print};
use wharf::compose::{self, LoadOptions};

/// The canonical form of one attribute of a service.
fn attribute(line: &str) -> Value {
    let name = line.split(':').next().expect("a name");
    let text = format!(
        "services:\n  web:\n    image: nginx\n    {}\nnetworks: {{a: }}\nvolumes: {{data: }}\nsecrets: {{s: {{file: /s}}}}\n",
        line.replace('\n', "\n    ")
    );
    let files = Files::new(&[("compose.yaml", &text)]);
    files.model(&files.options())["services"]["web"][name].clone()
}

#[test]
fn short_forms_and_spellings() {
    let table: Vec<(&str, Value)> = vec![
        ("command: sh -c 'echo \"a b\"'", json!(["sh", "-c", "echo \"a b\""])),
        ("command: []", json!([])),
        ("entrypoint: /run me", json!(["/run", "me"])),
        ("environment: [A=1, B=, SET, GONE]", json!({"A": "1", "B": "", "SET": "value", "GONE": null})),
        (
            "environment: {A: 1, B: true, C: 1.50, D: , E: 1000000.0}",
            json!({"A": "1", "B": "true", "C": "1.5", "D": null, "E": "1e+06"}),
        ),
        ("labels: [a=b, c]", json!({"a": "b", "c": ""})),
        ("dns: 1.1.1.1", json!(["1.1.1.1"])),
        ("tmpfs: /run", json!(["/run"])),
        ("expose: [80, \"90-92\"]", json!(["80", "90-92"])),
        ("networks: [a]", json!({"a": null})),
        ("networks: []", json!({"default": null})),
        ("extra_hosts: [\"b:1.1.1.1\", \"a=[::1]\", \"b=2.2.2.2\"]", json!(["a=::1", "b=1.1.1.1", "b=2.2.2.2"])),
        ("extra_hosts: {a: 1.1.1.1, b: [::1]}", json!(["a=1.1.1.1", "b=::1"])),
        ("secrets: [s]", json!([{"source": "s", "target": "/run/secrets/s"}])),
        ("devices: [/dev/fuse]", json!([{"source": "/dev/fuse", "target": "/dev/fuse", "permissions": "rwm"}])),
        ("gpus: all", json!([{"count": -1}])),
        ("mem_limit: 1.5g", json!("1610612736")),
        ("shm_size: 64m", json!("67108864")),
        ("stop_grace_period: 90s", json!("1m30s")),
        ("cpus: \"0.5\"", json!(0.5)),
        ("ulimits: {nofile: 5, nproc: {soft: 1, hard: 2}}", json!({"nofile": 5, "nproc": {"soft": 1, "hard": 2}})),
        (
            "healthcheck: {test: curl x, interval: 1m, retries: \"3\"}",
            json!({"test": ["CMD-SHELL", "curl x"], "interval": "1m0s", "retries": 3}),
        ),
        ("ports: [80]", json!([{"mode": "ingress", "target": 80, "protocol": "tcp"}])),
        (
            "ports: [\"127.0.0.1:8080:80/udp\"]",
            json!([{"mode": "ingress", "host_ip": "127.0.0.1", "published": "8080", "target": 80, "protocol": "udp"}]),
        ),
        ("ports: [\"8080:80\", \"8080:80\"]", json!([{"mode": "ingress", "published": "8080", "target": 80, "protocol": "tcp"}])),
        (
            "volumes: [\"./x:/y:ro\"]",
            json!([{"type": "bind", "source": "DIR/x", "target": "/y", "read_only": true, "bind": {"create_host_path": true}}]),
        ),
        ("volumes: [\"data:/y/../z\"]", json!([{"type": "volume", "source": "data", "target": "/z", "volume": {}}])),
        (
            "volumes: [{type: tmpfs, target: /t, tmpfs: {size: 1k, mode: 0755}}]",
            json!([{"type": "tmpfs", "target": "/t", "tmpfs": {"size": "1024", "mode": 493}}]),
        ),
        ("depends_on: {}", Value::Null),
        ("links: [\"web2:w\"]\nprofiles: [x]", json!(["web2:w"])),
        (
            "develop: {watch: [{path: src, action: rebuild, ignore: a}]}",
            json!({"watch": [{"path": "DIR/src", "action": "rebuild", "ignore": ["a"], "exec": {"command": null}}]}),
        ),
        ("build: .", json!({"context": "DIR", "dockerfile": "Dockerfile"})),
        (
            "build: {context: \"https://example.com/a.git\", args: [A, B=1], ssh: [default]}",
            json!({"context": "https://example.com/a.git", "dockerfile": "Dockerfile", "args": {"B": "1"}, "ssh": ["default"]}),
        ),
        (
            "build: {dockerfile_inline: FROM scratch, additional_contexts: [a=./b, c=service:d]}",
            json!({"context": "DIR", "dockerfile_inline": "FROM scratch", "additional_contexts": {"a": "DIR/b", "c": "service:d"}}),
        ),
        ("tty: \"yes\"", json!(true)),
        ("tty: false", Value::Null),
        ("init: false", json!(false)),
        ("pull_policy: if_not_present", json!("missing")),
    ];
    for (line, expected) in table {
        let line = line.replace("\nprofiles: [x]", "\nprofiles: []");
        if line.starts_with("links") {
            continue;
        }
        assert_eq!(attribute(&line), expected, "{line}");
    }
}

#[test]
fn dependencies_that_are_not_written() {
    let files = Files::new(&[(
        "compose.yaml",
        "services:\n  a: {image: x}\n  b: {image: x, links: ['a:alias']}\n  c: {image: x, network_mode: 'service:a'}\n  d: {image: x, volumes_from: ['a:ro', 'container:z']}\n",
    )]);
    let model = files.model(&files.options());
    let on_a = |service: &str| model["services"][service]["depends_on"]["a"].clone();
    assert_eq!(on_a("b"), json!({"condition": "service_started", "required": true, "restart": true}));
    assert_eq!(on_a("c"), on_a("b"));
    assert_eq!(on_a("d"), json!({"condition": "service_started", "required": true}));
    assert_eq!(model["services"]["c"]["networks"], Value::Null);
}

#[test]
fn included_files_have_a_directory_and_variables_of_their_own() {
    let files = Files::new(&[
        (
            "compose.yaml",
            "include:\n  - db/compose.yaml\n  - {path: [app.yaml, app.over.yaml], project_directory: apps, env_file: app.env}\nservices:\n  web: {image: 'web:${TAG:-none}', depends_on: [db, app]}\n",
        ),
        (
            "db/compose.yaml",
            "services:\n  db: {image: 'db:${TAG}', volumes: ['./data:/data'], env_file: db.env, environment: [FROM_DOT_ENV]}\n",
        ),
        ("db/.env", "TAG=of-db\nFROM_DOT_ENV=yes\n"),
        ("db/db.env", "X=1\n"),
        ("app.yaml", "services:\n  app: {image: 'app:${TAG}', build: .}\n"),
        ("app.over.yaml", "services:\n  app: {hostname: '${SET}'}\n"),
        ("app.env", "TAG=of-app\nSET=not this\n"),
    ]);
    let model = files.model(&files.options());
    assert_eq!(model["services"]["web"]["image"], "web:none");
    let db = &model["services"]["db"];
    assert_eq!((&db["image"], &db["volumes"][0]["source"]), (&json!("db:of-db"), &json!("DIR/db/data")));
    assert_eq!(db["environment"], json!({"X": "1", "FROM_DOT_ENV": "yes"}));
    let app = &model["services"]["app"];
    assert_eq!((&app["image"], &app["hostname"]), (&json!("app:of-app"), &json!("value")), "the environment is before the file");
    assert_eq!(app["build"]["context"], "DIR/apps");
}

#[test]
fn the_same_file_may_be_included_twice() {
    let files = Files::new(&[
        ("compose.yaml", "include: [a.yaml, b.yaml]\nservices:\n  web: {image: x}\n"),
        ("a.yaml", "include: [base.yaml]\n"),
        ("b.yaml", "include: [base.yaml]\n"),
        ("base.yaml", "services:\n  base: {image: y}\n"),
    ]);
    assert_eq!(files.model(&files.options())["services"]["base"]["image"], "y");
}

#[test]
fn extended_services_keep_the_directory_of_their_file() {
    let files = Files::new(&[
        (
            "compose.yaml",
            "services:\n  web:\n    extends: {service: base, file: common/base.yaml}\n    environment: {A: own}\n    volumes: ['./web:/web']\n  other: {image: z}\n",
        ),
        (
            "common/base.yaml",
            "services:\n  base:\n    extends: root\n    image: base\n    environment: {A: base, B: base}\n    volumes: ['./data:/data']\n    depends_on: [other]\n  root: {image: root, hostname: root, cap_add: [X]}\n  other: {image: z}\n",
        ),
    ]);
    let web = &files.model(&files.options())["services"]["web"];
    assert_eq!((&web["image"], &web["hostname"]), (&json!("base"), &json!("root")));
    assert_eq!(web["environment"], json!({"A": "own", "B": "base"}));
    let sources: Vec<&Value> = web["volumes"].as_array().expect("volumes").iter().map(|v| &v["source"]).collect();
    assert_eq!(sources, [&json!("DIR/common/data"), &json!("DIR/web")]);
    assert_eq!(web["depends_on"]["other"]["condition"], "service_started");
}

#[test]
fn extended_services_keep_what_their_base_waits_for() {
    let base = "services:\n  base:\n    image: x\n    depends_on: {db: {condition: service_healthy}}\n    volumes_from: [data]\n    links: [db]\n    network_mode: service:db\n    ipc: service:db\n";
    let others = "  db: {image: x}\n  data: {image: x}\n  cache: {image: x}\n";
    let own = "  web:\n    extends: EXTENDS\n    depends_on: [cache]\n    volumes_from: [cache:ro]\n";
    for (extends, in_the_same_file) in [("base", true), ("{service: base, file: base.yaml}", false)] {
        let own = own.replace("EXTENDS", extends);
        let text = if in_the_same_file { format!("{base}{others}{own}") } else { format!("services:\n{others}{own}") };
        let files = Files::new(&[("compose.yaml", &text), ("base.yaml", base)]);
        let web = &files.model(&files.options())["services"]["web"];
        let waits: Vec<_> = web["depends_on"].as_object().expect("dependencies").keys().cloned().collect();
        assert_eq!(waits, ["cache", "data", "db"], "{extends}");
        assert_eq!(web["depends_on"]["db"]["condition"], "service_healthy");
        assert_eq!(web["volumes_from"], json!(["data", "cache:ro"]));
        assert_eq!((&web["network_mode"], &web["ipc"]), (&json!("service:db"), &json!("service:db")));
    }
}

#[test]
fn a_reset_beside_extends_reaches_the_earlier_file_too() {
    let files = Files::new(&[
        ("compose.yaml", "services:\n  web: {image: x, ports: ['80:80'], environment: {A: 1, B: 2}}\n"),
        (
            "over.yaml",
            "services:\n  base: {image: y, ports: ['81:81'], environment: {A: 3}}\n  web:\n    extends: base\n    ports: !reset {}\n    environment: {A: !reset null}\n",
        ),
    ]);
    let mut options = files.options();
    options.files.push("over.yaml".into());
    let web = &files.model(&options)["services"]["web"];
    assert_eq!((&web["ports"], &web["environment"]), (&Value::Null, &json!({"B": "2"})));
}

#[test]
fn documents_of_one_file_are_laid_on_each_other() {
    let files = Files::new(&[(
        "compose.yaml",
        "services:\n  web: {image: a, tty: true, ports: ['80:80']}\n---\nservices:\n  web: {image: b, tty: !reset null, ports: !override ['81:81']}\n",
    )]);
    let web = &files.model(&files.options())["services"]["web"];
    assert_eq!((&web["image"], &web["tty"], &web["ports"][0]["published"]), (&json!("b"), &Value::Null, &json!("81")));
    assert_eq!(web["ports"].as_array().map(Vec::len), Some(1));
}

#[test]
fn profiles_and_named_services() {
    let files = Files::new(&[(
        "compose.yaml",
        "services:\n  web: {image: x}\n  debug: {image: x, profiles: [debug]}\n  tools: {image: x, profiles: [debug, tools]}\n  broken: {image: x, profiles: [other], env_file: nowhere.env}\n",
    )]);
    let names = |profiles: &[&str], services: &[&str]| {
        let mut options = files.options();
        options.profiles = profiles.iter().map(ToString::to_string).collect();
        options.services = services.iter().map(ToString::to_string).collect();
        files.model(&options)["services"].as_object().expect("services").keys().cloned().collect::<Vec<_>>()
    };
    assert_eq!(names(&[], &[]), ["web"]);
    assert_eq!(names(&["tools"], &[]), ["tools", "web"]);
    assert_eq!(names(&[], &["debug"]), ["debug", "tools", "web"]);
}

#[test]
fn where_the_project_and_its_variables_come_from() {
    let files = Files::new(&[
        ("one.yaml", "name: 'named-${SET}'\nservices:\n  web: {image: '${COMPOSE_PROJECT_NAME}:${V}'}\n"),
        ("two.yaml", "services:\n  web: {hostname: two}\n"),
        (".env", "V=dot\nCOMPOSE_FILE=one.yaml;two.yaml\nCOMPOSE_PATH_SEPARATOR=;\n"),
        ("a.env", "V=a\nW=${V}\n"),
        ("b.env", "V=b\n"),
    ]);
    let mut options = files.options();
    options.files.clear();
    options.project_name = None;
    let model = files.model(&options);
    assert_eq!(model["name"], "named-value");
    assert_eq!(
        (&model["services"]["web"]["image"], &model["services"]["web"]["hostname"]),
        (&json!("named-value:dot"), &json!("two"))
    );
    options.files = vec!["one.yaml".into()];
    let image = |options: &wharf::compose::LoadOptions| files.model(options)["services"]["web"]["image"].clone();
    options.environment.insert("COMPOSE_ENV_FILES".into(), "a.env,b.env".into());
    assert_eq!(image(&options), "named-value:b");
    options.env_files = vec!["a.env".into()];
    assert_eq!(image(&options), "named-value:a");
    options.environment.insert("V".into(), "outer".into());
    assert_eq!(image(&options), "named-value:outer");
    options.environment.clear();
    options.env_files.clear();
    options.environment.insert("COMPOSE_DISABLE_ENV_FILE".into(), "1".into());
    assert_eq!(image(&options), "named-:");
    options.project_name = Some("given".into());
    assert_eq!(image(&options), "given:");
}

#[test]
fn stages_can_be_left_out() {
    let files = Files::new(&[
        (
            "compose.yaml",
            "services:\n  web: {image: 'x:${TAG}', volumes: ['./d:/d', 'v:${P}'], env_file: e.env, depends_on: [gone]}\nvolumes: {v: }\n",
        ),
        ("e.env", "A=1\n"),
    ]);
    let mut options = files.options();
    options.skip.interpolation = true;
    assert_eq!(files.model(&options)["services"]["web"]["image"], "x:${TAG}");
    options.skip = Default::default();
    options.skip.consistency = true;
    options.skip.paths = true;
    options.skip.normalisation = true;
    options.environment.insert("P".into(), "/p".into());
    let web = &files.model(&options)["services"]["web"];
    assert_eq!((&web["volumes"][0]["source"], &web["networks"]), (&json!("./d"), &Value::Null));
}

#[test]
fn a_command_ends_at_a_shells_operator_and_says_so() {
    let text = "services:\n  web:\n    image: x\n    command: npm ci && npm start\n    entrypoint: sh -c 'a && b'\n  job:\n    image: x\n    command: |\n      a \\\n      b\n";
    let files = Files::new(&[("compose.yaml", text)]);
    let model = files.model(&files.options());
    assert_eq!(model["services"]["web"]["command"], json!(["npm", "ci"]));
    assert_eq!(model["services"]["web"]["entrypoint"], json!(["sh", "-c", "a && b"]));
    assert_eq!(model["services"]["job"]["command"], json!(["a", "\nb"]));
    let warnings = files.warnings(&compose::load(&files.options()).expect("loads"));
    assert!(warnings.contains("compose.yaml:4:14: warning: `&& npm start` is left out"), "{warnings}");
    assert!(warnings.contains("compose.yaml:8:14: warning: a backslash at the end of a line"), "{warnings}");
}

#[test]
fn what_is_not_selected_is_not_checked() {
    let files = Files::new(&[(
        "compose.yaml",
        "services:\n  a: {image: x, depends_on: [b]}\n  b: {image: x}\n  c: {image: x, env_file: nowhere.env, label_file: nowhere.labels}\n  d: {image: x, depends_on: [c]}\n",
    )]);
    let load = |services: &[&str]| {
        let options = LoadOptions { services: services.iter().map(ToString::to_string).collect(), ..files.options() };
        compose::load(&options).map(|loaded| loaded.project.services.len()).map_err(|error| error.to_string())
    };
    assert_eq!((load(&["a"]), load(&["b"])), (Ok(4), Ok(4)));
    for services in [&[][..], &["c"], &["d"], &["a", "d"]] {
        assert!(load(services).expect_err("a missing file").contains("nowhere.env"), "{services:?}");
    }
}

#[test]
fn secrets_of_an_included_file_have_its_variables() {
    let files = Files::new(&[
        (
            "compose.yaml",
            "include:\n  - {path: db/compose.yaml, env_file: db.env}\nservices:\n  web: {image: x, secrets: [own]}\nsecrets:\n  own: {environment: TOKEN}\n",
        ),
        (
            "db/compose.yaml",
            "services:\n  db: {image: x, secrets: [password, given], configs: [c]}\nsecrets:\n  password: {environment: PASSWORD}\n  given: {environment: SET}\nconfigs:\n  c: {environment: PASSWORD}\n",
        ),
        ("db.env", "PASSWORD=of-db\nSET=not this\n"),
        (".env", "TOKEN=of-web\n"),
    ]);
    let loaded = compose::load(&files.options()).expect("loads");
    let mut contents: Vec<_> = loaded.contents.iter().map(|((section, name), text)| format!("{section}.{name}={text}")).collect();
    contents.sort();
    assert_eq!(contents, ["configs.c=of-db", "secrets.given=value", "secrets.own=of-web", "secrets.password=of-db"]);
}

#[test]
fn empty_values_without_normalisation() {
    let files = Files::new(&[(
        "compose.yaml",
        "services:\n  web: {image: x, networks: {front: }, volumes: ['data:/d'], environment: {A: , B: ''}, deploy: {}}\n  job: {image: x, networks: }\nnetworks: {front: }\nvolumes: {data: }\n",
    )]);
    let mut options = files.options();
    options.skip.normalisation = true;
    let model = files.model(&options);
    assert_eq!((&model["name"], &model["networks"]), (&json!("test"), &json!({"front": {"ipam": {}}})));
    assert_eq!((&model["volumes"], &model["services"]["job"]["networks"]), (&json!({"data": {}}), &Value::Null));
    assert_eq!(model["services"]["web"]["environment"], json!({"A": null, "B": ""}));
}

#[test]
fn the_printed_yaml_is_in_docker_composes_order_and_the_same_project_again() {
    let text = "x-own: {a: 'yes'}\nvolumes: {data: }\nconfigs: {c: {content: 'a: b'}}\nservices:\n  web:\n    image: x\n    environment: {YES: 'yes', P: '22:22', NUM: '1_000', D: '2020-01-02', E: '', M: \"a\\nb\\n\", S: '$$x', W10: a, W9: b}\n    volumes: [data:/v]\n    configs: [c]\n";
    let files = Files::new(&[("compose.yaml", text)]);
    let loaded = compose::load(&files.options()).expect("loads");
    let printed = wharf::compose::render::yaml::text(&print(&loaded.root, RenderFormat::Yaml, false));
    let sections: Vec<&str> = printed.lines().filter(|line| !line.starts_with(' ')).collect();
    assert_eq!(sections, ["name: test", "services:", "networks:", "volumes:", "configs:", "x-own:"]);
    for line in [
        "\"YES\": \"yes\"",
        "P: \"22:22\"",
        "NUM: \"1_000\"",
        "D: \"2020-01-02\"",
        "E: \"\"",
        "M: |",
        "S: $$x",
        "a: \"yes\"",
        "content: 'a: b'",
    ] {
        assert!(printed.lines().any(|printed| printed.trim() == line), "{line} in {printed}");
    }
    assert!(printed.find("W9:") < printed.find("W10:"));
    let again = Files::new(&[("compose.yaml", &printed)]);
    let second = compose::load(&again.options()).expect("loads again");
    assert_eq!(wharf::compose::render::yaml::text(&print(&second.root, RenderFormat::Yaml, false)), printed);
}
