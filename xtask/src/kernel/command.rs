//! `cargo xtask kernel`.

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

use crate::progress::say;

use super::{
    CATALOGUE, Entry, Kind, VARIANTS, WIDENED, cached, catalogue, ensure, ensure_variant, fetch, variant_build,
    variants,
};

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
    /// Show the kernels with a bug put in: which are in the cache, the rule that finds each, and the bug
    Variants,
    /// Fetch a stock kernel, or the source of one to build
    Fetch {
        /// A name of the catalogue
        name: String,
        /// Look for a newer version than the one in the cache
        #[arg(long)]
        newest: bool,
    },
    /// Build a kernel, or with BASE+VARIANT one with a bug put in
    Build {
        /// A name of the catalogue, or of a variant
        name: String,
        /// Look for a newer version than the one in the cache
        #[arg(long)]
        newest: bool,
    },
    /// Print the path of a kernel's image; fetch or build it first if needed
    Path {
        /// A name of the catalogue, or of a variant
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
                say(&format!("{:<17} {:<20} {}\n", entry.name, have, entry.about));
            }
        }
        Sub::Variants => {
            for variant in VARIANTS.iter().chain(WIDENED) {
                let base = entry(variant.base)?;
                let have = if matches!(variant_build::cached(base, variant), Ok(Some(_))) { "built" } else { "-" };
                let name = format!("{}+{}", variant.base, variant.name);
                say(&format!("{name:<32} {have:<6} {:<22} {}\n", variant.rule, variant.about));
            }
        }
        Sub::Fetch { name, newest } => {
            let entry = entry(name)?;
            match entry.kind {
                Kind::Source(_) => say(&format!("{}\n", fetch::source(entry, *newest)?.1.display())),
                Kind::Rebuilt { base, .. } => bail!("{name} is made from {base}: fetch that"),
                Kind::Stock { .. } => say(&format!("{}\n", ensure(entry, *newest)?.bzimage.display())),
            }
        }
        Sub::Build { name, newest } => {
            if let Some((base, variant)) = variants::find(name)? {
                say(&format!("{}\n", ensure_variant(base, variant, *newest)?.bzimage.display()));
                return Ok(());
            }
            let entry = entry(name)?;
            if let Kind::Stock { .. } = entry.kind {
                bail!("{name} is Debian's own build: `cargo xtask kernel fetch {name}` gets it");
            }
            say(&format!("{}\n", ensure(entry, *newest)?.bzimage.display()));
        }
        Sub::Path { name } => {
            let image = match variants::find(name)? {
                Some((base, variant)) => ensure_variant(base, variant, false)?,
                None => ensure(entry(name)?, false)?,
            };
            say(&format!("{}\n", image.bzimage.display()));
        }
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
