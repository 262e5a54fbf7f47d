//! Jobs: when they are due, the states of their runs, and how many of those are kept. Pure: the engine has the clock, the journal and
//! the containers.

mod due;
mod run;

pub use due::{Due, due};
pub use run::{Admission, RecordedRun, RunEnding, RunEvent, RunState, RunTrigger, Runs};
