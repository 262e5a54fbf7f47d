//! `/projects`, which is wharf's own. The requests are in [`crate::wire`].

wire! {
    /// A project with the states of its containers.
    pub struct ProjectSummary {
        pub name: String,
        /// `running(2), exited(1)`.
        pub status: String,
        pub config_files: String,
    }

    /// A revision of a service.
    pub struct RevisionSummary {
        pub service: String,
        pub revision: u32,
        /// RFC 3339.
        pub at: String,
        pub cause: String,
        /// Attributes that differ from the revision before.
        pub changed: Vec<String>,
        pub image: Option<String>,
        #[serde(rename = "ImageID")]
        pub image_id: String,
        /// `good` or `failed`.
        pub outcome: String,
        pub failure: Option<String>,
    }

    /// Whether a command was there to be cancelled.
    pub struct CommandCancelled {
        pub cancelled: bool,
    }
}
