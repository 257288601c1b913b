//! What people would use instead, from Debian's archive: unpacked into the cache with all its libraries, and run in the guest by
//! its own loader, so that nothing of it is installed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use crate::{
    apt::{Apt, Package},
    cache::{self, Lock},
};

/// The suite: the newest stable one, whose bpftrace knows a new kernel's types.
const SUITE: &str = "trixie";
/// The programs.
const PROGRAMS: [&str; 2] = ["bpftrace", "trace-cmd"];
/// What nobody needs in a guest.
const LEFT_OUT: [&str; 5] = ["usr/share", "usr/lib/x86_64-linux-gnu/gconv", "usr/sbin", "etc", "var"];

/// The directory, and the programs' versions.
pub fn get() -> Result<(PathBuf, Vec<Package>)> {
    let dir = cache::sub("bench-tools")?;
    let _lock = Lock::take("bench-tools")?;
    if let Some(versions) = there(&dir)? {
        return Ok((dir.join("root"), versions));
    }
    let apt = Apt::suites(&[SUITE])?;
    let mut packages = Vec::new();
    for program in PROGRAMS {
        for package in apt.closure(program, SUITE)? {
            if !packages.contains(&package) {
                packages.push(package);
            }
        }
    }
    let partial = tempfile::Builder::new().prefix(".partial-").tempdir_in(&dir)?;
    let root = partial.path().join("root");
    fs::create_dir(&root).with_context(|| format!("cannot make {}", root.display()))?;
    apt.unpack_all("bpftrace and trace-cmd", &packages, &root)?;
    for program in PROGRAMS {
        ensure!(root.join("usr/bin").join(program).exists(), "package {program} has no usr/bin/{program}");
    }
    for path in LEFT_OUT {
        // What is not there is left out already.
        let _ = fs::remove_dir_all(root.join(path));
    }
    let versions: Vec<Package> = packages.into_iter().filter(|p| PROGRAMS.contains(&p.name.as_str())).collect();
    let lines: Vec<String> = versions.iter().map(|p| format!("{} {}", p.name, p.version)).collect();
    fs::rename(&root, dir.join("root")).with_context(|| format!("cannot make {}", dir.join("root").display()))?;
    // Last: it says that everything is there.
    fs::write(dir.join("versions"), lines.join("\n")).context("cannot note the tools' versions")?;
    Ok((dir.join("root"), versions))
}

fn there(dir: &Path) -> Result<Option<Vec<Package>>> {
    let path = dir.join("versions");
    if !path.exists() {
        // Half of it may be there.
        let _ = fs::remove_dir_all(dir.join("root"));
        return Ok(None);
    }
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    Ok(Some(lines.map(|(name, version)| Package { name: name.into(), version: version.into() }).collect()))
}
