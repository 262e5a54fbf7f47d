//! Devices of a service: `devices`, `gpus` and reserved ones.

use crate::compose::model::Service;
use crate::engine::record::DeviceSpec;

/// The devices of a service. CDI files of this host say what a vendor's device is.
pub(super) fn devices(name: &str, service: &Service) -> Result<Vec<DeviceSpec>, String> {
    let given = service.devices.iter().map(|device| DeviceSpec {
        source: device.source.clone(),
        target: device.target.clone().unwrap_or_else(|| device.source.clone()),
        permissions: device.permissions.clone().unwrap_or_else(|| "rwm".into()),
    });
    Ok(given.chain(requested_devices(name, service)?).collect())
}

/// The devices of `gpus` and `deploy.resources.reservations.devices`.
fn requested_devices(name: &str, service: &Service) -> Result<Vec<DeviceSpec>, String> {
    let reservations = service.deploy.as_ref().and_then(|d| d.resources.reservations.as_ref());
    let gpus = service.gpus.iter().map(|request| (true, request));
    let requests = gpus.chain(reservations.iter().flat_map(|r| &r.devices).map(|request| (false, request)));
    let mut found = Vec::new();
    for (is_gpu, request) in requests {
        let mut capabilities = request.capabilities.clone();
        if is_gpu && !capabilities.iter().any(|capability| capability == "gpu") {
            capabilities.push("gpu".into());
        }
        let driver = request.driver.as_deref().unwrap_or_default();
        let devices = crate::engine::launch::devices::requested(driver, &capabilities, &request.device_ids, request.count);
        found.extend(devices.map_err(|why| format!("`services.{name}` {why}"))?);
    }
    Ok(found)
}
