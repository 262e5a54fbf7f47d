//! The engine as a process: its start and end, its roots, its locks.

pub(super) mod docker_socket;
pub mod lifecycle;
pub mod locks;
pub mod revival;
pub mod roots;
pub(super) mod shutdown;
pub mod surroundings;
pub mod tcp;
