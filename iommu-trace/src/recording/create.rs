//! Makes the file of a recording: readable by its owner alone, in place of an older one at once, and never through a link.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};

use crate::output::quoted;

/// Where a recording goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Standard output.
    Stdout,
    /// A file that is made anew for each recording.
    File(PathBuf),
    /// A pipe or device that is there.
    Special(PathBuf),
}

impl Target {
    /// What is at `path`; `-` is standard output.
    pub fn new(path: &Path) -> anyhow::Result<Target> {
        if path == Path::new("-") {
            if rustix::termios::isatty(io::stdout()) {
                bail!("cannot write a recording to standard output: it is a terminal. Name a file with --output");
            }
            return Ok(Target::Stdout);
        }
        let kind = match fs::symlink_metadata(path) {
            Ok(metadata) => metadata.file_type(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Target::File(path.to_owned())),
            Err(error) => return Err(error).with_context(|| format!("cannot create the recording {}", quoted(path))),
        };
        if kind.is_file() {
            Ok(Target::File(path.to_owned()))
        } else if kind.is_symlink() {
            bail!("cannot create the recording {}: a symbolic link is there, and none is followed", quoted(path));
        } else if kind.is_dir() {
            bail!("cannot create the recording {}: it is a directory", quoted(path));
        } else if kind.is_socket() {
            bail!("cannot create the recording {}: it is a socket", quoted(path));
        } else {
            Ok(Target::Special(path.to_owned()))
        }
    }

    /// Its name, for messages.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Target::Stdout => "standard output".to_owned(),
            Target::File(path) | Target::Special(path) => quoted(path),
        }
    }

    /// Opens it. A file that is there is replaced in one step.
    pub fn open(&self) -> anyhow::Result<File> {
        let failed = || format!("cannot create the recording {}", self.name());
        match self {
            Target::Stdout => {
                use std::os::fd::AsFd as _;
                let fd = io::stdout().as_fd().try_clone_to_owned().with_context(failed)?;
                Ok(File::from(fd))
            }
            Target::Special(path) => {
                let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NOCTTY).bits();
                OpenOptions::new().write(true).custom_flags(flags as i32).open(path).with_context(failed)
            }
            Target::File(path) => replace(path).with_context(failed),
        }
    }

    /// Writes all of it anew: a file that is there stays until the new one is whole.
    pub fn write(&self, parts: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>) -> anyhow::Result<()> {
        let failed = || format!("cannot write the recording {}", self.name());
        let Target::File(path) = self else {
            return parts(&mut self.open()?).with_context(failed);
        };
        let (mut file, temporary) = create_beside(path).with_context(failed)?;
        let written = parts(&mut file).and_then(|()| file.sync_data()).and_then(|()| fs::rename(&temporary, path));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written.with_context(failed)
    }
}

/// Puts a new, empty file in a path's place.
fn replace(path: &Path) -> io::Result<File> {
    let (file, temporary) = create_beside(path)?;
    if let Err(error) = fs::rename(&temporary, path) {
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    Ok(file)
}

/// A new file in the same directory, of a name that nobody else has.
fn create_beside(path: &Path) -> io::Result<(File, PathBuf)> {
    /// Names to try: another recorder may be at work, and an older one may have been killed.
    const TRIES: u32 = 100;
    let mut name = OsString::from(".");
    name.push(path.file_name().ok_or(io::ErrorKind::InvalidFilename)?);
    for n in 0..TRIES {
        let mut name = name.clone();
        name.push(format!(".{}.{n}", std::process::id()));
        let temporary = path.with_file_name(name);
        let flags = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
        match OpenOptions::new().write(true).create_new(true).mode(0o600).custom_flags(flags).open(&temporary) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
            Ok(file) => return Ok((file, temporary)),
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, "too many temporary files of that name"))
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
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    #[test]
    fn a_new_file_is_its_owner_s_and_replaces_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.itr");
        fs::write(&path, "old").unwrap();
        let mut old = File::open(&path).unwrap();
        let mut new = Target::new(&path).unwrap().open().unwrap();
        new.write_all(b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let mut text = String::new();
        io::Read::read_to_string(&mut old, &mut text).unwrap();
        assert_eq!(text, "old", "who reads the old one keeps it");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_link_is_never_followed_and_a_directory_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let (path, target) = (dir.path().join("a.itr"), dir.path().join("precious"));
        fs::write(&target, "precious").unwrap();
        symlink(&target, &path).unwrap();
        assert!(format!("{:#}", Target::new(&path).unwrap_err()).contains("symbolic link"));
        // One that comes after the look is replaced, not followed.
        Target::File(path.clone()).open().unwrap().write_all(b"x").unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
        assert!(format!("{:#}", Target::new(dir.path()).unwrap_err()).contains("directory"));
    }

    #[test]
    fn a_write_that_fails_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.itr");
        fs::write(&path, "old").unwrap();
        let target = Target::new(&path).unwrap();
        let error = target.write(&mut |out| {
            out.write_all(b"half")?;
            Err(io::Error::from_raw_os_error(libc::ENOSPC))
        });
        let told = format!("{:#}", error.unwrap_err());
        assert!(told.contains("a.itr") && told.contains("No space left"), "{told}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
