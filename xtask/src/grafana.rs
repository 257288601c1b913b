//! The dashboards against the types that Grafana publishes, by the TypeScript compiler.

use std::{fs, process::Command};

use anyhow::{Context, Result};

use crate::{
    cache::{self, Lock},
    command, workspace,
};

/// Programs that it takes; neither is installed by the set-up.
pub const NEEDS: [&str; 2] = ["node", "npm"];

/// Fails with what the compiler says when a dashboard is not as Grafana wants it.
pub fn check() -> Result<()> {
    let dashboards = workspace::root().join("dashboards");
    // The packages go into the cache, not into the checkout.
    let dir = cache::sub("grafana-schema")?;
    let _lock = Lock::take("grafana-schema")?;
    let package = fs::read_to_string(dashboards.join("check/package.json")).context("cannot read package.json")?;
    let installed = dir.join("installed");
    if fs::read_to_string(&installed).ok().as_ref() != Some(&package) {
        fs::write(dir.join("package.json"), &package).context("cannot write into the cache")?;
        command::output(Command::new("npm").args(["install", "--no-audit", "--no-fund"]).current_dir(&dir))?;
        // Last: it says that everything is there.
        fs::write(&installed, &package).context("cannot write into the cache")?;
    }
    let mut make = Command::new("node");
    make.arg(dashboards.join("check/make.js")).arg(dashboards.join("grafana"));
    fs::write(dir.join("check.ts"), command::text(&mut make)?).context("cannot write into the cache")?;
    let mut compile = Command::new("node_modules/.bin/tsc");
    compile
        .args(["--noEmit", "--strict", "--skipLibCheck", "--moduleResolution", "bundler", "--module", "esnext"])
        .arg("check.ts")
        .current_dir(&dir);
    command::output(&mut compile).map(drop)
}
