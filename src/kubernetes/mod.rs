//! A loaded project as Kubernetes objects. Pure: the caller reads files, writes files and shows findings.
//!
//! [`attributes`] says of every attribute of a Compose file what becomes of it. [`workload`] groups services into Pods and decides
//! their kinds; [`pod`] and [`container`] make the Pod, with a file for each group of attributes ([`env`], [`mounts`], [`probes`],
//! [`resources`], [`security`], [`hooks`], [`waits`], [`placement`]); [`controllers`] puts it into a Deployment, a Job, ...; [`services`] and [`policies`] are the
//! network. [`rules`] refuses what an API server would refuse, [`files`] writes the objects.
//!
//! On a cluster, [`live`] is what its API server says; [`ownership`] decides whose an object is and what is pruned, [`progress`] what a
//! roll-out lacks, [`pods`] why a Pod does not start, [`refusal`] what a refusal means, [`difference`] what `diff` shows.

pub mod attributes;
mod container;
mod context;
mod controllers;
pub mod difference;
mod env;
mod files;
mod hooks;
mod kompose;
mod labels;
mod limits;
pub mod live;
mod members;
mod mounts;
mod names;
mod object;
pub mod ownership;
mod placement;
mod pod;
pub mod pods;
mod policies;
mod probes;
pub mod progress;
mod quantity;
pub mod refusal;
mod resources;
mod rules;
mod security;
mod services;
mod sources;
mod version;
mod waits;
mod workload;

pub use container::{has_registry, unpushed};
pub use files::{Format, OutputFile, files, text};
pub use names::{dns as object_name, is_dns_label};
pub use object::{Object, SERVED, ServedKind};
pub use sources::{Content, Found, LARGEST, needed};
pub use version::Version;

use crate::compose::Loaded;
use crate::compose::diagnostic::{Diagnostic, Severity};
use context::Context;
use std::collections::BTreeMap;

/// What decides how objects are made, beside the project.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Written into every object; absent, `kubectl --namespace` decides.
    pub namespace: Option<String>,
    /// The oldest cluster that has to take the objects.
    pub version: Version,
    /// What the paths of [`needed`] are.
    pub files: BTreeMap<String, Found>,
}

/// The outcome of an export.
#[derive(Clone, Debug, Default)]
pub struct Exported {
    /// In the order of their files' names. Not to be used where an error is among the findings.
    pub objects: Vec<Object>,
    /// What could not be mapped, each with its place in the Compose file.
    pub findings: Vec<Diagnostic>,
}

impl Exported {
    pub fn is_refused(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity == Severity::Error)
    }
}

/// Reads the name of a namespace.
///
/// # Errors
/// A name that no namespace can have.
pub fn namespace(text: &str) -> Result<String, String> {
    match names::is_dns_label(text) {
        true => Ok(text.to_string()),
        false => Err("no namespace can have that name: it has lower-case letters, digits and `-`, and 63 at most".into()),
    }
}

/// Makes the objects of a project.
pub fn export(loaded: &Loaded, options: &Options) -> Exported {
    let context = Context::new(loaded, options);
    attributes::judge(&context);
    let workloads = workload::workloads(&context);
    let pods = workload::pods(&context, &workloads);
    let mut objects = Vec::new();
    mounts::claims(&context, &pods, &mut objects);
    for pod in pods.iter() {
        controllers::controllers(&context, pod, &pods, &mut objects);
    }
    services::services(&context, &pods, &mut objects);
    policies::policies(&context, &pods, &mut objects);
    objects.extend(context.take_shared());
    rules::judge(&context, &objects);
    objects.sort_by_cached_key(object::Made::file_stem);
    Exported { objects: objects.into_iter().map(|made| made.object).collect(), findings: context.into_findings() }
}
