//! Makes filters of the table of calls, and applies them.

use std::{collections::BTreeMap, env::consts::ARCH, io};

use anyhow::Context as _;
use seccompiler::{
    BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter,
};

use super::calls::{CHECKED, Checked, Grant, OLDER, OLDER_CHECKED, Only, ROWS, Row};

/// Filters this thread's system calls, and those of threads that it will start, for good: what `grants` have no use for is
/// refused. Does nothing where this architecture or this kernel has no filters.
pub fn apply(grants: &[Grant]) -> anyhow::Result<()> {
    let Ok(arch) = TargetArch::try_from(ARCH) else {
        tracing::debug!("system calls are not filtered on {ARCH}");
        return Ok(());
    };
    for program in [allowed(grants, arch)?, without_clone3(arch)?] {
        match apply_filter(&program) {
            Ok(()) => {}
            Err(Error::Seccomp(error)) if is_absent(&error) => {
                tracing::debug!(%error, "system calls are not filtered: the kernel cannot, or a filter around us forbids it");
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// A kernel without `CONFIG_SECCOMP_FILTER` has no such call or knows no such operation. It never says `EPERM` to it: that is the
/// word of a filter that a service manager or a container has put around us.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL | libc::EPERM))
}

/// What is not allowed is refused, as a kernel would that does not permit it.
fn allowed(grants: &[Grant], arch: TargetArch) -> anyhow::Result<BpfProgram> {
    let granted = |grant: Option<Grant>| grant.is_none_or(|grant| grants.contains(&grant));
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for Checked(grant, call, only) in CHECKED.iter().chain(OLDER_CHECKED) {
        if granted(*grant) {
            rules.entry(*call).or_default().extend(only.rules()?);
        }
    }
    // No rule at all is "with any arguments", whatever was checked before.
    for Row(grant, calls) in ROWS.iter().chain(OLDER) {
        if granted(*grant) {
            rules.extend(calls.iter().map(|&call| (call, Vec::new())));
        }
    }
    program(rules, SeccompAction::Errno(libc::EPERM as u32), SeccompAction::Allow, arch)
}

/// C libraries make threads by `clone3()`, whose flags no filter can see, and by `clone()` where a kernel has no other.
fn without_clone3(arch: TargetArch) -> anyhow::Result<BpfProgram> {
    let rules = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    program(rules, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS as u32), arch)
}

fn program(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    matched: SeccompAction,
    arch: TargetArch,
) -> anyhow::Result<BpfProgram> {
    let filter = SeccompFilter::new(rules, otherwise, matched, arch).context("the table of system calls is wrong")?;
    filter.try_into().context("the table of system calls makes no filter")
}

impl Only {
    fn rules(self) -> anyhow::Result<Vec<SeccompRule>> {
        let rule = |index, op, value| -> anyhow::Result<SeccompRule> {
            let condition = SeccompCondition::new(index, SeccompCmpArgLen::Dword, op, value)?;
            Ok(SeccompRule::new(vec![condition])?)
        };
        match self {
            Only::OneOf(index, values) => values.iter().map(|&value| rule(index, SeccompCmpOp::Eq, value)).collect(),
            Only::Bits(index, mask, value) => Ok(vec![rule(index, SeccompCmpOp::MaskedEq(mask), value)?]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: &[Grant] = &[
        Grant::Read,
        Grant::Create,
        Grant::Maps,
        Grant::Detach,
        Grant::Probe,
        Grant::Command,
        Grant::Stop,
        Grant::Serve,
        Grant::Notify,
        Grant::Connect,
    ];

    #[test]
    fn every_grant_makes_a_filter_and_no_grant_starts_programs_or_loads_any_into_the_kernel() {
        for arch in [TargetArch::x86_64, TargetArch::aarch64] {
            assert!(!allowed(EVERY, arch).unwrap().is_empty() && !without_clone3(arch).unwrap().is_empty());
        }
        let rows = || ROWS.iter().chain(OLDER).flat_map(|Row(_, calls)| calls.iter().copied());
        for never in [
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_ptrace,
            libc::SYS_process_vm_writev,
            libc::SYS_init_module,
            libc::SYS_finit_module,
            libc::SYS_kexec_load,
            libc::SYS_mount,
            libc::SYS_io_uring_setup,
            libc::SYS_unshare,
            libc::SYS_bpf,
            libc::SYS_ioctl,
        ] {
            assert!(!rows().any(|call| call == never), "call {never} with any arguments");
        }
    }

    #[test]
    fn only_who_makes_files_opens_them_to_write() {
        let opens = |grant: Grant| {
            ROWS.iter()
                .chain(OLDER)
                .any(|Row(granted, calls)| *granted == Some(grant) && calls.contains(&libc::SYS_openat))
        };
        let who: Vec<_> = EVERY.iter().filter(|grant| opens(**grant)).collect();
        assert_eq!(who, [&Grant::Create]);
    }
}
