//! Building kernels from Debian's source packages, with the configuration of `xtask/kernel-test.config`.
//!
//! In the cache, `kernels/NAME/VERSION-HASH/` has the finished `bzImage` and the build tree `build/`, which stays: a
//! later build with small changes compiles only those. HASH is that of the configuration, so that a change of it is a
//! kernel of its own.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io::{BufRead, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::{Entry, Image, fetch};
use crate::{
    apt,
    cache::Lock,
    command::{self, tail},
    progress::Progress,
};

/// The configuration that is merged into `tinyconfig`.
pub(super) const FRAGMENT: &str = include_str!("../../kernel-test.config");

/// Options without which a kernel is of no use here. One that is missing after `olddefconfig` is an error; the others
/// may not exist in every version.
const ESSENTIAL: &[&str] =
    &["CONFIG_IOMMUFD", "CONFIG_IOMMUFD_TEST", "CONFIG_DEBUG_INFO_BTF", "CONFIG_INTEL_IOMMU", "CONFIG_9P_FS"];

/// The newest finished kernel of an entry, built with this configuration.
pub(super) fn cached(entry: &Entry) -> Result<Option<Image>> {
    let dir = fetch::entry_dir(entry)?;
    let suffix = format!("-{}", hash(FRAGMENT));
    let version = fetch::versions(&dir)?
        .into_iter()
        .filter_map(|name| name.strip_suffix(&suffix).map(str::to_owned))
        .filter(|version| place(&dir, version).join("bzImage").exists())
        .max_by(|a, b| apt::compare(a, b));
    Ok(version.map(|version| image(entry, &dir, version)))
}

fn place(dir: &Path, version: &str) -> PathBuf {
    dir.join(format!("{version}-{}", hash(FRAGMENT)))
}

fn image(entry: &Entry, dir: &Path, version: String) -> Image {
    let bzimage = place(dir, &version).join("bzImage");
    Image { name: entry.name.to_owned(), version, bzimage, modules: None }
}

/// Builds a kernel unless it is there. With `newest`, from the newest source in the archive.
pub(super) fn build(entry: &Entry, newest: bool) -> Result<Image> {
    let _lock = Lock::take(entry.name)?;
    let (version, source) = fetch::source(entry, newest)?;
    let dir = fetch::entry_dir(entry)?;
    let place = place(&dir, &version);
    if !place.join("bzImage").exists() {
        compile(entry, &version, &source, &place)?;
    }
    Ok(image(entry, &dir, version))
}

/// A build tree to run make in.
pub(super) struct Make<'a> {
    /// What is built.
    pub name: &'a str,
    /// The version of its source.
    pub version: &'a str,
    /// The source tree.
    pub source: &'a Path,
    /// The build tree.
    pub build: &'a Path,
}

impl Make<'_> {
    fn command(&self) -> Command {
        let mut make = Command::new("make");
        make.arg("-C").arg(self.source).arg(format!("O={}", self.build.display()));
        // What a build says about itself does not depend on who built it where.
        make.args(["KBUILD_BUILD_USER=iommu-trace", "KBUILD_BUILD_HOST=xtask"]);
        // The make or cargo that started us has nothing to say to this one.
        for variable in ["MAKEFLAGS", "MFLAGS", "MAKELEVEL", "CARGO_MAKEFLAGS"] {
            make.env_remove(variable);
        }
        make
    }

    /// Makes targets, with the log in a file.
    pub(super) fn run(&self, targets: &[String], log_path: &Path) -> Result<()> {
        let mut log = File::create(log_path).with_context(|| format!("cannot make {}", log_path.display()))?;
        let what = format!("building {} ({}), some minutes the first time", self.name, self.version);
        let mut progress = Progress::start(what);
        let jobs = thread::available_parallelism().map_or(1, usize::from);
        let mut make = self.command();
        make.arg(format!("-j{jobs}"))
            .args(targets)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log.try_clone()?);
        let mut child = make.spawn().map_err(|error| command::cannot_start(&make, &error))?;
        let mut files = 0_u32;
        if let Some(stdout) = child.stdout.take() {
            for line in BufReader::new(stdout).split(b'\n') {
                let line = line.context("cannot read what make says")?;
                log.write_all(&line).and_then(|()| log.write_all(b"\n")).context("cannot write the build's log")?;
                if is_compilation(&line) {
                    files += 1;
                }
                progress.at(&format!("{files} files compiled"));
            }
        }
        let status = child.wait().context("cannot wait for make")?;
        if !status.success() {
            let log = fs::read(log_path).unwrap_or_default();
            bail!(
                "cannot build {}: `{}` failed ({status}); {} ends\n{}",
                self.name,
                command::shown(&make),
                log_path.display(),
                tail(&String::from_utf8_lossy(&log), 30)
            );
        }
        progress.done(&format!("{files} files compiled"));
        Ok(())
    }
}

fn compile(entry: &Entry, version: &str, source: &Path, place: &Path) -> Result<()> {
    let build = place.join("build");
    fs::create_dir_all(&build).with_context(|| format!("cannot make {}", build.display()))?;
    let make = Make { name: entry.name, version, source, build: &build };
    let config = build.join(".config");
    if !config.exists() {
        let fragment = place.join("fragment.config");
        fs::write(&fragment, FRAGMENT).with_context(|| format!("cannot write {}", fragment.display()))?;
        command::output(make.command().arg("tinyconfig"))?;
        merge(&make, &fragment)?;
    }
    check_config(&fs::read_to_string(&config)?).inspect_err(|_| {
        // The next try starts from the beginning, perhaps with what was missing installed.
        let _ = fs::remove_file(&config);
    })?;
    make.run(&["bzImage".to_owned()], &place.join("build.log"))?;
    install(&build, place)
}

/// Merges a fragment into the configuration of a build tree.
pub(super) fn merge(make: &Make<'_>, fragment: &Path) -> Result<()> {
    command::output(
        Command::new(make.source.join("scripts/kconfig/merge_config.sh"))
            .current_dir(make.source)
            .args(["-m", "-O"])
            .arg(make.build)
            .arg(make.build.join(".config"))
            .arg(fragment),
    )?;
    command::output(make.command().arg("olddefconfig")).map(drop)
}

/// Puts the image of a build tree into its place.
pub(super) fn install(build: &Path, place: &Path) -> Result<()> {
    // By rename, and last: its being there says that the kernel is whole.
    let temporary = place.join("bzImage.new");
    fs::copy(build.join("arch/x86/boot/bzImage"), &temporary).context("make has left no bzImage")?;
    fs::rename(&temporary, place.join("bzImage")).context("cannot put the bzImage into its place")
}

/// Whether a line of make's output says that a file was compiled.
fn is_compilation(line: &[u8]) -> bool {
    [b"  CC ".as_slice(), b"  AS ", b"  HOSTCC "].iter().any(|tool| line.starts_with(tool))
}

fn check_config(config: &str) -> Result<()> {
    let missing: Vec<&str> = ESSENTIAL
        .iter()
        .copied()
        .filter(|option| !config.lines().any(|line| line.strip_prefix(option) == Some("=y")))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!(
        "the kernel's configuration has lost {}: a tool they need is missing (pahole, of package dwarves, for BTF), \
         or this kernel names their dependencies differently than xtask/kernel-test.config",
        missing.join(", ")
    );
}

/// A short hash of what a configuration sets; comments and blank lines do not count.
pub(super) fn hash(fragment: &str) -> String {
    short_hash(fragment.lines().map(str::trim).filter(|l| l.starts_with("CONFIG_") || l.ends_with(" is not set")))
}

/// A short hash of lines.
pub(super) fn short_hash<'a>(lines: impl IntoIterator<Item = &'a str>) -> String {
    let mut hasher = Sha256::new();
    for line in lines {
        hasher.update(line);
        hasher.update("\n");
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
    fn comments_do_not_make_another_kernel_and_options_do() {
        let base = "# a\nCONFIG_A=y\n\nCONFIG_B=y\n";
        assert_eq!(hash(base), hash("CONFIG_A=y\n# other words\nCONFIG_B=y\n"));
        assert_ne!(hash(base), hash("CONFIG_A=y\nCONFIG_B=m\n"));
        assert_ne!(hash(base), hash("CONFIG_A=y\n# CONFIG_B is not set\n"));
        assert_eq!(hash(base).len(), 12);
    }

    #[test]
    fn a_configuration_without_btf_is_refused_by_name() {
        let whole = format!("{}=y\n", ESSENTIAL.join("=y\n"));
        assert!(check_config(&whole).is_ok());
        let without = whole.replace("CONFIG_DEBUG_INFO_BTF=y", "# CONFIG_DEBUG_INFO_BTF is not set");
        let error = check_config(&without).unwrap_err().to_string();
        assert!(error.contains("CONFIG_DEBUG_INFO_BTF") && !error.contains("CONFIG_9P_FS"), "{error}");
        // IOMMUFD_TEST is no IOMMUFD.
        assert!(check_config(&whole.replace("CONFIG_IOMMUFD=y\n", "")).is_err());
    }

    #[test]
    fn everything_essential_is_asked_for() {
        for option in ESSENTIAL {
            assert!(FRAGMENT.lines().any(|l| l == format!("{option}=y")), "{option}");
        }
    }

    #[test]
    fn compiled_files_are_counted_and_other_lines_are_not() {
        assert!(is_compilation(b"  CC      drivers/iommu/iommu.o"));
        assert!(!is_compilation(b"  GEN     Makefile"));
        assert!(!is_compilation(b"make[1]: Entering directory"));
    }
}
