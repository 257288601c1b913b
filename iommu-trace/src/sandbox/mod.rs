//! What this process gives up once it has what it needs: capabilities, and system calls.
//!
//! Privileges are for attaching the probes; what comes after reads descriptors and memory that are ours by then. A recording may be
//! from anyone, and is read with nothing at all. Both belong to threads: each thread gives up its own, and those that it
//! starts have no more than it had.

mod calls;
mod capabilities;
mod filter;

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::Context as _;
use caps::{CapSet, Capability};

pub use calls::Grant;

/// Whether this process is the program, and nobody else's.
static OURS: AtomicBool = AtomicBool::new(false);

/// What a thread still needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    grants: Vec<Grant>,
    capabilities: Vec<Capability>,
}

impl Needs {
    /// Nothing but what is open already.
    pub const NOTHING: Needs = Needs { grants: Vec::new(), capabilities: Vec::new() };

    /// And this kind of system calls, with the capabilities that they take where they are held.
    #[must_use]
    pub fn and(mut self, grant: Grant) -> Needs {
        if !self.grants.contains(&grant) {
            self.grants.push(grant);
            self.capabilities.extend(grant.capability());
        }
        self
    }

    /// And making files of these names, all in one directory. Root may write where it could not without a capability, as in
    /// a user's directory: there, and only there, it stays.
    #[must_use]
    pub fn and_creating<'a>(mut self, files: impl IntoIterator<Item = &'a Path>) -> Needs {
        self = self.and(Grant::Create);
        for capability in capabilities::to_create(files) {
            if !self.capabilities.contains(&capability) {
                self.capabilities.push(capability);
            }
        }
        self
    }

    /// And what somebody else needs.
    #[must_use]
    pub fn and_all(self, other: Needs) -> Needs {
        let mut all = other.grants.into_iter().fold(self, Needs::and);
        all.capabilities.extend(other.capabilities);
        all
    }
}

/// This process is the program: [`enter`] does what it says. Tests and users of the library keep what they have.
pub fn take_over() {
    OURS.store(true, Ordering::Relaxed);
}

/// Gives up, for this thread and those that it will start and for good, everything but what is needed.
///
/// Where the kernel has no filters of system calls, the capabilities alone are dropped.
pub fn enter(needs: &Needs) -> anyhow::Result<()> {
    if !OURS.load(Ordering::Relaxed) {
        return Ok(());
    }
    enter_always(needs)
}

fn enter_always(needs: &Needs) -> anyhow::Result<()> {
    capabilities::drop_all_but(&needs.capabilities)
        .context("cannot drop the privileges that are not needed any more")?;
    filter::apply(&needs.grants).context("cannot give up the system calls that are not needed any more")?;
    tracing::debug!(?needs, "privileges dropped");
    Ok(())
}

/// Whether a thread has a capability now.
fn has(set: CapSet, capability: Capability) -> bool {
    caps::has_cap(None, set, capability).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File, OpenOptions},
        io::{ErrorKind, Read as _, Write as _},
        net::TcpStream,
        os::unix::net::UnixStream,
        process::Command,
    };

    use super::*;

    /// On a thread of its own: other tests keep what they have.
    fn confined<T: Send + 'static>(needs: Needs, what: impl FnOnce() -> T + Send + 'static) -> T {
        let thread = std::thread::spawn(move || {
            enter_always(&needs).expect("nothing forbids it");
            what()
        });
        thread.join().expect("the thread has no failed assertion")
    }

    fn is_filtered() -> bool {
        // The kernel may have been built without.
        fs::read_to_string("/proc/self/status").is_ok_and(|status| status.contains("\nSeccomp:"))
    }

    fn refused<T>(done: std::io::Result<T>) -> bool {
        done.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
    }

    #[test]
    fn who_needs_nothing_can_use_what_is_open_and_nothing_else() {
        if !is_filtered() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (there, new) = (dir.path().join("there"), dir.path().join("new"));
        fs::write(&there, "whole").unwrap();
        let mut open = OpenOptions::new().read(true).write(true).open(&there).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        confined(Needs::NOTHING, move || {
            let mut text = String::new();
            open.read_to_string(&mut text).unwrap();
            open.write_all(b"er").unwrap();
            assert_eq!(text, "whole");
            assert!(refused(File::open(&there)), "reads another file");
            assert!(refused(File::create(&new)), "makes a file");
            assert!(refused(fs::remove_file(&there)), "removes a file");
            assert!(refused(fs::rename(&there, &new)), "renames a file");
            assert!(refused(TcpStream::connect(address)), "speaks to the network");
            assert!(refused(UnixStream::connect("/run/systemd/notify")), "speaks to other processes");
            assert!(refused(Command::new("true").spawn()), "starts a program");
            // SAFETY: no memory of ours is involved.
            let traced = unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) };
            assert_eq!((traced, std::io::Error::last_os_error().kind()), (-1, ErrorKind::PermissionDenied));
            // Threads, memory, time and random numbers are anybody's, and a thread has no more than who started it.
            let started = std::thread::spawn(move || {
                std::thread::sleep(std::time::Duration::from_millis(1));
                let memory = vec![1_u8; 64 << 20];
                (refused(File::open(&there)), memory.iter().map(|&byte| u64::from(byte)).sum::<u64>())
            });
            assert_eq!(started.join().unwrap(), (true, 64 << 20));
        });
        assert_eq!(fs::read_to_string(dir.path().join("there")).unwrap(), "wholeer");
    }

    #[test]
    fn who_reads_files_makes_none_and_who_makes_files_starts_nothing() {
        if !is_filtered() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (there, new) = (dir.path().join("there"), dir.path().join("new"));
        fs::write(&there, "text").unwrap();
        let paths = (there.clone(), new.clone());
        confined(Needs::NOTHING.and(Grant::Read), move || {
            let (there, new) = paths;
            assert_eq!(fs::read_to_string(&there).unwrap(), "text");
            assert_eq!(fs::read_dir(there.parent().unwrap()).unwrap().count(), 1);
            assert!(refused(File::create(new)) && refused(OpenOptions::new().append(true).open(there)));
        });
        let paths = (there.clone(), new.clone());
        confined(Needs::NOTHING.and_creating([new.as_path()]), move || {
            let (there, new) = paths;
            fs::write(&new, "other").unwrap();
            fs::rename(&new, &there).unwrap();
            assert!(refused(Command::new("true").spawn()));
        });
        assert_eq!(fs::read_to_string(&there).unwrap(), "other");
    }

    #[test]
    fn no_process_is_forked_and_no_namespace_made() {
        if !is_filtered() {
            return;
        }
        confined(Needs::NOTHING.and(Grant::Detach), || {
            let namespace = libc::CLONE_NEWUSER | libc::SIGCHLD;
            // SAFETY: a child without a stack of its own goes on with a copy of ours; there is to be none.
            let made = unsafe { libc::syscall(libc::SYS_clone, namespace, 0, 0, 0, 0) };
            assert_eq!((made, std::io::Error::last_os_error().kind()), (-1, ErrorKind::PermissionDenied));
            // SAFETY: as above.
            let made = unsafe { libc::syscall(libc::SYS_unshare, libc::CLONE_NEWUSER) };
            assert_eq!((made, std::io::Error::last_os_error().kind()), (-1, ErrorKind::PermissionDenied));
        });
        confined(Needs::NOTHING, || {
            // SAFETY: the child, which there is not to be, would end at once.
            let child = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
            if child == 0 {
                // SAFETY: it ends this process, which shares nothing.
                unsafe { libc::_exit(0) };
            }
            assert_eq!((child, std::io::Error::last_os_error().kind()), (-1, ErrorKind::PermissionDenied));
        });
    }

    #[test]
    fn one_who_is_no_program_of_ours_keeps_everything() {
        std::thread::spawn(|| {
            enter(&Needs::NOTHING).unwrap();
            assert!(Command::new("true").status().unwrap().success());
        })
        .join()
        .unwrap();
    }
}
