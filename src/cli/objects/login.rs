//! `wharf login` and `wharf logout`.

use crate::api::types::{LoginAnswer, LoginRequest};
use crate::cli::{Failure, Global, Outcome, connect};
use crate::image::credentials;
use std::io::{BufRead, IsTerminal};

#[derive(clap::Args, Debug)]
pub struct LoginArgs {
    /// The registry; Docker Hub by default.
    #[arg(default_value = "docker.io")]
    server: String,
    /// The user; asked for where it is not given.
    #[arg(short, long)]
    username: Option<String>,
    /// Take the password from standard input.
    #[arg(long)]
    password_stdin: bool,
}

#[derive(clap::Args, Debug)]
pub struct Logout {
    /// The registry; Docker Hub by default.
    #[arg(default_value = "docker.io")]
    server: String,
}

pub async fn login(global: &Global, command: LoginArgs) -> Outcome {
    let input = |prompt: &str| -> Result<String, Failure> {
        if std::io::stdin().is_terminal() {
            eprint!("{prompt}: ");
        }
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).map_err(|e| Failure::Message(format!("reading standard input: {e}")))?;
        Ok(line.trim_end_matches(['\n', '\r']).to_string())
    };
    let user = match command.username {
        Some(user) => user,
        None if command.password_stdin => return Err(Failure::Message("with --password-stdin, say who: --username NAME".into())),
        None => input("Username")?,
    };
    let password = if command.password_stdin || !std::io::stdin().is_terminal() {
        input("Password")?
    } else {
        let _quiet = Quiet::new();
        let password = input("Password");
        eprintln!();
        password?
    };
    let client = connect::engine(global).await?;
    let login = LoginRequest { server_address: command.server.clone(), username: user, password };
    let _: LoginAnswer = client.post("/auth", &login).await?;
    let path = credentials::remember(&command.server, &credentials::encode(&login.username, &login.password))
        .map_err(|e| Failure::Message(format!("keeping the login: {e}")))?;
    eprintln!("logged in to {}; kept in {}, where whoever reads it can use it", command.server, path.display());
    Ok(())
}

pub async fn logout(_global: &Global, command: Logout) -> Outcome {
    credentials::forget(&command.server).map_err(|e| Failure::Message(format!("forgetting the login: {e}")))?;
    eprintln!("logged out of {}", command.server);
    Ok(())
}

/// The terminal shows nothing of what is typed as long as this lives.
struct Quiet(Option<nix::sys::termios::Termios>);

impl Quiet {
    fn new() -> Self {
        use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin).ok();
        if let Some(mut quiet) = before.clone() {
            quiet.local_flags.remove(LocalFlags::ECHO);
            let _ = tcsetattr(&stdin, SetArg::TCSANOW, &quiet);
        }
        Quiet(before)
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = nix::sys::termios::tcsetattr(std::io::stdin(), nix::sys::termios::SetArg::TCSANOW, before);
        }
    }
}
