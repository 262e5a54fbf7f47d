//! Modes of files as `--chmod` writes them.

/// The file mode creation mask of Docker's engine, which a clause without `u`, `g`, `o` or `a` spares (chmod(1)).
const UMASK: u32 = 0o022;
/// What `=` takes away where nobody is named: all but the sticky bit.
const ALL: u32 = 0o6777;

/// `--chmod`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModeChange {
    Octal(u32),
    /// chmod(1)'s words: `u+x,go=r`, `g=u`, `u+rw-x`.
    Symbolic(Vec<Clause>),
}

/// One operator of a symbolic mode and what it is about, such as `u+x`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clause {
    /// The permissions of those who are named; 0 where nobody is.
    who: u32,
    operator: ModeOperator,
    /// Letters of `rwxXstugo`.
    permissions: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ModeOperator {
    Add,
    Remove,
    Assign,
}

impl ModeOperator {
    fn of(c: char) -> Option<Self> {
        match c {
            '+' => Some(ModeOperator::Add),
            '-' => Some(ModeOperator::Remove),
            '=' => Some(ModeOperator::Assign),
            _ => None,
        }
    }
}

impl ModeChange {
    /// # Errors
    /// When it is neither octal nor chmod's words.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Ok(mode) = u32::from_str_radix(text, 8)
            && mode <= 0o7777
            && text.starts_with(|c: char| c.is_ascii_digit())
        {
            return Ok(ModeChange::Octal(mode));
        }
        let wrong = || format!("`{text}` is not a mode: write `755` or chmod's words, such as `u+x,go=r` or `g=u`");
        let mut clauses = Vec::new();
        for part in text.split(',') {
            let at = part.find(['+', '-', '=']).ok_or_else(wrong)?;
            let (named, mut rest) = part.split_at(at);
            let mut who = 0;
            for c in named.chars() {
                who |= match c {
                    'u' => 0o700,
                    'g' => 0o070,
                    'o' => 0o007,
                    'a' => 0o777,
                    _ => return Err(wrong()),
                };
            }
            // `u+rw-x`: the same people, more than one operator.
            while let Some(operator) = rest.chars().next().map(|c| ModeOperator::of(c).ok_or_else(wrong)).transpose()? {
                let letters = &rest[1..];
                let end = letters.find(['+', '-', '=']).unwrap_or(letters.len());
                let permissions = &letters[..end];
                if permissions.chars().any(|c| !"rwxXstugo".contains(c)) {
                    return Err(wrong());
                }
                clauses.push(Clause { who, operator, permissions: permissions.to_string() });
                rest = &letters[end..];
            }
        }
        Ok(ModeChange::Symbolic(clauses))
    }

    pub(super) fn apply(&self, mode: u32, directory: bool) -> u32 {
        match self {
            ModeChange::Octal(mode) => *mode,
            ModeChange::Symbolic(clauses) => {
                // `X` is about the file as it was, not as the clauses before have made it (chmod(1) of BSD, which BuildKit has).
                let searchable = directory || mode & 0o111 != 0;
                clauses.iter().fold(mode & 0o7777, |mode, clause| clause.apply(mode, searchable))
            }
        }
    }
}

impl Clause {
    fn apply(&self, mode: u32, searchable: bool) -> u32 {
        let class = |shift: u32| (mode >> shift & 0o7) * 0o111;
        let mut bits = 0;
        for c in self.permissions.chars() {
            bits |= match c {
                'r' => 0o444,
                'w' => 0o222,
                'x' => 0o111,
                'X' if searchable => 0o111,
                's' => 0o6000,
                't' => 0o1000,
                'u' => class(6),
                'g' => class(3),
                'o' => class(0),
                _ => 0,
            };
        }
        // Set-user-ID is the user's, set-group-ID the group's, and others have neither these nor the sticky bit.
        let special = |who: u32| match who {
            0 => 0o7000,
            who => {
                u32::from(who & 0o700 != 0) * 0o4000
                    + u32::from(who & 0o070 != 0) * 0o2000
                    + u32::from(who & !0o007 != 0) * 0o1000
            }
        };
        let (allowed, cleared) = match self.who {
            0 => (special(0) | (0o777 & !UMASK), ALL),
            who => (special(who) | who, who | (special(who) & 0o6000)),
        };
        let bits = bits & allowed;
        match self.operator {
            ModeOperator::Add => mode | bits,
            ModeOperator::Remove => mode & !bits,
            ModeOperator::Assign => (mode & !cleared) | bits,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        let table = [
            ("755", 0o644, 0o755),
            ("u+x", 0o644, 0o744),
            ("go=r,u=rw", 0o777, 0o644),
            ("a+X", 0o644, 0o644),
            ("a+X", 0o744, 0o755),
            ("+t", 0o755, 0o1755),
            ("go-w", 0o666, 0o644),
            // Permissions of one are copied to another.
            ("g=u", 0o640, 0o660),
            ("g=u", 0o755, 0o775),
            ("go=u-w", 0o700, 0o755),
            ("o+g", 0o750, 0o755),
            ("u-o", 0o764, 0o364),
            // Several operators.
            ("u+rw-x,go=r", 0o111, 0o644),
            ("a-x+X", 0o755, 0o755),
            ("u=rwX,go=rX", 0o600, 0o644),
            ("u=rwX,go=rX", 0o711, 0o755),
            // Set-ID and sticky bits.
            ("u+s", 0o755, 0o4755),
            ("g+s", 0o755, 0o2755),
            ("o+s", 0o755, 0o755),
            ("o+t", 0o755, 0o755),
            ("a+st", 0o755, 0o7755),
            ("u=rwxs", 0o2711, 0o6711),
            ("u=rwx", 0o6711, 0o2711),
            ("a=rx", 0o7777, 0o1555),
            ("u-s", 0o6755, 0o2755),
            // The mask of Docker's engine holds where nobody is named.
            ("+w", 0o444, 0o644),
            ("+x", 0o644, 0o755),
            ("=rwx", 0o000, 0o755),
            ("go=", 0o777, 0o700),
            ("u+", 0o644, 0o644),
        ];
        for (text, before, after) in table {
            let got = ModeChange::parse(text).expect(text).apply(before, false);
            assert_eq!(got, after, "{text} of {before:o}: {got:o}");
        }
        assert_eq!(ModeChange::parse("u=rwX,go=rX").expect("a mode").apply(0o600, true), 0o755, "of a directory");
        for wrong in ["nine", "99999", "", "u", "u+x,", ",u+x", "u+xz", "ux", "z+x", "+755", "u+x go=r", "u=7"] {
            let why = ModeChange::parse(wrong).expect_err(wrong);
            assert!(why.contains(&format!("`{wrong}` is not a mode")), "{why}");
        }
    }
}
