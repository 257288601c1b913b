//! The documentation: its commands are commands, its outputs are what they print, its links lead somewhere.
#![allow(missing_docs, clippy::unwrap_used, reason = "this is a test")]

use std::{
    env,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The workspace.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every page, with its path from the workspace's root.
fn pages() -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    for dir in ["", "docs", "dashboards", "fuzz", "xtask/guest"] {
        let entries = fs::read_dir(root().join(dir)).unwrap().map(|entry| entry.unwrap().path());
        files.extend(entries.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    }
    files.sort();
    let pages: Vec<_> = files
        .into_iter()
        .map(|path| (path.strip_prefix(root()).unwrap().to_owned(), fs::read_to_string(&path).unwrap()))
        .collect();
    assert!(pages.len() > 15, "{} pages", pages.len());
    pages
}

/// The lines of a page's code blocks, without indentation and prompt.
fn code(page: &str) -> Vec<&str> {
    let mut fenced = false;
    let mut lines = Vec::new();
    for line in page.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
        } else if fenced || line.starts_with("    ") {
            let line = line.trim();
            lines.push(line.strip_prefix("$ ").unwrap_or(line));
        }
    }
    lines
}

/// The calls of iommu-trace in a shell's line, each as its words. What is elided (`…`, `...`) is nobody's to type.
fn calls(line: &str) -> Vec<Vec<String>> {
    let elided = |word: &String| word.contains('…') || word == "...";
    let mut calls = Vec::new();
    for simple in line.split(" #").next().unwrap_or_default().split([';', '|']) {
        let Some(words) = shlex::split(simple) else { continue };
        let is_tool = |word: &String| word == "iommu-trace" || word.ends_with("/iommu-trace");
        let Some(at) = words.iter().position(is_tool) else { continue };
        // Before it may stand what starts it: `sudo`, `ssh root@there`, `cargo xtask vm … --`. A path alone is none of it.
        let started = at == 0
            || ["sudo", "ssh", "cargo", "time"].contains(&words[0].as_str())
                && !["-p", "--package"].contains(&words[at - 1].as_str());
        if !started || words.len() == at + 1 || words.iter().any(elided) {
            continue;
        }
        let of_shell = |word: &&String| !matches!(word.as_str(), ">" | "2>" | ">>" | "&&" | "&");
        calls.push(words[at..].iter().take_while(of_shell).cloned().collect());
    }
    calls
}

#[test]
fn every_command_of_the_documentation_is_one() {
    let mut seen = 0;
    let mut wrong = Vec::new();
    for (path, page) in pages() {
        for call in code(&page).into_iter().flat_map(calls) {
            // Output that begins with the name, as `doctor`'s and `-V`'s: a version, a message.
            if call[1].ends_with([':', ',']) || call[1].starts_with(|c: char| c.is_ascii_digit()) {
                continue;
            }
            seen += 1;
            if let Err(error) = iommu_trace::cli::command().try_get_matches_from(&call)
                && error.use_stderr()
            {
                wrong.push(format!("{}: {}\n{error}", path.display(), call.join(" ")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen > 60, "only {seen} commands were found");
}

#[test]
fn a_command_that_is_none_would_be_found() {
    let command = |line| calls(line).into_iter().map(|call| call.join(" ")).collect::<Vec<_>>();
    assert_eq!(command("iommu-trace trace --events fault   # page faults"), ["iommu-trace trace --events fault"]);
    assert_eq!(
        command("ssh root@there iommu-trace record -o - | iommu-trace trace --from -"),
        ["iommu-trace record -o -", "iommu-trace trace --from -"]
    );
    assert_eq!(
        command("cargo xtask vm --kernel k -- iommu-trace check -- guest iopf"),
        ["iommu-trace check -- guest iopf"]
    );
    assert_eq!(command("cargo test -p iommu-trace --lib model::"), [""; 0]);
    assert_eq!(command("iommu-trace completions bash > /usr/share/x"), ["iommu-trace completions bash"]);
    assert_eq!(command("install -D target/release/iommu-trace /usr/bin/iommu-trace"), [""; 0]);
    assert!(iommu_trace::cli::command().try_get_matches_from(["iommu-trace", "trace", "--no-such"]).is_err());
}

/// A link's target is there, and has the heading that it names.
#[test]
fn links_lead_somewhere() {
    let mut seen = 0;
    let mut wrong = Vec::new();
    for (path, page) in pages() {
        let texts = page.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for link in texts.filter(|link| !link.contains("://") && !link.contains(' ')) {
            seen += 1;
            let (file, anchor) = link.split_once('#').map_or((link, None), |(file, anchor)| (file, Some(anchor)));
            let target =
                if file.is_empty() { root().join(&path) } else { root().join(&path).parent().unwrap().join(file) };
            let found = match anchor {
                None => target.exists(),
                Some(anchor) => {
                    fs::read_to_string(&target).is_ok_and(|text| headings(&text).iter().any(|h| h == anchor))
                }
            };
            if !found {
                wrong.push(format!("{}: {link}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "links that lead nowhere:\n{}", wrong.join("\n"));
    assert!(seen > 40, "only {seen} links were found");
}

/// The anchors of a page: those that its headings make, and those that are written out.
fn headings(page: &str) -> Vec<String> {
    let written = page.split("<a id=\"").skip(1).filter_map(|rest| Some(rest.split_once('"')?.0.to_owned()));
    page.lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| {
            let text = line.trim_start_matches('#').trim().to_lowercase();
            let kept = text.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .chain(written)
        .collect()
}

/// Runs every command of the cookbook; with `UPDATE_DOCS` its outputs become the page's.
#[test]
fn the_cookbook_shows_what_is_printed() {
    let path = root().join("docs/cookbook.md");
    let page = fs::read_to_string(&path).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for name in ["mixed.itr", "siblings.itr"] {
        fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name), dir.path().join(name)).unwrap();
    }
    let mut new = String::new();
    let mut lines = page.lines();
    let mut commands = 0;
    while let Some(line) = lines.next() {
        new.push_str(line);
        new.push('\n');
        if line != "```console" {
            continue;
        }
        let prompt = lines.next().unwrap();
        let command = prompt.strip_prefix("$ ").unwrap_or_else(|| panic!("no command in the block: {prompt}"));
        // What was printed when the page was written.
        while lines.next().unwrap() != "```" {}
        let output = run(command, dir.path());
        assert!(!output.trim().is_empty(), "{command} prints nothing");
        writeln!(new, "{prompt}\n{output}```").unwrap();
        commands += 1;
    }
    assert!(commands >= 10, "{commands} commands");
    if env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, new).unwrap();
        return;
    }
    assert_eq!(
        page, new,
        "docs/cookbook.md is not what is printed: UPDATE_DOCS=1 cargo test -p iommu-trace --test docs"
    );
}

/// A shell's output, both streams of it, as in a pipe.
fn run(command: &str, dir: &Path) -> String {
    let tool = Path::new(env!("CARGO_BIN_EXE_iommu-trace")).parent().unwrap();
    let path = env::join_paths([tool.to_owned(), "/usr/bin".into(), "/bin".into()]).unwrap();
    let output = Command::new("sh")
        .args(["-c", &format!("exec 2>&1; {command}")])
        .current_dir(dir)
        .env_clear()
        .env("PATH", path)
        .env("LC_ALL", "C.UTF-8")
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}
