//! How a run in a guest ended.

use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

use anyhow::{Result, anyhow, bail};
use tempfile::TempDir;

use crate::{command::tail, console::Alarm, progress::elapsed};

/// The exit status of `cargo xtask vm` when the guest, not the command, failed.
pub const CRASH_CODE: u8 = 125;

/// Lines of the console that a failure repeats.
const CONSOLE_TAIL: usize = 60;

/// What the kernel says of a CPU that gets no timer interrupt any more: RCU then stalls, whatever else it does.
const NO_TIMER: &str = "Possible timer handling issue on cpu";

/// A guest that did not end in time, whose kernel crashed before the command began, or that its emulator has let down: the error's own
/// type, for who wants to try again.
#[derive(Debug)]
pub struct Unlucky(String);

impl fmt::Display for Unlucky {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unlucky {}

/// How the command, or the guest around it, ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// The command exited with this status.
    Exited(i32),
    /// The command was killed by this signal.
    Signalled(i32),
    /// The kernel died, or is as good as dead.
    Crashed(Alarm),
    /// The wall-clock limit was reached; whether the command had started by then.
    TimedOut(Duration, bool),
    /// The guest ended without saying how the command ended, or said so twice.
    NoVerdict(String),
}

/// Everything a run left behind.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub status: Status,
    /// The command's standard output.
    pub stdout: Vec<u8>,
    /// The command's standard error.
    pub stderr: Vec<u8>,
    /// The kernel's console.
    pub console: String,
    /// What the console said that no healthy kernel says, in order.
    pub alarms: Vec<Alarm>,
    /// What init had to note: modules that did not load, files that could not be collected.
    pub notes: Vec<String>,
    /// Files brought back, by guest path. They are gone when the outcome is dropped.
    pub collected: BTreeMap<String, PathBuf>,
    /// From the start of QEMU to the start of the command, if it came that far.
    pub boot: Option<Duration>,
    /// The whole run.
    pub wall: Duration,
    /// Keeps the collected files.
    pub(super) directory: Option<TempDir>,
}

impl Outcome {
    /// What is wrong with the guest, whatever became of the command; `None` for a healthy one.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        match &self.status {
            Status::Crashed(alarm) => Some(format!("the guest's kernel crashed: {}", alarm.line)),
            Status::TimedOut(limit, true) => {
                Some(format!("time-out: the command was still running after {}", elapsed(*limit)))
            }
            Status::TimedOut(limit, false) => {
                Some(format!("time-out: the guest had not booted after {}", elapsed(*limit)))
            }
            Status::NoVerdict(why) => Some(why.clone()),
            Status::Exited(_) | Status::Signalled(_) => {
                self.alarms.first().map(|alarm| format!("the guest's kernel complained: {}", alarm.line))
            }
        }
    }

    /// The exit status to pass on: the command's own, 128 + signal, or [`CRASH_CODE`] when the guest failed.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self.status {
            _ if self.trouble().is_some() => CRASH_CODE,
            Status::Exited(code) => code as u8,
            Status::Signalled(signal) => 128_u8.saturating_add(signal as u8),
            _ => CRASH_CODE,
        }
    }

    /// Fails, with the console's tail, unless the guest was healthy.
    pub fn healthy(&self) -> Result<&Self> {
        match self.trouble() {
            None => Ok(self),
            Some(trouble) => {
                let message = format!("{trouble}\n{}", self.console_tail());
                let unlucky = match &self.status {
                    Status::TimedOut(..) => true,
                    // An emulated CPU can run into an instruction that the kernel is just patching, which is a breakpoint meanwhile,
                    // or lose its timer.
                    Status::Crashed(alarm) => {
                        self.boot.is_none() || alarm.line.contains("Oops: int3") || self.console.contains(NO_TIMER)
                    }
                    _ => self.console.contains(NO_TIMER),
                };
                Err(if unlucky { Unlucky(message).into() } else { anyhow!(message) })
            }
        }
    }

    /// Fails unless the guest was healthy and the command exited with `code`.
    pub fn exited(&self, code: i32) -> Result<&Self> {
        self.healthy()?;
        if self.status != Status::Exited(code) {
            let how = match self.status {
                Status::Exited(other) => format!("exited with {other}"),
                Status::Signalled(signal) => format!("was killed by signal {signal}"),
                _ => "failed".to_owned(),
            };
            bail!(
                "the command {how}, not with {code}; its standard error ends\n{}",
                tail(&String::from_utf8_lossy(&self.stderr), CONSOLE_TAIL)
            );
        }
        Ok(self)
    }

    /// Fails unless the guest was healthy and the command exited with 0.
    pub fn success(&self) -> Result<&Self> {
        self.exited(0)
    }

    /// Standard output as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// The end of the console, marked as such.
    #[must_use]
    pub fn console_tail(&self) -> String {
        if self.console.is_empty() {
            return "the console said nothing".to_owned();
        }
        let tail = tail(&self.console, CONSOLE_TAIL);
        format!("---- the end of the guest's console\n{tail}\n----")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::Severity;

    fn outcome(status: Status, alarms: Vec<Alarm>) -> Outcome {
        Outcome {
            status,
            stdout: Vec::new(),
            stderr: b"it went wrong".to_vec(),
            console: "last words\n".to_owned(),
            alarms,
            notes: Vec::new(),
            collected: BTreeMap::new(),
            boot: None,
            wall: Duration::ZERO,
            directory: None,
        }
    }

    fn warning() -> Alarm {
        Alarm { severity: Severity::Warning, line: "WARNING: x".to_owned() }
    }

    #[test]
    fn the_commands_own_status_passes_through() {
        assert_eq!(outcome(Status::Exited(7), vec![]).exit_code(), 7);
        assert_eq!(outcome(Status::Signalled(9), vec![]).exit_code(), 137);
        assert!(outcome(Status::Exited(7), vec![]).exited(7).is_ok());
        let error = outcome(Status::Exited(7), vec![]).success().unwrap_err().to_string();
        assert!(error.contains("exited with 7") && error.contains("it went wrong"), "{error}");
    }

    #[test]
    fn a_guest_that_stood_still_can_be_told_from_one_that_is_sick() {
        let still = outcome(Status::TimedOut(Duration::from_secs(60), true), vec![]).success().unwrap_err();
        assert!(still.is::<Unlucky>() && still.to_string().contains("last words"), "{still}");
        assert!(!outcome(Status::NoVerdict("it ended".into()), vec![]).success().unwrap_err().is::<Unlucky>());
        let crash = Status::Crashed(warning());
        assert!(outcome(crash.clone(), vec![]).success().unwrap_err().is::<Unlucky>());
        let patched = Status::Crashed(Alarm { line: "Oops: int3: 0000 [#1]".into(), ..warning() });
        assert!(
            Outcome { boot: Some(Duration::ZERO), ..outcome(patched, vec![]) }.success().unwrap_err().is::<Unlucky>()
        );
        let mut later = Outcome { boot: Some(Duration::from_secs(5)), ..outcome(crash, vec![]) };
        assert!(!later.success().unwrap_err().is::<Unlucky>());
        later.console = format!("[    1.0] rcu: \t{NO_TIMER}=0 timer-softirq=1786\n");
        assert!(later.success().unwrap_err().is::<Unlucky>());
    }

    #[test]
    fn a_sick_kernel_fails_the_run_even_if_the_command_succeeded() {
        let outcome = outcome(Status::Exited(0), vec![warning()]);
        assert_eq!(outcome.exit_code(), CRASH_CODE);
        let error = outcome.success().unwrap_err().to_string();
        assert!(error.contains("WARNING: x") && error.contains("last words"), "{error}");
    }

    #[test]
    fn a_time_out_says_whether_the_command_ever_ran() {
        let limit = Duration::from_secs(5);
        assert!(outcome(Status::TimedOut(limit, false), vec![]).trouble().unwrap().contains("not booted"));
        assert!(outcome(Status::TimedOut(limit, true), vec![]).trouble().unwrap().contains("still running"));
    }
}
