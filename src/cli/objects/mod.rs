//! Commands of objects, whatever project they are of: containers, images, networks, volumes, the engine.

pub mod check;
pub mod container;
pub mod engine;
pub mod images;
pub mod login;
pub mod network;
pub mod system;
