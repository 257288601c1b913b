//! Building variants: only the changed files are compiled, and the kernel is linked again.
//!
//! All variants of a kernel are built one after the other in one copy of its build tree, `variants/` beside `build/`.
//! The source stays as it is: changed files are compiled from a directory of their own, each with the very command that
//! the build has recorded for it, and make finds nothing to do but to link. Before the next variant those objects are
//! removed, and make compiles them from the source again.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::{
    Entry, Image,
    build::{self, Make},
    fetch,
    variants::Variant,
};
use crate::{
    cache::{self, Lock},
    command,
    progress::Progress,
};

/// Beside the tree: the objects that are not made from the source as it is.
const CHANGED: &str = "variants.changed";

/// The variant of the newest finished kernel of an entry, if it is in the cache.
pub(super) fn cached(entry: &Entry, variant: &Variant) -> Result<Option<Image>> {
    let Some(base) = build::cached(entry)? else { return Ok(None) };
    let image = image(&base, variant)?;
    Ok(image.bzimage.exists().then_some(image))
}

/// Builds a variant unless it is there, and the kernel it is made from before.
pub(super) fn build(entry: &Entry, variant: &Variant, newest: bool) -> Result<Image> {
    let base = build::build(entry, newest)?;
    let image = image(&base, variant)?;
    let _lock = Lock::take(&format!("{}-variants", entry.name))?;
    if !image.bzimage.exists() {
        let (_, source) = fetch::source(entry, false)?;
        compile(&base, variant, &source, &image)?;
    }
    Ok(image)
}

fn image(base: &Image, variant: &Variant) -> Result<Image> {
    let name = format!("{}+{}", base.name, variant.name);
    let place = base.bzimage.parent().and_then(Path::file_name).context("a kernel without a place")?;
    let dir = cache::sub(Path::new("kernels").join(&name).join(place).join(hash(variant)))?;
    Ok(Image { name, version: base.version.clone(), bzimage: dir.join("bzImage"), modules: None })
}

fn compile(base: &Image, variant: &Variant, source: &Path, image: &Image) -> Result<()> {
    let place = base.bzimage.parent().context("a kernel without a place")?;
    let dir = image.bzimage.parent().context("a kernel without a place")?;
    // What does not fit is found before anything is copied.
    let files = edited(variant, source)?;
    let tree = tree(place)?;
    let list = place.join(CHANGED);
    for object in fs::read_to_string(&list).unwrap_or_default().lines() {
        let object = tree.join(object);
        if object.exists() {
            fs::remove_file(&object).with_context(|| format!("cannot remove {}", object.display()))?;
        }
    }
    let objects: Vec<PathBuf> = files.iter().map(|(file, _)| Path::new(file).with_extension("o")).collect();
    let names: Vec<_> = objects.iter().map(|o| o.display().to_string()).collect();
    fs::write(&list, names.join("\n")).with_context(|| format!("cannot write {}", list.display()))?;

    let make = Make { name: &image.name, version: &base.version, source, build: &tree };
    let progress = Progress::start(format!("compiling {} of {}", names.join(" "), image.name));
    for ((file, text), object) in files.iter().zip(&objects) {
        let changed = dir.join("source").join(file);
        if let Some(parent) = changed.parent() {
            fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        }
        fs::write(&changed, text).with_context(|| format!("cannot write {}", changed.display()))?;
        recompile(&tree, source, file, object, &changed)?;
        // It is the source's text, but for some words: not to be kept.
        let _ = fs::remove_file(&changed);
    }
    progress.done("");
    make.run(&["bzImage".to_owned()], &dir.join("build.log"))?;
    build::install(&tree, dir)
}

/// The changed files of a variant: name and text.
fn edited(variant: &Variant, source: &Path) -> Result<Vec<(&'static str, String)>> {
    let mut files: Vec<(&'static str, String)> = Vec::new();
    for edit in variant.edits {
        let at = if let Some(at) = files.iter().position(|(file, _)| *file == edit.file) {
            at
        } else {
            let path = source.join(edit.file);
            files.push((
                edit.file,
                fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?,
            ));
            files.len() - 1
        };
        files[at].1 = edit.apply(&files[at].1).with_context(|| format!("variant {} does not fit", variant.name))?;
    }
    Ok(files)
}

/// The copy of the build tree, made the first time.
fn tree(place: &Path) -> Result<PathBuf> {
    let tree = place.join("variants");
    if !tree.exists() {
        let progress = Progress::start("copying the build tree for variants".to_owned());
        let partial = tempfile::Builder::new().prefix(".partial-").tempdir_in(place)?;
        let copy = partial.path().join("tree");
        // With times, by which make decides.
        command::output(Command::new("cp").args(["--archive", "--reflink=auto"]).arg(place.join("build")).arg(&copy))?;
        fs::rename(&copy, &tree).with_context(|| format!("cannot make {}", tree.display()))?;
        progress.done("");
    }
    Ok(tree)
}

/// Compiles one changed file as the build has compiled its original.
fn recompile(tree: &Path, source: &Path, file: &str, object: &Path, changed: &Path) -> Result<()> {
    let name = object.file_name().context("an object without a name")?.to_string_lossy();
    let record = tree.join(object.with_file_name(format!(".{name}.cmd")));
    let text = fs::read_to_string(&record).with_context(|| format!("cannot read {}", record.display()))?;
    let original = source.join(file);
    let command = recorded(&text, &object.display().to_string())
        .with_context(|| format!("{} records no command for {}", record.display(), object.display()))?;
    let command = redirected(&command, &original.display().to_string(), &changed.display().to_string())
        .with_context(|| format!("the command for {file} does not name it once"))?;
    command::output(Command::new("sh").arg("-ec").arg(command).current_dir(tree)).map(drop)
}

/// The command that kbuild has recorded for an object, as a shell reads it.
fn recorded(record: &str, object: &str) -> Option<String> {
    let line =
        record.lines().find_map(|line| line.strip_prefix("savedcmd_")?.strip_prefix(object)?.strip_prefix(" := "));
    // make's quoting.
    line.map(|line| line.replace("$(pound)", "#").replace("$$", "$"))
}

/// The command for another file in the place of `original`, whose directory stays where its own headers are.
fn redirected(command: &str, original: &str, changed: &str) -> Option<String> {
    let at = command.find(" -c -o ")?;
    if command.matches(original).count() != 1 {
        return None;
    }
    let directory = Path::new(original).parent()?.display();
    Some(format!("{} -iquote {directory}{}", &command[..at], command[at..].replace(original, changed)))
}

/// A short hash of what a variant changes.
fn hash(variant: &Variant) -> String {
    let mut hasher = Sha256::new();
    for edit in variant.edits {
        hasher.update(format!("{edit:?}\n"));
    }
    hasher.finalize().iter().take(6).fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_commands_are_run_with_another_file() {
        let record = "savedcmd_a/b.o := gcc -I/s/a -D'X=\"$(pound)\"' -c -o a/b.o /s/a/b.c ; check $$x a/b.o\n\nsource_a/b.o := /s/a/b.c\n";
        let command = recorded(record, "a/b.o").unwrap();
        assert_eq!(command, "gcc -I/s/a -D'X=\"#\"' -c -o a/b.o /s/a/b.c ; check $x a/b.o");
        assert_eq!(recorded(record, "a/c.o"), None);
        assert_eq!(
            redirected(&command, "/s/a/b.c", "/v/a/b.c").unwrap(),
            "gcc -I/s/a -D'X=\"#\"' -iquote /s/a -c -o a/b.o /v/a/b.c ; check $x a/b.o"
        );
        assert_eq!(redirected(&command, "/s/a/c.c", "/v/a/c.c"), None);
    }
}
