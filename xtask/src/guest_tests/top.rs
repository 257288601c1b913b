//! The dashboard in a real terminal, against a live guest: every view, keys, and numbers that agree with a trace of the
//! same run.

use std::{env, fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    Checks, Guest, GuestTest,
    dropped::{KILL, threads},
};
use crate::{command, qemu::Iommu, tmux::Terminal};

/// The table.
pub const TESTS: &[GuestTest] = &[GuestTest {
    name: "top-built-7.3",
    about: "the dashboard shows a live guest in a real terminal, and its numbers are those of a trace",
    kernel: "built-7.3",
    iommu: Iommu::None,
    tracer: true,
    run,
}];

/// Booting and attaching, emulated on a busy machine.
const START: Duration = Duration::from_secs(300);
/// A key's answer, through two serial lines.
const ANSWER: Duration = Duration::from_secs(60);

/// What is drawn in each view and in no other.
const VIEWS: &[(&str, &str)] = &[
    ("2", "GRP"),
    ("3", "ADDRESS"),
    ("4", "device_id"),
    ("5", "No mapping, invalidation or unrecoverable fault was seen"),
    ("6", "No rule was broken"),
    ("7", "VERDICT"),
    ("1", "mirror's own"),
];

/// A trace and the dashboard side by side; the workload begins when both are attached.
const SCRIPT: &str = "\
cd /tmp
stty -g > before
iommu-trace trace --format json --output trace.jsonl & tracer=$!
while ! grep -q '\"start\"' trace.jsonl 2>/dev/null; do sleep 0.2; done
iommu-trace top --command-output truth -- sh -c 'sleep 1; cat /proc/$PPID/task/*/status > tasks; exec guest iopf --faults 40 --pasid 2'
echo $? > status
stty -g > after
mv iommu-trace-top-*.json state.json
kill -INT $tracer; wait $tracer
";

fn run(guest: &Guest, checks: &mut Checks) -> Result<()> {
    command::find(crate::tmux::PROGRAM).context("tmux is not installed: run `cargo xtask setup`")?;
    let dir = tempfile::tempdir()?;
    let at = |name: &str| dir.path().join(name);
    let terminal = Terminal::new(120, 40)?;
    let xtask = env::current_exe()?;
    let mut line = format!("{} vm --tty --iommu none --timeout 15m --kernel {}", xtask.display(), guest.image.name);
    for name in ["before", "after", "status", "tasks", "state.json", "trace.jsonl"] {
        line = format!("{line} --collect /tmp/{name}:{}", at(name).display());
    }
    fs::write(at("script"), SCRIPT)?;
    terminal.text(&format!("{line} --copy {}:/script -- sh /script; echo over with $?", at("script").display()))?;
    terminal.key("Enter")?;
    let seen = terminal.wait("the dashboard", START, |screen| {
        screen.contains("LIVE") || screen.lines().any(|line| line.starts_with("over with"))
    })?;
    ensure!(seen.contains("LIVE"), "it did not come to the dashboard:\n{seen}");
    terminal.wait("the command's end", START, |screen| screen.contains("command exited with 0"))?;
    for &(key, drawn) in VIEWS {
        terminal.key(key)?;
        let seen = terminal.wait(&format!("view {key}"), ANSWER, |screen| screen.contains(drawn));
        checks.check(format!("view {key} is shown"), seen.map(drop));
    }
    checks.check("a fault's stages are shown", stages(&terminal));
    checks.check("the filter hides what does not match", filter(&terminal));
    checks.check("paused, the screen stands still", pause(&terminal));
    terminal.key("w")?;
    terminal.wait("the saved state", ANSWER, |screen| screen.contains("saved"))?;
    terminal.key("q")?;
    let end = terminal.wait("the end", START, |screen| screen.lines().any(|line| line.starts_with("over with")))?;
    checks.check("the screen is what it was before", {
        let shell = end.contains("ready>") && end.contains("over with 0") && !end.contains("LIVE");
        (|| {
            ensure!(shell, "{end}");
            Ok(())
        })()
    });
    let read = |name: &str| fs::read_to_string(at(name)).with_context(|| format!("the guest left no {name}"));
    checks.check(
        "the terminal's settings are what they were before",
        (|| {
            let (before, after) = (read("before")?, read("after")?);
            ensure!(before == after && !before.is_empty(), "before:\n{before}\nafter:\n{after}");
            Ok(())
        })(),
    );
    checks.check(
        "its status is the command's",
        read("status").and_then(|status| {
            ensure!(status.trim() == "0", "{status}");
            Ok(())
        }),
    );
    // This kernel has no filters of system calls.
    checks
        .check("it keeps what ends the command alone", read("tasks").and_then(|tasks| threads(&tasks, &[KILL], None)));
    checks.check("its numbers are those of the trace", agree(&at("state.json"), &at("trace.jsonl")));
    Ok(())
}

fn stages(terminal: &Terminal) -> Result<()> {
    terminal.key("3")?;
    terminal.wait("the faults", ANSWER, |screen| screen.contains("success") || screen.contains("invalid"))?;
    terminal.key("Enter")?;
    let stages = |screen: &str| ["Stages", "look-up", "handler", "response"].iter().all(|word| screen.contains(word));
    terminal.wait("the stages of a fault", ANSWER, stages)?;
    terminal.key("Escape")?;
    terminal.wait("the list", ANSWER, |screen| screen.contains("ADDRESS")).map(drop)
}

fn filter(terminal: &Terminal) -> Result<()> {
    terminal.key("/")?;
    terminal.text("pasid:7777")?;
    terminal.wait("nothing that matches", ANSWER, |screen| screen.contains("No fault matches the filter"))?;
    terminal.key("Escape")?;
    terminal.wait("the rows", ANSWER, |screen| screen.contains("success")).map(drop)
}

fn pause(terminal: &Terminal) -> Result<()> {
    terminal.key("Space")?;
    terminal.wait("the pause", ANSWER, |screen| screen.contains("PAUSED"))?;
    let below = |screen: &str| screen.lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
    let before = below(&terminal.screen()?);
    std::thread::sleep(Duration::from_secs(2));
    let after = below(&terminal.screen()?);
    ensure!(before == after, "it moved:\n{}\n{}", before.join("\n"), after.join("\n"));
    terminal.key("Space")?;
    terminal.wait("the present", ANSWER, |screen| screen.contains("LIVE")).map(drop)
}

/// Counts by kind in the saved state, and the lines of the trace.
fn agree(state: &Path, trace: &Path) -> Result<()> {
    let state: Value = serde_json::from_str(&fs::read_to_string(state).context("the guest left no state")?)?;
    let lines = fs::read_to_string(trace).context("the guest left no trace")?;
    let mut differ = Vec::new();
    for kind in ["attach", "replace", "detach", "fault", "iommufd_bind", "iommufd_unbind", "device_add", "domain_free"]
    {
        let told = state["counts"][kind].as_u64().context("the saved state has no counts")?;
        let tag = format!("\"event\":\"{kind}\"");
        let traced = lines.lines().filter(|line| line.contains(&tag)).count() as u64;
        if told != traced {
            differ.push(format!("{kind}: the dashboard has {told}, the trace {traced}"));
        }
    }
    ensure!(differ.is_empty(), "{}", differ.join("; "));
    let faults = state["counts"]["fault"].as_u64().unwrap_or(0);
    ensure!(faults >= 40, "only {faults} faults were seen");
    Ok(())
}
