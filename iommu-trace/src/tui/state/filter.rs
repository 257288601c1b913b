//! The filter that is typed while the dashboard runs.
//!
//! Words are alternatives to nothing: all of them must match. `dev:`, `group:`, `pasid:` and `owner:` look at one thing,
//! any other word at everything that a row says.

use crate::event::Name;

/// What of a row can be filtered by.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The group's number.
    pub group: Option<u32>,
    /// The device's name.
    pub device: Option<Name>,
    /// 0 is the RID.
    pub pasid: Option<u32>,
    /// Everything else, in lower case.
    pub text: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Word {
    Device(String),
    Group(u32),
    Pasid(u32),
    Text(String),
    /// A number that is none yet: while it is typed it hides nothing.
    Unfinished,
}

/// What must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    text: String,
    words: Vec<Word>,
}

fn number(text: &str) -> Word {
    match text.strip_prefix("0x").map_or_else(|| text.parse().ok(), |hex| u32::from_str_radix(hex, 16).ok()) {
        Some(number) => Word::Pasid(number),
        None => Word::Unfinished,
    }
}

impl Filter {
    /// Reads what was typed. There is no wrong filter, only one that matches nothing.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let words = text
            .split_whitespace()
            .map(|word| {
                let word = word.to_lowercase();
                match word.split_once(':') {
                    Some(("dev" | "device", name)) => Word::Device(name.to_owned()),
                    Some(("group", group)) => group.parse().map_or(Word::Unfinished, Word::Group),
                    Some(("pasid", "rid")) => Word::Pasid(0),
                    Some(("pasid", pasid)) => number(pasid),
                    _ => Word::Text(word),
                }
            })
            .collect();
        Filter { text: text.to_owned(), words }
    }

    /// What was typed.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether everything matches.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// Whether a row is shown.
    #[must_use]
    pub fn matches(&self, facts: impl FnOnce() -> Facts) -> bool {
        if self.words.is_empty() {
            return true;
        }
        let facts = facts();
        let device = facts.device.map(|name| name.to_string().to_lowercase()).unwrap_or_default();
        self.words.iter().all(|word| match word {
            Word::Device(name) => device.contains(name),
            Word::Group(group) => facts.group == Some(*group),
            Word::Pasid(pasid) => facts.pasid == Some(*pasid),
            Word::Text(text) => device.contains(text) || facts.text.contains(text),
            Word::Unfinished => true,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shows(filter: &str) -> bool {
        let facts = || Facts {
            group: Some(4),
            device: Some(Name::new("0000:3B:00.1")),
            pasid: Some(18),
            text: "iommufd nested ff11".into(),
        };
        Filter::new(filter).matches(facts)
    }

    #[test]
    fn every_word_must_match() {
        for shown in ["", "  ", "3b", "NESTED", "dev:3b pasid:18", "group:4 ff11", "pasid:0x12", "pasid:", "group:x"] {
            assert!(shows(shown), "{shown}");
        }
        for hidden in ["sva", "dev:3c", "pasid:rid", "pasid:1", "group:44", "nested sva", "dev:nested"] {
            assert!(!shows(hidden), "{hidden}");
        }
    }
}
