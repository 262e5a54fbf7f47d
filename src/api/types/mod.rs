//! The bodies of Docker's API as types: one definition for the engine, the CLI and the tests.
//!
//! Field names are Docker's (PascalCase). As in Docker, `null` and an absent field both mean the default, and unknown fields are
//! ignored. A value of the wrong type is refused with the path of the value.

/// Declares structs of the API: every field has a default, which `null` stands for as well. A list is no object.
macro_rules! wire {
    ($(#[$meta:meta])* pub struct $($rest:tt)*) => { wire! { "PascalCase" $(#[$meta])* pub struct $($rest)* } };
    ($case:literal $($(#[$meta:meta])* pub struct $name:ident { $($(#[$field_meta:meta])* pub $field:ident: $type:ty),* $(,)? })*) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(default, rename_all = $case, remote = "Self")]
        pub struct $name {
            $($(#[$field_meta])* #[serde(deserialize_with = "crate::api::types::or_default")] pub $field: $type),*
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                $name::serialize(self, serializer)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $name::deserialize(crate::api::types::MapOnly(deserializer))
            }
        }
    )*};
}

mod container;
mod event;
mod exec;
mod image;
mod inspect;
mod list;
mod network;
mod project;
mod system;
mod transfer;
mod usage;
mod volume;

pub use container::*;
pub use event::*;
pub use exec::*;
pub use image::*;
pub use inspect::*;
pub use list::*;
pub use network::*;
pub use project::*;
pub use system::*;
pub use transfer::*;
pub use usage::*;
pub use volume::*;

use crate::engine::EngineError;
use indexmap::IndexMap;
use serde::de::{DeserializeOwned, Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// Labels, options and the like.
pub type StringMap = IndexMap<String, String>;
/// A set in Docker's form: `{"80/tcp": {}}`.
pub type Set = IndexMap<String, Option<Empty>>;

/// The value of a member of a [`Set`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// The name of the driver of layers that clients look for.
pub const STORAGE_DRIVER: &str = "overlay2";
/// The time of what has not happened, as Go writes it.
pub const NEVER: &str = "0001-01-01T00:00:00Z";

/// Docker has signed numbers, and 0 for none; what does not fit is as good as the largest.
pub fn signed(number: Option<u64>) -> i64 {
    i64::try_from(number.unwrap_or(0)).unwrap_or(i64::MAX)
}

/// Serialises as `null` where a list or a mapping is empty, as Go does for those that are nil.
fn null_if_empty<T: Serialize + Default + PartialEq, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    match *value == T::default() {
        true => serializer.serialize_none(),
        false => value.serialize(serializer),
    }
}

/// Reads structs from objects alone: serde takes a list of the fields' values as well.
struct MapOnly<D>(D);

impl<'de, D: Deserializer<'de>> Deserializer<'de> for MapOnly<D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_map(visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

fn or_default<'de, T: Deserialize<'de> + Default, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// A command: Docker takes a string for a list of one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CommandLine(pub Vec<String>);

impl<'de> Deserialize<'de> for CommandLine {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct CommandLineVisitor;
        impl<'de> Visitor<'de> for CommandLineVisitor {
            type Value = CommandLine;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<CommandLine, E> {
                Ok(CommandLine(vec![text.to_string()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<CommandLine, A::Error> {
                let mut words = Vec::new();
                while let Some(word) = sequence.next_element()? {
                    words.push(word);
                }
                Ok(CommandLine(words))
            }
        }
        deserializer.deserialize_any(CommandLineVisitor)
    }
}

/// Reads a body that must be there.
///
/// # Errors
/// When it is empty, not JSON, or a value has the wrong type: then with the path of the value.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, EngineError> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(EngineError::Invalid("invalid JSON: got EOF while reading request body".into()));
    }
    // Where in the body something is wrong is found out when something is: keeping the path costs as much as reading.
    serde_json::from_slice(bytes).map_err(|_| EngineError::Invalid(what_is_wrong::<T>(bytes)))
}

/// The error of a body that cannot be read, with the path of the value.
fn what_is_wrong<T: DeserializeOwned>(bytes: &[u8]) -> String {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    match serde_path_to_error::deserialize::<_, T>(&mut json) {
        Ok(_) => "invalid JSON: unexpected content after JSON".into(),
        Err(error) => {
            let path = error.path().to_string();
            let inner = error.into_inner();
            match inner.is_data() {
                true if path != "." => format!("invalid request body: {path}: {inner}"),
                true => format!("invalid request body: {inner}"),
                false => format!("invalid JSON: {inner}"),
            }
        }
    }
}

/// Reads a body that need not be there: nothing is the default.
///
/// # Errors
/// As [`parse`].
pub fn parse_optional<T: DeserializeOwned + Default>(bytes: &[u8]) -> Result<T, EngineError> {
    match bytes.iter().all(u8::is_ascii_whitespace) {
        true => Ok(T::default()),
        false => parse::<Option<T>>(bytes).map(Option::unwrap_or_default),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_the_default_and_unknown_fields_are_ignored() {
        let body =
            br#"{"Image": "a", "Env": null, "HostConfig": {"Memory": null, "Binds": null, "Later": [1]}, "Volumes": {"/v": {}}}"#;
        let create: ContainerCreate = parse(body).expect("a body");
        assert_eq!((create.image.as_str(), create.host_config.memory, create.env.len()), ("a", 0, 0));
        assert!(create.volumes.contains_key("/v"));
        assert_eq!(parse_optional::<ContainerCreate>(b" ").expect("nothing"), ContainerCreate::default());
        assert_eq!(parse_optional::<ContainerCreate>(b"null").expect("null"), ContainerCreate::default());
    }

    #[test]
    fn a_wrong_type_is_refused_with_its_path() {
        let cases: [(&str, &[&str]); 9] = [
            (r#"{"HostConfig": {"Memory": "64m"}}"#, &["HostConfig.Memory", "\"64m\""]),
            (r#"{"HostConfig": {"Binds": "/a:/b"}}"#, &["HostConfig.Binds"]),
            (
                r#"{"HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": 80}]}}}"#,
                &["HostConfig.PortBindings.80/tcp[0].HostPort"],
            ),
            (r#"{"Cmd": 5}"#, &["Cmd", "a string or a list of strings"]),
            (r#"{"Env": ["A=1", 2]}"#, &["Env[1]"]),
            (
                r#"{"NetworkingConfig": {"EndpointsConfig": {"n": {"IPAMConfig": {"IPv4Address": 1}}}}}"#,
                &["EndpointsConfig.n.IPAMConfig.IPv4Address"],
            ),
            ("{\"Cmd\"", &["invalid JSON"]),
            ("{} {}", &["after JSON"]),
            ("", &["EOF"]),
        ];
        for (body, words) in cases {
            let error = parse::<ContainerCreate>(body.as_bytes()).expect_err(body);
            assert_eq!(error.status(), 400, "{body}");
            let text = error.to_string();
            assert!(words.iter().all(|word| text.contains(word)), "{body}: {text}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let create = ContainerCreate {
            image: "a".into(),
            cmd: Some(CommandLine(vec!["x".into()])),
            host_config: HostConfig { uts_mode: "host".into(), pids_limit: Some(-1), ..HostConfig::default() },
            ..ContainerCreate::default()
        };
        let bytes = serde_json::to_vec(&create).expect("JSON");
        assert_eq!(parse::<ContainerCreate>(&bytes).expect("a body"), create);
        assert!(String::from_utf8_lossy(&bytes).contains("\"UTSMode\":\"host\""));
    }
}
