//! What an event brings about.

use super::{Violation, span::Span};

/// A buffer for what the model tells, in the order it became known. The model only appends; whoever reads it clears it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Effects {
    /// Things that happened, whole.
    pub spans: Vec<Span>,
    /// Rules that were broken.
    pub violations: Vec<Violation>,
}

impl Effects {
    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty() && self.violations.is_empty()
    }

    /// Empties it, keeping its memory.
    pub fn clear(&mut self) {
        self.spans.clear();
        self.violations.clear();
    }
}
