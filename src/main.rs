//! The `wharf` binary: the command line, the engine and the monitors.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    // A monitor runs beside every container: it must not touch a page of what the other roles need.
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|first| first == "monitor") {
        let Some(directory) = args.next() else { return ExitCode::FAILURE };
        return ExitCode::from(wharf::runtime::monitor::main(Path::new(&directory)) as u8);
    }
    wharf::cli::main()
}
