//! Whose an object on the cluster is, and what of a project is pruned or taken down.
//!
//! An object is the project's when its labels say so and wharf has applied it: labels alone are copied by controllers, by `kubectl apply` of an
//! export, and by whoever likes them.

use super::labels::{INSTANCE, MANAGED_BY};
use super::live::LiveMeta;
use super::names;
use super::object::ServedKind;
use std::collections::BTreeSet;

/// The name by which the API server knows who has set a field.
pub const MANAGER: &str = "wharf";

/// To whom an object of the cluster belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Belongs {
    /// To this project, by wharf.
    Ours,
    /// To this project by its labels; these have made it, and wharf has not.
    LabelledOnly(String),
    /// To another project of wharf's.
    OtherProject(String),
    /// To somebody who does not know wharf.
    Stranger(String),
}

/// The value of the label that every object of a project has.
pub fn instance(project: &str) -> String {
    names::label_value(project)
}

/// The selector of a project's objects.
pub fn selector(project: &str) -> String {
    format!("{INSTANCE}={},{MANAGED_BY}={MANAGER}", instance(project))
}

/// The selector of a project's Pods, whoever has made them.
pub fn pod_selector(project: &str) -> String {
    format!("{INSTANCE}={}", instance(project))
}

pub fn belongs(meta: &LiveMeta, project: &str) -> Belongs {
    let is_applied = meta.managed_fields.iter().any(|owner| owner.manager == MANAGER && owner.operation == "Apply");
    let label = |key: &str| meta.labels.get(key).map(String::as_str).unwrap_or_default();
    let is_labelled = label(MANAGED_BY) == MANAGER;
    match (is_labelled, label(INSTANCE)) {
        (true, other) if is_applied && other == instance(project) => Belongs::Ours,
        (true, other) if is_applied => Belongs::OtherProject(other.to_string()),
        (true, other) if other == instance(project) => Belongs::LabelledOnly(managers(meta)),
        _ => Belongs::Stranger(managers(meta)),
    }
}

/// Who has set fields of an object, but for the cluster's own controllers.
fn managers(meta: &LiveMeta) -> String {
    let by_label = meta.labels.get(MANAGED_BY).filter(|label| *label != MANAGER);
    if let Some(label) = by_label {
        return label.clone();
    }
    let own = |manager: &str| manager.starts_with("kube-") || manager == "kubelet";
    let all: BTreeSet<&str> = meta.managed_fields.iter().map(|owner| owner.manager.as_str()).filter(|name| !own(name)).collect();
    if all.is_empty() { "somebody else".into() } else { all.into_iter().collect::<Vec<_>>().join(", ") }
}

/// An object that a list by label has found.
#[derive(Clone, Debug, PartialEq)]
pub struct FoundObject {
    pub served: ServedKind,
    pub meta: LiveMeta,
}

/// What becomes of the objects that the project no longer has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PrunePlan {
    pub deleted: Vec<FoundObject>,
    /// Claims: their data would go with them.
    pub kept: Vec<FoundObject>,
    /// Objects with the project's labels that wharf has not applied, with who has.
    pub foreign: Vec<(FoundObject, String)>,
}

/// Decides about objects with the project's labels. `desired` are kinds and names; for `down` it is empty. Claims go with `volumes` alone.
pub fn prune(found: Vec<FoundObject>, desired: &BTreeSet<(&str, &str)>, project: &str, volumes: bool) -> PrunePlan {
    let mut plan = PrunePlan::default();
    for object in found {
        let is_desired = desired.contains(&(object.served.kind, object.meta.name.as_str()));
        // What a controller has made goes with what it was made for.
        if is_desired || object.meta.deletion_timestamp.is_some() || !object.meta.owner_references.is_empty() {
            continue;
        }
        match belongs(&object.meta, project) {
            Belongs::Ours if object.served.kind == "PersistentVolumeClaim" && !volumes => plan.kept.push(object),
            Belongs::Ours => plan.deleted.push(object),
            Belongs::LabelledOnly(who) => plan.foreign.push((object, who)),
            Belongs::OtherProject(_) | Belongs::Stranger(_) => {}
        }
    }
    // Who makes Pods and who reaches them goes before what they read.
    plan.deleted.sort_by_key(|object| std::cmp::Reverse(object.served.rank()));
    plan
}

#[cfg(test)]
mod tests {
    use super::super::live::{FieldOwner, LiveOwner};
    use super::super::object::SERVED;
    use super::*;

    fn meta(labels: &[(&str, &str)], managers: &[(&str, &str)]) -> LiveMeta {
        LiveMeta {
            name: "web".into(),
            labels: labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
            managed_fields: managers
                .iter()
                .map(|(manager, operation)| FieldOwner {
                    manager: (*manager).into(),
                    operation: (*operation).into(),
                    subresource: String::new(),
                })
                .collect(),
            ..LiveMeta::default()
        }
    }

    const OURS: &[(&str, &str)] = &[(INSTANCE, "shop"), (MANAGED_BY, "wharf")];
    const APPLIED: &[(&str, &str)] = &[("wharf", "Apply"), ("kube-controller-manager", "Update")];

    #[test]
    fn the_label_alone_makes_no_owner() {
        type Pairs = &'static [(&'static str, &'static str)];
        let table: [(Pairs, Pairs, Belongs); 7] = [
            (OURS, APPLIED, Belongs::Ours),
            (OURS, &[("kubectl", "Apply")], Belongs::LabelledOnly("kubectl".into())),
            // A client may call itself so for an update; it is no apply of ours.
            (OURS, &[("wharf", "Update")], Belongs::LabelledOnly("wharf".into())),
            (&[(INSTANCE, "other"), (MANAGED_BY, "wharf")], APPLIED, Belongs::OtherProject("other".into())),
            (&[(INSTANCE, "shop"), (MANAGED_BY, "Helm")], &[("helm", "Update")], Belongs::Stranger("Helm".into())),
            (&[], &[("kubectl-create", "Update")], Belongs::Stranger("kubectl-create".into())),
            (&[], &[], Belongs::Stranger("somebody else".into())),
        ];
        for (labels, managers, expected) in table {
            assert_eq!(belongs(&meta(labels, managers), "shop"), expected, "{labels:?} {managers:?}");
        }
    }

    #[test]
    fn what_is_pruned() {
        let served = |kind: &str| *SERVED.iter().find(|served| served.kind == kind).expect("a kind");
        let found = |kind: &str, name: &str, managers: &[(&str, &str)]| FoundObject {
            served: served(kind),
            meta: LiveMeta { name: name.into(), ..meta(OURS, managers) },
        };
        let mut made = found("Job", "nightly-123", APPLIED);
        made.meta.owner_references = vec![LiveOwner { kind: "CronJob".into(), name: "nightly".into(), uid: "1".into() }];
        let mut going = found("Deployment", "going", APPLIED);
        going.meta.deletion_timestamp = Some("2026-01-01T00:00:00Z".into());
        let all = vec![
            found("ConfigMap", "old", APPLIED),
            found("Deployment", "web", APPLIED),
            found("Deployment", "old", APPLIED),
            found("PersistentVolumeClaim", "data", APPLIED),
            found("Secret", "theirs", &[("kubectl", "Apply")]),
            made,
            going,
        ];
        let desired = BTreeSet::from([("Deployment", "web")]);
        let plan = prune(all.clone(), &desired, "shop", false);
        let names = |list: &[FoundObject]| list.iter().map(|object| object.meta.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&plan.deleted), ["old", "old"]);
        assert_eq!(plan.deleted[0].served.kind, "Deployment", "before what its Pods read");
        assert_eq!(names(&plan.kept), ["data"]);
        assert_eq!(plan.foreign.len(), 1);
        let down = prune(all, &BTreeSet::new(), "shop", true);
        assert_eq!((down.deleted.len(), down.kept.len()), (4, 0));
    }
}
