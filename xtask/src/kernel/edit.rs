//! Small changes of kernel source, described by what to look for: no kernel source is kept here.
//!
//! An edit names a file, a function and a few words that occur in that function exactly once. One that finds its words
//! not at all or twice is an error: another version of the kernel may say it differently, and a variant that is built
//! without its bug would show nothing.

use anyhow::{Result, bail, ensure};

/// What is done where the words are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The statement that the words begin is never run.
    Drop,
    /// Other words stand in their place.
    Replace(&'static str),
    /// A statement goes before the one that the words begin.
    Before(&'static str),
    /// A statement goes behind the one that the words begin.
    After(&'static str),
}

/// One change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edit {
    /// The file, in the source tree.
    pub file: &'static str,
    /// The function that is changed.
    pub function: &'static str,
    /// The words. A space stands for any space.
    pub at: &'static str,
    /// What becomes of them.
    pub change: Change,
}

impl Edit {
    /// The text of the file after the change.
    pub fn apply(&self, text: &str) -> Result<String> {
        let (start, end) = self.body(text)?;
        let body = &text[start..end];
        let found: Vec<(usize, usize)> = matches(body, self.at);
        let &[(from, to)] = found.as_slice() else {
            bail!("{}: {}() says `{}` {} times, not once", self.file, self.function, self.at, found.len());
        };
        let (from, to) = (start + from, start + to);
        let spliced = |at: usize, until: usize, new: &str| format!("{}{new}{}", &text[..at], &text[until..]);
        if !matches!(self.change, Change::Replace(_)) {
            let before = text[..from].trim_end();
            ensure!(
                before.ends_with([';', '{', '}', ':', ')', '/']) || before.ends_with("else"),
                "{}: in {}() no statement begins with `{}`",
                self.file,
                self.function,
                self.at
            );
        }
        Ok(match self.change {
            // A condition rather than nothing: what only this statement uses stays used.
            Change::Drop => spliced(from, from, "if (0) "),
            Change::Replace(new) => spliced(from, to, new),
            Change::Before(new) => spliced(from, from, &format!("{new} ")),
            Change::After(new) => match text[to - 1..end].find(';') {
                Some(at) => spliced(to + at, to + at, &format!(" {new}")),
                None => bail!("{}: the statement `{}` of {}() has no end", self.file, self.at, self.function),
            },
        })
    }

    /// Where the function's body begins and ends.
    fn body(&self, text: &str) -> Result<(usize, usize)> {
        let mut bodies = Vec::new();
        for (at, _) in matches(text, &format!("{}(", self.function)) {
            let line = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
            // Calls are indented, and in comments a star comes first.
            if text[line..].starts_with(|c: char| c.is_whitespace() || c == '*' || c == '/') {
                continue;
            }
            let Some(open) = text[at..].find("\n{").map(|open| at + open) else { continue };
            // A declaration ends before any body.
            if text[at..open].contains(';') {
                continue;
            }
            if let Some(close) = text[open..].find("\n}") {
                bodies.push((open + 2, open + close));
            }
        }
        match bodies.as_slice() {
            &[body] => Ok(body),
            _ => bail!("{} has {} functions called {}, not one", self.file, bodies.len(), self.function),
        }
    }
}

/// Where `words` stand in a text, as whole words: their beginnings and ends.
fn matches(text: &str, words: &str) -> Vec<(usize, usize)> {
    let pieces: Vec<&str> = words.split_whitespace().collect();
    let Some(first) = pieces.first() else { return Vec::new() };
    let in_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices(first)
        .filter(|&(at, _)| !(first.starts_with(in_word) && text[..at].ends_with(in_word)))
        .filter_map(|(at, _)| {
            let mut end = at + first.len();
            for piece in &pieces[1..] {
                let rest = &text[end..];
                let space = rest.len() - rest.trim_start().len();
                if space == 0 || !rest[space..].starts_with(piece) {
                    return None;
                }
                end += space + piece.len();
            }
            let cut = words.ends_with(in_word) && text[end..].starts_with(in_word);
            (!cut).then_some((at, end))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "void f(int a);\n\n/* f() is\n * f() */\nvoid f(int a)\n{\n\tif (a)\n\t\tg(a,\n\t\t  1);\n\th(a);\n\txh(a);\n}\n\n\
        static int\ng(int a)\n{\n\tf(a);\n\th(a);\n\th(a);\n}\n";

    fn edit(function: &'static str, at: &'static str, change: Change) -> Edit {
        Edit { file: "f.c", function, at, change }
    }

    #[test]
    fn a_dropped_statement_stays_and_never_runs() {
        let text = edit("f", "g(a,", Change::Drop).apply(TEXT).unwrap();
        assert_eq!(text, TEXT.replace("\t\tg(a,", "\t\tif (0) g(a,"));
    }

    #[test]
    fn statements_go_before_and_behind() {
        let text = edit("f", "h(a)", Change::Before("k();")).apply(TEXT).unwrap();
        assert_eq!(text, TEXT.replace("\th(a);\n\txh", "\tk(); h(a);\n\txh"));
        let text = edit("f", "g(a, 1)", Change::After("k();")).apply(TEXT).unwrap();
        assert_eq!(text, TEXT.replace("  1);", "  1); k();"));
        let text = edit("f", "xh(a);", Change::After("k();")).apply(TEXT).unwrap();
        assert_eq!(text, TEXT.replace("xh(a);", "xh(a); k();"));
    }

    #[test]
    fn words_are_replaced_across_lines() {
        let text = edit("f", "a, 1", Change::Replace("b")).apply(TEXT).unwrap();
        assert_eq!(text, TEXT.replace("g(a,\n\t\t  1)", "g(b)"));
    }

    #[test]
    fn words_that_are_not_there_exactly_once_are_an_error() {
        let error = |function, at| edit(function, at, Change::Drop).apply(TEXT).unwrap_err().to_string();
        assert!(error("g", "h(a)").contains("2 times"), "{}", error("g", "h(a)"));
        assert!(error("f", "k(a)").contains("0 times"));
        assert!(error("k", "h(a)").contains("0 functions called k"));
        assert!(error("f", "a);").contains("no statement") || error("f", "a);").contains("times"));
    }
}
