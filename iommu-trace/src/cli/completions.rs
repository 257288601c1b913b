//! `iommu-trace completions`: completions for a shell.

use std::{io::Write as _, process::ExitCode};

use clap::Args;
use clap_complete::Shell;

use crate::output::Output;

/// Print completions for a shell.
///
/// For bash: `iommu-trace completions bash > /usr/share/bash-completion/completions/iommu-trace`.
#[derive(Debug, Args)]
pub struct Completions {
    /// Which shell.
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    pub(super) fn run(&self, mut command: clap::Command) -> anyhow::Result<ExitCode> {
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut command, "iommu-trace", &mut text);
        let mut out = Output::stdout();
        out.write_all(&text)?;
        out.flush()?;
        Ok(ExitCode::SUCCESS)
    }
}
