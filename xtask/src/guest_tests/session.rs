//! Shell scripts of several cases in one guest, and what each case left behind.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};

use crate::{
    console::message,
    vm::{Outcome, Vm},
};

/// Where the guest's files are put.
const OUT: &str = "/out";

/// A script under construction. Each case gets a name, and has files `/out/NAME.*`.
#[derive(Debug)]
pub struct Script(String);

impl Script {
    /// An empty script.
    pub fn new() -> Self {
        Self(format!("mkdir -p {OUT}; cd {OUT}\n"))
    }

    /// Adds a case: a shell script of its own, of which output and exit status are kept.
    pub fn case(&mut self, name: &str, script: &str) {
        self.0.push_str(&case(name, script));
    }

    /// Runs it all, and collects what is in `/out`. The guest must stay healthy.
    pub fn run(self, vm: Vm) -> Result<Files> {
        let outcome = vm.script(self.0 + "exit 0").collect(OUT).run()?;
        outcome.success()?;
        let dir = outcome.collected.get(OUT).context("the guest's files did not come back")?.clone();
        Ok(Files { dir, outcome })
    }
}

/// The shell's words for one case: a subshell, its output into files, its status into another.
pub fn case(name: &str, script: &str) -> String {
    format!("( {script}\n) > {OUT}/{name}.stdout 2> {OUT}/{name}.stderr; echo $? > {OUT}/{name}.status\n")
}

/// A word for the shell.
pub fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// What the guest left behind.
#[derive(Debug)]
pub struct Files {
    dir: PathBuf,
    /// Keeps the files.
    outcome: Outcome,
}

impl Files {
    /// A file of `/out`, as text.
    pub fn text(&self, name: &str) -> Result<String> {
        let path = self.dir.join(name);
        let bytes = fs::read(&path).with_context(|| format!("the guest wrote no {name}"))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// What the kernel said on its console, warnings and worse.
    pub fn console(&self) -> &str {
        &self.outcome.console
    }

    /// The exit status of a case.
    pub fn status(&self, name: &str) -> Result<i32> {
        let text = self.text(&format!("{name}.status"))?;
        text.trim().parse().with_context(|| format!("{name}: {text:?} is no exit status"))
    }

    /// Fails unless a case ended with this status.
    pub fn expect_status(&self, name: &str, expected: i32) -> Result<()> {
        let status = self.status(name)?;
        ensure!(
            status == expected,
            "exit status {status}, expected {expected}; standard error:\n{}",
            crate::command::tail(&self.text(&format!("{name}.stderr"))?, 12)
        );
        Ok(())
    }
}

/// Between two marks, which the guest has put there, the console, which has warnings and worse, has nothing but what is ordinary.
pub fn said_nothing(console: &str, [begin, end]: [&str; 2], ordinary: &[&str]) -> Result<()> {
    let mut lines = console.lines().map(message);
    lines.by_ref().find(|line| *line == begin).context("the console lacks the mark of the beginning")?;
    let ordinary = |line: &str| line.is_empty() || ordinary.iter().any(|said| line.contains(said));
    let said: Vec<&str> = lines.take_while(|line| *line != end).filter(|line| !ordinary(line)).collect();
    ensure!(console.contains(end), "the console lacks the mark of the end");
    ensure!(said.is_empty(), "the kernel said\n  {}", said.join("\n  "));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_keeps_output_and_status() {
        assert_eq!(case("a", "exit 3"), "( exit 3\n) > /out/a.stdout 2> /out/a.stderr; echo $? > /out/a.status\n");
    }

    #[test]
    fn words_are_quoted_for_the_shell() {
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
