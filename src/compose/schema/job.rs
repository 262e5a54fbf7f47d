//! A job: a service that runs to its end, without what keeps a service running, and with what starts it.

use super::T::{Bool, Duration, Many, Obj, OneOf, Str};
use super::service::SERVICE_KEYS;
use super::{By, Key, Shape, Short, T, k};
use crate::compose::canonical;

pub const JOB: T = Obj(&KEYS);

/// Attributes of services that a job does not have: they are about containers that stay, or about more than one.
const OF_SERVICES: [&str; 14] = [
    "attach",
    "container_name",
    "deploy",
    "develop",
    "extends",
    "external_links",
    "links",
    "post_start",
    "pre_start",
    "pre_stop",
    "provider",
    "restart",
    "scale",
    "x-update",
];

/// Attributes that services do not have.
const OWN: [Key; 2] = [
    k("triggers", Obj(&[k("manual", Bool).keep(), k("schedule", Many(&SCHEDULE, By::Append))])).required(),
    k("x-timeout", Duration),
];

const SCHEDULE: T = T::Short(&Short {
    long: Obj(&[
        k("concurrency", OneOf(&["forbid", "queue"])),
        k("cron", Str).required(),
        k("missed_fires", OneOf(&["one", "skip"])),
        k("timezone", Str),
    ]),
    accepts: &[Shape::Str],
    expected: "five fields such as `\"0 3 * * *\"`, or a mapping with `cron`",
    expand: canonical::schedule,
});

/// Whether an attribute is one that services have and jobs do not.
pub fn is_of_services_alone(name: &str) -> bool {
    OF_SERVICES.contains(&name)
}

const KEYS: [Key; SERVICE_KEYS.len() - OF_SERVICES.len() + OWN.len()] = {
    let mut keys = [OWN[0]; SERVICE_KEYS.len() - OF_SERVICES.len() + OWN.len()];
    let (mut own, mut service, mut n) = (0, 0, 0);
    while n < keys.len() {
        if service < SERVICE_KEYS.len() && has(SERVICE_KEYS[service].name) {
            service += 1;
        } else if service == SERVICE_KEYS.len() || (own < OWN.len() && is_before(OWN[own].name, SERVICE_KEYS[service].name)) {
            keys[n] = OWN[own];
            (own, n) = (own + 1, n + 1);
        } else {
            keys[n] = SERVICE_KEYS[service];
            (service, n) = (service + 1, n + 1);
        }
    }
    keys
};

/// [`is_of_services_alone`], for constants.
const fn has(name: &str) -> bool {
    let mut n = 0;
    while n < OF_SERVICES.len() {
        if !is_before(OF_SERVICES[n], name) && !is_before(name, OF_SERVICES[n]) {
            return true;
        }
        n += 1;
    }
    false
}

const fn is_before(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let mut n = 0;
    while n < one.len() && n < other.len() {
        if one[n] != other[n] {
            return one[n] < other[n];
        }
        n += 1;
    }
    one.len() < other.len()
}
