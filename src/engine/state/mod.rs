//! What survives the engine: the journal, and the directories with the manifests that are beside it.

pub(super) mod directories;
pub(super) mod journal;
