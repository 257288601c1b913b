//! Running other programs: one place that makes their failures readable.

use std::{
    ffi::OsStr,
    io,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use anyhow::{Result, bail};

/// Lines of a failed program's output that its error repeats.
const TAIL: usize = 25;

/// A command as one would type it.
#[must_use]
pub fn shown(command: &Command) -> String {
    let quote = |word: &OsStr| {
        let word = word.to_string_lossy();
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
        if !word.is_empty() && word.chars().all(plain) {
            word.into_owned()
        } else {
            format!("'{}'", word.replace('\'', r"'\''"))
        }
    };
    std::iter::once(command.get_program()).chain(command.get_args()).map(quote).collect::<Vec<_>>().join(" ")
}

/// Runs a command with its output captured; fails with the end of that output unless it ends with 0.
pub fn output(command: &mut Command) -> Result<Output> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| cannot_start(command, &error))?;
    if !output.status.success() {
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        bail!("`{}` failed ({}):\n{}", shown(command), output.status, tail(&text, TAIL));
    }
    Ok(output)
}

/// Runs a command and returns its standard output as text.
pub fn text(command: &mut Command) -> Result<String> {
    Ok(String::from_utf8_lossy(&output(command)?.stdout).into_owned())
}

/// Runs a command whose output goes where ours goes, its standard output to our standard error.
pub fn passed_through(command: &mut Command) -> Result<()> {
    let status =
        command.stdin(Stdio::null()).stdout(io::stderr()).status().map_err(|error| cannot_start(command, &error))?;
    if !status.success() {
        bail!("`{}` failed ({status})", shown(command));
    }
    Ok(())
}

/// The error for a program that could not be started.
#[must_use]
pub fn cannot_start(command: &Command, error: &io::Error) -> anyhow::Error {
    let hint =
        if error.kind() == io::ErrorKind::NotFound { "; `cargo xtask setup` installs what is missing" } else { "" };
    anyhow::anyhow!("cannot run `{}`: {error}{hint}", shown(command))
}

/// The last `lines` lines of a text.
#[must_use]
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Where a program is on `PATH`, or in the directories of system programs that an ordinary user's `PATH` lacks.
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|file| rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok() && file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_one_would_type_it() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo 'a b'", "", "x=1"]);
        assert_eq!(shown(&command), r"sh -c 'echo '\''a b'\''' '' x=1");
    }

    #[test]
    fn a_failure_names_the_command_and_repeats_its_complaint() {
        let error = output(Command::new("sh").args(["-c", "echo no such thing >&2; exit 3"])).unwrap_err().to_string();
        assert!(error.contains("sh -c") && error.contains("no such thing") && error.contains('3'), "{error}");
    }

    #[test]
    fn the_tail_is_the_end_and_short_texts_are_whole() {
        assert_eq!(tail("a\nb\nc\n", 2), "b\nc");
        assert_eq!(tail("a\n", 2), "a");
    }
}
