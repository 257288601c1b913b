//! What a kernel's console says about its health. Pure: text in, alarms out.

/// How bad a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The kernel goes on, but something is wrong: the run fails when it ends.
    Warning,
    /// Nothing that follows is worth waiting for: the run ends now.
    Fatal,
}

/// A message that no healthy kernel prints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// How bad it is.
    pub severity: Severity,
    /// The line, without its time stamp.
    pub line: String,
}

/// How a sign is looked for in a line.
#[derive(Clone, Copy)]
enum At {
    /// Where the message starts. "DEBUG: " is not "BUG: ", and a mitigation's note may well contain "WARNING:".
    Start,
    /// Anywhere.
    Any,
}

use At::{Any, Start};
use Severity::{Fatal, Warning};

/// The signs, the first that fits wins.
const SIGNS: &[(At, &str, Severity)] = &[
    (Any, "Kernel panic - not syncing", Fatal),
    (Any, "KASAN: ", Fatal),
    (Start, "BUG: ", Fatal),
    (Start, "Oops: ", Fatal),
    (Any, "kernel BUG at ", Fatal),
    (Any, "general protection fault", Fatal),
    (Any, "double fault: ", Fatal),
    // rcu_preempt, rcu_sched and rcu_tasks; "self-detected stall on CPU" as well.
    (Any, "detected stall", Fatal),
    (Any, "kthread starved for", Fatal),
    (Any, "detected expedited stalls", Fatal),
    (Any, "rcu_tasks_wait_gp: rcu_tasks grace period", Warning),
    (Any, "soft lockup", Fatal),
    (Any, "hard LOCKUP", Fatal),
    (Any, " blocked for more than ", Warning),
    (Start, "WARNING: ", Warning),
    (Start, "UBSAN: ", Warning),
    (Start, "refcount_t: ", Warning),
    (Any, "possible circular locking dependency", Warning),
    (Any, "possible recursive locking", Warning),
    (Any, "inconsistent lock state", Warning),
    (Any, "suspicious RCU usage", Warning),
    (Any, "DEBUG_LOCKS_WARN_ON", Warning),
    (Start, "list_add corruption", Warning),
    (Start, "list_del corruption", Warning),
    (Any, "Voluntary context switch within RCU", Warning),
    (Start, "trying to register non-static key", Warning),
    // The kernel found no init, no memory or no initramfs: it hangs or panics later.
    (Start, "Initramfs unpacking failed", Fatal),
    (Start, "rootfs image is not initramfs", Fatal),
];

/// Judges one line of a console.
#[must_use]
pub fn judge(line: &str) -> Option<Alarm> {
    let message = message(line);
    SIGNS
        .iter()
        .find(|(at, sign, _)| match at {
            Start => message.starts_with(sign),
            Any => message.contains(sign),
        })
        .map(|(_, _, severity)| Alarm { severity: *severity, line: message.to_owned() })
}

/// A line without its `[    1.234567]` time stamp and `[   T12]` caller.
#[must_use]
pub fn message(line: &str) -> &str {
    let mut rest = line.trim();
    while let Some((inside, after)) = rest.strip_prefix('[').and_then(|r| r.split_once(']')) {
        let stamp = |c: char| c.is_ascii_digit() || c == '.' || c == 'T' || c == 'C' || c == ' ';
        if inside.is_empty() || !inside.chars().all(stamp) {
            break;
        }
        rest = after.trim_start();
    }
    rest
}

/// A console as it comes: bytes in, alarms and clean lines out.
#[derive(Debug, Default)]
pub struct Console {
    text: String,
    partial: Vec<u8>,
    alarms: Vec<Alarm>,
}

impl Console {
    /// Takes what the console said next.
    pub fn feed(&mut self, bytes: &[u8]) {
        for part in bytes.split_inclusive(|b| *b == b'\n') {
            self.partial.extend_from_slice(part);
            if part.ends_with(b"\n") {
                self.line();
            }
        }
    }

    /// Takes the unfinished last line as it is. Call it when the machine has ended.
    pub fn finish(&mut self) {
        if !self.partial.is_empty() {
            self.line();
        }
    }

    fn line(&mut self) {
        let line = clean(&String::from_utf8_lossy(&self.partial));
        self.partial.clear();
        if line.is_empty() {
            return;
        }
        self.alarms.extend(judge(&line));
        self.text.push_str(&line);
        self.text.push('\n');
    }

    /// The alarms so far, in order.
    #[must_use]
    pub fn alarms(&self) -> &[Alarm] {
        &self.alarms
    }

    /// The first alarm that ends a run.
    #[must_use]
    pub fn fatal(&self) -> Option<&Alarm> {
        self.alarms.iter().find(|a| a.severity == Fatal)
    }

    /// Everything said so far, without escape sequences.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// A line without the firmware's escape sequences and other control characters.
fn clean(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\x1b' => {
                // CSI sequences end with a letter; the others are one character long.
                if chars.next() == Some('[') {
                    for c in chars.by_ref() {
                        if c.is_ascii_alphabetic() {
                            break;
                        }
                    }
                }
            }
            '\t' => out.push(' '),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn severity(line: &str) -> Option<Severity> {
        judge(line).map(|a| a.severity)
    }

    #[test]
    fn what_kills_a_kernel_is_fatal() {
        for line in [
            "[    2.010203] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100",
            "[    4.1] BUG: kernel NULL pointer dereference, address: 0000000000000010",
            "[    4.1][  T123] BUG: KASAN: slab-use-after-free in iommu_report_device_fault+0x1f/0x2b0",
            "Oops: general protection fault, probably for non-canonical address 0xdead000000000108: 0000 [#1] SMP NOPTI",
            "[    4.1] Oops: 0000 [#1] PREEMPT SMP",
            "kernel BUG at drivers/iommu/iommufd/main.c:77!",
            "[   61.0] rcu: INFO: rcu_preempt self-detected stall on CPU",
            "[   61.0] rcu: INFO: rcu_sched detected stalls on CPUs/tasks: { 1-...!: }",
            "[   61.0] watchdog: BUG: soft lockup - CPU#1 stuck for 26s! [guest:99]",
        ] {
            assert_eq!(severity(line), Some(Fatal), "{line}");
        }
    }

    #[test]
    fn what_only_worries_is_a_warning() {
        for line in [
            "[    3.3] WARNING: CPU: 1 PID: 77 at drivers/iommu/iommu.c:3200 iommu_detach_group+0x44/0x60",
            "[    3.3] WARNING: drivers/iommu/iommu.c:3200 at iommu_detach_group+0x44/0x60, CPU#1: guest/77",
            "WARNING: possible circular locking dependency detected",
            "[    9.9] refcount_t: underflow; use-after-free.",
            "UBSAN: array-index-out-of-bounds in drivers/iommu/x.c:3:4",
            "INFO: task guest:77 blocked for more than 120 seconds.",
        ] {
            assert_eq!(severity(line), Some(Warning), "{line}");
        }
    }

    #[test]
    fn ordinary_noise_is_no_alarm() {
        for line in [
            "[    0.1] Spectre V2 : WARNING: Unprivileged eBPF is enabled with eIBRS on, data leaks possible",
            "[    0.2] DEBUG: something",
            "[    5.0] DMAR: [DMA Write NO_PASID] Request device [00:02.0] fault addr 0x1000 [fault reason 0x05]",
            "[    0.0] ------------[ cut here ]------------",
            "Linux version 7.3.4 (debian-kernel@lists.debian.org)",
            "rcu: Hierarchical RCU implementation.",
            "",
        ] {
            assert_eq!(judge(line), None, "{line}");
        }
    }

    #[test]
    fn stamps_are_cut_and_other_brackets_stay() {
        assert_eq!(message("[    1.234567] hello"), "hello");
        assert_eq!(message("[    1.2][  T12] hello"), "hello");
        assert_eq!(message("[drm] hello"), "[drm] hello");
        assert_eq!(message("[unfinished"), "[unfinished");
    }

    #[test]
    fn a_sign_cut_in_two_reads_is_found_once() {
        let mut console = Console::default();
        console.feed(b"\x1bc\x1b[?7l\x1b[2JSeaBIOS\r\n[ 1.0] BUG: ker");
        assert!(console.alarms().is_empty());
        console.feed(b"nel NULL pointer\r\n[ 1.0] more\r");
        console.finish();
        assert_eq!(console.fatal().map(|a| a.line.as_str()), Some("BUG: kernel NULL pointer"));
        assert_eq!(console.alarms().len(), 1);
        assert_eq!(console.text(), "SeaBIOS\n[ 1.0] BUG: kernel NULL pointer\n[ 1.0] more\n");
    }
}
