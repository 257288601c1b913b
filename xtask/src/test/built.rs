//! What cargo has built of others' crates, kept outside the checkout: a fresh clone need not build it again.
//!
//! One archive of the target directory without our own crates. Cargo judges each piece by its own marks, so one that does not fit
//! costs its place and nothing else: the archive's key only says when another one is worth making.

use std::{
    env,
    ffi::OsStr,
    fs,
    io::Write as _,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use sha2::{Digest as _, Sha256};

use crate::{
    cache::{self, Lock},
    command,
    progress::Progress,
    workspace,
};

/// The archive.
const ARCHIVE: &str = "built.tar";
/// Says of which compiler and dependencies it is; written last.
const KEY: &str = "built.key";
/// The directories of the target directory whose crates are others' for the most part: of tests, of guests' programs, of BPF.
const DIRECTORIES: [&str; 4] = ["debug", "guest", "x86_64-unknown-linux-gnu/guest", "bpf"];
/// The last of them that an everyday test makes: where it is, there is nothing to bring.
const MARK: &str = "x86_64-unknown-linux-gnu/guest";
/// What our own crates are called.
const OUR_OWN: [&str; 2] = ["iommu", "xtask"];

/// The target directory, unless the user has it elsewhere: there, it is the user's to keep.
fn target() -> Option<PathBuf> {
    let elsewhere = ["CARGO_TARGET_DIR", "CARGO_BUILD_TARGET_DIR"].iter().any(|name| env::var_os(name).is_some());
    (!elsewhere).then(|| workspace::root().join("target"))
}

/// What the archive depends on.
fn key() -> Result<String> {
    let mut hasher = Sha256::new_with_prefix(command::text(Command::new("rustc").arg("-vV"))?);
    for file in ["Cargo.lock", "Cargo.toml"] {
        hasher.update(fs::read(workspace::root().join(file)).with_context(|| format!("cannot read {file}"))?);
    }
    Ok(format!("{:x}\n", hasher.finalize()))
}

/// Brings what is kept into a target directory that has not got it. Whatever goes wrong, cargo builds it again.
pub fn bring() -> Result<()> {
    let Some(target) = target().filter(|target| !target.join(MARK).exists()) else { return Ok(()) };
    let dir = cache::root()?;
    let _lock = Lock::take(ARCHIVE)?;
    if !dir.join(KEY).exists() {
        return Ok(());
    }
    let progress = Progress::start("what was built of others' crates");
    unpack(&dir.join(ARCHIVE), &target)?;
    progress.done("");
    Ok(())
}

/// Keeps what is built, if that has not been done for this compiler and these dependencies.
pub fn keep() -> Result<()> {
    let Some(target) = target().filter(|target| target.join(MARK).exists()) else { return Ok(()) };
    let (dir, key) = (cache::root()?, key()?);
    let _lock = Lock::take(ARCHIVE)?;
    if fs::read_to_string(dir.join(KEY)).is_ok_and(|kept| kept == key) {
        return Ok(());
    }
    let partial = tempfile::Builder::new().prefix("built-").tempfile_in(&dir)?.into_temp_path();
    pack(&target, &partial)?;
    // The key last: it says that the archive is whole.
    let _ = fs::remove_file(dir.join(KEY));
    fs::rename(&partial, dir.join(ARCHIVE)).with_context(|| format!("cannot write {ARCHIVE} into the cache"))?;
    fs::write(dir.join(KEY), key).with_context(|| format!("cannot write {KEY} into the cache"))
}

fn pack(target: &Path, archive: &Path) -> Result<()> {
    let mut files = Vec::new();
    for dir in DIRECTORIES {
        find(target, Path::new(dir), &mut files)?;
    }
    let mut list = tempfile::NamedTempFile::new().context("cannot make a file for the archive's list")?;
    for file in &files {
        list.write_all(file.as_os_str().as_bytes()).and_then(|()| list.write_all(b"\0"))?;
    }
    let mut tar = Command::new("tar");
    tar.args(["--create", "--null", "--verbatim-files-from", "--file"]).arg(archive);
    tar.arg("--directory").arg(target).arg("--files-from").arg(list.path());
    command::output(&mut tar).map(drop)
}

/// Adds the files in a directory of the target directory that are of others' crates; one that is not there has none.
fn find(target: &Path, dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let Ok(entries) = fs::read_dir(target.join(dir)) else { return Ok(()) };
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot read {}", dir.display()))?;
        let path = dir.join(entry.file_name());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            find(target, &path, files)?;
        } else if is_theirs(&path) {
            files.push(path);
        }
    }
    Ok(())
}

/// Whether a file of a target directory is of others' crates: a library, what a build script made, or cargo's mark of either. Our
/// tests' programs lie among them, by the names of the tests.
fn is_theirs(path: &Path) -> bool {
    let names: Vec<&str> = path.iter().filter_map(OsStr::to_str).collect();
    let Some(at) = names.iter().position(|name| ["deps", "build", ".fingerprint"].contains(name)) else {
        return false;
    };
    let (kind, within) = (names[at], &names[at + 1..]);
    let library = |name: &&str| name.starts_with("lib") || Path::new(name).extension().is_some_and(|e| e == "d");
    !within.iter().any(|name| OUR_OWN.iter().any(|own| name.contains(own)))
        && (kind != "deps" || within.last().is_some_and(library))
}

/// With the times that the files had: cargo compares them with each other, so that what is there already is replaced, too.
fn unpack(archive: &Path, target: &Path) -> Result<()> {
    fs::create_dir_all(target).with_context(|| format!("cannot make {}", target.display()))?;
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--unlink-first", "--file"]).arg(archive).arg("--directory").arg(target);
    command::output(&mut tar).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_crates_are_kept_with_their_times_and_our_own_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to, archive) = (dir.path().join("from"), dir.path().join("to"), dir.path().join("a.tar"));
        let put = |root: &Path, name: &str, text: &str| {
            let file = root.join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        let theirs =
            ["debug/deps/libserde-1.rlib", "debug/.fingerprint/serde-1/lib-serde", "bpf/release/deps/libcore.rlib"];
        let ours =
            ["debug/deps/libiommu_trace-1.rlib", "debug/deps/usage-1", "debug/xtask", "debug/incremental/serde/x"];
        for name in theirs.iter().chain(&ours) {
            put(&from, name, "new");
        }
        put(&to, theirs[0], "old");
        pack(&from, &archive).unwrap();
        unpack(&archive, &to).unwrap();
        let modified = |root: &Path, name: &str| fs::metadata(root.join(name)).unwrap().modified().unwrap();
        for name in theirs {
            assert_eq!(fs::read_to_string(to.join(name)).unwrap(), "new");
            let (there, here) = (modified(&from, name), modified(&to, name));
            assert!(there.duration_since(here).unwrap_or_default().as_secs() < 1, "{name}");
        }
        assert!(ours.iter().all(|name| !to.join(name).exists()));
    }
}
