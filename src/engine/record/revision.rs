//! Revisions of services: what their containers were made of, kept for `rollback` and `history`.

use super::digest_or_empty;
use crate::compose::model::Service;
use crate::image::Digest;
use crate::plan::UpOptions;
use indexmap::IndexMap;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Revisions that are kept of a service.
const KEPT: usize = 5;

/// The revisions of a project's services, the oldest first.
pub type Revisions = IndexMap<String, Vec<Revision>>;

/// A definition and an image that a service's containers were made of, or were to be.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Revision {
    pub number: u32,
    pub at: Timestamp,
    pub cause: String,
    pub config_hash: String,
    /// Journals have an empty text for none, and those of earlier versions may have a text that is no digest.
    #[serde(default, serialize_with = "digest_or_empty::serialize", deserialize_with = "digest_or_empty::lenient")]
    pub image_id: Option<Digest>,
    pub service: Service,
    /// Why its containers were not good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// Rollbacks of a project's services that have been begun, or are about to be: an engine that finds them ends them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PendingRollbacks {
    /// The revision of each service.
    pub to: IndexMap<String, u32>,
    /// Of the `up` whose update has failed.
    pub options: UpOptions,
}

impl Revision {
    fn is_like(&self, other: &Revision) -> bool {
        self.config_hash == other.config_hash && self.image_id == other.image_id
    }

    /// The attributes of the definition that differ, and `image` where the same name is another image.
    pub fn changes(&self, earlier: &Revision) -> Vec<String> {
        let json = |revision: &Revision| serde_json::to_value(&revision.service).unwrap_or_default();
        let (now, before) = (json(self), json(earlier));
        let keys = now.as_object().into_iter().flat_map(|map| map.keys());
        let mut changes: Vec<String> = keys.filter(|key| now[key.as_str()] != before[key.as_str()]).cloned().collect();
        if self.image_id != earlier.image_id && !changes.iter().any(|key| key == "image") {
            changes.push("image".into());
        }
        changes
    }
}

/// Adds a revision, with its number; the last one again is none.
pub fn note(revisions: &mut Vec<Revision>, mut new: Revision) {
    if revisions.last().is_some_and(|last| last.is_like(&new) && last.failed.is_some() == new.failed.is_some()) {
        return;
    }
    new.number = revisions.last().map_or(1, |last| last.number + 1);
    revisions.push(new);
    let beyond = revisions.len().saturating_sub(KEPT);
    revisions.drain(..beyond);
}

/// The revision that a failed update of another definition and image goes back to, before that is noted.
pub fn before_failure<'a>(revisions: &'a [Revision], config_hash: &str, image_id: Option<&Digest>) -> Option<&'a Revision> {
    let is_other = |revision: &&Revision| revision.config_hash != config_hash || revision.image_id.as_ref() != image_id;
    revisions.iter().rev().find(|revision| revision.failed.is_none() && is_other(revision))
}

/// The revision to go back to: that of a number, else the last good one that is not like the newest.
///
/// # Errors
/// The revisions that there are instead.
pub fn target(service: &str, revisions: &[Revision], number: Option<u32>) -> Result<Revision, String> {
    let newest = revisions.last().ok_or_else(|| format!("the service {service} has no revisions yet: `wharf up` makes them"))?;
    let found = match number {
        Some(number) => revisions.iter().find(|revision| revision.number == number),
        None => revisions.iter().rev().find(|revision| revision.failed.is_none() && !revision.is_like(newest)),
    };
    found.cloned().ok_or_else(|| {
        let numbers: Vec<String> = revisions.iter().map(|revision| revision.number.to_string()).collect();
        let wanted = number.map_or_else(|| "earlier revision that was good".to_string(), |number| format!("revision {number}"));
        format!("the service {service} has no {wanted}; it has {} (`wharf history {service}`)", numbers.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revision(hash: &str, image: &str, failed: bool) -> Revision {
        Revision {
            number: 0,
            at: Timestamp::UNIX_EPOCH,
            cause: String::new(),
            config_hash: hash.into(),
            image_id: Some(Digest::of(image.as_bytes())),
            service: Service::default(),
            failed: failed.then(|| "it exited".into()),
        }
    }

    #[test]
    fn five_are_kept_and_the_last_good_one_is_gone_back_to() {
        let mut revisions = Vec::new();
        assert!(target("a", &revisions, None).is_err());
        for (hash, image, failed) in [
            ("1", "x", false),
            ("1", "x", false),
            ("1", "y", false),
            ("2", "y", true),
            ("2", "y", true),
            ("2", "y", false),
            ("3", "z", true),
        ] {
            note(&mut revisions, revision(hash, image, failed));
        }
        let numbers = |revisions: &[Revision]| revisions.iter().map(|revision| revision.number).collect::<Vec<_>>();
        assert_eq!(numbers(&revisions), [1, 2, 3, 4, 5]);
        assert_eq!(target("a", &revisions, None).map(|revision| revision.number), Ok(4));
        assert_eq!(target("a", &revisions, Some(2)).map(|revision| revision.image_id), Ok(Some(Digest::of(b"y"))));
        note(&mut revisions, revision("1", "x", false));
        assert_eq!(numbers(&revisions), [2, 3, 4, 5, 6]);
        assert!(target("a", &revisions, Some(1)).is_err_and(|why| why.contains("2, 3, 4, 5, 6")));
        assert_eq!(target("a", &revisions, None).map(|revision| revision.number), Ok(4));
    }

    /// Journals of earlier versions: the image's id was a text of any form.
    #[test]
    fn image_ids_that_are_no_digests_are_read_as_none() {
        let id = Digest::of(b"x").to_string();
        for (text, read, written) in [(id.as_str(), Some(Digest::of(b"x")), id.as_str()), ("", None, ""), ("busybox", None, "")] {
            let journaled = serde_json::json!({ "a": [{
                "number": 3, "at": "2026-01-01T00:00:00Z", "cause": "up", "config_hash": "h", "image_id": text, "service": {},
            }]});
            let revisions: Revisions = serde_json::from_value(journaled).expect("the revisions of an earlier version");
            assert_eq!((revisions["a"][0].number, &revisions["a"][0].image_id), (3, &read), "{text}");
            assert_eq!(serde_json::to_value(&revisions).expect("JSON")["a"][0]["image_id"], written, "{text}");
        }
    }
}
