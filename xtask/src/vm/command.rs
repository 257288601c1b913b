//! `cargo xtask vm`.

use std::{
    fs,
    io::{self, IsTerminal, stderr, stdout},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::Args;

use super::{Copy, Vm};
use crate::{
    accel::Accel,
    kernel,
    programs::Programs,
    progress::elapsed,
    qemu::{Hotplug, Iommu},
};

/// Options of `cargo xtask vm`.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// A kernel of `cargo xtask kernel list`, or a bzImage
    #[arg(long, value_name = "NAME|BZIMAGE")]
    kernel: String,
    /// The emulated IOMMU
    #[arg(long, value_enum, default_value_t)]
    iommu: Iommu,
    /// How many CPUs
    #[arg(long, value_name = "N", default_value_t = 2)]
    smp: u32,
    /// How much memory, as QEMU says it
    #[arg(long, default_value = "1G")]
    memory: String,
    /// Let guest nanoseconds count guest instructions: one CPU, TCG
    #[arg(long)]
    icount: bool,
    /// Put a file or directory into the guest (under / by its own name unless told otherwise); may be repeated
    #[arg(long, value_name = "FILE[:GUEST_PATH]", value_parser = parse_copy)]
    copy: Vec<Copy>,
    /// Put a directory into the guest as it is, with its links; may be repeated
    #[arg(long, value_name = "DIR[:GUEST_PATH]", value_parser = parse_copy)]
    tree: Vec<Copy>,
    /// Bring a file or directory back at the end (into the working directory unless told otherwise); may be repeated
    #[arg(long, value_name = "GUEST_PATH[:HOST_PATH]", value_parser = parse_collect)]
    collect: Vec<(String, PathBuf)>,
    /// End the run after this time: 90, 90s, 5m
    #[arg(long, default_value = "120s", value_parser = parse_duration)]
    timeout: Duration,
    /// More of the kernel's command line; may be repeated
    #[arg(long, value_name = "ARGS", allow_hyphen_values = true)]
    append: Vec<String>,
    /// Empty ports, 00:04.0 to 00:07.0, for devices that come and go: how the guest is told of it
    #[arg(long, value_enum)]
    hotplug: Option<Hotplug>,
    /// The machine will sleep, which the share with the host does not survive: output comes through serial ports
    #[arg(long)]
    sleeps: bool,
    /// One more device, as QEMU's -device says it; may be repeated
    #[arg(long, value_name = "QEMU_DEVICE")]
    device: Vec<String>,
    /// Load one more module of a stock kernel; may be repeated
    #[arg(long, value_name = "NAME")]
    module: Vec<String>,
    /// What runs the guest's instructions
    #[arg(long, value_enum, default_value_t)]
    accel: Accel,
    /// Connect the command to this terminal: for interactive programs
    #[arg(long)]
    tty: bool,
    /// Leave iommu-trace out of the guest
    #[arg(long)]
    no_tracer: bool,
    /// Print the kernel's console to standard error at the end, whatever happened
    #[arg(long)]
    console: bool,
    /// Print timings to standard error at the end
    #[arg(long)]
    timing: bool,
    /// The command, with its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

/// Runs it; returns the exit status.
pub fn main(arguments: &Arguments) -> Result<u8> {
    super::require_qemu()?;
    if arguments.tty && !(io::stdin().is_terminal() && stdout().is_terminal()) {
        bail!("--tty needs a terminal on standard input and output");
    }
    let image = kernel::find(&arguments.kernel)?;
    let programs = Programs::build(arguments.iommu.arch(), !arguments.no_tracer)?;
    let mut vm = Vm::new(&image, &programs)
        .command(&arguments.command)
        .iommu(arguments.iommu)
        .accel(arguments.accel)
        .smp(arguments.smp)
        .memory(&arguments.memory)
        .icount(arguments.icount)
        .timeout(arguments.timeout)
        .hotplug(arguments.hotplug)
        .sleeps(arguments.sleeps)
        .terminal(arguments.tty);
    for Copy { from, to } in &arguments.copy {
        vm = vm.copy(from, to);
    }
    for Copy { from, to } in &arguments.tree {
        vm = vm.tree(from, to);
    }
    for (guest, _) in &arguments.collect {
        vm = vm.collect(guest);
    }
    for words in &arguments.append {
        vm = vm.append(words);
    }
    for device in &arguments.device {
        vm = vm.device(device);
    }
    for module in &arguments.module {
        vm = vm.module(module);
    }
    let outcome = vm.run_into(&mut stdout().lock(), &mut stderr().lock())?;
    for note in &outcome.notes {
        eprintln!("xtask: guest: {note}");
    }
    for (guest, host) in &arguments.collect {
        if let Some(from) = outcome.collected.get(guest) {
            bring(from, host).with_context(|| format!("cannot bring {guest} back as {}", host.display()))?;
        }
    }
    if arguments.console {
        eprint!("{}", outcome.console);
    }
    if let Some(trouble) = outcome.trouble() {
        eprintln!("xtask: {trouble}\n{}", outcome.console_tail());
    }
    if arguments.timing {
        let boot = outcome.boot.map_or_else(|| "never".to_owned(), elapsed);
        eprintln!("xtask: command started after {boot}, whole run {}", elapsed(outcome.wall));
    }
    Ok(outcome.exit_code())
}

/// Copies a collected file or directory to where it was asked for.
fn bring(from: &Path, to: &Path) -> io::Result<()> {
    if from.is_dir() {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            bring(&entry.path(), &to.join(entry.file_name()))?;
        }
        return Ok(());
    }
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::copy(from, to).map(drop)
}

fn parse_copy(text: &str) -> Result<Copy, String> {
    let (from, to) = text.split_once(':').unwrap_or((text, ""));
    let from = PathBuf::from(from);
    let to = match (to, from.file_name().and_then(|n| n.to_str())) {
        ("", Some(name)) => format!("/{name}"),
        ("", None) => return Err("needs a name for the guest, as in FILE:GUEST_PATH".to_owned()),
        (to, Some(name)) if to.ends_with('/') => format!("{to}{name}"),
        (to, _) => to.to_owned(),
    };
    Ok(Copy { from, to })
}

fn parse_collect(text: &str) -> Result<(String, PathBuf), String> {
    let (guest, host) = text.split_once(':').unwrap_or((text, ""));
    if !guest.starts_with('/') {
        return Err("the guest's path starts with /".to_owned());
    }
    let host = match (host, Path::new(guest).file_name()) {
        ("", Some(name)) => PathBuf::from(name),
        ("", None) => return Err("needs a name for the host, as in GUEST_PATH:HOST_PATH".to_owned()),
        (host, _) => PathBuf::from(host),
    };
    Ok((guest.to_owned(), host))
}

/// `90`, `90s`, `5m`, `1h`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let unit = match &text[at..] {
        "" | "s" => 1.0,
        "ms" => 0.001,
        "m" => 60.0,
        "h" => 3600.0,
        other => return Err(format!("unknown unit {other:?}: use ms, s, m or h")),
    };
    let number: f64 = text[..at].parse().map_err(|_| "expected a number, as in 90s".to_owned())?;
    Duration::try_from_secs_f64(number * unit).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_default_to_the_files_own_name() {
        let copy = |text: &str| parse_copy(text).unwrap();
        assert_eq!(copy("a/b.sh").to, "/b.sh");
        assert_eq!(copy("a/b.sh:/tmp/").to, "/tmp/b.sh");
        assert_eq!(copy("a/b.sh:/tmp/c"), Copy { from: "a/b.sh".into(), to: "/tmp/c".into() });
        assert!(parse_copy("/").is_err());
    }

    #[test]
    fn what_is_collected_needs_an_absolute_guest_path() {
        assert_eq!(parse_collect("/tmp/x.itr").unwrap(), ("/tmp/x.itr".into(), "x.itr".into()));
        assert_eq!(parse_collect("/tmp/x:y/z").unwrap().1, PathBuf::from("y/z"));
        assert!(parse_collect("x").is_err());
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration("90").unwrap(), Duration::from_secs(90));
        assert_eq!(parse_duration("1.5m").unwrap(), Duration::from_secs(90));
        assert_eq!(parse_duration("250ms").unwrap(), Duration::from_millis(250));
        assert!(parse_duration("5d").is_err() && parse_duration("s").is_err());
    }
}
