//! What this process itself costs.

use std::{
    sync::OnceLock,
    time::{Duration, SystemTime},
};

use rustix::time::{ClockId, clock_gettime};

use crate::metrics::Usage;

/// So far.
pub fn now() -> Usage {
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    Usage {
        cpu_ns: (cpu.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(cpu.tv_nsec as u64),
        resident: resident().unwrap_or(0),
        started: started(),
    }
}

fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix("kB")?;
    kib.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// When the process was started: asked once, as the time of day may be set meanwhile.
fn started() -> SystemTime {
    static STARTED: OnceLock<SystemTime> = OnceLock::new();
    *STARTED.get_or_init(|| {
        let age = age().unwrap_or_default();
        SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH)
    })
}

fn age() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // Fields are counted after the name, which may hold anything.
    let ticks: u64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    // USER_HZ is 100 on every architecture that has an IOMMU.
    let started = Duration::from_millis(ticks.checked_mul(10)?);
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32).checked_sub(started)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_cost_something_and_was_started_a_moment_ago() {
        let usage = now();
        assert!(usage.cpu_ns > 0 && usage.resident > 100_000, "{usage:?}");
        let age = SystemTime::now().duration_since(usage.started).expect("the past");
        assert!(age < Duration::from_secs(600), "{age:?}");
    }
}
