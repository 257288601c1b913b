//! The dashboard in a real terminal, playing a recording: it draws, answers keys, and gives the terminal back as it was,
//! however it ends. Needs tmux, which `cargo xtask setup` installs.
#![allow(missing_docs, clippy::unwrap_used, reason = "this is a test")]

use std::{
    path::Path,
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

/// Far more than it takes on an idle machine.
const LIMIT: Duration = Duration::from_secs(60);

/// Whether the shell has said how the dashboard ended, and waits for the next line: what was typed says `ended`, too.
fn has_ended(screen: &str) -> bool {
    let said = screen.lines().any(|line| line.starts_with("ended with "));
    said && screen.trim_end().lines().last().is_some_and(|line| line.trim_end() == "ready>")
}

/// A shell in a terminal of its own.
struct Terminal {
    socket: String,
    dir: tempfile::TempDir,
}

impl Terminal {
    fn new(name: &str, columns: u16, rows: u16) -> Terminal {
        let dir = tempfile::tempdir().unwrap();
        let terminal = Terminal { socket: format!("iommu-trace-{name}-{}", std::process::id()), dir };
        let size = [columns.to_string(), rows.to_string()];
        let path = terminal.dir.path().to_str().unwrap().to_owned();
        terminal.tmux(&["new-session", "-d", "-c", &path, "-x", &size[0], "-y", &size[1], "PS1='ready> ' sh"]);
        terminal.wait("the shell", |screen| screen.contains("ready>"));
        terminal
    }

    fn tmux(&self, args: &[&str]) -> String {
        let output = Command::new("tmux")
            .args(["-L", &self.socket, "-f", "/dev/null"])
            .args(args)
            .env("LC_ALL", "C.UTF-8")
            .env_remove("NO_COLOR")
            .output()
            .expect("tmux is not installed: `cargo xtask setup` does that");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn run(&self, line: &str) {
        self.tmux(&["send-keys", "-l", line]);
        self.tmux(&["send-keys", "Enter"]);
    }

    fn key(&self, key: &str) {
        self.tmux(&["send-keys", key]);
    }

    fn wait(&self, what: &str, right: impl Fn(&str) -> bool) -> String {
        let started = Instant::now();
        loop {
            let screen = self.tmux(&["capture-pane", "-p"]);
            if right(&screen) {
                return screen;
            }
            assert!(started.elapsed() < LIMIT, "{what} did not come; the screen:\n{screen}");
            sleep(Duration::from_millis(50));
        }
    }

    /// Begins the dashboard, with the terminal's settings written down before and compared after it.
    fn top(&self) {
        let recording = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/v1.itr");
        self.run(&format!(
            "stty -g > before; {} top --from {}; echo ended with $?; stty -g > after; cmp before after && echo as before",
            env!("CARGO_BIN_EXE_iommu-trace"),
            recording.display()
        ));
        self.wait("the dashboard", |screen| screen.contains("Overview") && screen.contains("END"));
    }

    /// The dashboard has ended with this status, and the terminal is what it was.
    fn given_back(&self, status: &str) {
        let screen = self.wait("the shell", has_ended);
        assert!(screen.contains(&format!("ended with {status}\n")), "{screen}");
        assert!(screen.contains("\nas before\n") && !screen.contains("Overview"), "{screen}");
        assert_eq!(self.tmux(&["display-message", "-p", "#{alternate_on} #{cursor_flag}"]).trim(), "0 1");
    }

    /// Signals the dashboard: the terminal's only other process.
    fn signal(&self, signal: &str) {
        let shell = self.tmux(&["display-message", "-p", "#{pane_pid}"]).trim().to_owned();
        let killed = Command::new("pkill").args([&format!("-{signal}"), "-P", &shell]).status().unwrap();
        assert!(killed.success());
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

#[test]
fn every_view_is_a_key_away_and_quit_gives_the_terminal_back() {
    let terminal = Terminal::new("views", 120, 40);
    terminal.top();
    for (key, drawn) in [
        ("2", "GRP"),
        ("3", "ADDRESS"),
        ("4", "device_id"),
        ("5", "not traced"),
        ("6", "slot-occupied"),
        ("7", "VERDICT"),
    ] {
        terminal.key(key);
        terminal.wait(drawn, |screen| screen.lines().skip(3).any(|line| line.contains(drawn)));
    }
    terminal.key("6");
    terminal.key("Enter");
    terminal.wait("the evidence", |screen| screen.contains("Evidence of the first time"));
    terminal.key("?");
    terminal.wait("the help", |screen| screen.contains("Ctrl-Z"));
    terminal.key("q");
    terminal.given_back("0");
}

#[test]
fn it_follows_the_terminal_to_any_size() {
    let terminal = Terminal::new("sizes", 100, 30);
    terminal.top();
    for (columns, rows) in [("20", "5"), ("200", "60"), ("3", "2"), ("80", "24")] {
        terminal.tmux(&["resize-window", "-x", columns, "-y", rows]);
        sleep(Duration::from_millis(300));
    }
    let screen = terminal.wait("the footer at its new place", |screen| {
        screen.lines().nth(23).is_some_and(|line| line.starts_with("q quit"))
    });
    assert!(screen.contains("attached"), "{screen}");
    terminal.key("q");
    terminal.given_back("0");
}

#[test]
fn signals_give_the_terminal_back() {
    for signal in ["TERM", "INT"] {
        let terminal = Terminal::new(signal, 100, 30);
        terminal.top();
        terminal.signal(signal);
        terminal.given_back("0");
    }
}

#[test]
fn it_steps_aside_and_comes_back() {
    let terminal = Terminal::new("stop", 100, 30);
    for stop in ["C-z", "TSTP"] {
        terminal.run("clear");
        // What is typed before the shell asks for it stands before its prompt.
        terminal.wait("an empty screen", |screen| screen.trim() == "ready>");
        terminal.top();
        match stop {
            "C-z" => terminal.key("C-z"),
            signal => terminal.signal(signal),
        }
        // The shell has the terminal, set as it was; then the dashboard has it again.
        let screen = terminal.wait("the shell", has_ended);
        assert!(screen.contains("\nas before\n") && !screen.contains("Overview"), "{screen}");
        terminal.run("fg");
        terminal.wait("the dashboard again", |screen| screen.contains("Overview") && screen.contains("END"));
        terminal.key("2");
        terminal.wait("an answer", |screen| screen.contains("GRP"));
        terminal.key("q");
        terminal.wait("the end", |screen| !screen.contains("Overview") && screen.contains("ready>"));
        assert_eq!(terminal.tmux(&["display-message", "-p", "#{alternate_on} #{cursor_flag}"]).trim(), "0 1");
    }
}

#[test]
fn the_screen_is_copied_to_the_clipboard() {
    let terminal = Terminal::new("copy", 100, 30);
    terminal.tmux(&["set-option", "-s", "set-clipboard", "on"]);
    terminal.top();
    terminal.key("6");
    terminal.key("y");
    terminal.wait("the note", |screen| screen.contains("clipboard"));
    let started = Instant::now();
    while !terminal.tmux(&["show-buffer"]).contains("error slot-occupied") {
        assert!(started.elapsed() < LIMIT, "the terminal got: {}", terminal.tmux(&["show-buffer"]));
        sleep(Duration::from_millis(50));
    }
    terminal.key("q");
    terminal.given_back("0");
}
