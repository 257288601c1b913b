//! Where the output goes: standard output or a file, buffered, with its name in every error.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, IsTerminal as _, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

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
        if path == Path::new("-") {
            return Ok(Output::stdout());
        }
        let file = create_unlinked(path).map_err(|error| {
            anyhow::Error::new(error).context(format!("cannot create the output file {}", quoted(path)))
        })?;
        let terminal = file.is_terminal();
        Ok(Output::new(quoted(path), To::File(file), terminal))
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

/// A path for a message: quoted, with what cannot be printed escaped.
pub(crate) fn quoted(path: &Path) -> String {
    format!("\"{}\"", path.to_string_lossy().escape_debug())
}

/// Creates a file, or empties the one that is there, but never through a symbolic link: who may write to the directory could
/// have laid one to a file of the user's. A link to a terminal, a pipe or another device, as `/dev/stdout` is, harms nothing.
fn create_unlinked(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    match options.clone().create(true).truncate(true).custom_flags(libc::O_NOFOLLOW).open(path) {
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {}
        opened => return opened,
    }
    // What was opened is looked at, and not what the link says meanwhile.
    let file = options.open(path)?;
    if file.metadata()?.is_file() {
        if !is_inherited(path) {
            return Err(io::Error::other("it is a symbolic link, which is not followed: name the file itself"));
        }
        file.set_len(0)?;
    }
    Ok(file)
}

/// Whether a link stands for a file that we were started with, as `/dev/stdout` and `/dev/fd/3` do.
fn is_inherited(link: &Path) -> bool {
    let of_procfs = |path: &Path| path.starts_with("/proc");
    let directory = link.parent().and_then(|directory| directory.canonicalize().ok());
    directory.is_some_and(|directory| of_procfs(&directory)) || fs::read_link(link).is_ok_and(|to| of_procfs(&to))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn a_new_file_is_for_its_owner_and_a_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let [file, victim, link] = ["new", "victim", "link"].map(|name| dir.path().join(name));
        drop(Output::create(&file).unwrap());
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&victim, "precious").unwrap();
        symlink(&victim, &link).unwrap();
        let told = format!("{:#}", Output::create(&link).err().unwrap());
        assert!(told.contains("symbolic link, which is not followed"), "{told}");
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        // Nor is one made where it points to.
        fs::remove_file(&victim).unwrap();
        assert!(Output::create(&link).is_err() && !victim.exists());
    }

    #[test]
    fn a_link_to_a_device_is_as_good_as_the_device() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("null");
        symlink("/dev/null", &link).unwrap();
        Output::create(&link).unwrap().write_all(b"line\n").unwrap();
        let file = tempfile::tempfile().unwrap();
        let inherited = format!("/dev/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        Output::create(Path::new(&inherited)).unwrap();
    }

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
