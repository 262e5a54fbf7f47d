//! What the engine does with images.

pub(super) mod build;
