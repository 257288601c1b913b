//! Colours and signs, each for one meaning.
//!
//! The terminal's own colours on its own background, so that a light theme is as readable as a dark one: no white, no
//! black, no yellow. What colour tells, a word or a sign tells as well.

use ratatui::style::{Color, Modifier, Style};

/// How things look.
#[derive(Clone, Copy, Debug)]
pub struct Theme {
    /// Nothing but ASCII.
    pub ascii: bool,
    /// Colours.
    pub colour: bool,
}

impl Theme {
    fn coloured(self, colour: Color) -> Style {
        if self.colour { Style::new().fg(colour) } else { Style::new() }
    }

    /// What is there only for completeness, or gone.
    #[must_use]
    pub fn dim(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    /// Titles and heads.
    #[must_use]
    pub fn strong(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    /// It went well.
    #[must_use]
    pub fn good(self) -> Style {
        self.coloured(Color::Green)
    }

    /// It is not over, or was refused.
    #[must_use]
    pub fn warn(self) -> Style {
        self.coloured(Color::Magenta).add_modifier(Modifier::BOLD)
    }

    /// It failed, or is wrong.
    #[must_use]
    pub fn bad(self) -> Style {
        self.coloured(Color::Red).add_modifier(Modifier::BOLD)
    }

    /// Charts.
    #[must_use]
    pub fn chart(self) -> Style {
        self.coloured(Color::Cyan)
    }

    /// What is selected.
    #[must_use]
    pub fn selected(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    /// The sign in place of `pretty`, where only ASCII is drawn.
    #[must_use]
    pub fn sign(self, pretty: &'static str, ascii: &'static str) -> &'static str {
        if self.ascii { ascii } else { pretty }
    }

    /// A column of a sparkline: `level` of 8. Zero has a sign of its own.
    #[must_use]
    pub fn level(self, level: u8) -> char {
        const PRETTY: [char; 9] = ['_', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        const ASCII: [char; 9] = ['_', '.', '.', ':', '-', '=', '+', '*', '#'];
        let levels = if self.ascii { ASCII } else { PRETTY };
        levels[usize::from(level.min(8))]
    }

    /// A cell of a heat map: `heat` of 4. Zero has a sign of its own.
    #[must_use]
    pub fn heat(self, heat: u8) -> char {
        const PRETTY: [char; 5] = ['·', '░', '▒', '▓', '█'];
        const ASCII: [char; 5] = ['.', '-', '+', '*', '#'];
        let heats = if self.ascii { ASCII } else { PRETTY };
        heats[usize::from(heat.min(4))]
    }

    /// Where nothing is known: no data is not zero.
    #[must_use]
    pub fn unknown(self) -> char {
        ' '
    }
}
