//! Which processes descend from the started command, asked of `/proc`.

use std::{collections::HashMap, fs};

use super::filter::Processes;

/// Follows parents in `/proc`. The tracer makes itself the subreaper of its descendants, so that an orphan of the
/// command still leads to us.
///
/// A process may be gone before its event is looked at. One that was never seen, of an event after the command's start, is
/// then taken for a descendant: on a machine where someone watches their own command, short-lived strangers at the
/// IOMMU are rarer than short-lived children, and what is shown too much does less harm than what is missing.
#[derive(Debug, Default)]
pub struct Descendants {
    root: Option<(u32, u64)>,
    known: HashMap<u32, bool>,
}

impl Descendants {
    /// Nobody yet: the command has not started.
    #[must_use]
    pub fn none() -> Self {
        Descendants::default()
    }

    /// The command has this process id and started at this time of the events' clock.
    pub fn started(&mut self, pid: u32, ts: u64) {
        self.root = Some((pid, ts));
        self.known.clear();
        self.known.insert(pid, true);
        // Our other children are the command's orphans.
        self.known.insert(std::process::id(), true);
    }

    fn decide(&mut self, pid: u32, parent: impl Fn(u32) -> Option<u32>) -> bool {
        let mut path = Vec::new();
        let mut at = pid;
        let decided = loop {
            if let Some(&known) = self.known.get(&at) {
                break known;
            }
            path.push(at);
            match parent(at) {
                // The idle tasks' pid is 0: the parent of init and of the kernel's threads.
                Some(0) => break false,
                // A loop can only come from ids that were used again while we looked.
                Some(parent) if path.contains(&parent) => break false,
                Some(parent) => at = parent,
                None => break true,
            }
        };
        for pid in path {
            self.known.insert(pid, decided);
        }
        decided
    }
}

impl Processes for Descendants {
    fn is_of_command(&mut self, pid: u32, ts: u64) -> bool {
        match self.root {
            // Pid 0 is the idle task: an interrupt came while nothing ran.
            Some((_, started)) if ts >= started && pid != 0 => self.decide(pid, parent),
            _ => false,
        }
    }
}

/// The parent by `/proc/PID/stat`, `None` when the process is gone.
fn parent(pid: u32) -> Option<u32> {
    parent_in(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The parent, as the text of `/proc/PID/stat` has it.
#[must_use]
pub fn parent_in(stat: &str) -> Option<u32> {
    // The name before it is in parentheses, and may hold some itself.
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn family(pid: u32) -> Option<u32> {
        match pid {
            1 | 2 => Some(0),
            60 | 50 => Some(1),
            61 => Some(60),
            62 => Some(61),
            20 => Some(2),
            _ => None,
        }
    }

    #[test]
    fn descendants_of_the_command_are_followed_and_others_are_not() {
        let mut descendants = Descendants::none();
        descendants.started(60, 0);
        assert!(descendants.decide(60, family));
        assert!(descendants.decide(62, family));
        assert!(!descendants.decide(50, family));
        assert!(!descendants.decide(20, family), "a kernel thread");
    }

    #[test]
    fn a_process_that_is_gone_is_taken_for_a_descendant_and_one_known_before_is_not() {
        let mut descendants = Descendants::none();
        descendants.started(60, 0);
        assert!(descendants.decide(99, family));
        assert!(!descendants.decide(50, family));
        assert!(!descendants.decide(50, |_| None));
    }

    #[test]
    fn nothing_before_the_command_s_start_is_of_it() {
        let mut descendants = Descendants::none();
        assert!(!descendants.is_of_command(std::process::id(), 5));
        descendants.started(std::process::id(), 10);
        assert!(!descendants.is_of_command(std::process::id(), 9));
        assert!(descendants.is_of_command(std::process::id(), 10));
    }

    #[test]
    fn the_parent_is_read_from_proc() {
        assert_eq!(parent(std::process::id()), Some(std::os::unix::process::parent_id()));
        assert_eq!(parent(u32::MAX), None);
    }
}
