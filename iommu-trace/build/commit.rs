//! Which commit a build is of.

use std::{env, process::Command};

/// Set by who builds from an archive without its repository.
const COMMIT: &str = "IOMMU_TRACE_COMMIT";
/// Profiles whose programs are handed to users. Others are built at every turn, and would be anew after every commit.
const RELEASED: &[&str] = &["release", "dist"];

/// The commit, or a word in its stead.
pub fn find(profile: &str) -> String {
    println!("cargo::rerun-if-env-changed={COMMIT}");
    if let Ok(commit) = env::var(COMMIT) {
        return commit;
    }
    if !RELEASED.contains(&profile) {
        return format!("not told in a {profile} build");
    }
    // What changes when another commit is checked out, and when one is made.
    for name in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--path-format=absolute", "--git-path", name]) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    git(&["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]).unwrap_or_else(|| "unknown".to_owned())
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
