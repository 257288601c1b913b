//! The architectures of guests: what differs between them, as one table.

use clap::ValueEnum;

/// An architecture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Arch {
    /// This machine's own.
    #[default]
    Amd64,
    /// Always emulated, and built for by a cross compiler.
    Arm64,
}

/// What is fetched, built and run for one.
#[derive(Debug)]
pub struct Facts {
    /// Debian's name for it.
    pub debian: &'static str,
    /// The Rust target of the guest's programs.
    pub target: &'static str,
    /// The program that runs machines.
    pub qemu: &'static str,
    /// Packages that building and running its guests takes, beyond what this machine's own take.
    pub packages: &'static [&'static str],
    /// The program that takes debug information out.
    pub strip: &'static str,
}

impl Arch {
    /// Its row of the table.
    #[must_use]
    pub fn facts(self) -> &'static Facts {
        match self {
            Self::Amd64 => &Facts {
                debian: "amd64",
                target: "x86_64-unknown-linux-gnu",
                qemu: "qemu-system-x86_64",
                packages: &[],
                strip: "strip",
            },
            Self::Arm64 => &Facts {
                debian: "arm64",
                target: "aarch64-unknown-linux-gnu",
                qemu: "qemu-system-aarch64",
                // Rust's library for it is unpacked from the archive, where it is for Debian's own compiler.
                packages: &[
                    "rustc-web",
                    "cargo-web",
                    "gcc-aarch64-linux-gnu",
                    "libc6-dev-arm64-cross",
                    "qemu-system-arm",
                ],
                strip: "aarch64-linux-gnu-strip",
            },
        }
    }
}
