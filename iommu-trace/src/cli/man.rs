//! `iommu-trace man`: manual pages.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::Args;
use clap_mangen::Man as Page;

use crate::output::Output;

/// Print the manual page, or write those of all subcommands.
#[derive(Debug, Args)]
pub struct Man {
    /// Write one page for each subcommand into this directory, which is made if need be.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Man {
    pub(super) fn run(&self, mut command: clap::Command) -> anyhow::Result<ExitCode> {
        command.build();
        match &self.dir {
            None => {
                let mut out = Output::stdout();
                out.write_all(&render(&command)?)?;
                out.flush()?;
            }
            Some(dir) => {
                fs::create_dir_all(dir).with_context(|| format!("cannot make the directory {}", dir.display()))?;
                write_pages(&command, dir)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn write_pages(command: &clap::Command, dir: &Path) -> anyhow::Result<()> {
    // A built subcommand's display name is its whole path, joined by hyphens.
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let path = dir.join(format!("{name}.1"));
    fs::write(&path, render(command)?).with_context(|| format!("cannot write {}", path.display()))?;
    for subcommand in command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()) {
        if subcommand.get_name() != "help" {
            write_pages(subcommand, dir)?;
        }
    }
    Ok(())
}

fn render(command: &clap::Command) -> anyhow::Result<Vec<u8>> {
    let mut page = Vec::new();
    Page::new(command.clone()).render(&mut page).context("cannot make the manual page")?;
    Ok(page)
}
