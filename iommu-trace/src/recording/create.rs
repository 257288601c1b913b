//! The files of a recording: each in place of an older one at once.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, IsTerminal as _, Write},
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};

use crate::output::{Target, quoted};

/// Where a recording that is to be at `path` goes; `-` is standard output. A terminal is refused.
pub fn target(path: &Path) -> anyhow::Result<Target> {
    let target = Target::new(path).with_context(|| format!("cannot create the recording {}", quoted(path)))?;
    let terminal = match &target {
        Target::Stdout => io::stdout().is_terminal(),
        Target::Special(path) => is_terminal(path),
        Target::File(_) => false,
    };
    if terminal {
        bail!("cannot write a recording to {}: it is a terminal. Name a file with --output", target.name());
    }
    Ok(target)
}

/// Of a device it is asked by opening it; a pipe is left alone, for it would wait for a reader.
fn is_terminal(path: &Path) -> bool {
    let device = fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_char_device());
    let open = || OpenOptions::new().write(true).custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK).open(path);
    device && open().is_ok_and(|file| file.is_terminal())
}

/// Opens it. A file that is there is replaced in one step.
pub fn open(target: &Target) -> anyhow::Result<File> {
    target.replaced().with_context(|| format!("cannot create the recording {}", target.name()))
}

/// Writes all of it anew: a file that is there stays until the new one is whole.
pub fn write(target: &Target, parts: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>) -> anyhow::Result<()> {
    target.write(parts).with_context(|| format!("cannot write the recording {}", target.name()))
}

/// The `n`th older part of a recording in several: `name.itr.1` is the one before `name.itr`.
#[must_use]
pub fn numbered(path: &Path, n: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}"));
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_is_told_with_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let told = format!("{:#}", target(dir.path()).unwrap_err());
        assert!(told.starts_with("cannot create the recording \"/") && told.ends_with("it is a directory"), "{told}");
        let path = dir.path().join("a.itr");
        let full = |_: &mut dyn Write| Err(io::Error::from_raw_os_error(libc::ENOSPC));
        let told = format!("{:#}", write(&target(&path).unwrap(), &mut { full }).unwrap_err());
        assert!(told.contains("a.itr") && told.contains("No space left"), "{told}");
    }

    #[test]
    fn a_pipe_is_not_opened_before_its_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        // To open it would wait for a reader.
        assert_eq!(target(&path).unwrap(), Target::Special(path));
    }
}
