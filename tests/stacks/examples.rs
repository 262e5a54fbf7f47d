//! The stacks of examples/ that are built from Dockerfiles, on a Debian base, with what Debian's mirrors have.

use crate::support::{Stack, eventually};
use std::path::Path;
use std::process::Command;

/// An example's files in a stack of its own, with a Debian image; `ports` are replaced, so that it runs beside a user's.
fn example(name: &str, ports: (&str, &str)) -> Stack {
    let stack = Stack::bare("none");
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let made = Command::new(examples.join("images/make-debian"))
        .arg(env!("CARGO_BIN_EXE_wharf"))
        .env("WHARF_DATA_ROOT", stack.data_root())
        .env("WHARF_RUN_ROOT", stack.run_root())
        .status()
        .expect("make-debian");
    assert!(made.success());
    let copied = Command::new("cp").arg("-r").arg(examples.join(name).join(".")).arg(stack.path("")).status().expect("cp");
    assert!(copied.success());
    let text = std::fs::read_to_string(stack.path("compose.yaml")).expect("compose.yaml");
    stack.write("compose.yaml", &text.replace(ports.0, ports.1));
    stack
}

fn get(url: &str) -> String {
    let output = Command::new("curl").args(["-sf", "--max-time", "5", url]).output().expect("curl");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn flask_counts_in_redis() {
    let stack = example("flask-redis", ("8001:5000", "127.0.0.1:18081:5000"));
    stack.wharf(&["up", "-d", "--wait"]).ok();
    assert_eq!(get("http://127.0.0.1:18081/"), "You are visitor 1.\n");
    stack.wharf(&["down"]).ok();
    let again = stack.wharf(&["up", "-d", "--wait", "--build"]);
    assert!(again.code == 0 && again.stdout.contains("CACHED") && !again.stdout.contains("Unpacking"), "{}", again.stdout);
    assert_eq!(get("http://127.0.0.1:18081/"), "You are visitor 2.\n", "the volume is kept");
    stack.wharf(&["down", "-v"]).ok();
}

#[test]
fn nginx_serves_a_site_and_an_api() {
    let stack = example("nginx-api", ("8002:80", "127.0.0.1:18082:80"));
    stack.wharf(&["up", "-d", "--wait"]).ok();
    eventually("the site answers", 10, || get("http://127.0.0.1:18082/").contains("<h1>Harbour</h1>"));
    assert_eq!(get("http://127.0.0.1:18082/api/x"), "hello from the API\n");
    stack.wharf(&["down"]).ok();
}

#[test]
fn postgres_is_migrated_before_it_is_read() {
    let stack = example("postgres-migration", ("", ""));
    stack.wharf(&["up", "-d"]).ok();
    eventually("the report is there", 20, || stack.state("report") == "exited");
    assert_eq!(stack.wharf(&["logs", "--no-log-prefix", "report"]).ok(), "Fram\nGjoa\n");
    stack.wharf(&["down", "-v"]).ok();
}
