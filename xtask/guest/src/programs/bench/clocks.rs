//! Who has run for how long, by each process' own clock: nanoseconds, exact.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;

use anyhow::{Context, Result};

use super::case::Window;

/// Which of a process' clocks (`include/linux/posix-timers_types.h`).
#[derive(Clone, Copy)]
enum Which {
    /// By the ticks that found it in user space.
    User = 1,
    /// By the scheduler, exact.
    Exact = 2,
    /// By the ticks that found it anywhere.
    Ticks = 0,
}

fn clock(pid: u32, which: Which) -> io::Result<u64> {
    // The kernel's own form of a process' clock: MAKE_PROCESS_CPUCLOCK.
    let id = (!(pid as libc::clockid_t) << 3) | which as libc::clockid_t;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live timespec.
    if unsafe { libc::clock_gettime(id, &raw mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// A process' time on the CPU, with all its threads, those that ended too.
pub fn process(pid: u32) -> Result<u64> {
    clock(pid, Which::Exact).with_context(|| format!("process {pid} has no clock"))
}

/// Waits until a child has ended, and leaves it to be asked and reaped.
pub fn wait_unreaped(pid: u32) -> Result<()> {
    // SAFETY: zeroes are a value of it.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live siginfo.
    let done = unsafe { libc::waitid(libc::P_PID, pid, &raw mut info, libc::WEXITED | libc::WNOWAIT) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()).context("cannot wait for the workload") }
}

/// Everybody's clocks at one moment.
#[derive(Clone, Debug, Default)]
pub struct Clocks {
    tool: u64,
    tool_user: u64,
    tool_ticks: u64,
    others: BTreeMap<u32, u64>,
}

impl Clocks {
    /// Reads them; `tool` are the tracer's processes. Our own is nobody's.
    pub fn read(tool: &BTreeSet<u32>) -> Result<Clocks> {
        let mut clocks = Clocks::default();
        for pid in pids()? {
            // Who is gone meanwhile did little.
            let Ok(exact) = clock(pid, Which::Exact) else { continue };
            if tool.contains(&pid) {
                clocks.tool += exact;
                clocks.tool_user += clock(pid, Which::User).unwrap_or(0);
                clocks.tool_ticks += clock(pid, Which::Ticks).unwrap_or(0);
            } else if pid != std::process::id() {
                clocks.others.insert(pid, exact);
            }
        }
        Ok(clocks)
    }

    /// What was added since `before`.
    pub fn since(&self, before: &Clocks) -> Window {
        let user = self.tool_user.saturating_sub(before.tool_user);
        let ticks = self.tool_ticks.saturating_sub(before.tool_ticks);
        let others: BTreeMap<u32, u64> = self
            .others
            .iter()
            .map(|(&pid, &now)| (pid, now.saturating_sub(before.others.get(&pid).copied().unwrap_or(0))))
            .collect();
        let busiest = others.iter().max_by_key(|(_, time)| **time);
        let name = |pid| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned();
        Window {
            busiest: busiest.map(|(pid, time)| format!("{} {time}", name(*pid))).unwrap_or_default(),
            tool: self.tool.saturating_sub(before.tool),
            tool_user_ticks: user,
            tool_system_ticks: ticks.saturating_sub(user),
            others: others.values().sum(),
            ..Window::default()
        }
    }
}

/// Every process.
pub fn pids() -> Result<impl Iterator<Item = u32>> {
    let entries = fs::read_dir("/proc").context("cannot read /proc")?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()))
}
