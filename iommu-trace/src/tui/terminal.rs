//! The terminal: taken once, and given back as it was, however the dashboard ends.

use std::{
    io::{self, Write as _, stdout},
    sync::{
        Once,
        atomic::{AtomicBool, Ordering},
    },
};

use crossterm::{
    cursor::{Hide, Show},
    execute,
    terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
};

/// Whether the terminal is ours now.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Holds the terminal until it is dropped.
pub struct Screen(());

impl Screen {
    /// Takes the terminal, and sees to it that a panic gives it back before its message is printed.
    pub fn take() -> io::Result<Screen> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                restore();
                before(panic);
            }));
        });
        let screen = Screen(());
        again()?;
        Ok(screen)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// Takes it again, after someone else had it.
pub fn again() -> io::Result<()> {
    if TAKEN.swap(true, Ordering::AcqRel) {
        // Whoever had it meanwhile may have set it otherwise, and raw mode is only set once.
        disable_raw_mode()?;
    }
    enable_raw_mode()?;
    execute!(stdout(), EnterAlternateScreen, Hide)
}

/// Gives the terminal back, once: called by drop, by the panic hook and before a stop.
pub fn restore() {
    if TAKEN.swap(false, Ordering::AcqRel) {
        // There is nobody to tell when it fails: the terminal is gone.
        let _ = execute!(stdout(), LeaveAlternateScreen, Show);
        let _ = disable_raw_mode();
        let _ = stdout().flush();
    }
}

/// Asks the terminal to put text on its clipboard (OSC 52).
pub fn copy(text: &str) -> io::Result<()> {
    /// Terminals take some 75 kB at the most.
    const MOST: usize = 50_000;
    let mut end = text.len().min(MOST);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    write!(stdout(), "\x1b]52;c;{}\x07", base64(&text.as_bytes()[..end]))?;
    stdout().flush()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let three = chunk.iter().fold(0_u32, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = (three >> (18 - 6 * place)) & 63;
            text.push(if place > chunk.len() { '=' } else { char::from(DIGITS[digit as usize]) });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_padded_to_fours() {
        for (text, encoded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("iommu\n", "aW9tbXUK")]
        {
            assert_eq!(base64(text.as_bytes()), encoded, "{text}");
        }
    }
}
