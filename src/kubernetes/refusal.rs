//! What an API server's refusal means.
//!
//! The shape is `meta/v1 Status`: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/status/

use serde::Deserialize;
use std::collections::BTreeMap;

/// `meta/v1 Status` of an answer that is an error.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct RefusalStatus {
    /// The HTTP status.
    pub code: u16,
    /// One word: `Conflict`, `Invalid`, `Forbidden`.
    pub reason: String,
    pub message: String,
    pub details: RefusalDetails,
}

/// `StatusDetails`: the reasons one by one, and when to try again (seconds; 0 is not said).
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RefusalDetails {
    pub causes: Vec<RefusalCause>,
    pub retry_after_seconds: u64,
}

/// `StatusCause`: one reason, and the field that it is about.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct RefusalCause {
    /// One word: `FieldManagerConflict`, `FieldValueInvalid`.
    pub reason: String,
    pub message: String,
    pub field: String,
}

/// The most of a server's text that is shown, in characters, and the most causes.
const TEXT: usize = 1500;
const CAUSES: usize = 12;

impl RefusalStatus {
    /// With the texts in the form that `shown` gives them, and no longer than somebody reads.
    pub fn bounded(mut self, shown: impl Fn(&str) -> String) -> Self {
        let bound = |text: &mut String| {
            let short: String = text.chars().take(TEXT).collect();
            *text = shown(&short) + if short.len() < text.len() { " ..." } else { "" };
        };
        bound(&mut self.reason);
        bound(&mut self.message);
        self.details.causes.truncate(CAUSES);
        for cause in &mut self.details.causes {
            [&mut cause.reason, &mut cause.message, &mut cause.field].into_iter().for_each(bound);
        }
        self
    }

    /// Whether others own fields that an apply would change.
    pub fn is_field_conflict(&self) -> bool {
        self.code == 409 && self.details.causes.iter().any(|cause| cause.reason == "FieldManagerConflict")
    }

    /// Whether the object would have to be made anew for what has changed.
    pub fn is_immutable(&self) -> bool {
        let says = |text: &str| text.contains("immutable") || text.contains("are forbidden") || text.contains("may not change");
        self.code == 422 && (says(&self.message) || self.details.causes.iter().any(|cause| says(&cause.message)))
    }

    /// Why it has refused, and what to do. `kind` is that of the object.
    pub fn explain(&self, kind: &str) -> String {
        if self.is_field_conflict() {
            return self.conflict();
        }
        let what = if self.message.is_empty() { format!("status {} {}", self.code, self.reason) } else { self.message.clone() };
        // The message of an `Invalid` has its causes already, where there is one.
        let more = self.details.causes.len() > 1 && self.code == 422;
        let causes = self.details.causes.iter().filter(|_| more).map(|cause| format!("\n  {}: {}", cause.field, cause.message));
        let advice = self.advice(kind);
        let advice = if advice.is_empty() { String::new() } else { format!("\n{advice}") };
        format!("{what}{}{advice}", causes.collect::<String>())
    }

    /// Who owns the fields.
    fn conflict(&self) -> String {
        let mut owners: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for cause in self.details.causes.iter().filter(|cause| cause.reason == "FieldManagerConflict") {
            // `conflict with "kubectl-edit" using apps/v1 at TIME`
            let owner = cause.message.split('"').nth(1).unwrap_or("somebody");
            owners.entry(owner).or_default().push(&cause.field);
        }
        let list = owners.iter().map(|(owner, fields)| format!("`{owner}` has set {}", fields.join(", ")));
        format!(
            "others own what it would change: {}\nleave the fields to them and out of the Compose file, or take them over: --force-conflicts",
            list.collect::<Vec<_>>().join("; ")
        )
    }

    fn advice(&self, kind: &str) -> String {
        match self.code {
            401 => "the cluster does not know the user of this context: renew its certificate or token".into(),
            403 if self.message.contains("quota") => "the namespace's quota is used up: `kubectl describe quota` shows it".into(),
            403 => format!("the user of this context needs the verbs get, list, patch and delete for {kind}"),
            422 if self.is_immutable() && kind == "PersistentVolumeClaim" => {
                "a claim can only grow, where its class allows that: name another volume, or delete the claim with its data"
                    .into()
            }
            422 if self.is_immutable() => {
                format!("Kubernetes does not change this of a {kind}: delete it with `kubectl delete`, and apply again")
            }
            _ => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status(json: serde_json::Value) -> RefusalStatus {
        serde_json::from_value(json).expect("a status")
    }

    #[test]
    fn conflicts_name_the_owners() {
        let conflict = status(
            json!({"code": 409, "reason": "Conflict", "message": "Apply failed with 2 conflicts", "details": {"causes": [
            {"reason": "FieldManagerConflict", "message": "conflict with \"kubectl-edit\" using apps/v1", "field": ".spec.replicas"},
            {"reason": "FieldManagerConflict", "message": "conflict with \"kubectl-edit\" using apps/v1", "field": ".spec.paused"}]}}),
        );
        let text = conflict.explain("Deployment");
        assert!(text.contains("`kubectl-edit` has set .spec.replicas, .spec.paused"), "{text}");
        assert!(text.contains("--force-conflicts"), "{text}");
        assert!(!status(json!({"code": 409, "reason": "AlreadyExists"})).is_field_conflict());
    }

    #[test]
    fn what_is_immutable() {
        let job = status(
            json!({"code": 422, "message": "Job.batch \"m\" is invalid: spec.template: Invalid value: field is immutable"}),
        );
        assert!(job.is_immutable());
        let set = status(json!({"code": 422, "details": {"causes": [
            {"message": "Forbidden: updates to statefulset spec for fields other than 'replicas' are forbidden"}]}}));
        assert!(set.is_immutable());
        assert!(!status(json!({"code": 422, "message": "spec.ports[0].port: Required value"})).is_immutable());
    }

    #[test]
    fn texts_have_an_end() {
        let long = status(json!({"code": 500, "message": "x".repeat(1 << 20), "details": {"causes": vec![json!({}); 1000]}}));
        let bounded = long.bounded(|text| text.replace('x', "y"));
        assert_eq!(bounded.message.len(), TEXT + 4);
        assert!(bounded.message.starts_with("yyy") && bounded.message.ends_with(" ..."));
        assert_eq!(bounded.details.causes.len(), CAUSES);
    }
}
