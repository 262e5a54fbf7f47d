//! A command's text to words, as go-shellwords splits it, which is what Docker Compose has: nearly as a shell does.

/// The words of a text.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Words {
    pub words: Vec<String>,
    /// The part that is left out: an operator of a shell (`&&`, `;`, `|`, `<`, `>`) that is not quoted ends the command.
    pub dropped: Option<String>,
    /// A backslash at the end of a line makes the line break a part of a word, where a shell would remove both.
    pub escaped_break: bool,
}

/// A quote, a `$(` or a backtick that is not closed, or a bracket that a shell would take for its own.
#[derive(Debug, PartialEq, Eq)]
pub struct Unbalanced(pub char);

/// Where the text is: quotes do not nest.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Within {
    Nothing,
    /// `'`, `"`, a backtick, or `(` for `$(`.
    Quote(char),
}

/// Splits a text.
///
/// # Errors
/// The character that is not closed.
pub fn split(text: &str) -> Result<Words, Unbalanced> {
    let mut out = Words::default();
    let mut word: Option<String> = None;
    let mut within = Within::Nothing;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match (within, c) {
            (Within::Nothing | Within::Quote('"' | '`' | '('), '\\') => match chars.next() {
                Some((_, 't')) => word.get_or_insert_default().push('\t'),
                Some((_, 'n')) => word.get_or_insert_default().push('\n'),
                Some((_, escaped)) => {
                    out.escaped_break |= escaped == '\n';
                    word.get_or_insert_default().push(escaped);
                }
                None => return Err(Unbalanced('\\')),
            },
            (Within::Nothing, ' ' | '\t' | '\r' | '\n') => out.words.extend(word.take()),
            (Within::Nothing, '\'' | '"') => {
                within = Within::Quote(c);
                word.get_or_insert_default();
            }
            (Within::Quote(quote @ ('\'' | '"')), c) if c == quote => within = Within::Nothing,
            (Within::Nothing, '`') => {
                within = Within::Quote('`');
                word.get_or_insert_default().push(c);
            }
            (Within::Nothing, '(') if word.as_ref().is_some_and(|word| word.ends_with('$')) => {
                within = Within::Quote('(');
                word.get_or_insert_default().push(c);
            }
            (Within::Nothing, '(' | ')') => return Err(Unbalanced(c)),
            (Within::Quote('`'), '`') | (Within::Quote('('), ')') => {
                within = Within::Nothing;
                word.get_or_insert_default().push(c);
            }
            (Within::Nothing, ';' | '&' | '|' | '<' | '>') => {
                // A descriptor's number before `>` goes as well.
                if c == '>' && word.as_ref().is_some_and(|word| word.starts_with(|first: char| first.is_ascii_digit())) {
                    word = None;
                }
                out.words.extend(word.take());
                out.dropped = Some(text[at..].to_string());
                return Ok(out);
            }
            _ => word.get_or_insert_default().push(c),
        }
    }
    if let Within::Quote(quote) = within {
        return Err(Unbalanced(quote));
    }
    out.words.extend(word);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_go_shellwords() {
        let table: [(&str, &[&str], Option<&str>); 22] = [
            ("a  b\tc\nd", &["a", "b", "c", "d"], None),
            ("a 'b c' \"d e\" f'g'\"h\"", &["a", "b c", "d e", "fgh"], None),
            ("a '' \"\"", &["a", "", ""], None),
            ("a#b #c", &["a#b", "#c"], None),
            ("npm ci && npm start", &["npm", "ci"], Some("&& npm start")),
            ("a; b", &["a"], Some("; b")),
            ("a | b", &["a"], Some("| b")),
            ("a >b", &["a"], Some(">b")),
            ("a 2>&1", &["a"], Some(">&1")),
            ("a x2>b", &["a", "x2"], Some(">b")),
            ("a < b", &["a"], Some("< b")),
            ("a&", &["a"], Some("&")),
            ("a '&&' \"|\" \\; b", &["a", "&&", "|", ";", "b"], None),
            ("a \\\n  b", &["a", "\n", "b"], None),
            ("a\\\nb", &["a\nb"], None),
            ("a\\tb \"c\\nd\" 'e\\nf' \"g\\\"h\" \"i\\qj\"", &["a\tb", "c\nd", "e\\nf", "g\"h", "iqj"], None),
            ("a $(b c) `d e` f", &["a", "$(b c)", "`d e`", "f"], None),
            ("a $(b | c)", &["a", "$(b | c)"], None),
            ("a \"(b)\" '$(c' \\(d", &["a", "(b)", "$(c", "(d"], None),
            ("A=$B ${C} $D", &["A=$B", "${C}", "$D"], None),
            ("", &[], None),
            ("&& a", &[], Some("&& a")),
        ];
        for (text, words, dropped) in table {
            let split = split(text).unwrap_or_else(|why| panic!("{text}: {why:?}"));
            assert_eq!(
                (split.words.iter().map(String::as_str).collect::<Vec<_>>().as_slice(), split.dropped.as_deref()),
                (words, dropped),
                "{text}"
            );
            assert_eq!(split.escaped_break, text.contains("\\\n"), "{text}");
        }
        for (text, open) in
            [("a 'b", '\''), ("a \"b", '"'), ("a `b", '`'), ("a $(b", '('), ("a (b)", '('), ("a b)", ')'), ("a \\", '\\')]
        {
            assert_eq!(split(text), Err(Unbalanced(open)), "{text}");
        }
    }
}
