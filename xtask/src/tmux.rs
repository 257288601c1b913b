//! A real terminal to drive: tmux, with keys sent and the screen read back.

use std::{
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::command;

/// The program.
pub const PROGRAM: &str = "tmux";
/// How often the screen is looked at.
const TICK: Duration = Duration::from_millis(200);

/// A terminal of its own server, so that nobody's own tmux is touched; it ends when this is dropped.
#[derive(Debug)]
pub struct Terminal {
    socket: String,
}

impl Terminal {
    /// A terminal of this size with a shell in it.
    pub fn new(columns: u16, rows: u16) -> Result<Terminal> {
        let nanos = std::time::UNIX_EPOCH.elapsed().map_or(0, |time| time.subsec_nanos());
        let terminal = Terminal { socket: format!("iommu-trace-{}-{nanos}", std::process::id()) };
        let size = [columns.to_string(), rows.to_string()];
        // A prompt that nothing else on the screen looks like.
        let args = ["new-session", "-d", "-x", &size[0], "-y", &size[1], "PS1='ready> ' sh"];
        command::output(terminal.tmux(&args).env("LC_ALL", "C.UTF-8").env_remove("NO_COLOR"))?;
        terminal.wait("the shell", Duration::from_secs(30), |screen| screen.contains("ready>"))?;
        Ok(terminal)
    }

    /// Without the user's configuration.
    fn tmux(&self, args: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(["-L", &self.socket, "-f", "/dev/null"]).args(args);
        command
    }

    /// Types text as it is.
    pub fn text(&self, text: &str) -> Result<()> {
        command::output(&mut self.tmux(&["send-keys", "-l", text])).map(drop)
    }

    /// Presses a key, as tmux calls it: `Enter`, `Escape`, `Tab`, `Down`, `q`.
    pub fn key(&self, key: &str) -> Result<()> {
        command::output(&mut self.tmux(&["send-keys", key])).map(drop)
    }

    /// What is on the screen.
    pub fn screen(&self) -> Result<String> {
        command::text(&mut self.tmux(&["capture-pane", "-p"]))
    }

    /// What is on the screen, with colours as escape sequences.
    pub fn coloured(&self) -> Result<String> {
        command::text(&mut self.tmux(&["capture-pane", "-p", "-e"]))
    }

    /// Waits until the screen is as it should be, and returns it.
    pub fn wait(&self, what: &str, limit: Duration, right: impl Fn(&str) -> bool) -> Result<String> {
        let started = Instant::now();
        loop {
            let screen = self.screen()?;
            if right(&screen) {
                return Ok(screen);
            }
            if started.elapsed() > limit {
                bail!("{what} did not come within {limit:?}; the screen:\n{screen}");
            }
            thread::sleep(TICK);
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = command::output(&mut self.tmux(&["kill-server"]));
    }
}
