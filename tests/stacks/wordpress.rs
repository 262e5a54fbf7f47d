//! The stack of examples/wordpress-mysql with a real database and a real WordPress, from Debian's packages.

use crate::support::{Stack, eventually};
use std::process::Command;

fn curl(args: &[&str]) -> String {
    let output = Command::new("curl").args(["-s", "--max-time", "20"]).args(args).output().expect("curl");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn wordpress_and_its_database_keep_their_data() {
    let stack = Stack::bare("none");
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/wordpress-mysql");
    let made = Command::new(format!("{example}/images/make"))
        .arg(env!("CARGO_BIN_EXE_wharf"))
        .env("WHARF_DATA_ROOT", stack.data_root())
        .env("WHARF_RUN_ROOT", stack.run_root())
        .status()
        .expect("images/make");
    assert!(made.success());
    let text = std::fs::read_to_string(format!("{example}/compose.yaml")).expect("compose.yaml");
    // Another port than the demo's, so that both can run.
    stack.write("compose.yaml", &text.replace("8000:80", "127.0.0.1:18080:80"));
    stack.wharf(&["up", "-d", "--wait"]).ok();
    let site = "http://127.0.0.1:18080";
    eventually("WordPress answers", 60, || curl(&["-L", site]).contains("WordPress"));
    let form = "weblog_title=Harbour+Log&user_name=captain&admin_password=ahoy-ahoy-99&admin_password2=ahoy-ahoy-99&pw_weak=1&admin_email=a%40b.example";
    let installed = curl(&["-d", form, &format!("{site}/wp-admin/install.php?step=2")]);
    assert!(installed.contains("Success") || installed.contains("success"), "{installed}");
    assert!(curl(&["-L", site]).contains("Harbour Log"));
    stack.wharf(&["down"]).ok();
    stack.wharf(&["up", "-d", "--wait"]).ok();
    eventually("the site is as it was", 60, || curl(&["-L", site]).contains("Harbour Log"));
    let login = curl(&["-c", "-", "-o", "/dev/null", "-d", "log=captain&pwd=ahoy-ahoy-99", &format!("{site}/wp-login.php")]);
    assert!(login.contains("wordpress_logged_in"), "the user and the password are still there: {login}");
}
