//! Progress of slow steps, on standard error: a moving line on a terminal, a line now and then elsewhere.

use std::{
    io::{IsTerminal, Write, stderr, stdout},
    time::{Duration, Instant},
};

/// How often a log that is not a terminal gets a line.
const LOG_INTERVAL: Duration = Duration::from_secs(30);
/// How often a terminal is redrawn at most.
const DRAW_INTERVAL: Duration = Duration::from_millis(100);

/// One slow step.
#[derive(Debug)]
pub struct Progress {
    what: String,
    started: Instant,
    shown: Option<Instant>,
    terminal: bool,
}

impl Progress {
    /// Starts a step and says so.
    #[must_use]
    pub fn start(what: impl Into<String>) -> Self {
        let what = what.into();
        let terminal = stderr().is_terminal();
        if terminal {
            eprint!("xtask: {what} …");
        } else {
            eprintln!("xtask: {what} …");
        }
        Self { what, started: Instant::now(), shown: None, terminal }
    }

    /// Shows how far it is; cheap to call often.
    pub fn at(&mut self, detail: &str) {
        let now = Instant::now();
        let interval = if self.terminal { DRAW_INTERVAL } else { LOG_INTERVAL };
        if now.duration_since(self.shown.unwrap_or(self.started)) < interval {
            return;
        }
        self.shown = Some(now);
        let elapsed = elapsed(self.started.elapsed());
        if self.terminal {
            eprint!("\r\x1b[Kxtask: {} … {detail}, {elapsed}", self.what);
            let _ = stderr().flush();
        } else {
            eprintln!("xtask: {} … {detail}, {elapsed}", self.what);
        }
    }

    /// Ends the step.
    pub fn done(self, detail: &str) {
        let elapsed = elapsed(self.started.elapsed());
        let clear = if self.terminal { "\r\x1b[K" } else { "" };
        let detail = if detail.is_empty() { String::new() } else { format!(": {detail}") };
        eprintln!("{clear}xtask: {}{detail} ({elapsed})", self.what);
    }
}

/// Prints to standard output. A reader who has left has seen what they wanted.
pub fn say(text: &str) {
    let mut out = stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// A duration as people say it: `4.2 s`, `3 m 05 s`.
#[must_use]
pub fn elapsed(time: Duration) -> String {
    if time < Duration::from_secs(60) {
        format!("{:.1} s", time.as_secs_f64())
    } else {
        format!("{} m {:02} s", time.as_secs() / 60, time.as_secs() % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_say_them() {
        assert_eq!(elapsed(Duration::from_millis(4210)), "4.2 s");
        assert_eq!(elapsed(Duration::from_secs(185)), "3 m 05 s");
    }
}
