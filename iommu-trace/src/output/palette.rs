//! Colours, each for one meaning. All of them are empty where colour is not wanted.

use std::fmt;

use anstyle::{AnsiColor, Style};

/// The styles of the text output.
#[derive(Clone, Copy, Debug, Default)]
pub struct Palette {
    /// Column heads, and what is there only for completeness.
    pub dim: Style,
    /// Names of events, titles.
    pub strong: Style,
    /// It went well.
    pub good: Style,
    /// It was refused, or is not over.
    pub warn: Style,
    /// It failed, or something is wrong.
    pub bad: Style,
}

impl Palette {
    /// No colour at all.
    #[must_use]
    pub fn plain() -> Self {
        Palette::default()
    }

    /// The terminal's own sixteen colours, so that its theme decides how they look.
    #[must_use]
    pub fn coloured() -> Self {
        Palette {
            dim: Style::new().dimmed(),
            strong: Style::new().bold(),
            good: AnsiColor::Green.on_default(),
            warn: AnsiColor::Yellow.on_default().bold(),
            bad: AnsiColor::Red.on_default().bold(),
        }
    }

    /// Coloured where `stream` is a terminal and the environment (`NO_COLOR`, `TERM`, `CLICOLOR`) lets it.
    #[must_use]
    pub fn for_stream(stream: &impl anstream::stream::RawStream) -> Self {
        match anstream::AutoStream::choice(stream) {
            anstream::ColorChoice::Never => Palette::plain(),
            _ => Palette::coloured(),
        }
    }
}

/// `text` in `style`; nothing but the text when the style is empty.
pub(crate) struct Painted<T>(pub Style, pub T);

impl<T: fmt::Display> fmt::Display for Painted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_plain() {
            return self.1.fmt(f);
        }
        write!(f, "{}{}{}", self.0.render(), self.1, self.0.render_reset())
    }
}
