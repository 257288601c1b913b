//! The binary itself: help, bad usage, closed pipes. None of it needs privileges or an IOMMU.
#![allow(missing_docs, clippy::unwrap_used, reason = "this is a test")]

use std::process::{Command, Output, Stdio};

fn iommu_trace(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_iommu-trace"));
    command.args(arguments).env("COLUMNS", "100").env_remove("NO_COLOR").stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    iommu_trace(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn help_of_every_command() {
    let commands = [
        "",
        "trace",
        "top",
        "check",
        "handles",
        "record",
        "stats",
        "report",
        "export",
        "serve",
        "doctor",
        "completions",
        "man",
    ];
    for command in commands {
        let arguments: Vec<&str> = [command, "--help"].into_iter().filter(|word| !word.is_empty()).collect();
        let output = run(&arguments);
        assert!(output.status.success());
        insta::assert_snapshot!(format!("help_{}", if command.is_empty() { "all" } else { command }), stdout(&output));
    }
}

/// What is wrong, and what is said of it.
const WRONG: &[(&[&str], &str)] = &[
    (&[], "Usage: iommu-trace"),
    (&["tracee"], "unrecognized subcommand 'tracee'"),
    (&["trace", "--events", "attach,gpu"], "[possible values: attach, fault, sva, iommufd, dma, invalidate, reset]"),
    (&["trace", "--duration", "soon"], "not a duration such as 500ms, 2s or 1m30s"),
    (&["trace", "--min-latency", "10 parsecs"], "not a duration such as 500ms, 2s or 1m30s"),
    (&["trace", "--buffer-size", "3"], "not between 4K and 1G"),
    (&["trace", "--buffer-size", "big"], "not a size such as 4096, 512K or 8M"),
    (&["trace", "--count", "0"], "0 is not in 1.."),
    (&["trace", "--stretch", "1ms@lookup"], "unexpected argument '--stretch'"),
    (&["check", "--stretch", "1ms"], "such as 500us@lookup,replace"),
    (&["check", "--stretch", "1ms@report"], "there is no step `report` to stretch, only: lookup, handler, replace"),
    (&["check", "--stretch", "51ms@lookup"], "a wait is 50ms at the most"),
    (&["check", "--stretch", "1ms@lookup", "--from", "x.itr"], "cannot be used with"),
    (&["trace", "--pasid", "all"], "not a PASID"),
    (&["trace", "--pid", "qemu"], "not a process id"),
    (&["trace", "--time", "local"], "[possible values: relative, monotonic, utc]"),
    (&["trace", "--device", "0000:["], "--device \"0000:[\" is no pattern that can be matched"),
    (&["trace", "--pid", "command"], "stands for the command after `--`"),
    (&["top"], "`top` needs a terminal on standard input and output"),
    (&["top", "--speed", "0", "--from", "x.itr"], "not a number from 1/64 (0.015625) to 1024"),
    (&["top", "--pid", "command"], "stands for the command after `--`"),
    (&["check", "--rules", "stale-handle"], "there is no rule `stale-handle`; the rules are slot-occupied, "),
    (&["check", "--silence", "stale-lookup,x"], "there is no rule `x`"),
    (&["check", "--rules", "stale-lookup", "--silence", "stale-lookup"], "--silence leaves no rule to judge"),
    (&["check", "--ownership", "shared"], "[possible values: caller-owned, refcounted]"),
    (&["check", "--violations-exit", "256"], "256 is not in 0..=255"),
    (&["handles", "--device", "0000:["], "--device \"0000:[\" is no pattern that can be matched"),
    (&["serve", "--listen", "somewhere"], "invalid socket address"),
    (&["serve", "--otlp", "collector:4317"], "not a URL such as http://collector:4318"),
    (
        &["serve", "--web-config", "/nonexistent/web.yml"],
        "cannot read the web configuration file \"/nonexistent/web.yml\"",
    ),
    (&["serve", "--listen", "192.0.2.1:9798"], "cannot listen on 192.0.2.1:9798: choose another address with --listen"),
    (&["trace", "--output", "/nonexistent/file"], "cannot create the output file \"/nonexistent/file\": No such file"),
    (&["trace", "--output", "/"], "cannot create the output file \"/\": it is a directory"),
    (
        &["trace", "--", "no-such-command"],
        "cannot start the command \"no-such-command\": it is not in any directory of PATH",
    ),
];

#[test]
fn what_is_wrong_is_said_with_status_2_and_nothing_on_standard_output() {
    for (arguments, told) in WRONG {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(told), "{arguments:?}: {}", stderr(&output));
        assert_eq!(stdout(&output), "", "{arguments:?}");
    }
}

#[test]
fn a_closed_pipe_is_success_for_whatever_is_printed() {
    for arguments in [&["--help"][..], &["trace", "--help"], &["completions", "zsh"], &["man"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = iommu_trace(arguments).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""), "{arguments:?}");
    }
}

/// Runs as somebody without privileges, so that nothing is attached to the machine that runs the tests.
fn run_unprivileged(arguments: &[&str]) -> Output {
    use std::os::unix::{fs::PermissionsExt as _, process::CommandExt as _};
    if !rustix::process::geteuid().is_root() {
        return run(arguments);
    }
    // The build directory may be closed to others.
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let binary = dir.path().join("iommu-trace");
    std::fs::copy(env!("CARGO_BIN_EXE_iommu-trace"), &binary).unwrap();
    // Another test's child, forked while the copy was written, keeps it busy until it has called exec itself.
    loop {
        let mut command = Command::new(&binary);
        command.args(arguments).uid(65534).gid(65534).current_dir("/").stdin(Stdio::null());
        match command.output() {
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            output => return output.unwrap(),
        }
    }
}

#[test]
fn without_privileges_what_is_missing_is_named() {
    let output = run_unprivileged(&["trace", "--duration", "1s"]);
    let told = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.starts_with("iommu-trace: error: "), "{told}");
    assert!(told.contains("BTF") || told.contains("CAP_BPF"), "{told}");
    assert_eq!(stdout(&output), "");
}

#[test]
fn doctor_tells_its_verdict_by_its_status() {
    let output = run_unprivileged(&["doctor", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["ok"], false);
    assert_eq!(report["checks"][0]["name"], "CAP_BPF");
    assert_eq!(report["checks"][0]["state"], "missing");
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(1), ""));
}

#[test]
fn manual_pages_are_written_for_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(&["man", "--dir", dir.path().to_str().unwrap()]);
    assert!(output.status.success(), "{}", stderr(&output));
    for page in ["iommu-trace.1", "iommu-trace-trace.1", "iommu-trace-doctor.1"] {
        assert!(std::fs::read_to_string(dir.path().join(page)).unwrap().starts_with(".ie"), "{page}");
    }
}
