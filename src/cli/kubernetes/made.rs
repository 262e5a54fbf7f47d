//! The project's objects, made for a cluster.

use super::read;
use crate::cli::{Failure, Global, project};
use crate::compose::{self, Loaded};
use crate::kubernetes::{self, Object, Options};

/// Loads the project as an export needs it: names and files of one machine do not matter.
///
/// # Errors
/// Everything that is wrong with the files.
pub fn load(global: &Global, services: &[String]) -> Result<Loaded, Failure> {
    let mut options = project::options(global);
    options.services = services.to_vec();
    options.skip.one_machine = true;
    options.skip.container_names = true;
    Ok(compose::load(&options)?)
}

/// Makes the objects and shows what could not be mapped.
///
/// # Errors
/// When something has no counterpart: all of it has been shown.
pub fn objects(loaded: &Loaded, mut options: Options) -> Result<Vec<Object>, Failure> {
    options.files = read::all(kubernetes::needed(&loaded.project));
    let exported = kubernetes::export(loaded, &options);
    project::show_warnings(&loaded.warnings, &loaded.sources);
    project::show_warnings(&exported.findings, &loaded.sources);
    if exported.is_refused() { Err(Failure::Code(1)) } else { Ok(exported.objects) }
}
