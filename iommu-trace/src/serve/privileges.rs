//! Privileges are for attaching the probes. What serves the network has none.
//!
//! Reading the ring, the counters and the stacks goes through descriptors and memory that are ours by then. Capabilities
//! belong to threads: the first drops them before it starts others. The source's reader, which may raise its priority
//! with them, drops its own.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, anyhow};
use caps::{CapSet, Capability};

use crate::source::{Batch, Cost, Progress, Source, SourceInfo, Stacks};

/// A source whose reader has no privileges.
pub struct Unprivileged {
    source: Box<dyn Source>,
    failed: Option<anyhow::Error>,
}

impl Unprivileged {
    /// The same source; its reader will drop its privileges.
    #[must_use]
    pub fn new(source: Box<dyn Source>) -> Self {
        Unprivileged { source, failed: None }
    }
}

impl Source for Unprivileged {
    fn info(&self) -> &SourceInfo {
        self.source.info()
    }

    fn on_reader_thread(&mut self) {
        self.source.on_reader_thread();
        self.failed = drop_privileges().err();
    }

    fn poll(&mut self, timeout: Duration, batch: &mut Batch) -> anyhow::Result<Progress> {
        // Not with privileges.
        match self.failed.take() {
            Some(error) => Err(error),
            None => self.source.poll(timeout, batch),
        }
    }

    fn stop(&mut self) -> anyhow::Result<()> {
        self.source.stop()
    }

    fn stacks(&self) -> Arc<dyn Stacks> {
        self.source.stacks()
    }

    fn cost(&self) -> Cost {
        self.source.cost()
    }
}

fn failed(what: &str) -> impl Fn(caps::errors::CapsError) -> anyhow::Error {
    move |error| anyhow!("cannot {what}: {error}")
}

/// Drops every capability of this thread and of those it will start, for good.
pub fn drop_privileges() -> anyhow::Result<()> {
    // With it go set-user-id programs and file capabilities: no program started from here can gain anything back.
    // SAFETY: a flag of this thread; no pointer is involved.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(std::io::Error::last_os_error()).context("cannot set no_new_privs");
    }
    // Only who holds CAP_SETPCAP may narrow the bounding set. A service manager has narrowed it already, and without
    // privileges to gain it says nothing.
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP).map_err(failed("read the capabilities"))? {
        caps::clear(None, CapSet::Bounding).map_err(failed("clear the bounding set of capabilities"))?;
    }
    if caps::runtime::ambient_set_supported().is_ok() {
        caps::clear(None, CapSet::Ambient).map_err(failed("clear the ambient capabilities"))?;
    }
    for set in [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable] {
        caps::clear(None, set).map_err(failed("drop the capabilities"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_and_nothing_can_be_gained() {
        // Of this thread alone: other tests keep theirs.
        std::thread::spawn(|| {
            let settable = caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP).expect("capabilities");
            drop_privileges().expect("nothing forbids it");
            let status = std::fs::read_to_string("/proc/thread-self/status").expect("procfs");
            let field = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("absent");
                line.trim().to_owned()
            };
            for set in ["CapEff:", "CapPrm:", "CapInh:", "CapAmb:"] {
                assert_eq!(field(set), "0000000000000000", "{set}");
            }
            assert_eq!(field("NoNewPrivs:"), "1");
            if settable {
                assert_eq!(field("CapBnd:"), "0000000000000000");
            }
        })
        .join()
        .expect("the thread has no failed assertion");
    }
}
