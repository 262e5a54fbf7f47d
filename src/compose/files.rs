//! Which files make up the project, and which directory and name it has.

use super::LoadOptions;
use super::diagnostic::Diagnostic;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Bytes of a Compose file, an env file or a file of labels.
const MAX_TEXT: u64 = 32 << 20;

/// A file of a project as text. It may be a pipe, as of a shell's `<(...)`.
///
/// # Errors
/// The kernel's; `FileTooLarge` behind 32 MiB, and `InvalidData` where it is not UTF-8.
pub fn read_text(path: &Path) -> io::Result<String> {
    text_of(File::open(path)?)
}

/// As [`read_text`], of what is open.
///
/// # Errors
/// As [`read_text`].
pub fn text_of(reader: impl Read) -> io::Result<String> {
    let mut bytes = Vec::new();
    reader.take(MAX_TEXT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_TEXT {
        let why = format!("it has more than {} MiB", MAX_TEXT >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
    }
    String::from_utf8(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
}

/// The files to read, in order, and the project directory that their relative paths are relative to.
#[derive(Debug)]
pub struct Located {
    pub files: Vec<PathBuf>,
    pub directory: PathBuf,
    /// Which of several files that could be meant are left aside.
    pub ambiguous: Option<Diagnostic>,
}

/// The names that are looked for in a directory, in Docker Compose's order.
pub const NAMES: [&str; 4] = ["compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"];
/// An override beside the found file is merged on top of it.
const OVERRIDES: [&str; 4] =
    ["compose.override.yaml", "compose.override.yml", "docker-compose.override.yml", "docker-compose.override.yaml"];

/// Finds the project's files.
///
/// # Errors
/// When there is no Compose file here or above.
pub fn locate(options: &LoadOptions, variables: &HashMap<String, String>) -> Result<Located, Diagnostic> {
    let mut given = options.files.clone();
    if given.is_empty()
        && let Some(listed) = variables.get("COMPOSE_FILE").filter(|f| !f.is_empty())
    {
        let separator = variables.get("COMPOSE_PATH_SEPARATOR").filter(|s| !s.is_empty()).map_or(":", String::as_str);
        given = listed.split(separator).map(str::to_string).collect();
    }
    let project_directory = project_directory(options);
    if !given.is_empty() {
        let files: Vec<PathBuf> = given
            .iter()
            .map(|file| match file.as_str() {
                "-" => PathBuf::from("-"),
                remote if is_remote(options, remote) => PathBuf::from(remote),
                file => super::paths::cleaned(&options.directory.join(file)),
            })
            .collect();
        let beside = beside_first(options, &given);
        return Ok(Located { directory: project_directory.unwrap_or(beside), files, ambiguous: None });
    }
    let start = project_directory.clone().unwrap_or_else(|| options.directory.clone());
    for directory in start.ancestors() {
        let there =
            |names: &[&'static str]| names.iter().copied().filter(|name| directory.join(name).is_file()).collect::<Vec<_>>();
        let (found, overrides) = (there(&NAMES), there(&OVERRIDES));
        let Some(first) = found.first() else { continue };
        let aside = found.iter().skip(1).chain(overrides.iter().skip(1)).copied().collect::<Vec<_>>();
        let used = [Some(*first), overrides.first().copied()].into_iter().flatten();
        let ambiguous = (!aside.is_empty()).then(|| {
            let used = used.clone().collect::<Vec<_>>().join(" and ");
            Diagnostic::about_all(format!(
                "of several Compose files in {}, these count: {used}; not {}",
                directory.display(),
                aside.join(", ")
            ))
            .help("name one with -f, or remove the others")
        });
        return Ok(Located {
            files: used.map(|name| directory.join(name)).collect(),
            directory: project_directory.unwrap_or_else(|| directory.to_path_buf()),
            ambiguous,
        });
    }
    Err(Diagnostic::global(format!("there is no Compose file in {} or any directory above it", start.display()))
        .help("create compose.yaml, or name the file with -f FILE"))
}

/// Whether a name is one of a file that is fetched.
pub fn is_remote(options: &LoadOptions, name: &str) -> bool {
    options.remote.as_ref().is_some_and(|remote| remote.is_remote(name))
}

/// Where the first of the files is; the working directory for one that is fetched, and for standard input alone.
pub fn beside_first(options: &LoadOptions, given: &[String]) -> PathBuf {
    let first = given.iter().find(|file| *file != "-").filter(|file| !is_remote(options, file));
    let path = first.map(|file| super::paths::cleaned(&options.directory.join(file)));
    path.and_then(|path| path.parent().map(Path::to_path_buf)).unwrap_or_else(|| options.directory.clone())
}

/// `--project-directory`, absolute.
pub fn project_directory(options: &LoadOptions) -> Option<PathBuf> {
    options.project_directory.as_ref().map(|directory| super::paths::cleaned(&options.directory.join(directory)))
}

/// Lower-case letters, digits, `-` and `_`, beginning with a letter or a digit: compose-spec, "Name top-level element".
pub fn is_project_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()) && name.chars().all(allowed)
}

/// A directory's name as a project's name: what cannot be part of it is left out.
pub fn sanitised(name: &str) -> String {
    let lower = name.to_lowercase();
    let kept: String = lower.chars().filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_')).collect();
    kept.trim_start_matches(['-', '_']).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_bounded_and_may_be_a_pipe() {
        assert_eq!(read_text(Path::new("/dev/zero")).expect_err("no end").kind(), io::ErrorKind::FileTooLarge);
        let (reader, mut writer) = io::pipe().expect("pipe");
        io::Write::write_all(&mut writer, b"A=1\n").expect("written");
        drop(writer);
        let path = format!("/dev/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader));
        assert_eq!(read_text(Path::new(&path)).expect("text"), "A=1\n");
        assert_eq!(text_of(&b"\xff"[..]).expect_err("no text").kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn names_are_sanitised_as_docker_compose_does() {
        for (name, expected) in [("My App", "myapp"), ("_x", "x"), ("a.b-c_d", "ab-c_d"), ("ÄÖ", ""), ("web2", "web2")] {
            assert_eq!(sanitised(name), expected);
        }
        assert!(is_project_name("a-b_1") && !is_project_name("A") && !is_project_name("-a") && !is_project_name(""));
    }
}
