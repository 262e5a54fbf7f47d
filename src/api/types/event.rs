//! `GET /events`.

use super::StringMap;

wire! {
    /// Something that has happened.
    pub struct EventMessage {
        #[serde(rename = "Type")]
        pub kind: String,
        pub action: String,
        pub actor: EventActor,
        #[serde(rename = "scope")]
        pub scope: String,
        /// Seconds and nanoseconds since 1970.
        #[serde(rename = "time")]
        pub time: i64,
        #[serde(rename = "timeNano")]
        pub time_nano: i64,
        /// Before 1.52, of containers.
        #[serde(flatten)]
        pub older: Option<OlderEvent>,
    }

    /// The thing that it has happened to.
    pub struct EventActor {
        #[serde(rename = "ID")]
        pub id: String,
        pub attributes: StringMap,
    }
}

wire! {
    "lowercase"
    /// Fields from before there were other things than containers.
    pub struct OlderEvent {
        pub status: String,
        pub id: String,
        pub from: String,
    }
}
