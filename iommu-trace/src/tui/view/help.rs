//! The help: the table of keys, and how to read what is drawn.

use ratatui::text::Line;

use super::theme::Theme;
use crate::tui::{
    keys::{self, KEYS},
    state::ui::Mode,
};

/// Its lines.
pub fn lines(theme: Theme) -> Vec<Line<'static>> {
    let mut lines = vec![Line::styled("Keys", theme.strong())];
    for binding in KEYS.iter().filter(|binding| binding.modes != [Mode::Help]) {
        let names = keys::names(binding);
        let when = if binding.modes == [Mode::Typing] { "(filter) " } else { "" };
        lines.push(Line::raw(format!("  {names:<18} {when}{}", binding.help)));
    }
    lines.push(Line::default());
    lines.push(Line::styled("Signs", theme.strong()));
    let zero = theme.level(0);
    let cold = theme.heat(0);
    for text in [
        format!(
            "a chart's `{zero}`, a map's `{cold}` and a number's 0: nothing happened; a blank and `-`: nothing is known"
        ),
        "a handle's age `before`: it was attached before the trace".to_owned(),
        "latencies of a window are within a tenth; those of the whole run are exact to three digits".to_owned(),
        "paused, everything is as it was at that time; counts of a handle's faults are those until now".to_owned(),
    ] {
        lines.push(Line::raw(format!("  {text}")));
    }
    lines
}
