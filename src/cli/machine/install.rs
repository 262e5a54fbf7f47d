//! `wharf -H ADDRESS install`: this program as the `wharf` of another machine.

use super::destination::Destination;
use super::ssh::{last_line, not_started, ssh};
use crate::cli::objects::network::confirmed;
use crate::cli::{Failure, Global, Outcome};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, Read, Write};
use std::process::Stdio;

#[derive(clap::Args, Debug)]
pub struct Install {
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
}

/// Tells the system, the user's number, where `wharf` is to be, and the digest of what is there. Any shell gives it to `sh`.
const LOOK: &str = r#"sh -c 'uname -sm; if [ "$(id -u)" = 0 ]; then d=/usr/local/bin; else d=$HOME/.local/bin; fi; echo "$d"; sha256sum "$d/wharf" 2>/dev/null || echo none'"#;

/// Bytes that are read of what a command there prints.
const MAX_SAID: u64 = 64 << 10;

/// Puts standard input there: under another name first, and under its own once its digest is right. DIGEST is hexadecimal.
const PUT: &str = r#"sh -c 'set -e; umask 022; if [ "$(id -u)" = 0 ]; then d=/usr/local/bin; else d=$HOME/.local/bin; fi; mkdir -p "$d"; t=$(mktemp "$d/.wharf.XXXXXX"); trap "rm -f \"$t\"" EXIT; cat >"$t"; s=$(sha256sum <"$t"); [ "${s%% *}" = DIGEST ] || { echo "what has arrived is not what was sent" >&2; exit 1; }; chmod 755 "$t"; mv -f "$t" "$d/wharf"; command -v wharf || true'"#;

/// # Errors
/// Without a machine, for another kind of machine, and where ssh or the disk there fails.
pub async fn run(global: &Global, command: Install) -> Outcome {
    let Some(other) = global.machine.other() else {
        return Err(Failure::Message("`install` is for another machine: `wharf -H ssh://USER@HOST install`".into()));
    };
    let destination = other.destination();
    let failed = |e: io::Error| Failure::Message(format!("reading this program: {e}"));
    let (digest, size) = digest(File::open("/proc/self/exe").map_err(failed)?).map_err(failed)?;
    let found = through(destination, LOOK, io::empty())?;
    let mut lines = found.lines();
    let (system, directory, known) =
        (lines.next().unwrap_or_default(), lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let ours = format!("Linux {}", std::env::consts::ARCH);
    if system != ours {
        let system = crate::printable::line(system);
        return Err(Failure::Message(format!("this program is for {ours}, and {destination} is {system}")));
    }
    let path = format!("{}/wharf", crate::printable::line(directory));
    if known.split_whitespace().next() == Some(digest.as_str()) {
        println!("{path} on {destination} is this program already");
        return Ok(());
    }
    let what = if known == "none" { "This puts" } else { "This replaces" };
    let megabytes = size / 1_000_000;
    let question = format!("{what} {path} on {destination}: wharf {}, {megabytes} MB.", env!("CARGO_PKG_VERSION"));
    if !confirmed(&question, command.yes).await? {
        return Ok(());
    }
    let put = through(destination, &PUT.replace("DIGEST", &digest), File::open("/proc/self/exe").map_err(failed)?)?;
    println!("{path} on {destination} is wharf {} now", env!("CARGO_PKG_VERSION"));
    if put.trim().is_empty() {
        eprintln!("warning: it is not in the PATH of a command by ssh there: a link to it in /usr/local/bin is");
    }
    Ok(())
}

/// SHA-256 in hexadecimal, and the bytes.
fn digest(mut file: File) -> io::Result<(String, u64)> {
    let mut hash = Sha256::new();
    let size = io::copy(&mut file, &mut hash)?;
    Ok((data_encoding::HEXLOWER.encode(&hash.finalize()), size))
}

/// Runs a command there, with standard input; gives what it prints.
fn through(destination: &Destination, command: &str, mut input: impl Read + Send + 'static) -> Result<String, Failure> {
    let failed = |why: String| Failure::Message(format!("{destination}: {why}"));
    let mut ssh = ssh(destination, &[command]);
    let spawned = ssh.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.map_err(|e| Failure::Message(not_started(e)))?;
    let stdin = child.stdin.take();
    let sending = std::thread::spawn(move || -> io::Result<()> {
        let Some(mut stdin) = stdin else { return Ok(()) };
        io::copy(&mut input, &mut stdin)?;
        stdin.flush()
    });
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    // What is behind the limit closes the pipe, and ends ssh.
    let errors = std::thread::spawn(move || stderr.map(|stderr| at_most(stderr, MAX_SAID)).unwrap_or_default());
    let stdout = stdout.map(|stdout| at_most(stdout, MAX_SAID)).unwrap_or_default();
    if stdout.len() as u64 >= MAX_SAID {
        let _ = child.kill();
    }
    let status = child.wait().map_err(|e| failed(e.to_string()))?;
    let sent = sending.join();
    if stdout.len() as u64 >= MAX_SAID {
        return Err(failed(format!("a command there prints more than {MAX_SAID} bytes: it is not a shell that answers")));
    }
    if !status.success() {
        let line = last_line(&errors.join().unwrap_or_default());
        return Err(failed(if line.is_empty() { format!("ssh has ended: {status}") } else { line }));
    }
    if let Ok(Err(error)) = sent {
        return Err(failed(format!("sending: {error}")));
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

/// The first bytes of a stream.
fn at_most(stream: impl Read, limit: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = stream.take(limit).read_to_end(&mut bytes);
    bytes
}
