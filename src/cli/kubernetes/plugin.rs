//! Credential plugins: programs that a kubeconfig's user names, and that write a token or a certificate.
//!
//! https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins

use super::kubeconfig::LARGEST_FILE;
use crate::printable;
use kube::config::{ExecConfig, ExecInteractiveMode};
use serde::Deserialize;
use serde_json::json;
use std::io::IsTerminal;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::process::Command;

/// After how long it is said that a plugin is waited for: it may have asked for a log-in in a browser.
const SILENT: Duration = Duration::from_secs(5);

/// What a plugin has written: `client.authentication.k8s.io` ExecCredential.
#[derive(Deserialize)]
struct ExecCredential {
    status: Option<PluginAnswer>,
}

/// Its status. Times are RFC 3339, certificates and keys PEM.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PluginAnswer {
    pub expiration_timestamp: Option<String>,
    pub token: Option<String>,
    pub client_certificate_data: Option<String>,
    pub client_key_data: Option<String>,
}

/// Runs a plugin. Its standard error is the command's, so that it can ask for a log-in; it ends with the command.
///
/// # Errors
/// When it cannot be run, fails, writes more than 1 MiB, or something else than a credential. What it has written may be a token: no message
/// has any of it.
pub async fn run(exec: &ExecConfig) -> Result<PluginAnswer, String> {
    let program = exec.command.as_deref().filter(|program| !program.is_empty());
    let program = program.ok_or("its credential plugin has no `command`")?;
    let shown = printable::line(program).into_owned();
    let mut child = command(exec, program)?.spawn().map_err(|error| {
        let hint = exec.install_hint.as_deref().map(|hint| format!("\n{}", printable::lines(hint.trim()))).unwrap_or_default();
        format!("running its credential plugin `{shown}`: {error}{hint}")
    })?;
    let output = child.stdout.take().ok_or("its credential plugin has no standard output")?;
    let answered = async {
        let mut bytes = Vec::new();
        let read = output.take(LARGEST_FILE + 1).read_to_end(&mut bytes).await;
        read.map_err(|error| format!("reading what its credential plugin `{shown}` writes: {error}"))?;
        if bytes.len() as u64 > LARGEST_FILE {
            return Err(format!("its credential plugin `{shown}` writes more than {} MiB", LARGEST_FILE >> 20));
        }
        let status = child.wait().await.map_err(|error| format!("waiting for its credential plugin `{shown}`: {error}"))?;
        if status.success() { Ok(bytes) } else { Err(format!("its credential plugin `{shown}` has failed ({status})")) }
    };
    let bytes = with_word(answered, &shown).await?;
    let credential: ExecCredential = serde_yaml::from_slice(&bytes).map_err(|error| {
        let place = error.location().map(|at| format!(" (line {}, column {})", at.line(), at.column())).unwrap_or_default();
        format!("its credential plugin `{shown}` has not written an ExecCredential{place}: run it by hand to see what it writes")
    })?;
    credential.status.ok_or_else(|| format!("its credential plugin `{shown}` has written an ExecCredential without a `status`"))
}

/// Says once that a plugin is waited for.
async fn with_word<T>(answered: impl Future<Output = T>, shown: &str) -> T {
    let mut answered = std::pin::pin!(answered);
    tokio::select! {
        answer = &mut answered => answer,
        () = tokio::time::sleep(SILENT) => {
            eprintln!("waiting for the credential plugin `{shown}` of the kubeconfig; Ctrl-C ends it");
            answered.await
        }
    }
}

fn command(exec: &ExecConfig, program: &str) -> Result<Command, String> {
    let mode = exec.interactive_mode.as_ref();
    let is_interactive = mode != Some(&ExecInteractiveMode::Never) && std::io::stdin().is_terminal();
    if mode == Some(&ExecInteractiveMode::Always) && !is_interactive {
        return Err("its credential plugin needs a terminal (`interactiveMode: Always`), and standard input is none".into());
    }
    let mut spec = json!({"interactive": is_interactive});
    if exec.provide_cluster_info {
        spec["cluster"] = serde_json::to_value(&exec.cluster).unwrap_or_default();
    }
    let told = json!({"apiVersion": exec.api_version, "kind": "ExecCredential", "spec": spec});
    let mut command = Command::new(program);
    command.args(exec.args.iter().flatten()).env("KUBERNETES_EXEC_INFO", told.to_string());
    let named = exec.env.iter().flatten().filter_map(|pair| Some((pair.get("name")?, pair.get("value")?)));
    command.envs(named.filter(|(name, _)| is_variable(name)));
    command.stdin(if is_interactive { Stdio::inherit() } else { Stdio::null() });
    command.stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true);
    Ok(command)
}

fn is_variable(name: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0'])
}
