//! The specification of a service's container, shared namespaces and volumes included.

use super::convert::{self, Origin, SharedNamespaces};
use super::is_one_off;
use crate::compose::model::{NamespaceMode, Project};
use crate::engine::error::EngineError;
use crate::engine::record::{self, ContainerSpec};
use crate::engine::{Container, Engine};
use std::sync::Arc;

impl Engine {
    /// The specification of a service's container, with what it shares with others' containers.
    ///
    /// # Errors
    /// When one of those does not exist, or an attribute cannot be meant.
    pub(in crate::engine) fn service_spec(
        &self,
        project: &Project,
        service: &str,
        number: u32,
        origin: &Origin,
    ) -> Result<ContainerSpec, EngineError> {
        let definition = &project.services[service];
        let other = |what: &str, mode: &NamespaceMode| -> Result<Option<Arc<Container>>, EngineError> {
            let other = match mode {
                NamespaceMode::Container(name) => return self.containers.find(name).map(Some),
                NamespaceMode::Service(name) => name,
                NamespaceMode::Host | NamespaceMode::Named(_) => return Ok(None),
            };
            let mut containers = self.containers.of_project(&project.name).into_iter();
            let found = containers.find(|c| c.has_label(crate::labels::LABEL_SERVICE, other) && !is_one_off(c));
            found.map(Some).ok_or_else(|| {
                EngineError::Invalid(format!("the service `{service}` shares the {what} of `{other}`, which has no container"))
            })
        };
        let id = |what: &str, mode: &Option<NamespaceMode>| -> Result<Option<String>, EngineError> {
            let Some(mode) = mode else { return Ok(None) };
            Ok(other(what, mode)?.map(|container| container.id.clone()))
        };
        let shared = SharedNamespaces {
            network: id("network", &definition.network_mode)?,
            ipc: id("IPC namespace", &definition.ipc)?,
            pid: id("processes", &definition.pid)?,
        };
        let mut spec = convert::container(project, service, number, origin, shared).map_err(EngineError::Invalid)?;
        let unset = origin.proxies.iter().filter(|(name, _)| !definition.environment.contains_key(name));
        spec.env.extend(unset.map(|(name, value)| format!("{name}={value}")));
        for from in &definition.volumes_from {
            let (from, read_only) = record::volumes_from(from);
            let mode = match from.strip_prefix("container:") {
                Some(name) => NamespaceMode::Container(name.into()),
                None => NamespaceMode::Service(from.into()),
            };
            let Some(source) = other("volumes", &mode)? else { continue };
            spec.take_mounts_of(&source.record(), read_only);
        }
        Ok(spec)
    }
}
