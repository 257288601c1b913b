//! The licences of what a static program contains.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::Source;
use crate::{arch::Arch, cargo, command, workspace};

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    repository: Option<String>,
    source: Option<String>,
    manifest_path: String,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    /// `dev` or `build`; nothing where it is linked in.
    kind: Option<String>,
}

/// A list of the crates that are linked into the program, with their licences, and each licence's text once.
pub fn text(arch: Arch, source: &Source) -> Result<String> {
    let mut ask = cargo::command();
    ask.current_dir(workspace::root()).args([
        "metadata",
        "--format-version=1",
        "--locked",
        "--filter-platform",
        arch.facts().target,
    ]);
    let metadata: Metadata = serde_json::from_str(&command::text(&mut ask)?).context("cargo's metadata")?;
    let linked = linked(&metadata)?;
    let mut text = format!(
        "# What iommu-trace {} contains\n\n\
         The program is linked from these crates, and the C library of GNU (LGPL 2.1 or later, www.gnu.org/software/libc).\n\n",
        source.version
    );
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in &linked {
        let name = format!("{} {}", package.name, package.version);
        let license = package.license.as_deref().with_context(|| format!("{name} tells no licence"))?;
        let place = package.repository.as_deref().map(|place| format!(" ({place})")).unwrap_or_default();
        writeln!(text, "- {name}: {license}{place}")?;
        for license in licenses(Path::new(&package.manifest_path))? {
            texts.entry(license).or_default().push(name.clone());
        }
    }
    for (license, names) in texts {
        writeln!(text, "\n## {}\n\n```\n{}\n```", names.join(", "), license.trim_end())?;
    }
    Ok(text)
}

/// The crates of others that are linked in, by name.
fn linked(metadata: &Metadata) -> Result<Vec<&Package>> {
    let root = metadata.packages.iter().find(|p| p.name == "iommu-trace").context("cargo knows no iommu-trace")?;
    let mut wanted = vec![&root.id];
    let mut next = 0;
    while let Some(id) = wanted.get(next).copied() {
        next += 1;
        let node = metadata.resolve.nodes.iter().find(|node| node.id == *id).context("a crate without its node")?;
        for dependency in &node.deps {
            let in_it = dependency.dep_kinds.iter().any(|kind| kind.kind.is_none());
            if in_it && !wanted.contains(&&dependency.pkg) {
                wanted.push(&dependency.pkg);
            }
        }
    }
    let mut packages: Vec<_> =
        metadata.packages.iter().filter(|p| p.source.is_some() && wanted.contains(&&p.id)).collect();
    packages.sort_by_key(|p| (&p.name, &p.version));
    ensure!(!packages.is_empty(), "cargo names no crate that iommu-trace is linked from");
    Ok(packages)
}

/// The texts that lie beside a manifest.
fn licenses(manifest: &Path) -> Result<Vec<String>> {
    let dir = manifest.parent().context("a manifest without a directory")?;
    let mut files: Vec<_> = fs::read_dir(dir)?
        .filter_map(Result::ok)
        .filter(|entry| {
            let name = entry.file_name().to_string_lossy().to_uppercase();
            ["LICENSE", "LICENCE", "COPYING", "NOTICE", "COPYRIGHT"].iter().any(|word| name.starts_with(word))
        })
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    files
        .iter()
        .map(|file| {
            let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
            Ok(String::from_utf8_lossy(&bytes).replace("\r\n", "\n"))
        })
        .collect()
}
