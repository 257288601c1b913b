//! A tracer from its start to its end.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::case::{Case, Memory, Outcome, Ready, Stop};
use super::{clocks, pty};
use crate::sys;

/// Where everything of a case lives.
const DIR: &str = "/tmp/bench";
/// How often it is looked whether something has happened. Looking costs the only CPU something, too.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// How long a tracer may take to be attached or to end. The guest's clock counts instructions.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long the kernel has to clean up before the next tracer comes.
const AFTERMATH: Duration = Duration::from_secs(10);
/// The functions that are patched.
const PATCHED: &str = "/sys/kernel/tracing/enabled_functions";
/// So much of what it said is kept.
const KEPT: u64 = 3000;

/// The command that a tracer starts when it is attached: says so, and stays until it is told to go.
pub fn gate(dir: &Path) -> Result<()> {
    let ready = OpenOptions::new().write(true).open(dir.join("ready"));
    ready.and_then(|mut ready| ready.write_all(b".")).context("nobody waits for the tracer")?;
    // The other end is opened and closed when it is time.
    File::open(dir.join("hold")).and_then(|mut hold| hold.read(&mut [0; 1])).context("cannot wait")?;
    Ok(())
}

/// A running tracer.
pub struct Tool {
    child: Child,
    dir: PathBuf,
}

impl Tool {
    /// Starts it, and waits until it is attached.
    pub fn start(case: &Case, outcome: &mut Outcome) -> Result<Tool> {
        ensure!(patched() == 0, "functions are patched before the tracer has started");
        let dir = PathBuf::from(DIR);
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).context("cannot make a directory for the case")?;
        for name in ["ready", "hold"] {
            fifo(&dir.join(name))?;
        }
        let gate = ["guest".to_owned(), "gate".to_owned(), DIR.to_owned()];
        let words: Vec<String> = case
            .tool
            .iter()
            .flat_map(|word| match word.as_str() {
                "{gate}" => gate.to_vec(),
                "'{gate}'" => vec![gate.join(" ")],
                _ => vec![word.clone()],
            })
            .collect();
        let (program, arguments) = words.split_first().context("no tracer")?;
        let mut command = Command::new(program);
        command.args(arguments).current_dir(&dir).stdin(Stdio::null()).stdout(File::create(dir.join("stdout"))?);
        command.stderr(File::create(dir.join("stderr"))?);
        if case.terminal {
            pty::give(&mut command)?;
        }
        let ready = without_waiting(OpenOptions::new().read(true), &dir.join("ready")).context("cannot open a FIFO")?;
        let started = sys::now();
        let child = command.spawn().with_context(|| format!("cannot start {program}"))?;
        let mut tool = Tool { child, dir };
        if let Err(error) = tool.wait_until_attached(case, ready, started) {
            let _ = tool.child.kill();
            let _ = tool.child.wait();
            outcome.said = tool.said();
            return Err(error);
        }
        outcome.attach = sys::now() - started;
        outcome.attach_cpu = tool.processes()?.into_iter().filter_map(|pid| clocks::process(pid).ok()).sum();
        outcome.functions = patched();
        Ok(tool)
    }

    fn wait_until_attached(&mut self, case: &Case, mut ready: File, started: u64) -> Result<()> {
        loop {
            let attached = match &case.ready {
                Ready::Says(words) => self.text("stderr").contains(words),
                // The end of the file, or nothing yet, until the gate writes its byte.
                Ready::Command => ready.read(&mut [0]).is_ok_and(|n| n > 0),
            };
            if attached {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended ({status}) before it was attached: {}", self.said().trim());
            }
            ensure!(sys::now() - started < PATIENCE.as_nanos() as u64, "it was not attached in {PATIENCE:?}");
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Its processes: itself and its descendants.
    pub fn processes(&self) -> Result<BTreeSet<u32>> {
        let stat = |pid| fs::read_to_string(format!("/proc/{pid}/stat")).ok();
        let parents: Vec<(u32, u32)> = clocks::pids()?.filter_map(|pid| Some((pid, parent(&stat(pid)?)?))).collect();
        let mut own = BTreeSet::from([self.child.id()]);
        // Processes are in no order that a child always follows its parent in.
        loop {
            let more: Vec<u32> = parents
                .iter()
                .filter(|(pid, parent)| own.contains(parent) && !own.contains(pid))
                .map(|&(pid, _)| pid)
                .collect();
            if more.is_empty() {
                return Ok(own);
            }
            own.extend(more);
        }
    }

    /// Its memory, without the gate's.
    pub fn memory(&self) -> Result<Memory> {
        let mut memory = Memory::default();
        for pid in self.processes()? {
            if fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default().starts_with(b"guest\0gate\0") {
                continue;
            }
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let kib = |name: &str| {
                status
                    .lines()
                    .find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse::<u64>().ok())
                    .unwrap_or(0)
            };
            memory.peak += kib("VmHWM:");
            memory.anonymous += kib("RssAnon:");
            memory.files += kib("RssFile:");
            memory.shared += kib("RssShmem:");
        }
        Ok(memory)
    }

    /// Stops it, and waits until nothing of it is left.
    pub fn stop(mut self, case: &Case, outcome: &mut Outcome) -> Result<()> {
        let started = sys::now();
        match case.stop {
            Stop::Command => drop(OpenOptions::new().write(true).open(self.dir.join("hold"))?),
            Stop::Terminate => {
                // SAFETY: no pointers. The child is not reaped yet, so the number is still its own.
                unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGTERM) };
            }
        }
        let status = self.wait(started)?;
        outcome.end = sys::now() - started;
        outcome.status = status.to_string();
        outcome.said = self.said();
        // A gate that is left over goes, too.
        if case.stop == Stop::Terminate && matches!(case.ready, Ready::Command) {
            let _ = without_waiting(OpenOptions::new().write(true), &self.dir.join("hold"));
        }
        let ended = sys::now();
        while patched() > 0 {
            ensure!(sys::now() - ended < PATIENCE.as_nanos() as u64, "functions are patched when the tracer is gone");
            thread::sleep(LOOK_EVERY);
        }
        outcome.detach = sys::now() - ended;
        // The kernel frees what is left when nobody can be in it any more.
        thread::sleep(AFTERMATH);
        Ok(())
    }

    fn wait(&mut self, started: u64) -> Result<ExitStatus> {
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if sys::now() - started > PATIENCE.as_nanos() as u64 {
                let _ = self.child.kill();
                let _ = self.child.wait();
                bail!("it did not end in {PATIENCE:?}");
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    fn text(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.join(name)).unwrap_or_default()).into_owned()
    }

    /// The end of its standard error, or of its standard output where that is empty.
    fn said(&self) -> String {
        let tail = |name| -> io::Result<String> {
            let mut file = File::open(self.dir.join(name))?;
            let len = file.metadata()?.len();
            file.seek(SeekFrom::Start(len.saturating_sub(KEPT)))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let errors = tail("stderr").unwrap_or_default();
        if errors.trim().is_empty() { tail("stdout").unwrap_or_default() } else { errors }
    }
}

/// The parent in a line of `/proc/PID/stat`, whose second field may hold anything.
fn parent(stat: &str) -> Option<u32> {
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// How many functions are patched, by BPF or by the kernel's own tracers.
fn patched() -> u64 {
    // How it is patched may go on in another line.
    let is_function = |line: &&str| !line.starts_with(char::is_whitespace) && !line.is_empty();
    fs::read_to_string(PATCHED).map_or(0, |text| text.lines().filter(is_function).count() as u64)
}

fn fifo(path: &Path) -> Result<()> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: a NUL-terminated string that outlives the call.
    let made = unsafe { libc::mkfifo(name.as_ptr(), 0o600) };
    if made == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error()).with_context(|| format!("cannot make {}", path.display()))
    }
}

fn without_waiting(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    options.custom_flags(libc::O_NONBLOCK).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_found_behind_any_name() {
        assert_eq!(parent("17 (a) b) S 4 17 17 0"), Some(4));
        assert_eq!(parent("17"), None);
    }
}
