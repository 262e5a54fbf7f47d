//! Another machine: a real sshd in a network namespace of its own, and an engine there with roots of its own.
//!
//! sshd and everything that it starts have a mount namespace in which the project's directory is empty: what the engine has of it has
//! travelled. The client is in the same network namespace, so that 127.0.0.1 port 22 is that machine.

use super::{Ran, Stack, eventually};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

pub const HOST: &str = "ssh://root@127.0.0.1";

pub struct Machine {
    pub stack: Stack,
    sshd: Child,
    directory: tempfile::TempDir,
}

/// Of sshd: the engine there has roots of its own, and `wharf` is what is in a directory of the test's.
const SSHD_CONFIG: &str = "ListenAddress 127.0.0.1:22
HostKey @dir@/host
AuthorizedKeysFile @dir@/client.pub
PidFile none
UsePAM no
StrictModes no
PermitRootLogin yes
PasswordAuthentication no
KbdInteractiveAuthentication no
SetEnv WHARF_DATA_ROOT=@data@ WHARF_RUN_ROOT=@run@ PATH=@dir@/there:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
";

/// Of the user's ssh.
const SSH_CONFIG: &str = "Host shortcut
HostName 127.0.0.1
User root
Host *
IdentityFile @dir@/client
IdentitiesOnly yes
UserKnownHostsFile @dir@/known
GlobalKnownHostsFile /dev/null
";

/// The user's `ssh` is found in the PATH: this one has a configuration of the test's, and counts.
const SSH: &str = "#!/bin/sh
echo \"$@\" >> @dir@/calls
exec /usr/bin/ssh -F @dir@/config \"$@\"
";

fn write_program(path: &Path, text: &str) {
    std::fs::write(path, text).expect("a program");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("executable");
}

impl Machine {
    /// A machine whose engine has the image `busybox:local`, and a project of the files of `tests/scenarios/NAME` here.
    pub fn new(name: &str) -> Self {
        let stack = Stack::bare(name);
        let directory = tempfile::Builder::new().prefix("wharf-test-ssh-").tempdir_in("/var/tmp").expect("directory");
        let dir = directory.path().to_path_buf();
        let fill = |text: &str| {
            let text = text.replace("@dir@", &dir.display().to_string());
            text.replace("@data@", &stack.data_root().display().to_string())
                .replace("@run@", &stack.run_root().display().to_string())
        };
        for key in ["host", "client"] {
            let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(dir.join(key)).status();
            assert!(made.expect("ssh-keygen").success());
        }
        for side in ["here", "there", "home"] {
            std::fs::create_dir(dir.join(side)).expect("directory");
        }
        let host = std::fs::read_to_string(dir.join("host.pub")).expect("key");
        std::fs::write(dir.join("known"), format!("127.0.0.1 {host}")).expect("known hosts");
        std::fs::write(dir.join("config"), fill(SSH_CONFIG)).expect("config");
        std::fs::write(dir.join("sshd"), fill(SSHD_CONFIG)).expect("config");
        write_program(&dir.join("here/ssh"), &fill(SSH));
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_wharf"), dir.join("there/wharf")).expect("link");
        // /run is the machine's own as well, with the directory that sshd wants there.
        let script = "ip link set lo up && mount -t tmpfs none \"$1\" && mount -t tmpfs none /run && mkdir /run/sshd && \
            mount -t tmpfs none /usr/local/bin && \
            exec /usr/sbin/sshd -D -e -f \"$2\"";
        let mut machine = Command::new("unshare");
        machine
            .args(["-n", "-m", "--propagation", "private", "sh", "-c", script, "sh"])
            .arg(stack.path(""))
            .arg(dir.join("sshd"));
        let log = std::fs::File::create(dir.join("log")).expect("log");
        let sshd = machine.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("unshare");
        let machine = Machine { stack, sshd, directory };
        eventually("sshd listens", 10, || machine.said("log").contains("Server listening"));
        machine
            .wharf(&[
                "image",
                "import",
                super::busybox_tar().to_str().expect("path"),
                "busybox:local",
                "--change",
                "CMD [\"sh\"]",
            ])
            .ok();
        machine
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A file of the machine's: `log` is sshd's, `calls` has a line for each `ssh` that was run.
    pub fn said(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// How often `ssh` was run.
    pub fn calls(&self) -> usize {
        self.said("calls").lines().count()
    }

    /// A program in the machine's network, with the user's settings.
    pub fn here(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new("/usr/bin/nsenter");
        command.args(["-n", "-t", &self.sshd.id().to_string(), "--", program]).args(args);
        let path = format!("{}:{}", self.path("here").display(), std::env::var("PATH").unwrap_or_default());
        command
            .current_dir(self.stack.path(""))
            .env("PATH", path)
            .env("HOME", self.path("home"))
            .env("WHARF_DATA_ROOT", "/nonexistent/data")
            .env("WHARF_RUN_ROOT", "/nonexistent/run")
            .env("COMPOSE_PROJECT_NAME", &self.stack.project)
            .env_remove("COMPOSE_FILE")
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("DOCKER_CONFIG")
            .env_remove("DOCKER_HOST")
            .env_remove("DOCKER_CONTEXT")
            .stdin(Stdio::null());
        command
    }

    /// `wharf` here, for the machine that is named otherwise.
    pub fn plain(&self, args: &[&str]) -> Command {
        self.here(env!("CARGO_BIN_EXE_wharf"), args)
    }

    /// `wharf -H` here, for this machine.
    pub fn command(&self, args: &[&str]) -> Command {
        self.plain(&[&["-H", HOST], args].concat())
    }

    pub fn wharf(&self, args: &[&str]) -> Ran {
        ran(&mut self.command(args))
    }

    /// Puts a program in the place of the machine's `wharf`.
    pub fn replace_wharf(&self, text: &str) {
        let path = self.path("there/wharf");
        std::fs::remove_file(&path).expect("the program");
        write_program(&path, &text.replace("@wharf@", env!("CARGO_BIN_EXE_wharf")));
    }

    /// The processes that sshd has for connections.
    pub fn connections(&self) -> Vec<i32> {
        let pid = self.sshd.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    }

    /// Cuts the connections, as a network does that has gone.
    pub fn cut(&self) {
        for pid in self.connections() {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }
}

pub fn ran(command: &mut Command) -> Ran {
    let output = command.output().expect("it runs");
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- sshd\n{}", self.said("log"));
        }
        // The engine there is stopped by the stack, over its socket.
        self.cut();
        let _ = self.sshd.kill();
        let _ = self.sshd.wait();
    }
}
