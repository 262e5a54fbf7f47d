//! Logins at registries: `~/.docker/config.json`, and the credential helpers that it names.

use base64::Engine as _;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

/// Docker Hub's name in the file.
const HUB: &str = "https://index.docker.io/v1/";

/// A login at a registry. It is shown nowhere.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Login {
    /// `user:password` in base64.
    Basic(String),
    /// A refresh token, for the registry's token server.
    Identity(String),
    /// A token for the registry itself.
    Token(String),
}

/// Whose logins are used at registries.
#[derive(Clone, Default)]
pub enum Logins {
    /// Those of the file of whoever has started the engine.
    #[default]
    Own,
    /// A client's own, by the registry's host, and no others.
    Given(BTreeMap<String, Login>),
    /// Those of a client that is asked for each.
    Asked(Arc<dyn Asked>),
}

/// A client that is asked for its logins as long as it is there.
pub trait Asked: Send + Sync {
    /// No other client has it.
    fn id(&self) -> &str;

    /// The login at a registry. It waits for the client.
    fn login(&self, host: &str) -> Option<Login>;
}

/// The identity of a request to a registry: tokens of one login are not kept for another.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) enum Who {
    /// The file of logins, as it is now: device, inode, size, time.
    Own(Option<(u64, u64, u64, i64, i64)>),
    Given(Option<Login>),
    Asked(String),
}

impl Logins {
    /// The login at a registry. A helper may be asked for it: it takes its time.
    pub(super) fn find(&self, host: &str) -> Option<Login> {
        match self {
            Logins::Own => find(host).map(Login::Basic),
            Logins::Given(logins) => logins.get(host).cloned(),
            Logins::Asked(client) => client.login(host),
        }
    }

    pub(super) fn who(&self, host: &str) -> Who {
        use std::os::unix::fs::MetadataExt;
        match self {
            Logins::Own => {
                let file = path().and_then(|path| std::fs::metadata(path).ok());
                Who::Own(file.map(|file| (file.dev(), file.ino(), file.size(), file.mtime(), file.mtime_nsec())))
            }
            Logins::Given(logins) => Who::Given(logins.get(host).cloned()),
            Logins::Asked(client) => Who::Asked(client.id().to_string()),
        }
    }
}

/// A registry's host, as images name it, from an address as logins have it.
pub fn host_of(address: &str) -> &str {
    let host = address.trim_start_matches("https://").trim_start_matches("http://").split('/').next().unwrap_or_default();
    if matches!(host, "" | "index.docker.io" | "registry-1.docker.io" | "docker.io") { "docker.io" } else { host }
}

fn path() -> Option<PathBuf> {
    let directory = match std::env::var_os("DOCKER_CONFIG") {
        Some(directory) => PathBuf::from(directory),
        None => PathBuf::from(std::env::var_os("HOME")?).join(".docker"),
    };
    Some(directory.join("config.json"))
}

/// The user's configuration of Docker's clients; empty where there is none.
pub fn configuration() -> Value {
    let text = path().and_then(|path| std::fs::read_to_string(path).ok());
    text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_else(|| json!({}))
}

fn key(host: &str) -> &str {
    if host == "docker.io" { HUB } else { host }
}

/// `user:password` in base64, for a registry.
pub fn find(host: &str) -> Option<String> {
    let config = configuration();
    let key = key(host);
    let helper = config["credHelpers"][key].as_str().or(config["credHelpers"][host].as_str()).or(config["credsStore"].as_str());
    if let Some(found) = helper.and_then(|helper| ask(helper, key)) {
        return Some(found);
    }
    let of = |name: &str| config["auths"][name]["auth"].as_str().filter(|auth| !auth.is_empty()).map(str::to_string);
    of(key).or_else(|| of(&format!("https://{host}"))).or_else(|| of(&format!("http://{host}")))
}

/// Every login, as a `config.json` of its own that needs no helper.
pub fn all() -> Value {
    let config = configuration();
    let names = |key: &str| config[key].as_object().into_iter().flatten().map(|(name, _)| name.clone());
    let mut auths = json!({});
    for name in names("auths").chain(names("credHelpers")) {
        let host = name.trim_start_matches("https://").trim_start_matches("http://");
        if let Some(auth) = find(if name == HUB { "docker.io" } else { host }) {
            auths[&name] = json!({"auth": auth});
        }
    }
    json!({"auths": auths})
}

/// Asks `docker-credential-HELPER`, as docker/docker-credential-helpers has it: the server on its input, JSON on its output.
fn ask(helper: &str, server: &str) -> Option<String> {
    // A name, never a path: the file must not be able to name any program.
    if helper.contains('/') {
        return None;
    }
    let mut child = Command::new(format!("docker-credential-{helper}"))
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    child.stdin.take()?.write_all(server.as_bytes()).ok()?;
    let output = child.wait_with_output().ok()?;
    let answer: Value = serde_json::from_slice(&output.stdout).ok().filter(|_| output.status.success())?;
    Some(encode(answer["Username"].as_str()?, answer["Secret"].as_str()?))
}

/// Basic authentication's form.
pub fn encode(user: &str, password: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"))
}

/// Remembers a login, readable by its owner alone.
///
/// # Errors
/// The disk's.
pub fn remember(host: &str, auth: &str) -> std::io::Result<PathBuf> {
    change(|config| {
        if !config["auths"].is_object() {
            config["auths"] = json!({});
        }
        config["auths"][key(host)] = json!({"auth": auth});
    })
}

/// Forgets a login.
///
/// # Errors
/// The disk's.
pub fn forget(host: &str) -> std::io::Result<PathBuf> {
    change(|config| {
        if let Some(auths) = config["auths"].as_object_mut() {
            auths.shift_remove(key(host));
        }
    })
}

fn change(change: impl FnOnce(&mut Value)) -> std::io::Result<PathBuf> {
    use std::os::unix::fs::OpenOptionsExt;
    let path = path().ok_or_else(|| std::io::Error::other("HOME is not set"))?;
    let mut config = configuration();
    change(&mut config);
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let temporary = path.with_extension("json.tmp");
    let mut file = std::fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(serde_json::to_string_pretty(&config)?.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&temporary, &path)?;
    Ok(path)
}
