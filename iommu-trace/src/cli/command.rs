//! The command after `--`.

use std::{
    ffi::{OsStr, OsString},
    io::{self, ErrorKind},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::{
    process::{Child, Command},
    time::timeout,
};

use super::{complain, processes::Descendants};
use crate::output::{CommandEnd, quoted};

/// How long a command may take to end once it was told to.
const COMMAND_GRACE: Duration = Duration::from_secs(5);

/// The command after `--`.
pub struct Workload {
    child: Child,
    /// How it ended; `None` while it runs.
    pub end: Option<CommandEnd>,
}

impl Workload {
    /// Starts it. `followed` has its descendants stay its descendants when their parents end.
    pub fn start(
        program: &Path,
        words: &[OsString],
        followed: bool,
        processes: &mut Descendants,
    ) -> anyhow::Result<Self> {
        Self::start_with(program, words, followed, processes, |_| ())
    }

    /// As [`Workload::start`], with the command as `prepare` leaves it.
    pub fn start_with(
        program: &Path,
        words: &[OsString],
        followed: bool,
        processes: &mut Descendants,
        prepare: impl FnOnce(&mut Command),
    ) -> anyhow::Result<Self> {
        let name = words.first().cloned().unwrap_or_default();
        if followed {
            // Orphans of the command become our children, and so stay its descendants.
            rustix::process::set_child_subreaper(rustix::process::Pid::from_raw(1))
                .context("cannot follow the descendants of the command")?;
        }
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let mut command = Command::new(program);
        command.arg0(&name).args(words.get(1..).unwrap_or_default());
        prepare(&mut command);
        let child =
            command.spawn().with_context(|| format!("cannot start the command {}", quoted(Path::new(&name))))?;
        if let Some(pid) = child.id() {
            processes.started(pid, now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64);
        }
        Ok(Workload { child, end: None })
    }

    /// Waits for its end. Cancel safe.
    pub async fn wait(&mut self) -> anyhow::Result<()> {
        let status = self.child.wait().await.context("cannot wait for the command")?;
        self.end = Some(CommandEnd { status: status.code(), signal: status.signal() });
        Ok(())
    }

    /// Asks it to end, if it has not.
    pub fn terminate(&self) {
        // Until it was waited for, its process id is not used again.
        let pid = self.child.id().and_then(|pid| rustix::process::Pid::from_raw(pid as i32));
        if let (Some(pid), None) = (pid, self.end) {
            // It may end at this very moment, which is as well.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    }

    /// Sees to it that it ends, or says that it does not.
    pub async fn finish(&mut self) {
        if self.end.is_some() {
            return;
        }
        self.terminate();
        if timeout(COMMAND_GRACE, self.wait()).await.is_err() {
            let pid = self.child.id().unwrap_or_default();
            complain("warning", &format!("the command (process {pid}) does not end on SIGTERM and is left running"));
        }
    }
}

/// Finds a command before anything is traced, so that a slip of the finger costs nothing.
pub fn find_command(name: &OsStr) -> anyhow::Result<PathBuf> {
    let named = Path::new(name);
    let name = quoted(named);
    let failed = || format!("cannot start the command {name}");
    if named.components().count() > 1 || named.is_absolute() {
        return match is_executable(named).with_context(failed)? {
            Some(true) => Ok(named.to_owned()),
            Some(false) => bail!("cannot start the command {name}: it is not executable"),
            None => bail!("cannot start the command {name}: there is no such file"),
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    for candidate in std::env::split_paths(&path).map(|dir| dir.join(named)) {
        match is_executable(&candidate) {
            Ok(Some(true)) => return Ok(candidate),
            Ok(_) => {}
            // A directory of others.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {}
            Err(error) => return Err(error).with_context(failed),
        }
    }
    bail!("cannot start the command {name}: it is not in any directory of PATH")
}

/// Whether a file can be executed; `None` where there is none.
fn is_executable(path: &Path) -> io::Result<Option<bool>> {
    match std::fs::metadata(path) {
        Ok(file) => Ok(Some(file.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok())),
        Err(error) => match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => Ok(None),
            _ => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_cannot_be_looked_for_is_not_told_as_missing() {
        // No file has so long a name, which the kernel says in words of its own.
        let error = format!("{:#}", find_command(OsStr::new(&"x".repeat(300))).unwrap_err());
        assert!(error.contains("too long"), "{error}");
        let error = find_command(OsStr::new("no-such-command")).unwrap_err().to_string();
        assert!(error.ends_with("it is not in any directory of PATH"), "{error}");
        let error = find_command(OsStr::new("/etc/passwd")).unwrap_err().to_string();
        assert!(error.ends_with("it is not executable"), "{error}");
        assert!(find_command(OsStr::new("sh")).unwrap().is_absolute());
    }
}
