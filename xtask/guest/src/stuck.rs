//! What every process is doing, told on the console shortly before the host gives a command up: else nobody would know
//! where it was stuck.

use std::{fs, path::Path, thread, time::Duration};

/// How long before the host's patience ends, which counts from before the kernel began.
const BEFORE: Duration = Duration::from_secs(20);
/// Functions of a kernel stack that are told.
const FRAMES: usize = 6;

/// Tells it on standard error, once, when the machine has been up for nearly `limit`.
pub fn watch(limit: Duration) {
    thread::spawn(move || {
        let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
        let uptime = uptime.split('.').next().and_then(|seconds| seconds.parse().ok()).unwrap_or(0);
        thread::sleep(limit.saturating_sub(BEFORE + Duration::from_secs(uptime)));
        eprintln!("init: time is nearly up, and this still runs:");
        for line in threads(Path::new("/proc")) {
            eprintln!("init: {line}");
        }
    });
}

/// A line for each thread of user space: ids, name, state, CPU time, kernel stack, command line.
fn threads(proc: &Path) -> Vec<String> {
    let mut processes: Vec<u32> = numbers(proc);
    processes.sort_unstable();
    let mut lines = Vec::new();
    for pid in processes.into_iter().filter(|&pid| pid != 1) {
        let process = proc.join(pid.to_string());
        let words = fs::read(process.join("cmdline")).unwrap_or_default();
        // The kernel's own threads have none.
        if words.is_empty() {
            continue;
        }
        let words = String::from_utf8_lossy(&words).trim_end_matches('\0').replace(['\0', '\n'], " ");
        let mut threads = numbers(&process.join("task"));
        threads.sort_unstable();
        for tid in threads {
            let of = |file: &str| fs::read_to_string(process.join(format!("task/{tid}/{file}"))).unwrap_or_default();
            let words = if tid == pid { words.chars().take(100).collect() } else { String::new() };
            lines.push(format!("{pid}/{tid} {} in {} {words}", state(&of("stat")), stack(&of("stack"))));
        }
    }
    lines
}

fn numbers(directory: &Path) -> Vec<u32> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Name, state and ticks in user and kernel mode, of a line of `/proc/PID/stat`.
fn state(stat: &str) -> String {
    let (Some(begin), Some(end)) = (stat.find('('), stat.rfind(')')) else { return "gone".to_owned() };
    let rest: Vec<&str> = stat[end + 1..].split_whitespace().collect();
    let at = |n: usize| rest.get(n).copied().unwrap_or("?");
    format!("{} {} {}+{} ticks", &stat[begin + 1..end], at(0), at(11), at(12))
}

/// The innermost functions of `/proc/PID/stack`.
fn stack(stack: &str) -> String {
    let frames: Vec<&str> =
        stack.lines().filter_map(|line| line.split_whitespace().nth(1)?.split('+').next()).take(FRAMES).collect();
    if frames.is_empty() { "user mode".to_owned() } else { frames.join(" < ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_told_with_its_state_time_and_stack() {
        let stat = "77 (a (b) c) D 1 77 77 0 -1 4194560 100 0 0 0 12 34 0 0 20 0 1 0 1";
        assert_eq!(state(stat), "a (b) c D 12+34 ticks");
        assert_eq!(state(""), "gone");
        assert_eq!(
            stack("[<0>] iommu_attach_group+0x1/0x2\n[<0>] vfs_read+0x3/0x4 [vfio]\n"),
            "iommu_attach_group < vfs_read"
        );
        assert_eq!(stack(""), "user mode");
    }

    #[test]
    fn we_ourselves_are_among_what_runs() {
        let us = std::process::id();
        assert!(threads(Path::new("/proc")).iter().any(|line| line.starts_with(&format!("{us}/"))));
    }
}
