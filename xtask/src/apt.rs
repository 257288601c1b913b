//! Packages from Debian's archive, without touching the system's own apt: lists and cache are ours, so that no root is
//! needed and a suite that is not configured can be reached.

use std::{
    cmp::Ordering,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail};

use crate::{
    cache::{self, Lock},
    command,
    progress::Progress,
};

/// How old package lists may be.
const FRESH: Duration = Duration::from_secs(12 * 3600);

/// A package in one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version, as Debian writes it.
    pub version: String,
}

/// A view of the archive.
#[derive(Debug)]
pub struct Apt {
    dir: PathBuf,
    suite: Option<String>,
    /// Where it is not the machine's own.
    architecture: Option<&'static str>,
}

impl Apt {
    /// The suites that this system has configured.
    pub fn configured() -> Result<Self> {
        Self::open("configured", None, None)
    }

    /// A suite that this system need not have configured, on the mirror that it has.
    pub fn suite(suite: &str) -> Result<Self> {
        Self::open(suite, Some(suite), None)
    }

    /// Several suites together, on the mirror that this system has.
    pub fn suites(suites: &[&str]) -> Result<Self> {
        Self::open(&suites.join("+"), Some(&suites.join(" ")), None)
    }

    /// The suites that this system has configured, for another architecture.
    pub fn foreign(architecture: &'static str) -> Result<Self> {
        Self::open(&format!("configured-{architecture}"), None, Some(architecture))
    }

    /// A suite that this system need not have configured, for another architecture.
    pub fn foreign_suite(suite: &str, architecture: &'static str) -> Result<Self> {
        Self::open(&format!("{suite}-{architecture}"), Some(suite), Some(architecture))
    }

    fn open(name: &str, suite: Option<&str>, architecture: Option<&'static str>) -> Result<Self> {
        for program in ["apt-get", "apt-cache", "dpkg"] {
            if command::find(program).is_none() {
                bail!("{program} is not there: kernels and busybox come from Debian's archive, through its own tools");
            }
        }
        let dir = cache::sub(Path::new("apt").join(name))?;
        for sub in ["lists/partial", "cache/archives/partial", "sources"] {
            fs::create_dir_all(dir.join(sub)).with_context(|| format!("cannot make {}", dir.join(sub).display()))?;
        }
        let apt = Self { dir, suite: suite.map(str::to_owned), architecture };
        apt.update()?;
        Ok(apt)
    }

    /// Fetches the lists if they are old.
    fn update(&self) -> Result<()> {
        let _lock = Lock::take("apt")?;
        let stamp = self.dir.join("updated");
        let age =
            fs::metadata(&stamp).and_then(|m| m.modified()).ok().and_then(|t| SystemTime::now().duration_since(t).ok());
        if age.is_some_and(|age| age < FRESH) {
            return Ok(());
        }
        if let Some(suite) = &self.suite {
            fs::write(self.dir.join("sources/suite.sources"), derive_sources(&system_sources()?, suite)?)?;
        }
        let what = self.suite.as_deref().unwrap_or("the configured suites");
        let progress = Progress::start(format!("package lists of {what}"));
        command::output(self.command("apt-get").arg("update"))?;
        progress.done("");
        fs::write(&stamp, "").with_context(|| format!("cannot write {}", stamp.display()))
    }

    /// One of apt's programs, told to keep to our directories.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let mut set = |name: &str, value: &Path| {
            command.arg("-o").arg(format!("{name}={}", value.display()));
        };
        set("Dir::State::Lists", &self.dir.join("lists"));
        set("Dir::Cache", &self.dir.join("cache"));
        // What is installed here must not decide what is fetched.
        set("Dir::State::Status", Path::new("/dev/null"));
        // As root, apt would drop to a user who cannot write to our cache.
        set("APT::Sandbox::User", Path::new("root"));
        if let Some(architecture) = self.architecture {
            set("APT::Architecture", Path::new(architecture));
            set("APT::Architectures::", Path::new(architecture));
        }
        if self.suite.is_some() {
            set("Dir::Etc::SourceList", Path::new("/dev/null"));
            set("Dir::Etc::SourceParts", &self.dir.join("sources"));
        }
        command.env("LC_ALL", "C.UTF-8");
        command
    }

    /// All packages whose names start with `prefix`, in their newest versions.
    pub fn starting_with(&self, prefix: &str) -> Result<Vec<Package>> {
        let names = command::text(self.command("apt-cache").args(["pkgnames", prefix]))?;
        let names: Vec<&str> = names.lines().filter(|n| n.starts_with(prefix)).collect();
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let policy = command::text(self.command("apt-cache").arg("policy").args(names))?;
        Ok(parse_policy(&policy))
    }

    /// The newest version of a package.
    pub fn newest(&self, name: &str) -> Result<Package> {
        let policy = command::text(self.command("apt-cache").args(["policy", name]))?;
        let found = parse_policy(&policy).into_iter().find(|p| p.name == name);
        let place = self.suite.as_deref().unwrap_or("the suites configured here");
        found.with_context(|| format!("there is no package {name} in {place}"))
    }

    /// What a package depends on directly, without versions.
    pub fn dependencies(&self, package: &Package) -> Result<Vec<String>> {
        let text =
            command::text(self.command("apt-cache").arg("show").arg(format!("{}={}", package.name, package.version)))?;
        let line = text.lines().find_map(|l| l.strip_prefix("Depends: ")).unwrap_or_default();
        Ok(line.split([',', '|']).filter_map(|d| d.split_whitespace().next()).map(str::to_owned).collect())
    }

    /// A package of one of the suites and all that it depends on, in that suite's versions where it has them.
    pub fn closure(&self, name: &str, suite: &str) -> Result<Vec<Package>> {
        let mut command = self.command("apt-get");
        command.args(["install", "--simulate", "--no-install-recommends", "--target-release", suite, name]);
        Ok(parse_simulation(&command::text(&mut command)?))
    }

    /// Downloads packages at once and unpacks them into a directory; nothing is installed.
    pub fn unpack_all(&self, what: &str, packages: &[Package], into: &Path) -> Result<()> {
        let dir = tempfile::tempdir_in(&self.dir).context("cannot make a directory in the cache")?;
        let progress = Progress::start(format!("fetching {what}"));
        let mut download = self.command("apt-get");
        download.arg("download").current_dir(dir.path());
        download.args(packages.iter().map(|p| format!("{}={}", p.name, p.version)));
        command::output(&mut download)?;
        for deb in fs::read_dir(dir.path())? {
            command::output(Command::new("dpkg").arg("-x").arg(deb?.path()).arg(into))?;
        }
        progress.done("");
        Ok(())
    }

    /// Downloads packages and unpacks them into a directory; nothing is installed.
    pub fn unpack(&self, packages: &[Package], into: &Path) -> Result<()> {
        fs::create_dir_all(into).with_context(|| format!("cannot make {}", into.display()))?;
        for package in packages {
            let dir = tempfile::tempdir_in(&self.dir).context("cannot make a directory in the cache")?;
            let progress = Progress::start(format!("fetching {} {}", package.name, package.version));
            command::output(
                self.command("apt-get")
                    .arg("download")
                    .arg(format!("{}={}", package.name, package.version))
                    .current_dir(dir.path()),
            )?;
            let deb = fs::read_dir(dir.path())?
                .filter_map(Result::ok)
                .map(|e| e.path())
                .find(|p| p.extension().is_some_and(|e| e == "deb"))
                .with_context(|| format!("apt-get download {} has left no .deb", package.name))?;
            command::output(Command::new("dpkg").arg("-x").arg(&deb).arg(into))?;
            progress.done("");
        }
        Ok(())
    }
}

/// Compares versions as Debian does.
#[must_use]
pub fn compare(a: &str, b: &str) -> Ordering {
    let is = |relation: &str| {
        Command::new("dpkg").args(["--compare-versions", a, relation, b]).status().is_ok_and(|s| s.success())
    };
    if a == b {
        Ordering::Equal
    } else if is("lt") {
        Ordering::Less
    } else {
        Ordering::Greater
    }
}

/// Reads `apt-cache policy`: name and candidate of each package that has one.
fn parse_policy(text: &str) -> Vec<Package> {
    let mut packages = Vec::new();
    let mut name = None;
    for line in text.lines() {
        if let Some(candidate) = line.trim_start().strip_prefix("Candidate: ") {
            if let Some(name) = name.take().filter(|_| candidate != "(none)") {
                packages.push(Package { name, version: candidate.to_owned() });
            }
        } else if !line.starts_with(' ') {
            name = line.strip_suffix(':').map(str::to_owned);
        }
    }
    packages
}

/// Reads `apt-get install --simulate`: what it would install.
fn parse_simulation(text: &str) -> Vec<Package> {
    text.lines()
        .filter_map(|line| {
            let (name, rest) = line.strip_prefix("Inst ")?.split_once(" (")?;
            let (version, _) = rest.split_once(' ')?;
            Some(Package { name: name.to_owned(), version: version.to_owned() })
        })
        .collect()
}

/// What the system's apt reads its sources from.
fn system_sources() -> Result<String> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(dir) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(dir.filter_map(Result::ok).map(|e| e.path()));
    }
    files.retain(|f| f.extension().is_some_and(|e| e == "list" || e == "sources"));
    files.sort();
    let mut text = String::new();
    for file in &files {
        if let Ok(content) = fs::read_to_string(file) {
            text.push_str(&content);
            // Ends a deb822 paragraph.
            text.push_str("\n\n");
        }
    }
    if text.trim().is_empty() {
        bail!("this system has no apt sources to take Debian's mirror from (/etc/apt/sources.list, sources.list.d)");
    }
    Ok(text)
}

/// Sources for `suite` on the mirror that the system's sources name for Debian's main archive.
fn derive_sources(system: &str, suite: &str) -> Result<String> {
    let (uri, signed_by) = mirror(system).context(
        "no Debian archive among this system's apt sources: a `debian` mirror with a release's own suite is needed",
    )?;
    let signed_by = signed_by.map(|s| format!("Signed-By: {s}\n")).unwrap_or_default();
    Ok(format!("Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: main\n{signed_by}"))
}

/// The mirror of Debian's main archive, and what signs it, from deb822 paragraphs or one-line entries.
fn mirror(sources: &str) -> Option<(String, Option<String>)> {
    // Security has an archive of its own, and other projects have theirs.
    let fits = |uri: &str, suites: &[&str]| {
        uri.trim_end_matches('/').ends_with("/debian") && suites.iter().any(|s| !s.ends_with("-security"))
    };
    for line in sources.lines().map(str::trim) {
        let Some(rest) = line.strip_prefix("deb ") else { continue };
        let (options, rest) = match rest.trim_start().strip_prefix('[').and_then(|r| r.split_once(']')) {
            Some((options, rest)) => (options, rest),
            None => ("", rest),
        };
        let words: Vec<&str> = rest.split_whitespace().collect();
        if let [uri, suite, ..] = words.as_slice()
            && fits(uri, &[suite])
        {
            let signed = options.split_whitespace().find_map(|o| o.strip_prefix("signed-by="));
            return Some(((*uri).to_owned(), signed.map(str::to_owned)));
        }
    }
    for paragraph in sources.split("\n\n") {
        let field = |name: &str| {
            paragraph.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
            })
        };
        let (Some(types), Some(uris), Some(suites)) = (field("Types"), field("URIs"), field("Suites")) else {
            continue;
        };
        let suites: Vec<&str> = suites.split_whitespace().collect();
        let uri = uris.split_whitespace().find(|uri| fits(uri, &suites));
        if let Some(uri) = uri.filter(|_| types.split_whitespace().any(|t| t == "deb")) {
            return Some((uri.to_owned(), field("Signed-By").filter(|s| !s.is_empty())));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suite_is_reached_on_the_mirror_of_deb822_sources() {
        let system = "Types: deb\nURIs: http://mirror.example/debian-security\nSuites: bookworm-security\nComponents: main\n\n\
            Types: deb\n# a comment\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\n\
            Components: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n";
        assert_eq!(
            derive_sources(system, "trixie-backports").unwrap(),
            "Types: deb\nURIs: http://mirror.example/debian\nSuites: trixie-backports\nComponents: main\n\
             Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
        );
    }

    #[test]
    fn a_suite_is_reached_on_the_mirror_of_one_line_sources() {
        let system = "deb-src http://other.example/debian bookworm main\n\
            deb [arch=amd64 signed-by=/k.gpg] https://mirror.example/debian/ bookworm main contrib\n";
        assert_eq!(mirror(system), Some(("https://mirror.example/debian/".into(), Some("/k.gpg".into()))));
    }

    #[test]
    fn sources_of_other_projects_are_no_mirror() {
        let system = "deb https://apt.example/repo bookworm main\n\nTypes: deb\nURIs: http://x.example/debian-security\nSuites: bookworm-security\n";
        let error = derive_sources(system, "s").unwrap_err().to_string();
        assert!(error.contains("no Debian archive"), "{error}");
    }

    #[test]
    fn a_simulated_installation_tells_each_package_and_its_version() {
        let text = "Reading package lists...\nInst libc6 (2.41-12 Debian:13.8/stable [amd64]) []\n\
            Inst qemu-system-x86 (1:11.1.3+ds-1~bpo13+1 Debian Backports:stable-backports [amd64])\n\
            Conf libc6 (2.41-12 Debian:13.8/stable [amd64])\n";
        let package = |name: &str, version: &str| Package { name: name.into(), version: version.into() };
        assert_eq!(
            parse_simulation(text),
            [package("libc6", "2.41-12"), package("qemu-system-x86", "1:11.1.3+ds-1~bpo13+1")]
        );
    }

    #[test]
    fn policies_give_candidates_and_packages_without_one_are_left_out() {
        let text = "linux-source-7.2:\n  Installed: (none)\n  Candidate: 7.2.12-1\n  Version table:\n     7.2.12-1 100\n\
            gone:\n  Installed: (none)\n  Candidate: (none)\n  Version table:\n\
            linux-source-7.3:\n  Installed: (none)\n  Candidate: 7.3.4-1\n  Version table:\n     7.3.4-1 100\n";
        let package = |name: &str, version: &str| Package { name: name.into(), version: version.into() };
        assert_eq!(
            parse_policy(text),
            [package("linux-source-7.2", "7.2.12-1"), package("linux-source-7.3", "7.3.4-1")]
        );
    }
}
