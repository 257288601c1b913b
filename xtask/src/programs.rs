//! The programs of a guest, built statically: init, the guest programs, and iommu-trace itself.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::{arch::Arch, cargo, command, cross, workspace};

/// The profile of programs that are to be built quickly and run once.
const QUICK: &str = "guest";

/// Programs for a guest, on the host.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The guest's first process.
    pub init: PathBuf,
    /// What goes to `/bin`.
    pub others: Vec<PathBuf>,
}

impl Programs {
    /// Builds them, with iommu-trace or without.
    pub fn build(arch: Arch, tracer: bool) -> Result<Self> {
        let mut built = build(arch, "iommu-trace-guest", QUICK)?;
        let at = built
            .iter()
            .position(|p| p.ends_with("init"))
            .context("package iommu-trace-guest has built no program called init")?;
        let init = built.swap_remove(at);
        if tracer {
            built.extend(build(arch, "iommu-trace", QUICK)?);
        }
        Ok(Self {
            init: stripped(arch, &init)?,
            others: built.iter().map(|p| stripped(arch, p)).collect::<Result<_>>()?,
        })
    }

    /// Builds those of one more package as users have them, with every optimisation, and adds them.
    pub fn add_optimised(&mut self, package: &str) -> Result<()> {
        for program in build(Arch::Amd64, package, "release")? {
            self.others.push(stripped(Arch::Amd64, &program)?);
        }
        Ok(())
    }
}

/// Builds the programs of one package. Packages are built one by one: together, cargo would unify their features, and
/// each change of the set would build everything again.
fn build(arch: Arch, package: &str, profile: &str) -> Result<Vec<PathBuf>> {
    run(&mut cargo_build(arch, package, profile)?)
}

/// The command that builds the static programs of one package.
pub fn cargo_build(arch: Arch, package: &str, profile: &str) -> Result<Command> {
    let mut cargo = match arch {
        Arch::Amd64 => cargo::command(),
        Arch::Arm64 => cross::cargo(arch)?,
    };
    cargo
        .current_dir(workspace::root())
        .args([
            "build",
            "--quiet",
            "--profile",
            profile,
            "--target",
            arch.facts().target,
            "--package",
            package,
            "--bins",
        ])
        // The target is named although it may be the host's own: flags then leave build scripts and macros alone.
        .arg("--message-format=json-render-diagnostics")
        // Static, because the guest has no libraries. A musl target would have to be installed; glibc's is there.
        .env(rustflags(Arch::Amd64), "-C target-feature=+crt-static")
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    Ok(cargo)
}

/// The variable in which cargo takes the compiler's flags for an architecture's programs.
#[must_use]
pub fn rustflags(arch: Arch) -> String {
    format!("CARGO_TARGET_{}_RUSTFLAGS", arch.facts().target.to_uppercase().replace('-', "_"))
}

/// Runs such a command; the programs that it has built.
pub fn run(cargo: &mut Command) -> Result<Vec<PathBuf>> {
    cargo.stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = cargo.output().map_err(|error| command::cannot_start(cargo, &error))?;
    if !output.status.success() {
        bail!("cannot build the programs: `{}` failed ({})", command::shown(cargo), output.status);
    }
    Ok(executables(&String::from_utf8_lossy(&output.stdout)))
}

/// The executables that cargo's JSON messages name.
fn executables(messages: &str) -> Vec<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact")
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .collect()
}

/// A copy without debug information, which is most of the size; made again only when the program changed.
fn stripped(arch: Arch, program: &Path) -> Result<PathBuf> {
    let dir = program.with_file_name("guest-stripped");
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let name = program.file_name().context("a program without a name")?;
    let copy = dir.join(name);
    let modified = |path: &Path| fs::metadata(path).and_then(|m| m.modified());
    if !matches!((modified(&copy), modified(program)), (Ok(copy), Ok(program)) if copy >= program) {
        // Renamed into place: several runs may do this at once.
        let temporary = tempfile::Builder::new().tempfile_in(&dir)?.into_temp_path();
        command::output(Command::new(arch.facts().strip).args(["--strip-debug", "-o"]).arg(&*temporary).arg(program))?;
        // Temporary files are for their owner only.
        fs::set_permissions(&temporary, fs::Permissions::from_mode(0o755))?;
        fs::rename(&temporary, &copy).with_context(|| format!("cannot write {}", copy.display()))?;
    }
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executables_are_taken_from_cargos_messages() {
        let messages = r#"{"reason":"compiler-artifact","executable":null}
{"reason":"build-script-executed"}
{"reason":"compiler-artifact","executable":"/t/release/init"}
not json
{"reason":"build-finished","success":true}"#;
        assert_eq!(executables(messages), [PathBuf::from("/t/release/init")]);
    }
}
