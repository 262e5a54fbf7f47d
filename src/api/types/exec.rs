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
        pub detach_keys: String,
        pub env: Vec<String>,
        pub working_dir: String,
        pub cmd: CommandLine,
    }

    pub struct ExecStart {
        pub detach: bool,
        pub tty: bool,
        pub console_size: Option<(u16, u16)>,
    }
}
