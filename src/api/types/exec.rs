//! `/containers/{id}/exec` and `/exec/{id}/start`.

use super::CommandLine;

wire! {
    /// A process to run in a container.
    pub struct ExecCreate {
        pub user: String,
        pub privileged: bool,
        pub tty: bool,
        /// Rows and columns.
        pub console_size: Option<(u16, u16)>,
        pub attach_stdin: bool,
        pub attach_stdout: bool,
        pub attach_stderr: bool,
        /// docker-py writes it with a small letter, which is as good to Docker.
        #[serde(alias = "detachKeys")]
        pub detach_keys: String,
        pub env: Vec<String>,
        pub working_dir: String,
        pub cmd: CommandLine,
    }

    /// The body of `POST /exec/{id}/start`; the size is rows and columns.
    pub struct ExecStart {
        pub detach: bool,
        pub tty: bool,
        pub console_size: Option<(u16, u16)>,
    }
    /// `GET /exec/{id}/json`.
    pub struct ExecInspect {
        #[serde(rename = "ID")]
        pub id: String,
        pub running: bool,
        pub exit_code: Option<i32>,
        pub process_config: ExecProcess,
        pub open_stdin: bool,
        pub open_stderr: bool,
        pub open_stdout: bool,
        pub can_remove: bool,
        #[serde(rename = "ContainerID")]
        pub container_id: String,
        pub detach_keys: String,
        pub pid: i32,
    }
}

wire! {
    "lowercase"
    /// The process of an exec.
    pub struct ExecProcess {
        pub tty: bool,
        pub entrypoint: Option<String>,
        pub arguments: Vec<String>,
        pub privileged: bool,
        pub user: String,
    }
}
