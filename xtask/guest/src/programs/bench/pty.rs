//! A terminal for a tracer that wants one; what it draws is read and dropped.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result};

/// Columns and lines, as a usual terminal has them.
static SIZE: libc::winsize = libc::winsize { ws_row: 40, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Gives a command a new terminal for its standard streams. The terminal lives until the command's last process ends.
pub fn give(command: &mut Command) -> Result<()> {
    // SAFETY: no pointers; the descriptor is ours from here on.
    let master = unsafe { check(libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC)) };
    // SAFETY: as above.
    let master = unsafe { OwnedFd::from_raw_fd(master.context("no terminal to be had")?) };
    let mut name = [0 as libc::c_char; 64];
    // SAFETY: the descriptor is a terminal's master; the buffer is as long as it is told.
    let name = unsafe {
        check(libc::unlockpt(master.as_raw_fd()))?;
        let error = libc::ptsname_r(master.as_raw_fd(), name.as_mut_ptr(), name.len());
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error)).context("the terminal has no name");
        }
        std::ffi::CStr::from_ptr(name.as_ptr()).to_string_lossy().into_owned()
    };
    // Not ours: a session's first process without a terminal would get it, and nobody else could have it then.
    let slave = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open(&name);
    let slave = slave.with_context(|| format!("cannot open {name}"))?;
    // SAFETY: TIOCSWINSZ reads one winsize.
    check(unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCSWINSZ, &raw const SIZE) })?;
    command.stdin(slave.try_clone()?).stdout(slave).env("TERM", "xterm-256color");
    // SAFETY: both calls are async-signal-safe; descriptor 0 is the terminal by then.
    unsafe {
        command.pre_exec(|| {
            check(libc::setsid())?;
            check(libc::ioctl(0, libc::TIOCSCTTY, 0)).map(drop)
        });
    }
    thread::spawn(move || {
        let (mut master, mut buffer) = (File::from(master), vec![0; 64 << 10]);
        // It fails when the last one at the other end is gone.
        while master.read(&mut buffer).is_ok_and(|n| n > 0) {}
    });
    Ok(())
}
