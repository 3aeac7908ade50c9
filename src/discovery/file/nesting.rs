//! How deep a YAML is, before it is parsed.
//!
//! For each bracket that is open the parser looks at all that are, so that a file of a few megabytes which opens and
//! opens would keep a processor busy for hours, only to be refused in the end.

use std::iter::Peekable;
use std::str::Chars;

/// As deep as serde_norway would read it; a list of endpoints has four levels.
pub(super) const MOST: usize = 128;

/// A text, character by character.
struct Reader<'a> {
    rest: Peekable<Chars<'a>>,
    line: usize,
    column: usize,
}

impl Reader<'_> {
    fn next(&mut self) -> Option<char> {
        let next = self.rest.next()?;
        match next {
            '\n' => (self.line, self.column) = (self.line + 1, 0),
            _ => self.column += 1,
        }
        Some(next)
    }

    /// What is in quotes, to their end.
    fn quoted(&mut self, quote: char) {
        while let Some(next) = self.next() {
            if quote == '"' && next == '\\' {
                self.next();
            } else if next == quote {
                // In single quotes two of them are one that is meant.
                match quote == '\'' && self.rest.peek() == Some(&quote) {
                    true => self.next(),
                    false => return,
                };
            }
        }
    }

    fn comment(&mut self) {
        while self.rest.peek().is_some_and(|next| *next != '\n') {
            self.next();
        }
    }
}

/// Refuses more than [`MOST`] brackets and braces within each other, and says where the first of too many is.
///
/// No more is known of YAML here than where a bracket or a quote may begin something: in the middle of a word it is a
/// character like any other.
pub(super) fn check(text: &str) -> Result<(), String> {
    let mut reader = Reader {
        rest: text.chars().peekable(),
        line: 1,
        column: 0,
    };
    let mut depth = 0_usize;
    // Something may begin here; and the last character was a blank.
    let (mut begins, mut blank) = (true, true);
    while let Some(next) = reader.next() {
        match next {
            '[' | '{' if begins || depth > 0 => {
                depth += 1;
                if depth > MOST {
                    let (line, column) = (reader.line, reader.column);
                    return Err(format!(
                        "more than {MOST} brackets are open at line {line} column {column}"
                    ));
                }
                begins = true;
            }
            ']' | '}' => {
                depth = depth.saturating_sub(1);
                begins = false;
            }
            '"' | '\'' if begins => {
                reader.quoted(next);
                begins = false;
            }
            '#' if blank => reader.comment(),
            '\n' | ':' => begins = true,
            ',' => begins = depth > 0,
            '-' | '?' => {}
            _ if next.is_whitespace() => {}
            _ => begins = false,
        }
        blank = next.is_whitespace();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_brackets_are_refused_with_the_place_of_the_first() {
        for (open, column) in [("[", 129), ("{a: ", 513), ("- [\n", 3), ("[{'b': ", 449)] {
            let text = format!("# [\n{}", open.repeat(100_000));
            let mistake = check(&text).expect_err(open);
            let line = if open.ends_with('\n') { 130 } else { 2 };
            assert_eq!(
                mistake,
                format!("more than 128 brackets are open at line {line} column {column}")
            );
        }
        let deepest = format!("{}{}", "[".repeat(MOST), "]".repeat(MOST));
        assert_eq!(check(&deepest), Ok(()), "as many as may be");
    }

    #[test]
    fn brackets_that_open_nothing_are_not_counted() {
        for line in [
            "- {address: a, metadata: {b: c}}\n",
            "- \"[ \\\" {\"\n",
            "- '[ '' {'\n",
            "- a # [ {\n",
            "# it's [\n",
            "- a[0 and ] so on [\n",
            "- it's [ as it is\n",
            "- http://[::1]:80\n",
            "- a-[b, [c\n",
        ] {
            assert_eq!(check(&line.repeat(1000)), Ok(()), "{line:?}");
        }
    }
}
