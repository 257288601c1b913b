//! `cargo xtask setup`: what building and testing needs and this machine lacks.

use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{
    arch::Arch,
    cache::Lock,
    cargo, command,
    progress::{Progress, say},
    toolchain::{self, DEBIAN_PACKAGES, LINKER_VERSION},
};

/// Debian packages that everything needs: QEMU, what builds kernels, what unpacks them, a terminal to drive.
const PACKAGES: &[&str] = &[
    "qemu-system-x86",
    "bc",
    "binutils",
    "bison",
    "dwarves",
    "flex",
    "gcc",
    "kmod",
    "libc6-dev",
    "libcap-dev",
    "libelf-dev",
    "libssl-dev",
    "make",
    "mmdebstrap",
    "rsync",
    "tmux",
    "xz-utils",
    "zstd",
];

/// Options of `cargo xtask setup`.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// What guests of this architecture need, too
    #[arg(long, value_enum, value_name = "ARCH", default_value_t)]
    arch: Arch,
    /// Only say what is missing, and how to get it
    #[arg(long)]
    check: bool,
}

/// What is missing.
#[derive(Debug, Default, PartialEq, Eq)]
struct Missing {
    packages: Vec<&'static str>,
    components: Vec<&'static str>,
    linker: bool,
    llvm: bool,
}

impl Missing {
    fn look(arch: Arch) -> Result<Self> {
        let mut wanted = PACKAGES.to_vec();
        wanted.extend(arch.facts().packages);
        if toolchain::compiler().is_none() {
            wanted.extend(DEBIAN_PACKAGES.iter().filter(|package| !arch.facts().packages.contains(package)));
        }
        // It complains about packages it has never heard of, and lists the others all the same.
        let known = Command::new("dpkg-query")
            .args(["--show", "--showformat=${Package} ${db:Status-Status}\n"])
            .args(&wanted)
            .output()
            .context("cannot ask dpkg-query what is installed: this needs Debian, or a system made from it")?;
        Ok(Self {
            packages: not_installed(&wanted, &String::from_utf8_lossy(&known.stdout)),
            components: toolchain::missing_components(),
            linker: toolchain::linker()?.is_none(),
            llvm: toolchain::llvm().is_none(),
        })
    }

    /// The commands that mend it, for people.
    fn commands(&self) -> Vec<String> {
        let mut commands = Vec::new();
        if !self.packages.is_empty() {
            commands.push("sudo apt-get update".to_owned());
            commands.push(format!("sudo apt-get install --no-install-recommends {}", self.packages.join(" ")));
        }
        if self.packages.contains(&DEBIAN_PACKAGES[0]) {
            commands.push(
                "# or, instead of the packages whose names contain -web: \
                 rustup toolchain install nightly --component rust-src"
                    .to_owned(),
            );
        }
        if !self.components.is_empty() {
            commands.push(format!("rustup component add {}", self.components.join(" ")));
        }
        if self.linker {
            commands.push(format!("cargo install bpf-linker@{LINKER_VERSION} --locked"));
        }
        // With the packages comes an LLVM.
        if self.llvm && !self.packages.contains(&DEBIAN_PACKAGES[0]) {
            commands.push(
                "rustup toolchain install stable   # its lib directory has the LLVM 22 that bpf-linker loads"
                    .to_owned(),
            );
        }
        commands
    }
}

/// Runs it; the exit status is 1 if something is still missing.
pub fn main(arguments: &Arguments) -> Result<u8> {
    let missing = Missing::look(arguments.arch)?;
    if missing == Missing::default() {
        say("nothing is missing\n");
        return Ok(0);
    }
    if arguments.check {
        say("missing; these commands mend it:\n");
        for command in missing.commands() {
            say(&format!("  {command}\n"));
        }
        return Ok(1);
    }
    ensure(arguments.arch)?;
    say("everything is there\n");
    Ok(0)
}

/// Installs what is missing for guests of this architecture; says nothing if nothing is.
pub fn ensure(arch: Arch) -> Result<()> {
    if Missing::look(arch)? == Missing::default() {
        return Ok(());
    }
    let _lock = Lock::take("setup")?;
    // Another run may have been busy with it.
    let missing = Missing::look(arch)?;
    if !missing.packages.is_empty() && rustix::process::geteuid().is_root() {
        install_packages(&missing.packages)?;
    }
    if !missing.components.is_empty() && command::find("rustup").is_some() {
        let progress = Progress::start(format!("rustup component add {}", missing.components.join(" ")));
        command::output(Command::new("rustup").args(["component", "add"]).args(&missing.components))?;
        progress.done("");
    }
    if missing.linker {
        cargo::install("bpf-linker", LINKER_VERSION, cargo::tools()?)?;
    }
    let missing = Missing::look(arch)?;
    if missing == Missing::default() {
        return Ok(());
    }
    bail!("not everything could be installed; run this, then try again:\n  {}", missing.commands().join("\n  "));
}

fn install_packages(packages: &[&str]) -> Result<()> {
    let apt_get = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").args(["-o", "DPkg::Lock::Timeout=120"]);
        command
    };
    eprintln!("xtask: installing {}", packages.join(" "));
    let install = || {
        let mut command = apt_get();
        command.args(["install", "--yes", "--no-install-recommends"]).args(packages);
        command
    };
    // Package lists that are missing or old make it fail: only then are they fetched.
    if command::output(apt_get().args(["install", "--simulate", "--no-install-recommends"]).args(packages)).is_ok()
        && command::passed_through(&mut install()).is_ok()
    {
        return Ok(());
    }
    command::passed_through(apt_get().arg("update"))?;
    command::passed_through(&mut install())
}

/// The packages that dpkg-query does not list as installed.
fn not_installed<'a>(wanted: &[&'a str], listing: &str) -> Vec<&'a str> {
    let installed = |package: &str| listing.lines().any(|line| line.split_once(' ') == Some((package, "installed")));
    wanted.iter().copied().filter(|package| !installed(package)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removed_but_configured_packages_are_missing() {
        let listing = "make installed\nflex config-files\nlibelf-dev installed\n";
        assert_eq!(not_installed(&["make", "flex", "libelf-dev", "zstd"], listing), ["flex", "zstd"]);
    }

    #[test]
    fn another_architecture_s_packages_are_asked_for_with_it_alone() {
        let of_arm64 = Arch::Arm64.facts().packages;
        assert!(of_arm64.contains(&"qemu-system-arm") && Arch::Amd64.facts().packages.is_empty());
        assert!(of_arm64.iter().all(|package| !PACKAGES.contains(package)), "none is asked for twice");
    }

    #[test]
    fn only_what_is_missing_is_asked_for() {
        let missing = Missing { packages: vec!["flex"], linker: true, ..Missing::default() };
        let commands = missing.commands().join("\n");
        assert!(
            commands.contains("install --no-install-recommends flex\n") && commands.contains("bpf-linker@"),
            "{commands}"
        );
        assert!(!commands.contains("rustup"), "{commands}");
        assert_eq!(Missing::default().commands(), Vec::<String>::new());
    }

    #[test]
    fn a_missing_compiler_can_come_from_rustup_too() {
        let missing = Missing { packages: DEBIAN_PACKAGES.to_vec(), ..Missing::default() };
        assert!(missing.commands().iter().any(|c| c.contains("nightly --component rust-src")));
    }
}
