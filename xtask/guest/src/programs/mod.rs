//! The programs: each an argument struct and a `run`.

pub mod as_user;
pub mod attach;
pub mod bench;
pub mod default_domain;
pub mod dma_fault;
pub mod iopf;
pub mod map_load;
pub mod page_request;
pub mod race;
pub mod replace_race;
pub mod siblings;
pub mod undrained;
pub mod unplug;
pub mod vfio;
pub mod workload;

use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};

use crate::sys;

/// Sleeps in small steps, so that a signal ends it early. Gives back whether one came.
pub fn pause(total: Duration) -> bool {
    const STEP: Duration = Duration::from_millis(20);
    let mut left = total;
    while !left.is_zero() && !sys::stopped() {
        let step = left.min(STEP);
        thread::sleep(step);
        left -= step;
    }
    sys::stopped()
}

/// Waits until `path` exists or a signal came.
pub fn wait_for(path: &Path) {
    while !path.exists() && !sys::stopped() {
        thread::sleep(Duration::from_millis(20));
    }
}

/// Joins every thread and gives back the first error, a panic included.
pub fn join_all<T>(handles: Vec<thread::ScopedJoinHandle<'_, Result<T>>>) -> Result<Vec<T>> {
    // Join all of them before looking at the results: none may outlive what it borrows in spirit.
    let results: Vec<_> =
        handles.into_iter().map(|h| h.join().unwrap_or_else(|_| Err(anyhow!("a thread panicked")))).collect();
    results.into_iter().collect()
}
