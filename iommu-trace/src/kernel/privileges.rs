//! What this process may do, and what is to be said when it is not enough.

use std::{fs, path::Path};

use crate::event::harmless;

/// A capability that tracing wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// `CAP_BPF`.
    Bpf,
    /// `CAP_PERFMON`.
    Perfmon,
    /// `CAP_SYSLOG`.
    Syslog,
}

/// The capability that stands for `CAP_BPF` and `CAP_PERFMON`, as it did before Linux 5.8.
const SYS_ADMIN: u32 = 21;

impl Capability {
    /// Those without which nothing can be traced.
    pub const ESSENTIAL: &[Capability] = &[Capability::Bpf, Capability::Perfmon];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Capability::Bpf => "CAP_BPF",
            Capability::Perfmon => "CAP_PERFMON",
            Capability::Syslog => "CAP_SYSLOG",
        }
    }

    /// Its number, from the kernel's `uapi/linux/capability.h`.
    fn number(self) -> u32 {
        match self {
            Capability::Bpf => 39,
            Capability::Perfmon => 38,
            Capability::Syslog => 34,
        }
    }

    /// What its absence costs.
    #[must_use]
    pub const fn cost(self) -> &'static str {
        match self {
            Capability::Bpf => "no BPF program can be loaded",
            Capability::Perfmon => "BPF programs may not read kernel memory or be attached to kernel functions",
            Capability::Syslog => {
                "stacks have addresses in place of names, and no module is probed on kernels where a kprobe might crash"
            }
        }
    }
}

/// What to do about a missing one.
pub const REMEDY: &str = "run as root, or: setcap cap_bpf,cap_perfmon,cap_syslog+ep /path/to/iommu-trace";

/// The switch that lets those without `CAP_BPF` load programs of some kinds. None of ours is of these kinds.
const UNPRIVILEGED: &str = "proc/sys/kernel/unprivileged_bpf_disabled";
/// Where the kernel tells how far it is locked down.
const LOCKDOWN: &str = "sys/kernel/security/lockdown";

/// What `kernel.unprivileged_bpf_disabled` is below `root`, and that it does not help; `None` where the kernel has none.
#[must_use]
pub fn unprivileged_bpf(root: &Path) -> Option<String> {
    let value = fs::read_to_string(root.join(UNPRIVILEGED)).ok()?;
    let means = match value.trim() {
        "0" => "anyone may load programs that filter their own sockets",
        "1" => "nobody without CAP_BPF may load any program, until the next boot",
        "2" => "nobody without CAP_BPF may load any program",
        _ => "what that means is not known",
    };
    Some(format!("kernel.unprivileged_bpf_disabled is {}: {means}", harmless(value.trim())))
}

/// How far a kernel is locked down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lockdown {
    /// Not, or the kernel knows of none.
    None,
    /// Nobody may change the kernel, which tracing does not.
    Integrity,
    /// Nobody may read its memory, either.
    Confidentiality,
}

impl Lockdown {
    /// Of the kernel whose sysfs is below `root`.
    #[must_use]
    pub fn of(root: &Path) -> Lockdown {
        let modes = fs::read_to_string(root.join(LOCKDOWN)).unwrap_or_default();
        // The one that holds is in brackets.
        match modes.split_once('[').and_then(|(_, rest)| rest.split_once(']')) {
            Some(("integrity", _)) => Lockdown::Integrity,
            Some(("confidentiality", _)) => Lockdown::Confidentiality,
            _ => Lockdown::None,
        }
    }

    /// What it costs and what to do, where it is in the way.
    #[must_use]
    pub fn complaint(&self) -> Option<String> {
        (*self == Lockdown::Confidentiality).then(|| {
            format!("this kernel is locked down for confidentiality: {LOCKDOWN_COST}. To do: {LOCKDOWN_REMEDY}")
        })
    }
}

/// What a lockdown for confidentiality costs.
pub const LOCKDOWN_COST: &str = "BPF programs may not read kernel memory, nor kprobes be set, whoever asks";
/// What to do about it.
pub const LOCKDOWN_REMEDY: &str = "boot with lockdown=integrity or none; until then it cannot be lowered";

/// How a capability is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// It is held itself.
    Yes,
    /// `CAP_SYS_ADMIN` is, and stands for it.
    ByAdmin,
    /// Not at all.
    No,
}

/// The effective capabilities of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Privileges(u64);

impl Privileges {
    /// This process's; `None` where procfs does not tell.
    #[must_use]
    pub fn running() -> Option<Privileges> {
        Privileges::parse(&fs::read_to_string("/proc/self/status").ok()?)
    }

    /// From the text of `/proc/PID/status`.
    #[must_use]
    pub fn parse(status: &str) -> Option<Privileges> {
        let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
        u64::from_str_radix(mask.trim(), 16).ok().map(Privileges)
    }

    /// How it holds one.
    #[must_use]
    pub fn holds(self, wanted: Capability) -> Held {
        let has = |number: u32| self.0 & (1 << number) != 0;
        match wanted {
            _ if has(wanted.number()) => Held::Yes,
            Capability::Bpf | Capability::Perfmon if has(SYS_ADMIN) => Held::ByAdmin,
            _ => Held::No,
        }
    }

    /// Names what is missing of the essential ones, with what that costs and what to do; `None` if nothing is.
    #[must_use]
    pub fn complaint(self) -> Option<String> {
        let missing: Vec<String> = Capability::ESSENTIAL
            .iter()
            .filter(|wanted| self.holds(**wanted) == Held::No)
            .map(|wanted| format!("{} is not held: {}", wanted.name(), wanted.cost()))
            .collect();
        (!missing.is_empty()).then(|| format!("{}. To do: {REMEDY}", missing.join("; ")))
    }
}

/// Adds to an error of tracing which privilege is missing, where one is, and whether the kernel is locked down.
#[must_use]
pub fn explain(error: anyhow::Error) -> anyhow::Error {
    let root = Path::new("/");
    let running = Privileges::running();
    let mut said: Vec<String> = running.and_then(Privileges::complaint).into_iter().collect();
    if running.is_some_and(|privileges| privileges.holds(Capability::Bpf) == Held::No) {
        said.extend(unprivileged_bpf(root).map(|switch| format!("{switch}, and tracing takes CAP_BPF in any case")));
    }
    said.extend(Lockdown::of(root).complaint());
    if said.is_empty() { error } else { error.context(said.join(". ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(mask: &str) -> Privileges {
        Privileges::parse(&format!("Name:\tx\nCapEff:\t{mask}\n")).expect("it has the line")
    }

    #[test]
    fn what_is_missing_is_named_and_only_that() {
        let complaint = |mask| with(mask).complaint().unwrap_or_default();
        assert_eq!(complaint("000000c400000000"), "", "all three");
        assert_eq!(complaint("0000000000200000"), "", "CAP_SYS_ADMIN stands for both");
        assert!(complaint("0000008400000000").starts_with("CAP_PERFMON is not held: "));
        assert!(!complaint("0000008400000000").contains("CAP_BPF is"));
        assert!(complaint("0000004400000000").starts_with("CAP_BPF is not held: "));
        let none = complaint("0000000000000000");
        assert!(none.contains("CAP_BPF is") && none.contains("; CAP_PERFMON is") && none.contains("setcap"), "{none}");
    }

    #[test]
    fn a_lockdown_is_in_the_way_where_memory_may_not_be_read() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Lockdown::of(dir.path()), Lockdown::None, "a kernel without");
        let file = dir.path().join(LOCKDOWN);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        let tried = [
            ("[none] integrity confidentiality\n", Lockdown::None, false),
            ("none [integrity] confidentiality\n", Lockdown::Integrity, false),
            ("none integrity [confidentiality]\n", Lockdown::Confidentiality, true),
            ("[", Lockdown::None, false),
        ];
        for (text, lockdown, complains) in tried {
            fs::write(&file, text).unwrap();
            let found = Lockdown::of(dir.path());
            assert_eq!((found.complaint().is_some(), &found), (complains, &lockdown), "{text}");
        }
        assert!(Lockdown::Confidentiality.complaint().unwrap().contains("lockdown=integrity"));
    }

    #[test]
    fn the_switch_is_told_with_what_it_means() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(unprivileged_bpf(dir.path()), None);
        let file = dir.path().join(UNPRIVILEGED);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        for (value, means) in [("0\n", "anyone may load"), ("1\n", "until the next boot"), ("2\n", "without CAP_BPF")] {
            fs::write(&file, value).unwrap();
            let told = unprivileged_bpf(dir.path()).unwrap();
            assert!(told.contains(means) && told.contains(&format!("disabled is {}:", value.trim())), "{told}");
        }
    }

    #[test]
    fn admin_does_not_stand_for_syslog() {
        assert_eq!(with("0000000000200000").holds(Capability::Syslog), Held::No);
        assert_eq!(with("0000000400000000").holds(Capability::Syslog), Held::Yes);
        assert_eq!(with("0000000000200000").holds(Capability::Bpf), Held::ByAdmin);
    }

    #[test]
    fn a_status_without_the_line_tells_nothing() {
        assert_eq!(Privileges::parse("Name:\tx\n"), None);
        assert_eq!(Privileges::parse("CapEff:\tzz\n"), None);
    }
}
