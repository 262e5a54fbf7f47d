//! Modes of files as `--chmod` writes them.

/// `--chmod`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModeChange {
    Octal(u32),
    /// chmod(1)'s words: `u+x,go=r`.
    Symbolic(Vec<Clause>),
}

/// A clause of a symbolic mode, such as `u+x`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clause {
    who: u32,
    operator: char,
    permissions: String,
}

impl ModeChange {
    /// # Errors
    /// When it is neither octal nor chmod's words.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Ok(mode) = u32::from_str_radix(text, 8)
            && mode <= 0o7777
        {
            return Ok(ModeChange::Octal(mode));
        }
        let wrong = || format!("`{text}` is not a mode: write `755` or `u+x,go=r`");
        let mut clauses = Vec::new();
        for clause in text.split(',') {
            let at = clause.find(['+', '-', '=']).ok_or_else(wrong)?;
            let mut who = 0;
            for c in clause[..at].chars() {
                who |= match c {
                    'u' => 0o4700,
                    'g' => 0o2070,
                    'o' => 0o1007,
                    'a' => 0o7777,
                    _ => return Err(wrong()),
                };
            }
            let permissions = &clause[at + 1..];
            if permissions.chars().any(|c| !"rwxXst".contains(c)) {
                return Err(wrong());
            }
            let who = if who == 0 { 0o7777 } else { who };
            let operator = clause[at..].chars().next().unwrap_or('+');
            clauses.push(Clause { who, operator, permissions: permissions.to_string() });
        }
        Ok(ModeChange::Symbolic(clauses))
    }

    pub(super) fn apply(&self, mode: u32, directory: bool) -> u32 {
        match self {
            ModeChange::Octal(mode) => *mode,
            ModeChange::Symbolic(clauses) => clauses.iter().fold(mode & 0o7777, |mode, clause| {
                let mut bits = 0;
                for c in clause.permissions.chars() {
                    bits |= match c {
                        'r' => 0o444,
                        'w' => 0o222,
                        'x' => 0o111,
                        'X' if directory || mode & 0o111 != 0 => 0o111,
                        's' => 0o6000,
                        't' => 0o1000,
                        _ => 0,
                    };
                }
                let bits = bits & clause.who;
                match clause.operator {
                    '+' => mode | bits,
                    '-' => mode & !bits,
                    _ => (mode & !clause.who & 0o7777) | bits,
                }
            }),
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
            ("+t", 0o755, 0o1755),
            ("go-w", 0o666, 0o644),
        ];
        for (text, before, after) in table {
            assert_eq!(ModeChange::parse(text).expect(text).apply(before, false), after, "{text}");
        }
        assert!(ModeChange::parse("nine").is_err() && ModeChange::parse("99999").is_err());
    }
}
