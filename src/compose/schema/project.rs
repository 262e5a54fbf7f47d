//! The top of a Compose file: networks, volumes, configs, secrets, models, include.

use super::T::{Bool, Int, List, Many, Map, Mapping, Maybe, Obj, Options, Str, Text};
use super::{By, JOB, Key, SERVICE, Shape, Short, T, k};
use crate::compose::canonical;

pub const PROJECT: T = Obj(&[
    k("configs", Map(&CONFIG)),
    k("include", List(&INCLUDE, By::Append)),
    k("jobs", Map(&JOB)),
    k("models", Map(&MODEL)),
    k("name", Str),
    k("networks", Map(&NETWORK)),
    k("secrets", Map(&SECRET)),
    k("services", Map(&SERVICE)),
    k("version", Text),
    k("volumes", Map(&VOLUME)),
]);

pub const INCLUDE: T = T::Short(&Short {
    long: Obj(&[
        k("env_file", Many(&Str, By::Append)),
        k("path", Many(&Str, By::Append)).required(),
        k("project_directory", Str),
    ]),
    accepts: &[Shape::Str],
    expected: "a path such as `- ../db/compose.yaml`, or a mapping with `path`",
    expand: canonical::include,
});

/// `external: true`, or the older `external: {name: NAME}`.
const EXTERNAL: T =
    T::Short(&Short { long: Bool, accepts: &[Shape::Map], expected: "`true` or `false`", expand: canonical::unchanged });

const NETWORK: T = Maybe(&T::Short(&Short {
    long: Obj(NETWORK_KEYS),
    accepts: &[],
    expected: "a mapping, or nothing for the defaults",
    expand: canonical::resource,
}));

const NETWORK_KEYS: &[Key] = &[
    k("attachable", Bool).elsewhere(),
    k("driver", Str),
    k("driver_opts", Options),
    k("enable_ipv4", Bool).keep(),
    k("enable_ipv6", Bool).keep(),
    k("external", EXTERNAL),
    k("internal", Bool),
    k(
        "ipam",
        Obj(&[
            k(
                "config",
                List(
                    &Obj(&[k("aux_addresses", Options), k("gateway", Str), k("ip_range", Str), k("subnet", Str)]),
                    By::Field("subnet"),
                ),
            ),
            k("driver", Str).elsewhere(),
            k("options", Options).elsewhere(),
        ]),
    )
    .always(),
    k("labels", Mapping),
    k("name", Str),
];

const VOLUME: T = Maybe(&T::Short(&Short {
    long: Obj(&[k("driver", Str), k("driver_opts", Options), k("external", EXTERNAL), k("labels", Mapping), k("name", Str)]),
    accepts: &[],
    expected: "a mapping, or nothing for the defaults",
    expand: canonical::resource,
}));

const CONFIG: T = T::Short(&Short {
    long: Obj(&[
        k("content", Str),
        k("environment", Str),
        k("external", EXTERNAL),
        k("file", Str),
        k("labels", Mapping).elsewhere(),
        k("name", Str),
        k("template_driver", Str).elsewhere(),
    ]),
    accepts: &[],
    expected: "a mapping with `file`, `environment` or `content`",
    expand: canonical::resource,
});

const SECRET: T = T::Short(&Short {
    long: Obj(&[
        k("content", Str),
        k("driver", Str).elsewhere(),
        k("driver_opts", Options).elsewhere(),
        k("environment", Str),
        k("external", EXTERNAL),
        k("file", Str),
        k("labels", Mapping).elsewhere(),
        k("name", Str),
        k("template_driver", Str).elsewhere(),
    ]),
    accepts: &[],
    expected: "a mapping with `file` or `environment`",
    expand: canonical::resource,
});

const MODEL: T = Obj(&[
    k("context_size", Int),
    k("model", Str).required(),
    k("name", Str),
    k("runtime_flags", List(&Str, By::Append)),
    k("x-endpoint", Str),
]);
