//! The control channel: what init says to the host, and the lists it is given. Pure.

/// How init says the command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It exited with this status.
    Exit(i32),
    /// This signal killed it.
    Signal(i32),
    /// It could not be run, for this reason.
    Failed(String),
}

/// One line of the control channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// The command is about to start.
    Ready,
    /// Something worth knowing that does not end the run.
    Note(String),
    /// How the command ended; the last line.
    Verdict(Verdict),
    /// Nothing init would say.
    Garbage(String),
}

/// Reads one line.
#[must_use]
pub fn parse(line: &str) -> Line {
    let line = line.trim_end();
    let garbage = || Line::Garbage(line.to_owned());
    match line.split_once(' ').unwrap_or((line, "")) {
        ("ready", "") => Line::Ready,
        ("note", text) => Line::Note(text.to_owned()),
        ("verdict", text) => match text.split_once(' ') {
            Some(("exit", code)) => code.parse().map_or_else(|_| garbage(), |c| Line::Verdict(Verdict::Exit(c))),
            Some(("signal", number)) => {
                number.parse().map_or_else(|_| garbage(), |n| Line::Verdict(Verdict::Signal(n)))
            }
            Some(("failed", why)) => Line::Verdict(Verdict::Failed(why.to_owned())),
            _ => garbage(),
        },
        _ => garbage(),
    }
}

/// A list as init reads it: each item ended by NUL.
#[must_use]
pub fn list<S: AsRef<str>>(items: &[S]) -> Vec<u8> {
    items.iter().flat_map(|item| item.as_ref().bytes().chain([0])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_are_read_and_nothing_else_passes_for_one() {
        assert_eq!(parse("verdict exit 7\n"), Line::Verdict(Verdict::Exit(7)));
        assert_eq!(parse("verdict signal 11\r\n"), Line::Verdict(Verdict::Signal(11)));
        assert_eq!(parse("verdict failed no such file"), Line::Verdict(Verdict::Failed("no such file".into())));
        assert_eq!(parse("note verdict exit 0"), Line::Note("verdict exit 0".into()));
        assert_eq!(parse("ready"), Line::Ready);
        for garbage in ["verdict", "verdict exit", "verdict exit x", "exit 0", "readyverdict exit 0", ""] {
            assert_eq!(parse(garbage), Line::Garbage(garbage.into()));
        }
    }

    #[test]
    fn list_items_may_be_empty_or_hold_anything_but_nul() {
        assert_eq!(list(&["sh", "", "a b\nc"]), b"sh\0\0a b\nc\0");
        assert_eq!(list::<&str>(&[]), b"");
    }
}
