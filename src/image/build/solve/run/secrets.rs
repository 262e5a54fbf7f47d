//! Secrets of a RUN's mounts.

use super::{Prepared, SolveStep, Solver};
use crate::image::ImageError;
use crate::image::build::mounts::{MadeMount, RunMount};
use crate::image::build::{Secret, SecretContent};
use base64::Engine as _;
use std::os::fd::AsFd;
use std::path::Path;

/// Bytes of a secret: BuildKit's bound.
const MAX_SECRET: u64 = 500 << 10;

/// Reads a secret that the client has named, which may be any regular file of the machine.
fn read_secret(path: &Path) -> std::io::Result<Vec<u8>> {
    let root = std::fs::File::open("/")?;
    crate::sys::regular::read_regular(root.as_fd(), path, MAX_SECRET)
}

/// Readable by nobody else on the way.
fn write_secret(path: &Path, content: &[u8], mode: u32, owner: (u32, u32)) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    let mut file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    std::os::unix::fs::fchown(&file, Some(owner.0), Some(owner.1))?;
    file.set_permissions(std::fs::Permissions::from_mode(mode))
}

impl Solver {
    /// `--mount=type=secret`: a file, a variable, or both.
    pub(super) async fn prepare_secret(
        &self,
        step: &SolveStep<'_>,
        mount: &RunMount,
        target: Option<String>,
        into: &mut Prepared,
    ) -> Result<(), ImageError> {
        let id = mount
            .id
            .clone()
            .or_else(|| target.as_ref().and_then(|t| t.rsplit('/').next().map(str::to_string)))
            .unwrap_or_default();
        let secret = self.request.secrets.get(&id);
        let content = match secret.map(|secret| &secret.content) {
            Some(SecretContent::Value(value)) => value.clone().into_bytes(),
            Some(SecretContent::Encoded(value)) => base64::engine::general_purpose::STANDARD
                .decode(value)
                .map_err(|e| self.wrong(step, format!("the secret `{id}` is not understood: {e}")))?,
            Some(SecretContent::File(path)) => read_secret(path)
                .map_err(|e| self.wrong(step, format!("the secret `{id}` cannot be read from {}: {e}", path.display())))?,
            None => match self.lent_secret(&id).await.map_err(|e| self.wrong(step, e.to_string()))? {
                Some(content) => content,
                None if mount.required => {
                    return Err(self.wrong(step, format!("the secret `{id}` is required and was not given to the build")));
                }
                None => return Ok(()),
            },
        };
        if let Some(name) = &mount.env {
            into.env.push(format!("{name}={}", String::from_utf8_lossy(&content).trim_end_matches('\n')));
        }
        if mount.env.is_none() || target.is_some() {
            let target = target.unwrap_or_else(|| format!("/run/secrets/{id}"));
            let draft = self.host.store().draft()?;
            let place = draft.diff().join("secret");
            // What RUN says, what the secret is given with, BuildKit's default.
            let or_given = |own: Option<u32>, given: fn(&Secret) -> Option<u32>, default: u32| {
                own.or_else(|| secret.and_then(given)).unwrap_or(default)
            };
            let mode = or_given(mount.mode, |secret| secret.mode, 0o400);
            let owner = (or_given(mount.uid, |secret| secret.uid, 0), or_given(mount.gid, |secret| secret.gid, 0));
            write_secret(&place, &content, mode, owner).map_err(ImageError::store("preparing a mount".into()))?;
            into.mounts.push(MadeMount::Bind { source: place, target, read_only: true });
            into.drafts.push(draft);
        }
        // The content is not in the key: another password is not another build.
        into.key.push(format!("secret {id} {:?}", mount.env));
        if let Some(Secret { uid, gid, mode, .. }) = secret.filter(|s| (s.uid, s.gid, s.mode) != (None, None, None)) {
            into.key.push(format!("given as {uid:?} {gid:?} {mode:?}"));
        }
        Ok(())
    }

    async fn lent_secret(&self, id: &str) -> Result<Option<Vec<u8>>, ImageError> {
        match &self.request.lender {
            Some(lender) => lender.secret(id).await,
            None => Ok(None),
        }
    }
}
