//! Limits and reservations of CPUs, memory, disk and GPUs.

use super::context::Context;
use super::labels::some;
use super::quantity;
use super::workload::Workload;
use crate::compose::model::DeviceReservation;
use crate::units;
use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;

type Quantities = BTreeMap<String, Quantity>;

pub fn resources(context: &Context<'_>, workload: &Workload<'_>) -> Option<ResourceRequirements> {
    let service = workload.service;
    let deploy = service.deploy.as_ref().map(|deploy| deploy.resources.clone()).unwrap_or_default();
    let (of_limits, of_reservations) = (deploy.limits.unwrap_or_default(), deploy.reservations.unwrap_or_default());
    let mut limits = Quantities::new();
    let mut requests = Quantities::new();
    // A quota is so many microseconds of each period, which is 100 ms where nothing else is said.
    let quota = service
        .cpu_quota
        .filter(|quota| *quota > 0)
        .map(|quota| quota as f64 / service.cpu_period.filter(|period| *period > 0).unwrap_or(100_000) as f64);
    let cpus = of_limits.cpus.filter(|cpus| *cpus > 0.0).or(service.cpus).or(quota);
    put(&mut limits, "cpu", cpus.and_then(quantity::cpus));
    put(&mut limits, "memory", of_limits.memory.or(service.mem_limit).and_then(quantity::bytes));
    // The kubelet gives a CPU 1024 shares.
    let shares = service.cpu_shares.filter(|shares| *shares > 0).map(|shares| shares as f64 / 1024.0);
    put(&mut requests, "cpu", of_reservations.cpus.filter(|cpus| *cpus > 0.0).or(shares).and_then(quantity::cpus));
    put(&mut requests, "memory", of_reservations.memory.or(service.mem_reservation).and_then(quantity::bytes));
    if let Some(size) = service.storage_opt.get("size").and_then(|size| units::bytes(size)) {
        put(&mut limits, "ephemeral-storage", quantity::bytes(units::ByteSize(size)));
    }
    for (name, quantities) in [("ephemeral-storage.limit", &mut limits), ("ephemeral-storage.request", &mut requests)] {
        if let Some(text) = workload.label(name) {
            put(quantities, "ephemeral-storage", Some(Quantity(text.into())));
        }
    }
    // A weight of the CPU is no promise: what is limited to less is not refused for it.
    if let (Some(limit), Some(request), true) = (limits.get("cpu"), requests.get("cpu"), of_reservations.cpus.is_none())
        && quantity::value(limit) < quantity::value(request)
    {
        let limit = limit.clone();
        requests.insert("cpu".into(), limit);
    }
    gpus(context, workload, &of_reservations.devices, &mut limits);
    if limits.is_empty() && requests.is_empty() {
        return None;
    }
    Some(ResourceRequirements { limits: some(limits), requests: some(requests), claims: None })
}

fn put(quantities: &mut Quantities, name: &str, quantity: Option<Quantity>) {
    if let Some(quantity) = quantity {
        quantities.insert(name.into(), quantity);
    }
}

/// A device of a vendor is counted by its device plugin.
fn gpus(context: &Context<'_>, workload: &Workload<'_>, reserved: &[DeviceReservation], limits: &mut Quantities) {
    let of_service =
        workload.service.gpus.iter().enumerate().map(|(n, request)| (vec!["gpus".to_string(), n.to_string()], request));
    let of_deploy = reserved.iter().enumerate().map(|(n, request)| {
        let path =
            ["deploy", "resources", "reservations", "devices"].map(String::from).into_iter().chain([n.to_string()]).collect();
        (path, request)
    });
    let mut counts: BTreeMap<String, i64> = BTreeMap::new();
    for (path, request) in of_service.chain(of_deploy) {
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let path = workload.path(&path);
        let vendor = match request.driver.as_deref() {
            None | Some("" | "nvidia") => "nvidia.com/gpu",
            Some("amd" | "amdgpu") => "amd.com/gpu",
            Some("intel") => "gpu.intel.com/i915",
            // A name of CDI: `vendor.com/class`.
            Some(other) if other.contains('/') => other,
            Some(other) => {
                context.warn(&path, format!("no device plugin is known for the driver `{other}`: the devices are left out"), "");
                continue;
            }
        };
        if !request.device_ids.is_empty() {
            let message = "which of a node's devices it gets is the device plugin's choice: `device_ids` are counted, not named";
            context.warn(&path, message, "");
        }
        if !request.options.is_empty() {
            context.warn(&path, "options of devices have no counterpart in Kubernetes and are left out", "");
        }
        let count = match request.count {
            Some(count) if count > 0 => count,
            _ if !request.device_ids.is_empty() => i64::try_from(request.device_ids.len()).unwrap_or(1),
            _ => {
                let message = "Kubernetes has no word for all of a node's devices: one is asked for";
                context.warn(&path, message, "give their number as `count`");
                1
            }
        };
        *counts.entry(vendor.into()).or_default() += count;
    }
    for (vendor, count) in counts {
        put(limits, &vendor, Some(Quantity(count.to_string())));
    }
}
