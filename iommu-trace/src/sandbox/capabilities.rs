//! Drops capabilities, and tells which of them making a file takes.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow};
use caps::{CapSet, Capability, CapsHashSet};
use rustix::fs::{Access, AtFlags, CWD, accessat};

use super::has;

/// The bit of a directory's mode that lets only owners rename and remove.
const STICKY: u32 = 0o1000;

fn failed(what: &str) -> impl Fn(caps::errors::CapsError) -> anyhow::Error {
    move |error| anyhow!("cannot {what}: {error}")
}

/// Drops every capability of this thread and of those it will start, for good, but these, where they are held.
pub fn drop_all_but(kept: &[Capability]) -> anyhow::Result<()> {
    // With it go set-user-id programs and file capabilities: no program started from here can gain anything back.
    // SAFETY: a flag of this thread; no pointer is involved.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(std::io::Error::last_os_error()).context("cannot set no_new_privs");
    }
    // Only who holds CAP_SETPCAP may narrow the bounding set. A service manager has narrowed it already, and without
    // privileges to gain it says nothing.
    if has(CapSet::Effective, Capability::CAP_SETPCAP) {
        caps::clear(None, CapSet::Bounding).map_err(failed("clear the bounding set of capabilities"))?;
    }
    if caps::runtime::ambient_set_supported().is_ok() {
        caps::clear(None, CapSet::Ambient).map_err(failed("clear the ambient capabilities"))?;
    }
    caps::clear(None, CapSet::Inheritable).map_err(failed("drop the capabilities"))?;
    for set in [CapSet::Effective, CapSet::Permitted] {
        let held: CapsHashSet = kept.iter().copied().filter(|&capability| has(set, capability)).collect();
        caps::set(None, set, &held).map_err(failed("drop the capabilities"))?;
    }
    Ok(())
}

/// The capabilities that making these files takes: none where it can be done without, and none that are not held.
pub fn to_create<'a>(files: impl IntoIterator<Item = &'a Path>) -> Vec<Capability> {
    let files: Vec<&Path> = files.into_iter().collect();
    let mut needed = Vec::new();
    let Some(dir) = files.first().map(|file| directory(file)) else { return needed };
    if has(CapSet::Effective, Capability::CAP_DAC_OVERRIDE) && !writable_without(&dir) {
        needed.push(Capability::CAP_DAC_OVERRIDE);
    }
    let me = rustix::process::geteuid().as_raw();
    let of_another = |path: &Path| fs::symlink_metadata(path).is_ok_and(|file| file.uid() != me);
    let sticky = fs::metadata(&dir).is_ok_and(|dir| dir.mode() & STICKY != 0 && dir.uid() != me);
    if sticky && has(CapSet::Effective, Capability::CAP_FOWNER) && files.into_iter().any(of_another) {
        needed.push(Capability::CAP_FOWNER);
    }
    needed
}

fn directory(file: &Path) -> PathBuf {
    match file.parent() {
        Some(dir) if dir != Path::new("") => dir.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Whether this user may make files in a directory without any capability. Asked by a thread that has none.
fn writable_without(dir: &Path) -> bool {
    let asked = || {
        drop_all_but(&[])?;
        anyhow::Ok(accessat(CWD, dir, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)?)
    };
    std::thread::scope(|scope| scope.spawn(asked).join()).is_ok_and(|answer| answer.is_ok())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, chown};

    use super::*;

    fn field(name: &str) -> String {
        let status = fs::read_to_string("/proc/thread-self/status").expect("procfs");
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("absent");
        line.trim().to_owned()
    }

    #[test]
    fn nothing_is_left_and_nothing_can_be_gained() {
        // Of this thread alone: other tests keep theirs.
        std::thread::spawn(|| {
            let settable = has(CapSet::Effective, Capability::CAP_SETPCAP);
            drop_all_but(&[]).expect("nothing forbids it");
            for set in ["CapEff:", "CapPrm:", "CapInh:", "CapAmb:"] {
                assert_eq!(field(set), "0000000000000000", "{set}");
            }
            assert_eq!(field("NoNewPrivs:"), "1");
            if settable {
                assert_eq!(field("CapBnd:"), "0000000000000000");
            }
        })
        .join()
        .expect("the thread has no failed assertion");
    }

    #[test]
    fn what_is_kept_is_kept_if_it_was_held_and_nothing_else() {
        std::thread::spawn(|| {
            let held = has(CapSet::Permitted, Capability::CAP_KILL);
            drop_all_but(&[Capability::CAP_KILL]).expect("nothing forbids it");
            let expected = if held { format!("{:016x}", 1 << Capability::CAP_KILL.index()) } else { "0".repeat(16) };
            assert_eq!((field("CapEff:"), field("CapPrm:")), (expected.clone(), expected));
            drop_all_but(&[Capability::CAP_KILL, Capability::CAP_BPF]).expect("nothing forbids it");
            assert!(!has(CapSet::Permitted, Capability::CAP_BPF), "what is gone stays away");
        })
        .join()
        .expect("the thread has no failed assertion");
    }

    #[test]
    fn files_take_a_capability_only_where_it_is_by_it_that_they_can_be_made() {
        let dir = tempfile::tempdir().unwrap();
        let (new, older) = (dir.path().join("new"), dir.path().join("older"));
        assert_eq!(to_create([new.as_path()]), [], "our own directory");
        if rustix::process::geteuid().as_raw() != 0 || !has(CapSet::Effective, Capability::CAP_DAC_OVERRIDE) {
            return;
        }
        chown(dir.path(), Some(65534), Some(65534)).unwrap();
        assert_eq!(to_create([new.as_path()]), [Capability::CAP_DAC_OVERRIDE], "somebody's directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o1777)).unwrap();
        assert_eq!(to_create([new.as_path(), &older]), [], "everybody's directory");
        fs::write(&older, "").unwrap();
        chown(&older, Some(65534), Some(65534)).unwrap();
        assert_eq!(to_create([new.as_path(), &older]), [Capability::CAP_FOWNER], "somebody's file in it");
    }
}
