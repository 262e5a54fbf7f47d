//! Where a built image goes besides the store: `--output`, `--metadata-file`.

use crate::api::client::Client;
use crate::api::reply::escape;
use crate::cli::project::cp;
use crate::cli::{Failure, Outcome, output_file};
use crate::image::build::solve::Built;
use crate::units::boolean;
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
    /// An archive that `image load` and `docker load` read, and that is an OCI layout; `-` is standard output.
    Archive { file: PathBuf, names: Vec<String> },
    /// The same as a directory: `tar=false`.
    Layout { directory: PathBuf, names: Vec<String> },
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
        let kind = field("type").ok_or("it has no type: write type=local,dest=DIRECTORY, or the directory alone")?;
        // What the others would be told has no effect.
        let known: &[&str] = match kind {
            "local" | "tar" => &["type", "dest"],
            "oci" => &["type", "dest", "name", "tar"],
            "docker" if field("dest").is_some() => &["type", "dest", "name", "tar"],
            "docker" => &["type", "dest", "name"],
            "image" | "registry" => &["type", "name", "push"],
            other => return Err(format!("`{other}` is none of local, tar, oci, docker, image and registry")),
        };
        if let Some((key, _)) = fields.iter().find(|(key, _)| !known.contains(key)) {
            return Err(format!("type={kind} has no `{key}`: {} are known", known.join(", ")));
        }
        let twice = fields.iter().enumerate().find(|(n, (key, _))| fields[..*n].iter().any(|(before, _)| before == key));
        if let Some((_, (key, _))) = twice {
            return Err(format!("`{key}` occurs twice: keep one of the two"));
        }
        let switch = |key: &str, default: bool| match field(key) {
            None => Ok(default),
            Some(value) => boolean(value).ok_or_else(|| format!("`{key}` is true or false, and not `{value}`")),
        };
        let dest = field("dest").filter(|dest| !dest.is_empty()).map(PathBuf::from);
        let needed = |what: &str| dest.clone().ok_or_else(|| format!("{what} needs a place: dest=DIRECTORY"));
        let name = field("name").map(str::to_string);
        match kind {
            "local" => Ok(OutputOption::Local(needed("type=local")?)),
            "tar" => Ok(OutputOption::Tar(dest.unwrap_or_else(|| "-".into()))),
            "image" => Ok(OutputOption::Image { push: switch("push", false)?, name }),
            "registry" => Ok(OutputOption::Image { push: switch("push", true)?, name }),
            "docker" if dest.is_none() => Ok(OutputOption::Image { push: false, name }),
            _ => {
                let names = name.iter().flat_map(|names| names.split(',')).map(str::to_string).collect();
                if switch("tar", true)? {
                    return Ok(OutputOption::Archive { file: dest.unwrap_or_else(|| "-".into()), names });
                }
                let directory = needed("tar=false")?;
                if directory == Path::new("-") {
                    return Err("a directory cannot be standard output: leave `tar=false` out, or name a directory".into());
                }
                Ok(OutputOption::Layout { directory, names })
            }
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
            OutputOption::Archive { file: path, names: own } => {
                output_file::download(client, &saved(&image, names, own), file(path)).await
            }
            OutputOption::Layout { directory, names: own } => {
                make(directory)?;
                cp::download_into(client, &saved(&image, names, own), directory).await
            }
            OutputOption::Local(directory) => {
                make(directory)?;
                cp::download_into(client, &files, directory).await
            }
        }
    }
}

/// The request for an image's archive, in which it has these names.
fn saved(image: &str, names: &[String], own: &[String]) -> String {
    let names: String = names.iter().chain(own).map(|name| format!("&as={}", escape(name))).collect();
    let names = if names.is_empty() { "&as=".to_string() } else { names };
    format!("/images/get?names={image}{names}")
}

fn make(directory: &Path) -> Outcome {
    std::fs::create_dir_all(directory).map_err(|e| Failure::Message(format!("making {}: {e}", directory.display())))
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
        let archive = |file: &str, names: &[&str]| {
            Ok(OutputOption::Archive { file: file.into(), names: names.iter().map(ToString::to_string).collect() })
        };
        assert_eq!(read("type=oci,dest=a.tar"), archive("a.tar", &[]));
        assert_eq!(read("type=docker,dest=a.tar,tar=true,name=a:1"), archive("a.tar", &["a:1"]));
        assert_eq!(read("type=oci"), archive("-", &[]));
        assert_eq!(read("type=tar"), Ok(OutputOption::Tar("-".into())));
        let layout = Ok(OutputOption::Layout { directory: "d".into(), names: vec!["a:1".into()] });
        assert_eq!(read("type=oci,dest=d,tar=false,name=a:1"), layout);
        assert_eq!(read("type=docker,dest=d,name=a:1,tar=F"), layout);
        assert_eq!(read("type=docker"), Ok(OutputOption::Image { push: false, name: None }));
        assert_eq!(read("type=image,name=x,push=1"), Ok(OutputOption::Image { push: true, name: Some("x".into()) }));
        assert_eq!(read("type=image,push"), Ok(OutputOption::Image { push: true, name: None }));
        assert_eq!(read("type=registry"), Ok(OutputOption::Image { push: true, name: None }));
        assert_eq!(read("type=registry,push=false"), Ok(OutputOption::Image { push: false, name: None }));
        let wrong = [
            ("type=local", "needs a place"),
            ("type=cloud", "is none of local"),
            ("dest=x", "it has no type"),
            ("type=local,dest=x,mode=7", "type=local has no `mode`"),
            // What would have no effect.
            ("type=local,dest=x,tar=false", "type=local has no `tar`"),
            ("type=tar,dest=x,push=true", "type=tar has no `push`"),
            ("type=tar,dest=x,name=y", "type=tar has no `name`"),
            ("type=oci,dest=x,push=true", "type=oci has no `push`"),
            ("type=docker,tar=false", "type=docker has no `tar`"),
            ("type=image,dest=x", "type=image has no `dest`"),
            ("type=image,push=yes", "`push` is true or false"),
            ("type=oci,dest=x,tar=no", "`tar` is true or false"),
            ("type=oci,tar=false", "tar=false needs a place"),
            ("type=oci,dest=-,tar=false", "cannot be standard output"),
            ("type=oci,dest=x,dest=y", "`dest` occurs twice"),
        ];
        for (text, why) in wrong {
            let error = read(text).expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
