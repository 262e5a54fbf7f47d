//! The keys by which a client leaves a terminal, and its process goes on.

use crate::engine::EngineError;

/// The default of Docker's clients and engine.
pub const DEFAULT: &str = "ctrl-p,ctrl-q";

/// A sequence of keys, and how many of them have been typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DetachKeys {
    keys: Vec<u8>,
    typed: usize,
}

impl DetachKeys {
    /// By no key at all nobody leaves.
    pub fn of(keys: Vec<u8>) -> Self {
        DetachKeys { keys, typed: 0 }
    }

    /// Docker's form: `ctrl-p,ctrl-q` or `a`, separated by commas. Nothing stands for [`DEFAULT`].
    ///
    /// # Errors
    /// A key that is not known.
    pub(super) fn parse(text: &str) -> Result<Self, EngineError> {
        let text = if text.is_empty() { DEFAULT } else { text };
        let keys: Option<Vec<u8>> = text.split(',').map(key).collect();
        keys.map(Self::of).ok_or_else(|| EngineError::Invalid(format!("Invalid detach keys ({text}) provided")))
    }

    /// Passes typed bytes on. Keys that may begin the sequence wait until it is clear that they do not. True where it is complete.
    pub fn pass(&mut self, typed: &[u8], passed: &mut Vec<u8>) -> bool {
        for byte in typed {
            if self.keys.get(self.typed) != Some(byte) {
                passed.extend(&self.keys[..self.typed]);
                self.typed = 0;
            }
            if self.keys.get(self.typed) == Some(byte) {
                self.typed += 1;
                if self.typed == self.keys.len() {
                    return true;
                }
            } else {
                passed.push(*byte);
            }
        }
        false
    }
}

/// The byte of a key as Docker writes it: a letter, or `ctrl-` and one of `a-z @ [ \ ] ^ _`.
pub fn key(text: &str) -> Option<u8> {
    match (text.as_bytes(), text.strip_prefix("ctrl-").map(str::as_bytes)) {
        ([one], _) => Some(*one),
        (_, Some([letter @ b'a'..=b'z'])) => Some(letter - b'a' + 1),
        (_, Some([sign @ (b'@' | b'[' | b'\\' | b']' | b'^' | b'_')])) => Some(sign - b'@'),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_is_found_and_all_else_is_passed() {
        for (keys, typed, expected) in [
            ("", &["ab\x10c"][..], ("ab\x10c", false)),
            ("", &["ab\x10", "\x11c"], ("ab", true)),
            ("", &["\x10\x10\x11"], ("\x10", true)),
            ("a,ctrl-a,a", &["a\x01b"], ("a\x01b", false)),
            ("ctrl-\\", &["x\x1cy"], ("x", true)),
        ] {
            let mut keys = DetachKeys::parse(keys).expect(keys);
            let mut passed = Vec::new();
            let detached = typed.iter().any(|typed| keys.pass(typed.as_bytes(), &mut passed));
            assert_eq!((String::from_utf8_lossy(&passed).as_ref(), detached), expected, "{typed:?}");
        }
        for wrong in ["ctrl-", "ctrl-aa", "shift-a", "a,,b"] {
            assert_eq!(DetachKeys::parse(wrong).expect_err(wrong).status(), 400, "{wrong}");
        }
    }
}
