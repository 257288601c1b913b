//! Keys and what they do: one table, from which footer, help and documentation come.

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::state::ui::{Mode, View};

/// A key, as a person knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// A character, with shift where it needs it.
    Char(char),
    /// A letter with Ctrl.
    Ctrl(char),
    /// Return.
    Enter,
    /// Escape.
    Esc,
    /// Tab.
    Tab,
    /// Shift and Tab.
    BackTab,
    /// Backspace.
    Backspace,
    /// Cursor up.
    Up,
    /// Cursor down.
    Down,
    /// Cursor left.
    Left,
    /// Cursor right.
    Right,
    /// A page up.
    PageUp,
    /// A page down.
    PageDown,
    /// To the beginning.
    Home,
    /// To the end.
    End,
}

impl Key {
    /// From the terminal's event; `None` for what is no key of ours, and for a key that is let go.
    #[must_use]
    pub fn from_event(event: &KeyEvent) -> Option<Key> {
        if event.kind == KeyEventKind::Release {
            return None;
        }
        Some(match event.code {
            KeyCode::Char(c) if event.modifiers.contains(KeyModifiers::CONTROL) => Key::Ctrl(c.to_ascii_lowercase()),
            KeyCode::Char(_) if event.modifiers.contains(KeyModifiers::ALT) => return None,
            KeyCode::Char(c) => Key::Char(c),
            KeyCode::Enter => Key::Enter,
            KeyCode::Esc => Key::Esc,
            KeyCode::Tab => Key::Tab,
            KeyCode::BackTab => Key::BackTab,
            KeyCode::Backspace => Key::Backspace,
            KeyCode::Up => Key::Up,
            KeyCode::Down => Key::Down,
            KeyCode::Left => Key::Left,
            KeyCode::Right => Key::Right,
            KeyCode::PageUp => Key::PageUp,
            KeyCode::PageDown => Key::PageDown,
            KeyCode::Home => Key::Home,
            KeyCode::End => Key::End,
            _ => return None,
        })
    }

    /// As it is told to people.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Key::Char(' ') => "Space".to_owned(),
            Key::Char(c) => c.to_string(),
            Key::Ctrl(c) => format!("Ctrl-{}", c.to_ascii_uppercase()),
            Key::Enter => "Enter".to_owned(),
            Key::Esc => "Esc".to_owned(),
            Key::Tab => "Tab".to_owned(),
            Key::BackTab => "Shift-Tab".to_owned(),
            Key::Backspace => "Backspace".to_owned(),
            Key::Up => "Up".to_owned(),
            Key::Down => "Down".to_owned(),
            Key::Left => "Left".to_owned(),
            Key::Right => "Right".to_owned(),
            Key::PageUp => "PgUp".to_owned(),
            Key::PageDown => "PgDn".to_owned(),
            Key::Home => "Home".to_owned(),
            Key::End => "End".to_owned(),
        }
    }
}

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Leave.
    Quit,
    /// Go to a view.
    Go(View),
    /// Go to the next view, or to the one before it.
    Turn(i8),
    /// Go so many rows or lines down.
    Move(i8),
    /// Go so many pages down.
    Page(i8),
    /// Go to the first row.
    First,
    /// Go to the last row.
    Last,
    /// Open what is selected.
    Open,
    /// Close what is open; where nothing is, drop the filter.
    Close,
    /// Show the help, or close it.
    Help,
    /// Begin to type the filter.
    Filter,
    /// Add a character to it.
    Type(char),
    /// Take one away.
    Erase,
    /// Empty it.
    Clear,
    /// The filter is right.
    Accept,
    /// The filter is as it was.
    Cancel,
    /// Sort by the next column.
    Sort,
    /// Sort the other way round.
    Reverse,
    /// Stop the time, or let it go on.
    Pause,
    /// Step through history.
    Step(i8),
    /// Leap through history: as far as half a window.
    Leap(i8),
    /// Look at what is new again.
    Live,
    /// Show more or less time.
    Window(i8),
    /// Stop the time at the first violation, or do not.
    Freeze,
    /// The next device's latencies.
    Device,
    /// Copy what is selected or open.
    Copy,
    /// Save the state.
    Save,
    /// Play faster or slower.
    Speed(i8),
    /// Play from ten seconds earlier or later on.
    Seek(i8),
    /// To the recording's end.
    SeekEnd,
    /// Step aside for the shell.
    Suspend,
    /// Draw everything anew.
    Redraw,
}

/// Some keys that do one thing in some modes.
#[derive(Clone, Copy, Debug)]
pub struct Binding {
    /// The keys, with what each does.
    pub keys: &'static [(Key, Action)],
    /// When.
    pub modes: &'static [Mode],
    /// What it is called in the footer; not there where it is empty.
    pub short: &'static str,
    /// One sentence.
    pub help: &'static str,
}

use Action as A;
use Key::{Char, Ctrl};
use Mode::{Browse, Detail, Help, Typing};

const EVERYWHERE: &[Mode] = &[Browse, Detail, Help, Typing];
const READING: &[Mode] = &[Browse, Detail, Help];
const LOOKING: &[Mode] = &[Browse, Detail];

/// Every key, in the order of the help; the footer shows as many as fit.
pub const KEYS: &[Binding] = &[
    Binding {
        keys: &[(Char('q'), A::Quit), (Ctrl('c'), A::Quit)],
        modes: READING,
        short: "quit",
        help: "leave; the terminal is given back as it was",
    },
    Binding { keys: &[(Ctrl('c'), A::Quit)], modes: &[Typing], short: "", help: "leave" },
    Binding {
        keys: &[(Char('?'), A::Help), (Key::Esc, A::Help)],
        modes: &[Help],
        short: "close help",
        help: "close this help",
    },
    Binding { keys: &[(Char('?'), A::Help)], modes: LOOKING, short: "help", help: "every key" },
    Binding {
        keys: &[
            (Char('1'), A::Go(View::Overview)),
            (Char('2'), A::Go(View::Handles)),
            (Char('3'), A::Go(View::Faults)),
            (Char('4'), A::Go(View::Latency)),
            (Char('5'), A::Go(View::Dma)),
            (Char('6'), A::Go(View::Violations)),
            (Char('7'), A::Go(View::Probes)),
        ],
        modes: READING,
        short: "",
        help: "the views: overview, handles, faults, latency, DMA, violations, probes",
    },
    Binding {
        keys: &[(Key::Tab, A::Turn(1)), (Key::BackTab, A::Turn(-1))],
        modes: READING,
        short: "view",
        help: "the next view, the one before",
    },
    Binding {
        keys: &[(Key::Enter, A::Open)],
        modes: &[Browse],
        short: "open",
        help: "show the selected row whole: a handle's life, a fault's stages, a violation's evidence",
    },
    Binding { keys: &[(Key::Esc, A::Close)], modes: &[Detail], short: "back", help: "close what Enter opened" },
    Binding { keys: &[(Key::Esc, A::Close)], modes: &[Browse], short: "", help: "drop the filter" },
    Binding {
        keys: &[(Char(' '), A::Pause), (Char('p'), A::Pause)],
        modes: LOOKING,
        short: "pause",
        help: "stop the time, and go on with what happened meanwhile in view; holds a recording",
    },
    Binding {
        keys: &[(Char('/'), A::Filter)],
        modes: &[Browse],
        short: "filter",
        help: "show rows that match all words: text, dev:NAME, group:N, pasid:N or pasid:rid",
    },
    Binding {
        keys: &[(Char('s'), A::Sort), (Char('r'), A::Reverse)],
        modes: &[Browse],
        short: "sort",
        help: "sort by the next column, the other way round",
    },
    Binding {
        keys: &[(Key::Left, A::Step(-1)), (Key::Right, A::Step(1))],
        modes: LOOKING,
        short: "step",
        help: "a quarter of a second back or forward through history",
    },
    Binding {
        keys: &[(Char('<'), A::Leap(-1)), (Char('>'), A::Leap(1))],
        modes: LOOKING,
        short: "",
        help: "half a window back or forward",
    },
    Binding { keys: &[(Char('l'), A::Live)], modes: LOOKING, short: "live", help: "back to what happens now" },
    Binding {
        keys: &[(Char('+'), A::Window(1)), (Char('='), A::Window(1)), (Char('-'), A::Window(-1))],
        modes: LOOKING,
        short: "window",
        help: "show more or less time: 15s to 15m",
    },
    Binding {
        keys: &[(Char('f'), A::Freeze)],
        modes: LOOKING,
        short: "freeze",
        help: "stop the time at the first violation: on or off",
    },
    Binding {
        keys: &[(Char('d'), A::Device)],
        modes: LOOKING,
        short: "",
        help: "latencies of the next device, then of all",
    },
    Binding {
        keys: &[(Key::Up, A::Move(-1)), (Char('k'), A::Move(-1)), (Key::Down, A::Move(1)), (Char('j'), A::Move(1))],
        modes: READING,
        short: "",
        help: "a row up or down",
    },
    Binding {
        keys: &[(Key::PageUp, A::Page(-1)), (Key::PageDown, A::Page(1))],
        modes: READING,
        short: "",
        help: "a page up or down",
    },
    Binding {
        keys: &[(Key::Home, A::First), (Char('g'), A::First), (Key::End, A::Last), (Char('G'), A::Last)],
        modes: READING,
        short: "",
        help: "the first row, the last one",
    },
    Binding {
        keys: &[(Char('y'), A::Copy)],
        modes: LOOKING,
        short: "copy",
        help: "hand what is open, or the selected row, to the terminal's clipboard (OSC 52)",
    },
    Binding {
        keys: &[(Char('w'), A::Save)],
        modes: LOOKING,
        short: "save",
        help: "write the present state as JSON into the working directory, and what is open as text",
    },
    Binding {
        keys: &[(Char('['), A::Speed(-1)), (Char(']'), A::Speed(1))],
        modes: LOOKING,
        short: "",
        help: "play a recording at half or twice the speed",
    },
    Binding {
        keys: &[(Char('{'), A::Seek(-1)), (Char('}'), A::Seek(1)), (Char('E'), A::SeekEnd)],
        modes: LOOKING,
        short: "",
        help: "play a recording from 10 seconds earlier or later on; to its end",
    },
    Binding {
        keys: &[(Ctrl('z'), A::Suspend)],
        modes: EVERYWHERE,
        short: "",
        help: "step aside for the shell; `fg` comes back",
    },
    Binding { keys: &[(Ctrl('l'), A::Redraw)], modes: EVERYWHERE, short: "", help: "draw everything anew" },
    Binding { keys: &[(Key::Enter, A::Accept)], modes: &[Typing], short: "keep", help: "keep the filter" },
    Binding {
        keys: &[(Key::Esc, A::Cancel)],
        modes: &[Typing],
        short: "as before",
        help: "the filter as it was before",
    },
    Binding {
        keys: &[(Key::Backspace, A::Erase), (Ctrl('h'), A::Erase), (Ctrl('u'), A::Clear)],
        modes: &[Typing],
        short: "erase",
        help: "take the last character away, or all of them",
    },
];

/// What a key does in a mode. Pure: the table, and that any other character is text where text is typed.
#[must_use]
pub fn on_key(key: Key, mode: Mode) -> Option<Action> {
    let bound = KEYS
        .iter()
        .filter(|binding| binding.modes.contains(&mode))
        .flat_map(|binding| binding.keys)
        .find(|(bound, _)| *bound == key)
        .map(|&(_, action)| action);
    match (bound, key, mode) {
        (Some(action), ..) => Some(action),
        (None, Char(c), Typing) if !c.is_control() => Some(Action::Type(c)),
        _ => None,
    }
}

/// The names of a binding's keys.
#[must_use]
pub fn names(binding: &Binding) -> String {
    binding.keys.iter().map(|(key, _)| key.name()).collect::<Vec<_>>().join(" ")
}

/// What the footer says in a mode: the first key of each binding that has a word for it.
pub fn footer(mode: Mode) -> impl Iterator<Item = (String, &'static str)> {
    KEYS.iter()
        .filter(move |binding| binding.modes.contains(&mode) && !binding.short.is_empty())
        .filter_map(|binding| binding.keys.first().map(|(key, _)| (key.name(), binding.short)))
}

/// The table of keys of the user guide.
#[must_use]
pub fn markdown() -> String {
    use std::fmt::Write as _;
    let mut text = String::from("| keys | do |\n|---|---|\n");
    for binding in KEYS {
        let keys: Vec<String> = binding.keys.iter().map(|(key, _)| format!("`{}`", key.name())).collect();
        let when = if binding.modes == [Typing] { "while a filter is typed: " } else { "" };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| {} | {when}{} |", keys.join(" "), binding.help);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_key_means_two_things_in_one_mode() {
        for mode in [Browse, Detail, Help, Typing] {
            let mut seen = HashSet::new();
            for (key, _) in KEYS.iter().filter(|binding| binding.modes.contains(&mode)).flat_map(|b| b.keys) {
                assert!(seen.insert(*key), "{key:?} in {mode:?}");
            }
        }
    }

    #[test]
    fn key_by_key() {
        for (key, mode, action) in [
            (Char('q'), Browse, Some(A::Quit)),
            (Char('q'), Typing, Some(A::Type('q'))),
            (Ctrl('c'), Typing, Some(A::Quit)),
            (Char('?'), Help, Some(A::Help)),
            (Char('?'), Browse, Some(A::Help)),
            (Char('?'), Typing, Some(A::Type('?'))),
            (Char('3'), Browse, Some(A::Go(View::Faults))),
            (Char('3'), Typing, Some(A::Type('3'))),
            (Key::Tab, Detail, Some(A::Turn(1))),
            (Key::BackTab, Browse, Some(A::Turn(-1))),
            (Key::Tab, Typing, None),
            (Key::Enter, Browse, Some(A::Open)),
            (Key::Enter, Detail, None),
            (Key::Enter, Typing, Some(A::Accept)),
            (Key::Esc, Browse, Some(A::Close)),
            (Key::Esc, Detail, Some(A::Close)),
            (Key::Esc, Help, Some(A::Help)),
            (Key::Esc, Typing, Some(A::Cancel)),
            (Key::Backspace, Typing, Some(A::Erase)),
            (Key::Backspace, Browse, None),
            (Char(' '), Browse, Some(A::Pause)),
            (Char(' '), Typing, Some(A::Type(' '))),
            (Char('/'), Browse, Some(A::Filter)),
            (Char('/'), Detail, None),
            (Key::Left, Browse, Some(A::Step(-1))),
            (Char('>'), Detail, Some(A::Leap(1))),
            (Char('+'), Browse, Some(A::Window(1))),
            (Char('w'), Help, None),
            (Char('x'), Browse, None),
            (Ctrl('z'), Typing, Some(A::Suspend)),
            (Char('\u{7}'), Typing, None),
        ] {
            assert_eq!(on_key(key, mode), action, "{key:?} in {mode:?}");
        }
    }

    #[test]
    fn every_view_has_its_number() {
        for (place, view) in View::ALL.into_iter().enumerate() {
            let key = char::from_digit(place as u32 + 1, 10).map(Char).unwrap();
            assert_eq!(on_key(key, Browse), Some(A::Go(view)));
        }
    }

    #[test]
    fn a_key_that_is_let_go_is_none() {
        let mut event = KeyEvent::new(KeyCode::Char('q'), KeyModifiers::NONE);
        assert_eq!(Key::from_event(&event), Some(Char('q')));
        event.kind = KeyEventKind::Release;
        assert_eq!(Key::from_event(&event), None);
        let event = KeyEvent::new(KeyCode::Char('C'), KeyModifiers::CONTROL | KeyModifiers::SHIFT);
        assert_eq!(Key::from_event(&event), Some(Ctrl('c')));
    }
}
