//! `cargo xtask kernel`.

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

use crate::progress::say;

use super::{CATALOGUE, Entry, Kind, cached, catalogue, ensure, fetch};

/// Options of `cargo xtask kernel`.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    #[command(subcommand)]
    command: Sub,
}

#[derive(Subcommand, Clone, Debug)]
enum Sub {
    /// Show the catalogue and what is in the cache
    List,
    /// Fetch a stock kernel, or the source of one to build
    Fetch {
        /// A name of the catalogue
        name: String,
        /// Look for a newer version than the one in the cache
        #[arg(long)]
        newest: bool,
    },
    /// Build a kernel
    Build {
        /// A name of the catalogue
        name: String,
        /// Look for a newer version than the one in the cache
        #[arg(long)]
        newest: bool,
    },
    /// Print the path of a kernel's image; fetch or build it first if needed
    Path {
        /// A name of the catalogue
        name: String,
    },
}

/// Runs it.
pub fn main(arguments: &Arguments) -> Result<()> {
    match &arguments.command {
        Sub::List => {
            for entry in CATALOGUE {
                let have = match cached(entry) {
                    Ok(Some(image)) => image.version,
                    Ok(None) => "-".to_owned(),
                    Err(_) => "damaged".to_owned(),
                };
                say(&format!("{:<12} {:<20} {}\n", entry.name, have, entry.about));
            }
        }
        Sub::Fetch { name, newest } => {
            let entry = entry(name)?;
            match entry.kind {
                Kind::Source(_) => say(&format!("{}\n", fetch::source(entry, *newest)?.1.display())),
                Kind::Stock { .. } => say(&format!("{}\n", ensure(entry, *newest)?.bzimage.display())),
            }
        }
        Sub::Build { name, newest } => {
            let entry = entry(name)?;
            if let Kind::Stock { .. } = entry.kind {
                bail!("{name} is Debian's own build: `cargo xtask kernel fetch {name}` gets it");
            }
            say(&format!("{}\n", ensure(entry, *newest)?.bzimage.display()));
        }
        Sub::Path { name } => say(&format!("{}\n", ensure(entry(name)?, false)?.bzimage.display())),
    }
    Ok(())
}

fn entry(name: &str) -> Result<&'static Entry> {
    let Some(entry) = catalogue::find(name) else {
        let names: Vec<&str> = CATALOGUE.iter().map(|e| e.name).collect();
        bail!("there is no kernel {name} in the catalogue: {}", names.join(", "));
    };
    Ok(entry)
}
