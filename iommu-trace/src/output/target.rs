//! Makes files: the one place where anything is written to a path.
//!
//! A file is for its owner alone, and is never made or emptied through a symbolic link: who may write to the directory could have laid
//! one to a file of the user's. A link to a terminal, a pipe or another device harms nothing, nor does one that stands for what we
//! were started with, as `/dev/stdout` and `/dev/fd/3` do.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// Whatever is written is for its owner alone.
const MODE: u32 = 0o600;

/// Where something goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Standard output.
    Stdout,
    /// A file, there or not.
    File(PathBuf),
    /// A pipe or device that is there, or what we were started with.
    Special(PathBuf),
}

impl Target {
    /// What is at `path`; `-` is standard output. An error where nothing can be written to.
    pub fn new(path: &Path) -> io::Result<Target> {
        if path == Path::new("-") {
            return Ok(Target::Stdout);
        }
        let mut kind = match fs::symlink_metadata(path) {
            Ok(metadata) => metadata.file_type(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Target::File(path.to_owned())),
            Err(error) => return Err(error),
        };
        if kind.is_symlink() {
            let refused = || io::Error::other("it is a symbolic link, which is not followed: name the file itself");
            kind = fs::metadata(path).map_err(|_| refused())?.file_type();
            if kind.is_file() {
                return if is_inherited(path) { Ok(Target::Special(path.to_owned())) } else { Err(refused()) };
            }
        }
        if kind.is_file() {
            Ok(Target::File(path.to_owned()))
        } else if kind.is_dir() {
            Err(io::Error::other("it is a directory"))
        } else if kind.is_socket() {
            Err(io::Error::other("it is a socket"))
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

    /// Opens it and empties a file that is there, which keeps its mode.
    pub fn emptied(&self) -> io::Result<File> {
        match self {
            Target::File(path) => {
                let mut options = OpenOptions::new();
                options.write(true).create(true).truncate(true).mode(MODE).custom_flags(libc::O_NOFOLLOW).open(path)
            }
            Target::Stdout | Target::Special(_) => self.special(),
        }
    }

    /// Opens it, in place of a file that is there: who reads that keeps it.
    pub fn replaced(&self) -> io::Result<File> {
        let Target::File(path) = self else { return self.special() };
        let (file, temporary) = create_beside(path)?;
        if let Err(error) = fs::rename(&temporary, path) {
            let _ = fs::remove_file(&temporary);
            return Err(error);
        }
        Ok(file)
    }

    /// Writes all of it anew: a file that is there stays until the new one is whole.
    pub fn write(&self, parts: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
        let Target::File(path) = self else { return parts(&mut self.special()?) };
        let (mut file, temporary) = create_beside(path)?;
        let written = parts(&mut file).and_then(|()| file.sync_data()).and_then(|()| fs::rename(&temporary, path));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    fn special(&self) -> io::Result<File> {
        let Target::Special(path) = self else {
            use std::os::fd::AsFd as _;
            return Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?));
        };
        let file = OpenOptions::new().write(true).custom_flags(libc::O_NOCTTY).open(path)?;
        // What was opened is looked at, and not what the path says meanwhile.
        if file.metadata()?.is_file() {
            if !is_inherited(path) {
                return Err(io::Error::other("a file has come in its place"));
            }
            file.set_len(0)?;
        }
        Ok(file)
    }
}

/// Makes a file that was not there.
pub fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(MODE).open(path)
}

/// A path for a message: quoted, with what cannot be printed escaped.
pub(crate) fn quoted(path: &Path) -> String {
    format!("\"{}\"", path.to_string_lossy().escape_debug())
}

/// Whether a link stands for a file that we were started with, as `/dev/stdout` and `/dev/fd/3` do.
fn is_inherited(link: &Path) -> bool {
    let of_procfs = |path: &Path| path.starts_with("/proc");
    let directory = link.parent().and_then(|directory| directory.canonicalize().ok());
    directory.is_some_and(|directory| of_procfs(&directory)) || fs::read_link(link).is_ok_and(|to| of_procfs(&to))
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
        match create_new(&temporary) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
            Ok(file) => return Ok((file, temporary)),
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, "too many temporary files of that name"))
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read as _,
        os::{
            fd::AsRawFd as _,
            unix::fs::{PermissionsExt as _, symlink},
        },
    };

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    /// Both ways of opening one.
    const WAYS: [fn(&Target) -> io::Result<File>; 2] = [Target::emptied, Target::replaced];

    #[test]
    fn a_new_file_is_its_owners_whichever_way() {
        let dir = tempfile::tempdir().unwrap();
        for (way, name) in WAYS.into_iter().zip(["a", "b"]) {
            let path = dir.path().join(name);
            way(&Target::new(&path).unwrap()).unwrap();
            assert_eq!(mode(&path), 0o600);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left beside them");
    }

    #[test]
    fn one_that_is_there_is_emptied_or_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let target = Target::new(&path).unwrap();
        let mut old = File::open(&path).unwrap();
        target.replaced().unwrap().write_all(b"new").unwrap();
        let mut text = String::new();
        old.read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), mode(&path)), ("old", 0o600), "who reads the old one keeps it");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let seen = File::open(&path).unwrap();
        target.emptied().unwrap();
        assert_eq!((seen.metadata().unwrap().len(), mode(&path)), (0, 0o640), "it is the same file");
    }

    #[test]
    fn a_link_to_a_file_is_never_followed() {
        let dir = tempfile::tempdir().unwrap();
        let [victim, link] = ["victim", "link"].map(|name| dir.path().join(name));
        fs::write(&victim, "precious").unwrap();
        symlink(&victim, &link).unwrap();
        let told = Target::new(&link).unwrap_err().to_string();
        assert!(told.contains("symbolic link, which is not followed"), "{told}");
        // One that comes after the look is refused or replaced.
        assert!(Target::File(link.clone()).emptied().is_err() && Target::Special(link.clone()).emptied().is_err());
        Target::File(link.clone()).replaced().unwrap().write_all(b"x").unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        // Nor is one made where it points to.
        let dangling = dir.path().join("dangling");
        symlink(dir.path().join("nothing"), &dangling).unwrap();
        assert!(Target::new(&dangling).is_err() && Target::File(dangling).emptied().is_err());
        assert!(!dir.path().join("nothing").exists());
    }

    #[test]
    fn a_link_to_a_device_or_to_what_we_were_started_with_is_as_good_as_the_thing() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("null");
        symlink("/dev/null", &link).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"older, and longer").unwrap();
        let inherited = PathBuf::from(format!("/dev/fd/{}", file.as_raw_fd()));
        for way in WAYS {
            way(&Target::new(&link).unwrap()).unwrap().write_all(b"line\n").unwrap();
            way(&Target::new(&inherited).unwrap()).unwrap().write_all(b"line\n").unwrap();
            assert_eq!(file.metadata().unwrap().len(), 5);
        }
        assert_eq!(Target::new(&inherited).unwrap(), Target::Special(inherited), "it cannot be made anew");
    }

    #[test]
    fn what_is_no_file_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let told = |path: &Path| Target::new(path).unwrap_err().to_string();
        assert_eq!(told(dir.path()), "it is a directory");
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert_eq!(told(&socket), "it is a socket");
    }

    #[test]
    fn a_write_that_fails_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "old").unwrap();
        let target = Target::new(&path).unwrap();
        let error = target.write(&mut |out| {
            out.write_all(b"half")?;
            Err(io::Error::from_raw_os_error(libc::ENOSPC))
        });
        assert_eq!(error.unwrap_err().raw_os_error(), Some(libc::ENOSPC));
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
