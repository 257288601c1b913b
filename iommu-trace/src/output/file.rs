//! Where the output goes: standard output or a file, buffered, with its name in every error.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Write},
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use super::{Target, target::quoted};

/// A failed write or flush.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to {name}, so the output ends early")]
pub struct OutputError {
    name: String,
    #[source]
    source: io::Error,
}

/// Whether an error only says that nobody reads any more: the reader had enough, which is success.
#[must_use]
pub fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe))
}

/// A buffered output.
pub struct Output {
    name: String,
    buffer: Vec<u8>,
    to: To,
    terminal: bool,
}

enum To {
    Stdout(io::Stdout),
    File(File),
}

/// When this much waits, it is written, however recent.
const BUFFER: usize = 64 * 1024;

impl Output {
    /// Standard output.
    #[must_use]
    pub fn stdout() -> Self {
        let stdout = io::stdout();
        let terminal = stdout.is_terminal();
        Output::new("standard output".into(), To::Stdout(stdout), terminal)
    }

    /// A new file that its owner alone may read, in place of the one that may be there. `-` is standard output.
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        let create = || {
            let target = Target::new(path)?;
            if target == Target::Stdout {
                return Ok(Output::stdout());
            }
            let file = target.emptied()?;
            let terminal = file.is_terminal();
            io::Result::Ok(Output::new(target.name(), To::File(file), terminal))
        };
        create().with_context(|| format!("cannot create the output file {}", quoted(path)))
    }

    /// The file at `path`, or standard output without one.
    pub fn open(path: Option<&PathBuf>) -> anyhow::Result<Self> {
        path.map_or_else(|| Ok(Output::stdout()), |path| Output::create(path))
    }

    fn new(name: String, to: To, terminal: bool) -> Self {
        Output { name, buffer: Vec::with_capacity(BUFFER), to, terminal }
    }

    /// Whether it is a terminal.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// The terminal's columns; elsewhere what the environment says in `COLUMNS`, or 100.
    #[must_use]
    pub fn columns(&self) -> usize {
        /// Where nobody says.
        const DEFAULT: usize = 100;
        let of_terminal = || {
            let size = match &self.to {
                To::Stdout(stdout) => rustix::termios::tcgetwinsize(stdout),
                To::File(file) => rustix::termios::tcgetwinsize(file),
            };
            // A serial line knows of none and says 0.
            size.ok().map(|size| usize::from(size.ws_col)).filter(|&columns| columns > 0)
        };
        let of_environment = || std::env::var("COLUMNS").ok()?.parse().ok().filter(|&columns| columns > 0);
        of_terminal().or_else(of_environment).unwrap_or(DEFAULT)
    }

    /// The colours it takes.
    #[must_use]
    pub fn palette(&self) -> super::Palette {
        match &self.to {
            To::Stdout(stdout) => super::Palette::for_stream(stdout),
            To::File(file) => super::Palette::for_stream(file),
        }
    }

    fn drain(&mut self) -> io::Result<()> {
        let written = match &mut self.to {
            // Past the line buffer of std's Stdout, which would cut the blocks into lines.
            To::Stdout(stdout) => write_all(&*stdout, &self.buffer),
            To::File(file) => write_all(&*file, &self.buffer),
        };
        // After an error nothing of this may be written twice.
        self.buffer.clear();
        written.map_err(|source| {
            let kind = source.kind();
            io::Error::new(kind, OutputError { name: self.name.clone(), source })
        })
    }
}

fn write_all(fd: impl std::os::fd::AsFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(&fd, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(rustix::io::Errno::INTR) => {}
            // Another process made the terminal or pipe that we share non-blocking.
            Err(rustix::io::Errno::AGAIN) => {
                let mut poll = [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::OUT)];
                rustix::event::poll(&mut poll, None)?;
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() + bytes.len() > BUFFER {
            self.drain()?;
        }
        self.buffer.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.drain()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_an_error_that_names_the_file() {
        let mut output = Output::create(Path::new("/dev/full")).unwrap();
        output.write_all(b"line\n").unwrap();
        let error = anyhow::Error::new(output.flush().unwrap_err());
        let told = format!("{error:#}");
        assert!(told.contains("\"/dev/full\"") && told.contains("No space left"), "{told}");
        assert!(!is_closed_pipe(&error));
    }

    #[test]
    fn a_closed_pipe_is_told_apart() {
        let error = io::Error::new(
            io::ErrorKind::BrokenPipe,
            OutputError { name: "standard output".into(), source: io::ErrorKind::BrokenPipe.into() },
        );
        assert!(is_closed_pipe(&anyhow::Error::new(error).context("while writing")));
    }

    #[test]
    fn an_unwritable_file_is_named() {
        let error = Output::create(Path::new("/nonexistent/trace.txt")).err().unwrap();
        assert_eq!(
            format!("{error:#}"),
            "cannot create the output file \"/nonexistent/trace.txt\": No such file or directory (os error 2)"
        );
    }
}
