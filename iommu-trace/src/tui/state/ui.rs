//! What a person looks at: view, time, window, filter, selection.

use super::{
    filter::Filter,
    items::Item,
    series::{BUCKET_NS, BUCKETS},
};
use crate::event::Name;

/// The views, in the order of their number keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum View {
    /// Everything at a glance.
    #[default]
    Overview,
    /// Groups, slots, handles.
    Handles,
    /// Page faults.
    Faults,
    /// Stages over time.
    Latency,
    /// Mappings, invalidations, unrecoverable faults.
    Dma,
    /// Rules that were broken.
    Violations,
    /// Probes and cost.
    Probes,
}

impl View {
    /// Every view.
    pub const ALL: [View; 7] =
        [View::Overview, View::Handles, View::Faults, View::Latency, View::Dma, View::Violations, View::Probes];

    /// Its title.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            View::Overview => "Overview",
            View::Handles => "Handles",
            View::Faults => "Faults",
            View::Latency => "Latency",
            View::Dma => "DMA",
            View::Violations => "Violations",
            View::Probes => "Probes",
        }
    }

    /// What its rows can be sorted by; the first is the order at the start.
    #[must_use]
    pub fn sorts(self) -> &'static [&'static str] {
        match self {
            View::Overview | View::Latency => &[],
            View::Handles => &["group", "faults", "age", "last fault"],
            View::Faults => &["time", "device", "look-up", "response"],
            View::Dma => &["last", "calls", "bytes", "longest"],
            View::Violations => &["last", "count", "rule"],
            View::Probes => &["probe", "events", "run time", "lost"],
        }
    }

    /// The one `by` places further, round and round.
    #[must_use]
    pub fn step(self, by: isize) -> View {
        let at = (self as isize + by).rem_euclid(Self::ALL.len() as isize);
        Self::ALL[at as usize]
    }
}

/// The time that is looked at: live and paused are not a flag.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Time {
    /// The newest there is.
    #[default]
    Live,
    /// This one, on the events' clock.
    At(u64),
}

impl Time {
    /// The time, the newest being `now`.
    #[must_use]
    pub fn at(self, now: u64) -> u64 {
        match self {
            Time::Live => now,
            Time::At(ts) => ts.min(now),
        }
    }
}

/// How much time a view shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// As people say it.
    pub name: &'static str,
    seconds: u64,
}

impl Span {
    /// In buckets.
    #[must_use]
    pub fn buckets(self) -> u64 {
        (self.seconds * 1_000_000_000 / BUCKET_NS).min(BUCKETS as u64)
    }
}

/// The windows, the narrowest first.
pub const WINDOWS: [Span; 6] = [
    Span { name: "15s", seconds: 15 },
    Span { name: "30s", seconds: 30 },
    Span { name: "1m", seconds: 60 },
    Span { name: "2m", seconds: 120 },
    Span { name: "5m", seconds: 300 },
    Span { name: "15m", seconds: 900 },
];

/// A view's list: where one is in it, and how it is sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct List {
    /// What is selected.
    pub selected: Option<Item>,
    /// Where it was when it was last seen.
    pub place: usize,
    /// The order, of [`View::sorts`].
    pub sort: usize,
    /// The other way round.
    pub reverse: bool,
}

/// What keys mean now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// A view.
    #[default]
    Browse,
    /// One thing of it.
    Detail,
    /// The filter is typed.
    Typing,
    /// The help.
    Help,
}

/// Something to be done at the edge.
#[derive(Clone, Debug, PartialEq)]
pub enum Order {
    /// Hand text to the terminal's clipboard.
    Copy(String),
    /// Save the state.
    Save,
    /// Play faster or slower.
    Speed(f64),
    /// Play from this time on.
    Seek(u64),
    /// Let a recording stand still, or go on.
    Hold(bool),
    /// Step aside.
    Suspend,
    /// Draw everything anew.
    Redraw,
    /// It is over.
    Quit,
}

/// What a person looks at.
#[derive(Clone, Debug)]
pub struct Ui {
    /// The view.
    pub view: View,
    /// The time.
    pub time: Time,
    /// Its place in [`WINDOWS`].
    pub width: usize,
    /// What rows are shown.
    pub filter: Filter,
    /// The filter before it was typed at, while it is.
    pub typing: Option<String>,
    /// The lists of the views.
    pub lists: [List; View::ALL.len()],
    /// The one thing that is shown whole, and from which line on.
    pub detail: Option<(Item, usize)>,
    /// The help, from which line on.
    pub help: Option<usize>,
    /// Whether the first violation stops the time.
    pub freeze: bool,
    /// The violation that did.
    pub frozen: Option<u64>,
    /// The device whose latencies are shown.
    pub device: Option<Name>,
    /// A word to the person.
    pub note: Option<String>,
    /// Rows that fitted the last time.
    pub page: usize,
    /// Drawn without anything but ASCII.
    pub ascii: bool,
    /// Drawn with colours.
    pub colour: bool,
    /// What a detail says, as it was last drawn.
    pub orders: Vec<Order>,
}

impl Default for Ui {
    fn default() -> Self {
        Ui {
            view: View::default(),
            time: Time::Live,
            width: 2,
            filter: Filter::default(),
            typing: None,
            lists: [List::default(); View::ALL.len()],
            detail: None,
            help: None,
            freeze: false,
            frozen: None,
            device: None,
            note: None,
            page: 10,
            ascii: false,
            colour: true,
            orders: Vec::new(),
        }
    }
}

impl Ui {
    /// What keys mean now.
    #[must_use]
    pub fn mode(&self) -> Mode {
        if self.typing.is_some() {
            Mode::Typing
        } else if self.help.is_some() {
            Mode::Help
        } else if self.detail.is_some() {
            Mode::Detail
        } else {
            Mode::Browse
        }
    }

    /// How much time is shown.
    #[must_use]
    pub fn span(&self) -> Span {
        WINDOWS[self.width.min(WINDOWS.len() - 1)]
    }

    /// Shows more or less time.
    pub fn widen(&mut self, by: isize) {
        self.width = self.width.saturating_add_signed(by).min(WINDOWS.len() - 1);
    }

    /// The list of the view.
    #[must_use]
    pub fn list(&self) -> &List {
        &self.lists[self.view as usize]
    }

    /// The list of the view.
    pub fn list_mut(&mut self) -> &mut List {
        &mut self.lists[self.view as usize]
    }
}
