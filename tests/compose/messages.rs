//! Every message that a wrong file can cause, as its author sees it. The snapshots are in `snapshots/`; each was read.

use super::support::Files;

/// A service that is right, for files that are wrong elsewhere.
const OK: &str = "services:\n  web:\n    image: nginx\n";

fn check(name: &str, files: &[(&str, &str)]) {
    let files = Files::new(files);
    let rendered = files.errors(&files.options());
    assert!(!rendered.starts_with("LOADED"), "{name} was loaded: {rendered}");
    insta::with_settings!({prepend_module_to_snapshot => false, omit_expression => true}, {
        insta::assert_snapshot!(name, rendered);
    });
}

/// A service of one attribute besides its image.
fn attribute(name: &str, line: &str) {
    check(name, &[("compose.yaml", &format!("{OK}    {}\n", line.replace('\n', "\n    ")))]);
}

#[test]
fn yaml() {
    check("yaml_tab", &[("compose.yaml", "services:\n\tweb:\n\t\timage: nginx\n")]);
    check("yaml_indentation", &[("compose.yaml", "services:\n  web:\n    image: nginx\n   ports: []\n")]);
    check("yaml_colon_in_value", &[("compose.yaml", "services:\n  web:\n    image: nginx: latest\n")]);
    check("yaml_open_quote", &[("compose.yaml", "services:\n  web:\n    image: \"nginx\n")]);
    check("yaml_open_bracket", &[("compose.yaml", "services:\n  web:\n    image: nginx\n    ports: [\"80:80\"\n")]);
    check("yaml_twice", &[("compose.yaml", "services:\n  web:\n    image: nginx\n  web:\n    image: httpd\n")]);
    check("yaml_key_is_a_number", &[("compose.yaml", "services:\n  1:\n    image: nginx\n")]);
    check("yaml_unknown_alias", &[("compose.yaml", "services:\n  web: *base\n")]);
    check("yaml_merge_of_a_list", &[("compose.yaml", "x-a: &a [1]\nservices:\n  web:\n    <<: *a\n    image: nginx\n")]);
    let deep = format!("x-deep: {}{}\n{OK}", "[".repeat(200), "]".repeat(200));
    check("yaml_too_deep", &[("compose.yaml", &deep)]);
}

#[test]
fn shape_of_the_file() {
    check("file_empty", &[("compose.yaml", "# nothing yet\n")]);
    check("file_is_a_list", &[("compose.yaml", "- web\n- db\n")]);
    check("file_unknown_section", &[("compose.yaml", "sevices:\n  web:\n    image: nginx\n")]);
    check("file_service_at_the_top", &[("compose.yaml", "web:\n  image: nginx\n")]);
    check("file_services_is_a_list", &[("compose.yaml", "services:\n  - web\n")]);
    check("file_section_is_nothing", &[("compose.yaml", "services:\n  web:\n    image: nginx\nvolumes:\n")]);
    check("service_is_nothing", &[("compose.yaml", "services:\n  web:\n")]);
    check("service_name", &[("compose.yaml", "services:\n  my web:\n    image: nginx\n")]);
    check("service_without_image", &[("compose.yaml", "services:\n  web:\n    ports: [\"80:80\"]\n")]);
    check("service_empty_image", &[("compose.yaml", "services:\n  web:\n    image: \"${NOT_SET:-}\"\n")]);
    check(
        "several_errors",
        &[("compose.yaml", "services:\n  web:\n    imag: nginx\n    port: [80]\n    restart: alway\n    init: 3\n")],
    );
}

#[test]
fn attributes() {
    attribute("attribute_misspelt", "enviroment: {A: 1}");
    attribute("attribute_camel_case", "dependsOn: [db]");
    attribute("attribute_unknown", "frobnicate: yes");
    attribute("attribute_nested_misspelt", "healthcheck: {tset: [CMD, \"true\"]}");
    attribute("attribute_is_nothing", "ports:");
    attribute("string_is_a_number", "hostname: 12");
    attribute("string_is_a_list", "hostname: [a]");
    attribute("boolean_is_a_word", "privileged: maybe");
    attribute("boolean_is_a_number", "tty: 1");
    attribute("integer_is_a_word", "scale: two");
    attribute("number_is_a_word", "cpus: many");
    attribute("size_is_a_word", "mem_limit: big");
    attribute("size_is_negative", "shm_size: -1m");
    attribute("duration_without_unit", "stop_grace_period: 10");
    attribute("duration_is_a_word", "stop_grace_period: soon");
    attribute("list_is_a_string", "cap_add: NET_ADMIN");
    attribute("list_item_is_nothing", "cap_add:\n  -");
    attribute("list_has_one_twice", "security_opt: [no-new-privileges, no-new-privileges]");
    attribute("mapping_is_a_string", "labels: a=b");
    attribute("environment_item_is_a_mapping", "environment:\n  - A: 1");
    attribute("environment_value_is_a_list", "environment:\n  A: [1]");
    attribute("command_open_quote", "command: sh -c 'echo hi");
    attribute("restart_misspelt", "restart: alway");
    attribute("restart_is_false", "restart: no_thanks");
    attribute("restart_is_a_boolean", "restart: false");
    attribute("pull_policy", "pull_policy: sometimes");
    attribute("condition", "depends_on: {web: {condition: service_started_ok}}");
    attribute("depends_on_needs_a_condition", "depends_on: {web: {restart: true}}");
    attribute("ulimit_half", "ulimits: {nofile: {soft: 10}}");
    attribute("healthcheck_test", "healthcheck: {test: [curl, localhost]}");
    attribute("gpus", "gpus: some");
    attribute("device_colons", "devices: [\"/dev/a:/dev/b:rw:x\"]");
    attribute("extra_host", "extra_hosts: [somewhere]");
    attribute("watch_action", "develop: {watch: [{path: ., action: copy}]}");
    attribute("watch_target", "develop: {watch: [{path: ., action: sync}]}");
    attribute("device_request", "deploy: {resources: {reservations: {devices: [{count: 1}]}}}");
    attribute(
        "device_request_both",
        "deploy: {resources: {reservations: {devices: [{capabilities: [gpu], count: 1, device_ids: [a]}]}}}",
    );
}

#[test]
fn ports_and_volumes() {
    attribute("port_is_a_word", "ports: [\"http:80\"]");
    attribute("port_too_high", "ports: [\"80000:80\"]");
    attribute("port_address", "ports: [\"300.1.1.1:80:80\"]");
    attribute("port_protocol", "ports: [\"53:53/upd\"]");
    attribute("port_ranges", "ports: [\"8000-8010:80-81\"]");
    attribute("port_range_backwards", "ports: [\"8010-8000:80\"]");
    attribute("port_without_target", "ports: [{published: \"80\"}]");
    attribute("port_is_a_list", "ports: [[80, 80]]");
    attribute("volume_undefined", "volumes: [\"data:/data\"]");
    attribute("volume_relative_target", "volumes: [\"./data:data\"]");
    attribute("volume_colons", "volumes: [\"a:/b:ro:rw\"]");
    attribute("volume_type", "volumes: [{type: bnd, source: ., target: /x}]");
    attribute("volume_without_type", "volumes: [{source: ., target: /x}]");
    attribute("volume_bind_without_source", "volumes: [{type: bind, target: /x}]");
    attribute("volume_propagation", "volumes: [{type: bind, source: ., target: /x, bind: {propagation: publik}}]");
}

#[test]
fn references() {
    attribute("undefined_service", "depends_on: [wep]");
    attribute("undefined_network", "networks: [front]");
    attribute("undefined_secret", "secrets: [token]");
    attribute("depends_on_itself", "depends_on: [web]");
    check(
        "cycle",
        &[(
            "compose.yaml",
            "services:\n  a: {image: x, depends_on: [b]}\n  b: {image: x, depends_on: [c]}\n  c: {image: x, depends_on: [a]}\n",
        )],
    );
    check("nearest_volume", &[("compose.yaml", &format!("{OK}    volumes: [\"dta:/d\"]\nvolumes:\n  data: {{}}\n"))]);
    check(
        "inactive_dependency",
        &[("compose.yaml", "services:\n  web: {image: x, depends_on: [db]}\n  db: {image: x, profiles: [debug]}\n")],
    );
    attribute("network_mode_and_networks", "network_mode: host\nnetworks: [default]");
    attribute("two_values", "mem_limit: 1g\ndeploy: {resources: {limits: {memory: 2g}}}");
    attribute("container_name_and_scale", "container_name: one\nscale: 2");
    check("secret_without_content", &[("compose.yaml", &format!("{OK}secrets:\n  token: {{}}\n"))]);
    check("config_with_two_contents", &[("compose.yaml", &format!("{OK}configs:\n  c:\n    file: a\n    content: b\n"))]);
    check(
        "external_volume_with_driver",
        &[("compose.yaml", &format!("{OK}volumes:\n  v:\n    external: true\n    driver: local\n"))],
    );
    check("external_two_names", &[("compose.yaml", &format!("{OK}volumes:\n  v:\n    external: {{name: a}}\n    name: b\n"))]);
    check(
        "dockerfile_twice",
        &[("compose.yaml", "services:\n  web:\n    build:\n      dockerfile: A\n      dockerfile_inline: FROM scratch\n")],
    );
    check(
        "platform_not_built",
        &[(
            "compose.yaml",
            "services:\n  web:\n    platform: linux/arm64\n    build:\n      context: .\n      platforms: [linux/amd64]\n",
        )],
    );
}

#[test]
fn variables() {
    attribute("variable_required", "hostname: ${HOST:?set it to this machine's name}");
    attribute("variable_required_without_message", "hostname: ${HOST?}");
    attribute("variable_not_closed", "hostname: ${HOST");
    attribute("variable_operator", "hostname: ${HOST!x}");
    attribute("variable_bad_name", "hostname: ${1HOST}");
    attribute("variable_gives_a_wrong_type", "scale: ${SET}");
    check("env_file_missing", &[("compose.yaml", &format!("{OK}    env_file: app.env\n"))]);
    check("env_file_malformed", &[("compose.yaml", &format!("{OK}    env_file: app.env\n")), ("app.env", "A=1\nB C=2\n")]);
    check("dot_env_malformed", &[("compose.yaml", OK), (".env", "A='open\n")]);
}

#[test]
fn other_files() {
    attribute("extends_undefined", "extends: {service: bse}");
    check("extends_cycle", &[("compose.yaml", "services:\n  a: {image: x, extends: b}\n  b: {image: x, extends: a}\n")]);
    attribute("extends_missing_file", "extends: {service: a, file: base.yaml}");
    check(
        "extends_wrong_in_the_other_file",
        &[
            ("compose.yaml", &format!("{OK}    extends: {{service: base, file: common/base.yaml}}\n")),
            ("common/base.yaml", "services:\n  base:\n    restart: never\n"),
        ],
    );
    check("include_missing", &[("compose.yaml", &format!("include: [db.yaml]\n{OK}"))]);
    check(
        "include_wrong_inside",
        &[
            ("compose.yaml", &format!("include:\n  - db/compose.yaml\n{OK}")),
            ("db/compose.yaml", "services:\n  db:\n    image: postgres\n    port: [5432]\n"),
        ],
    );
    check(
        "include_conflict",
        &[
            ("compose.yaml", &format!("include:\n  - db/compose.yaml\n{OK}")),
            ("db/compose.yaml", "services:\n  web:\n    image: httpd\n"),
        ],
    );
    check(
        "include_cycle",
        &[
            ("compose.yaml", &format!("include: [other.yaml]\n{OK}")),
            ("other.yaml", "include: [compose.yaml]\nservices:\n  db: {image: x}\n"),
        ],
    );
    check("include_remote", &[("compose.yaml", &format!("include: [\"https://example.com/a.git\"]\n{OK}"))]);
    check(
        "include_env_file_missing",
        &[("compose.yaml", &format!("include:\n  - path: db.yaml\n    env_file: db.env\n{OK}")), ("db.yaml", OK)],
    );
}

#[test]
fn an_override_is_blamed_for_what_it_says() {
    let files = Files::new(&[
        ("compose.yaml", OK),
        ("compose.override.yaml", "services:\n  web:\n    depends_on: [db]\n    networks: [back]\n"),
    ]);
    let mut options = files.options();
    options.files.push("compose.override.yaml".into());
    insta::with_settings!({prepend_module_to_snapshot => false, omit_expression => true}, {
        insta::assert_snapshot!("override", files.errors(&options));
    });
}

#[test]
fn command_line() {
    let files = Files::new(&[("compose.yaml", OK)]);
    let mut options = files.options();
    options.project_name = Some("My Project".into());
    let named = files.errors(&options);
    options = files.options();
    options.files = vec!["composer.yaml".into()];
    let missing = files.errors(&options);
    options = files.options();
    options.files.clear();
    options.directory = files.path().join("nowhere");
    std::fs::remove_file(files.path().join("compose.yaml")).expect("the file");
    let none = files.errors(&options);
    insta::with_settings!({prepend_module_to_snapshot => false, omit_expression => true}, {
        insta::assert_snapshot!("command_line", [named, missing, none].join("\n\n"));
    });
}

#[test]
fn warnings() {
    let text = "version: \"3\"\nservices:\n  web:\n    image: nginx:${TAG}\n    gpus: all\n    logging: {driver: syslog}\n    deploy: {placement: {constraints: [a]}}\n    volumes: [\"d:/x\"]\n  db:\n    image: db:${TAG}\n    gpus: all\n";
    let files = Files::new(&[("compose.yaml", text)]);
    let loaded = wharf::compose::load(&files.options()).expect("right");
    insta::with_settings!({prepend_module_to_snapshot => false, omit_expression => true}, {
        insta::assert_snapshot!("warnings", files.warnings(&loaded));
    });
}

#[test]
fn for_editors() {
    let files = Files::new(&[
        ("compose.yaml", &format!("include:\n  - db/compose.yaml\n{OK}")),
        ("db/compose.yaml", "services:\n  db:\n    imge: postgres\n"),
    ]);
    let error = wharf::compose::load(&files.options()).expect_err("wrong");
    let json = error.diagnostics[0].to_json(&error.sources);
    let note = serde_json::json!({"file": "compose.yaml", "line": 2, "column": 5, "end_column": 20, "message": "included here"});
    assert_eq!(
        json,
        serde_json::json!({
            "severity": "error", "message": "`imge` is not an attribute in `services.db`", "file": "db/compose.yaml",
            "line": 3, "column": 5, "end_column": 9, "help": "did you mean `image`?", "notes": [note],
        })
    );
}

/// A number that no type has room for is said with its place and its range.
#[test]
fn numbers_out_of_their_range() {
    for (name, line, parts) in [
        ("retries", "healthcheck: {retries: -1}", ["`services.web.healthcheck.retries`", "from 0 to 4294967295", ":4:28"]),
        ("many retries", "healthcheck: {retries: 99999999999}", ["`services.web.healthcheck.retries`", "99999999999", ":4:28"]),
        ("scale", "scale: -1", ["`services.web.scale`", "`-1`", ":4:12"]),
        ("replicas", "deploy: {replicas: -1}", ["`services.web.deploy.replicas`", "`-1`", ":4:24"]),
        (
            "attempts",
            "deploy: {restart_policy: {max_attempts: -1}}",
            ["`services.web.deploy.restart_policy.max_attempts`", "`-1`", ":4:45"],
        ),
        ("weight", "blkio_config: {weight: -1}", ["`services.web.blkio_config.weight`", "from 0 to 65535", ":4:28"]),
        ("port", "ports: ['80:0']", ["`80:0` is not a port mapping", "`0` is no port", ":4:13"]),
    ] {
        let files = Files::new(&[("compose.yaml", &format!("{OK}    {line}\n"))]);
        let message = files.errors(&files.options());
        for part in parts {
            assert!(message.contains(part), "{name}: no `{part}` in:\n{message}");
        }
    }
}
