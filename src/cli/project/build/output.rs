//! Where a built image goes besides the store: `--output`, `--metadata-file`.

use crate::api::client::Client;
use crate::api::reply::escape;
use crate::cli::project::cp;
use crate::cli::{Failure, Outcome, output_file};
use crate::image::build::solve::Built;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A value of `--output`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputOption {
    /// The store, and a registry where it is pushed.
    Image { push: bool, name: Option<String> },
    /// The image's files in a directory, owned by who builds.
    Local(PathBuf),
    /// The image's files as a tar; `-` is standard output.
    Tar(PathBuf),
    /// An archive that `image load` and `docker load` read, and that is an OCI layout.
    Archive(PathBuf),
}

impl FromStr for OutputOption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // As Docker has it: a directory, or standard output.
        if !text.contains('=') {
            return Ok(if text == "-" { OutputOption::Tar(text.into()) } else { OutputOption::Local(text.into()) });
        }
        let fields: Vec<(&str, &str)> = text.split(',').map(|field| field.split_once('=').unwrap_or((field, "true"))).collect();
        let field = |key: &str| fields.iter().find(|(known, _)| *known == key).map(|(_, value)| *value);
        if let Some((key, _)) = fields.iter().find(|(key, _)| !matches!(*key, "type" | "dest" | "push" | "name" | "tar")) {
            return Err(format!("it has no `{key}`: type, dest, name and push are known"));
        }
        let dest = |what: &str| field("dest").map(PathBuf::from).ok_or_else(|| format!("{what} needs a place: dest=PATH"));
        match field("type") {
            Some("local") => Ok(OutputOption::Local(dest("type=local")?)),
            Some("tar") => Ok(OutputOption::Tar(dest("type=tar")?)),
            Some("oci") => Ok(OutputOption::Archive(dest("type=oci")?)),
            Some("docker") if field("dest").is_some() => Ok(OutputOption::Archive(dest("type=docker")?)),
            Some("docker" | "image") => {
                Ok(OutputOption::Image { push: field("push") == Some("true"), name: field("name").map(str::to_string) })
            }
            Some("registry") => Ok(OutputOption::Image { push: true, name: field("name").map(str::to_string) }),
            Some(other) => Err(format!("`{other}` is none of local, tar, oci, docker, image and registry")),
            None => Err("it has no type: write type=local,dest=DIRECTORY, or the directory alone".into()),
        }
    }
}

impl OutputOption {
    /// Whether it is not an image of the store that is wanted, but what is in it.
    pub fn takes_it_away(&self) -> bool {
        !matches!(self, OutputOption::Image { .. })
    }

    /// Brings an image that is in the store where it is to be; in an archive it has these names.
    ///
    /// # Errors
    /// The disk's here, or a broken connection.
    pub async fn write(&self, client: &Client, built: &Built, names: &[String]) -> Outcome {
        let image = escape(built.manifest.as_str());
        let files = format!("/images/{image}/files");
        match self {
            OutputOption::Image { .. } => Ok(()),
            OutputOption::Tar(path) => output_file::download(client, &files, file(path)).await,
            OutputOption::Archive(path) => {
                let names: String = names.iter().map(|name| format!("&as={}", escape(name))).collect();
                let names = if names.is_empty() { "&as=".to_string() } else { names };
                output_file::download(client, &format!("/images/get?names={image}{names}"), file(path)).await
            }
            OutputOption::Local(directory) => {
                let failed = |e| Failure::Message(format!("making {}: {e}", directory.display()));
                std::fs::create_dir_all(directory).map_err(failed)?;
                cp::download_into(client, &files, directory).await
            }
        }
    }
}

/// `-` is standard output.
fn file(path: &Path) -> Option<&Path> {
    (path != Path::new("-")).then_some(path)
}

/// Writes what was built to a file, in the words of Docker's buildx.
///
/// # Errors
/// The disk's.
pub fn write_metadata(path: &Path, built: &Built, names: &[String]) -> Outcome {
    let mut told = json!({"containerimage.config.digest": built.id, "containerimage.digest": built.manifest});
    if !names.is_empty() {
        told["image.name"] = json!(names.join(","));
    }
    let text = serde_json::to_string_pretty(&told).unwrap_or_default();
    output_file::write(path, &format!("{text}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_read_as_docker_reads_them() {
        let read = |text: &str| text.parse::<OutputOption>();
        assert_eq!(read("out"), Ok(OutputOption::Local("out".into())));
        assert_eq!(read("-"), Ok(OutputOption::Tar("-".into())));
        assert_eq!(read("type=local,dest=out"), Ok(OutputOption::Local("out".into())));
        assert_eq!(read("type=oci,dest=a.tar"), Ok(OutputOption::Archive("a.tar".into())));
        assert_eq!(read("type=docker"), Ok(OutputOption::Image { push: false, name: None }));
        assert_eq!(read("type=image,name=x,push=true"), Ok(OutputOption::Image { push: true, name: Some("x".into()) }));
        assert_eq!(read("type=registry"), Ok(OutputOption::Image { push: true, name: None }));
        for wrong in ["type=tar", "type=cloud", "dest=x", "type=local,dest=x,mode=7"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
