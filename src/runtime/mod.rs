//! One container: an OCI runtime configuration to a process, and the monitor beside it.
//!
//! [`monitor`] is the process of its own that sets a container up and looks after it; [`init`] and [`exec`] are what its
//! children do before they become the user's program; [`rootfs`], [`cgroup`], [`capabilities`], [`seccomp`] and [`user`]
//! are the steps; [`scope`] is where systemd wants control groups to be, [`quota`] what limits a directory's size. [`external`]
//! lets another OCI runtime do them. [`control`] is how the engine talks to a monitor. [`sys`] holds every raw
//! system call.

pub mod apparmor;
pub mod capabilities;
pub mod cgroup;
pub mod control;
pub mod copy_up;
pub mod error;
mod exec;
mod external;
mod hand_on;
mod init;
pub mod launch;
mod limits;
pub mod monitor;
pub mod overlay;
#[cfg(test)]
mod profile_tests;
pub mod quota;
pub mod remount;
mod rootfs;
pub mod scope;
pub mod seccomp;
pub mod spec;
mod subgroups;
pub mod targets;
mod tiny_init;
pub mod user;

pub use init::pack;
pub use rootfs::view;

/// Where programs are looked for without a PATH: Docker's.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
