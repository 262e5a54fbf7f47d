//! Labels by which Docker Compose knows its containers, networks and volumes. Its tools look for them, so wharf writes the same.

pub const LABEL_PROJECT: &str = "com.docker.compose.project";
pub const LABEL_SERVICE: &str = "com.docker.compose.service";
pub const LABEL_NUMBER: &str = "com.docker.compose.container-number";
pub const LABEL_HASH: &str = "com.docker.compose.config-hash";
pub const LABEL_DEPENDS_ON: &str = "com.docker.compose.depends_on";
pub const LABEL_NETWORK: &str = "com.docker.compose.network";
pub const LABEL_VOLUME: &str = "com.docker.compose.volume";
pub const LABEL_ONEOFF: &str = "com.docker.compose.oneoff";
/// Docker's, of the containers of a job's runs.
pub const LABEL_JOB: &str = "com.docker.job.id";
pub const LABEL_RUN: &str = "com.docker.job.run-id";
pub const LABEL_VERSION: &str = "com.docker.compose.version";
pub const LABEL_FILES: &str = "com.docker.compose.project.config_files";
pub const LABEL_DIRECTORY: &str = "com.docker.compose.project.working_dir";
