//! Numbers that nobody can guess, from the kernel.

use data_encoding::HEXLOWER;
use std::io;

/// # Errors
/// When the kernel has no getrandom(2), as seccomp profiles of other runtimes may have it.
pub fn bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes)
}

/// So many bytes in hexadecimal.
///
/// # Errors
/// As [`bytes`].
pub fn hex<const N: usize>() -> io::Result<String> {
    Ok(HEXLOWER.encode(&bytes::<N>()?))
}

/// # Errors
/// As [`bytes`].
pub fn number() -> io::Result<u64> {
    bytes().map(u64::from_ne_bytes)
}
