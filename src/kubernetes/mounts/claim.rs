//! Named volumes as PersistentVolumeClaims.

use super::super::context::Context;
use super::super::labels::{self, metadata, of_project};
use super::super::object::Made;
use super::super::workload::Pods;
use super::super::{names, quantity};
use super::wanted;
use crate::compose::model::VolumeKind;
use k8s_openapi::api::core::v1::{
    EmptyDirVolumeSource, HostPathVolumeSource, NFSVolumeSource, PersistentVolumeClaim, PersistentVolumeClaimSpec,
    PersistentVolumeClaimVolumeSource, Volume, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;

/// The size of a volume that names none.
const SIZE: &str = "1Gi";

/// Who mounts a volume.
#[derive(Default)]
struct Use {
    pods: usize,
    is_many: bool,
    is_written: bool,
}

/// The claims of the project's volumes.
pub fn claims(context: &Context<'_>, pods: &Pods<'_, '_>, made: &mut Vec<Made>) {
    let mut uses: BTreeMap<String, Use> = BTreeMap::new();
    for pod in pods.iter() {
        let mut here: BTreeMap<String, bool> = BTreeMap::new();
        for wanted in pod.members.iter().flat_map(|member| wanted(context, member)) {
            if let (VolumeKind::Volume, Some(key)) = (wanted.volume.kind, wanted.volume.source) {
                *here.entry(key).or_default() |= !wanted.volume.read_only;
            }
        }
        for (key, writes) in here {
            let known = uses.entry(key).or_default();
            known.pods += 1;
            known.is_many |= pod.is_many();
            known.is_written |= writes;
        }
    }
    let mut names: BTreeMap<String, &str> = BTreeMap::new();
    for (key, volume) in &context.project().volumes {
        let Some(used) =
            uses.get(key.as_str()).filter(|_| !volume.external && source(context, key).persistent_volume_claim.is_some())
        else {
            continue;
        };
        let name = name(context, key);
        if let Some(other) = names.insert(name.clone(), key) {
            let message = format!("the volumes `{other}` and `{key}` would both be called `{name}` in Kubernetes");
            context.refuse(&["volumes", key], message, "give one of them another name");
        }
        let shared = used.pods > 1 || used.is_many;
        let mode = match (shared, used.is_written) {
            (false, _) => "ReadWriteOnce",
            (true, true) => "ReadWriteMany",
            (true, false) => "ReadOnlyMany",
        };
        if mode == "ReadWriteMany" {
            let message =
                format!("the volume `{key}` is written by several Pods: its class of storage has to allow that (ReadWriteMany)");
            let help = "name such a class by the volume's label `kompose.volume.storage-class-name`; disks of most clouds cannot, NFS and CephFS can";
            context.warn(&["volumes", key], message, help);
        }
        let claim = claim(context, &name, key, mode);
        made.push(Made::new(claim, context.place(&["volumes", key])));
    }
}

fn claim(context: &Context<'_>, name: &str, key: &str, mode: &str) -> PersistentVolumeClaim {
    let own = context.project().volumes.get(key).map(|volume| volume.labels.clone()).unwrap_or_default();
    let (mut of_claim, mut annotations) = (of_project(context), labels::Labels::new());
    of_claim.insert(labels::NAME.into(), names::label_value(name));
    labels::add(context, &["volumes", key, "labels"], &own, &mut of_claim, &mut annotations);
    let label = |label: &str| own.get(format!("kompose.volume.{label}").as_str());
    let size = Quantity(label("size").map_or(SIZE, String::as_str).trim().to_string());
    if quantity::value(&size).is_none_or(|size| size <= 0.0) {
        let message = format!("`{}` is no size of a volume", size.0);
        context.refuse(&["volumes", key, "labels", "kompose.volume.size"], message, "write a number with a unit, such as `10Gi`");
    }
    let selector =
        label("selector").map(|value| labels::label_selector([("io.kompose.service".to_string(), value.clone())].into()));
    PersistentVolumeClaim {
        metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
            annotations: labels::some(annotations),
            ..metadata(context, name, of_claim)
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec![mode.into()]),
            resources: Some(VolumeResourceRequirements { requests: Some([("storage".to_string(), size)].into()), limits: None }),
            storage_class_name: label("storage-class-name").cloned(),
            selector,
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    }
}

/// A claim for a directory of one service, which the label `kompose.volume.type: persistentVolumeClaim` asks for.
pub fn of_directory(context: &Context<'_>, source: &str, name: &str, size: Option<&str>, at: crate::compose::node::At) {
    let mut of_claim = of_project(context);
    of_claim.insert(labels::NAME.into(), name.into());
    let size = Quantity(size.unwrap_or(SIZE).to_string());
    let claim = PersistentVolumeClaim {
        metadata: metadata(context, name, of_claim),
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".into()]),
            resources: Some(VolumeResourceRequirements { requests: Some([("storage".to_string(), size)].into()), limits: None }),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    };
    context.share_of(Made::new(claim, at), source);
}

/// The name of a volume's claim: its own where the file gives it one, else its key.
fn name(context: &Context<'_>, key: &str) -> String {
    let project = context.project();
    let volume = project.volumes.get(key);
    let given = volume.map(|volume| volume.name.as_str()).filter(|name| !name.is_empty());
    let given = given.filter(|given| *given != format!("{}_{key}", project.name));
    if volume.is_some_and(|volume| volume.external) {
        let name = given.unwrap_or(key);
        context.refuse_external(&["volumes", key], name);
        return name.to_string();
    }
    given.map_or_else(|| names::dns(key), names::given)
}

/// A named volume as the volume of a Pod.
pub fn source(context: &Context<'_>, key: &str) -> Volume {
    let claim = PersistentVolumeClaimVolumeSource { claim_name: name(context, key), read_only: None };
    let of_claim = Volume { persistent_volume_claim: Some(claim), ..Volume::default() };
    let Some(volume) = context.project().volumes.get(key) else { return of_claim };
    let option = |name: &str| volume.driver_opts.get(name).map(String::as_str).unwrap_or_default();
    let path = ["volumes", key, "driver_opts"];
    if volume.driver.as_deref().is_some_and(|driver| !matches!(driver, "" | "local")) {
        let help = "name a class of storage by the volume's label `kompose.volume.storage-class-name`";
        context.warn(
            &["volumes", key, "driver"],
            "a driver of volumes is Docker's: Kubernetes has classes of storage instead",
            help,
        );
        return of_claim;
    }
    let device = option("device");
    match option("type") {
        "nfs" | "nfs4" => {
            let server = option("o").split(',').find_map(|word| word.strip_prefix("addr=")).unwrap_or_default();
            if server.is_empty() {
                context.refuse(&path, format!("the NFS volume `{key}` names no server"), "write `o: addr=SERVER`");
            }
            let nfs = NFSVolumeSource { server: server.into(), path: device.trim_start_matches(':').into(), read_only: None };
            Volume { nfs: Some(nfs), ..Volume::default() }
        }
        "tmpfs" => {
            let size = option("o").split(',').find_map(|word| word.strip_prefix("size=")).and_then(crate::units::bytes);
            let size_limit = size.map(crate::units::ByteSize).and_then(quantity::bytes);
            context.warn(&path, format!("the volume `{key}` is in memory: in Kubernetes each Pod has one of its own"), "");
            let is_known = |word: &&str| word.is_empty() || word.split_once('=').is_some_and(|(name, _)| name == "size");
            let lost: Vec<&str> =
                option("o").split(',').filter(|word| !is_known(word) || size.is_none() && !word.is_empty()).collect();
            if !lost.is_empty() {
                let message =
                    format!("`{}` of a volume in memory has no counterpart in Kubernetes and is left out", lost.join(","));
                context.warn(&path, message, "");
            }
            let source = EmptyDirVolumeSource { medium: Some("Memory".into()), size_limit };
            Volume { empty_dir: Some(source), ..Volume::default() }
        }
        _ if option("o").split(',').any(|word| matches!(word, "bind" | "rbind")) => {
            let message = format!(
                "the volume `{key}` is the directory {device} of this machine: in a cluster it is that of the node on which the Pod runs"
            );
            context.warn(&path, message, "leave out `driver_opts` for a PersistentVolumeClaim");
            let host_path = HostPathVolumeSource { path: device.into(), type_: None };
            Volume { host_path: Some(host_path), ..Volume::default() }
        }
        kind => {
            if !volume.driver_opts.is_empty() {
                let message = format!(
                    "a volume of the type `{kind}` is mounted by Docker's driver: a PersistentVolumeClaim takes its place"
                );
                context.warn(&path, message, "`type: nfs` is mounted as it is");
            }
            of_claim
        }
    }
}
