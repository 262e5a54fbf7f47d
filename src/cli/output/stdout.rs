//! Standard output and standard error of commands. Where their reader has left (`wharf config | head -1`), the command ends by
//! SIGPIPE, silently, as Docker does.
//!
//! The signal stays ignored otherwise: a write to the engine's socket or to a pipe of our own whose reader has left is an error
//! that its caller handles. These macros take the place of the standard library's in the whole command line, which panic.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write};

macro_rules! println {
    () => { $crate::cli::output::stdout::print(format_args!("\n")) };
    ($($arg:tt)*) => { $crate::cli::output::stdout::print(format_args!("{}\n", format_args!($($arg)*))) };
}

macro_rules! print {
    ($($arg:tt)*) => { $crate::cli::output::stdout::print(format_args!($($arg)*)) };
}

macro_rules! eprintln {
    () => { $crate::cli::output::stdout::eprint(format_args!("\n")) };
    ($($arg:tt)*) => { $crate::cli::output::stdout::eprint(format_args!("{}\n", format_args!($($arg)*))) };
}

macro_rules! eprint {
    ($($arg:tt)*) => { $crate::cli::output::stdout::eprint(format_args!($($arg)*)) };
}

/// Standard output whose vanished reader ends the command. Other errors are the caller's.
#[derive(Debug)]
pub struct Stdout;

/// Standard error, likewise.
#[derive(Debug)]
pub struct Stderr;

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        checked(io::stdout().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        checked(io::stdout().flush())
    }
}

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        checked(io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        checked(io::stderr().flush())
    }
}

fn checked<T>(result: io::Result<T>) -> io::Result<T> {
    if matches!(&result, Err(error) if error.kind() == ErrorKind::BrokenPipe) {
        crate::sys::end_by_sigpipe();
    }
    result
}

/// Prints text. A full disk behind a redirection ends the command with a message: what is printed is its result.
pub fn print(text: Arguments<'_>) {
    if let Err(error) = Stdout.write_fmt(text).and_then(|()| Stdout.flush()) {
        eprint(format_args!("error: writing to standard output: {error}\n"));
        std::process::exit(1);
    }
}

/// Prints a message; where it cannot be written there is nowhere to say so.
pub fn eprint(text: Arguments<'_>) {
    let _ = Stderr.write_fmt(text);
}
