//! `cargo xtask picture`: a picture of the dashboard for the README, from a real run in a guest.
//!
//! The screen of a real terminal, with its colours, becomes an SVG.

use std::{fmt::Write as _, fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use clap::Args;

use crate::{arch::Arch, setup, tmux::Terminal, workspace};

/// Booting and attaching, emulated.
const START: Duration = Duration::from_secs(300);
/// The size of a character.
const CELL: (f32, f32) = (7.8, 16.0);

/// Options of `cargo xtask picture`.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// A kernel of `cargo xtask kernel list`, or a bzImage
    #[arg(long, default_value = "built-7.3")]
    kernel: String,
    /// The keys that are pressed before it is taken: the view's number, and more
    #[arg(long, default_value = "1")]
    keys: String,
    /// How long the workload runs before it is taken
    #[arg(long, default_value_t = 25)]
    seconds: u64,
    /// Where it goes
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Columns of the terminal
    #[arg(long, default_value_t = 110)]
    columns: u16,
    /// Its rows
    #[arg(long, default_value_t = 32)]
    rows: u16,
}

/// Runs it; the exit status is 0.
pub fn main(arguments: &Arguments) -> Result<u8> {
    setup::ensure(Arch::Amd64)?;
    let terminal = Terminal::new(arguments.columns, arguments.rows)?;
    let xtask = std::env::current_exe()?;
    let seconds = arguments.seconds + 60;
    terminal.text(&format!("{} demo --top --kernel {} --seconds {seconds}", xtask.display(), arguments.kernel))?;
    terminal.key("Enter")?;
    terminal.wait("the dashboard", START, |screen| screen.contains("LIVE"))?;
    std::thread::sleep(Duration::from_secs(arguments.seconds));
    for key in arguments.keys.chars() {
        match key {
            '\n' => terminal.key("Enter")?,
            key => terminal.text(&key.to_string())?,
        }
        std::thread::sleep(Duration::from_secs(2));
    }
    let picture = svg(&terminal.coloured()?, arguments.columns, arguments.rows);
    terminal.key("q")?;
    terminal.wait("the end", START, |screen| screen.contains("ready>"))?;
    let path = arguments.output.clone().unwrap_or_else(|| workspace::root().join("docs/top.svg"));
    fs::write(&path, picture).with_context(|| format!("cannot write {}", path.display()))?;
    println!("{}", path.display());
    Ok(0)
}

/// How a character looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Look {
    colour: Option<u8>,
    bold: bool,
    dim: bool,
    reversed: bool,
}

impl Look {
    /// Takes note of one number of an escape sequence for colours.
    fn take(&mut self, number: u32) {
        match number {
            0 => *self = Look::default(),
            1 => self.bold = true,
            2 => self.dim = true,
            7 => self.reversed = true,
            22 => (self.bold, self.dim) = (false, false),
            27 => self.reversed = false,
            30..=37 => self.colour = Some((number - 30) as u8),
            39 => self.colour = None,
            90..=97 => self.colour = Some((number - 90) as u8),
            _ => {}
        }
    }

    /// Readable on the picture's dark ground.
    fn fill(self) -> &'static str {
        const COLOURS: [&str; 8] =
            ["#8b949e", "#ff7b72", "#7ee787", "#e3b341", "#79c0ff", "#d2a8ff", "#76e3ea", "#e6edf3"];
        match (self.colour, self.dim) {
            (Some(colour), _) => COLOURS[usize::from(colour & 7)],
            (None, true) => "#8b949e",
            (None, false) => "#e6edf3",
        }
    }
}

/// Stretches of text that look the same.
fn stretches(line: &str) -> Vec<(Look, String)> {
    let (mut all, mut look): (Vec<(Look, String)>, Look) = (Vec::new(), Look::default());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        if c == '\x1b' {
            let sequence: String = chars.by_ref().skip(1).take_while(|c| !c.is_ascii_alphabetic()).collect();
            for number in sequence.split(';') {
                look.take(number.parse().unwrap_or(0));
            }
            continue;
        }
        match all.last_mut() {
            Some((last, text)) if *last == look => text.push(c),
            _ => all.push((look, c.to_string())),
        }
    }
    all
}

/// The picture of a screen.
fn svg(screen: &str, columns: u16, rows: u16) -> String {
    let (width, height) = (f32::from(columns) * CELL.0 + 20.0, f32::from(rows) * CELL.1 + 20.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" \
         font-family=\"ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" rx=\"6\" fill=\"#0d1117\"/>\n"
    );
    for (row, line) in screen.lines().take(usize::from(rows)).enumerate() {
        let y = 10.0 + row as f32 * CELL.1;
        let mut column = 0;
        for (look, text) in stretches(line) {
            let count = text.chars().count();
            let (x, long) = (10.0 + column as f32 * CELL.0, count as f32 * CELL.0);
            column += count;
            if text.trim().is_empty() && !look.reversed {
                continue;
            }
            let mut fill = look.fill();
            if look.reversed {
                let _ = writeln!(
                    svg,
                    "<rect x=\"{x:.1}\" y=\"{y:.0}\" width=\"{long:.1}\" height=\"16\" fill=\"{fill}\"/>"
                );
                fill = "#0d1117";
            }
            let weight = if look.bold { " font-weight=\"bold\"" } else { "" };
            let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
            // The length keeps every font to the grid.
            let _ = writeln!(
                svg,
                "<text x=\"{x:.1}\" y=\"{:.0}\" fill=\"{fill}\"{weight} textLength=\"{long:.1}\" \
                 lengthAdjust=\"spacingAndGlyphs\" xml:space=\"preserve\">{text}</text>",
                y + 12.5
            );
        }
    }
    svg.push_str("</svg>\n");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_become_stretches() {
        let line = "\x1b[1m\x1b[32mgood\x1b[0m & \x1b[7m 1 \x1b[0m";
        let all = stretches(line);
        let texts: Vec<&str> = all.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(texts, ["good", " & ", " 1 "]);
        assert_eq!(all[0].0, Look { colour: Some(2), bold: true, ..Look::default() });
        assert!(all[2].0.reversed);
        let picture = svg(line, 20, 1);
        assert!(picture.contains(">good</text>") && picture.contains("&amp;") && picture.ends_with("</svg>\n"));
    }
}
