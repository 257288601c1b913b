//! Calls that ftrace of this kernel takes for jumps.
//!
//! Kernels with `CONFIG_DYNAMIC_FTRACE_WITH_JMP` take an odd address for "a jump, please", and a kernel built for size has
//! functions at odd addresses. Three of them decide:
//!
//! - When the first kprobe on an ftrace site is enabled for a second time, `arch_ftrace_update_trampoline()` writes the call
//!   of `kprobe_ftrace_handler()` anew: the next call of the probed function crashes the kernel. So no kprobe is used where the
//!   handler is at an odd address, nor where that cannot be told.
//! - While ftrace changes its functions, all that are traced go by `ftrace_ops_list_func()` for a moment, fentry's as well, and those
//!   that come late by `call_direct_funcs()` when BPF's trampolines are all that is left. A CPU that comes by in that moment crashes.
//!   Each was seen once (docs/findings.md); it is said, and nothing is refused, as every tracer of such a kernel does the same.

use std::fs;

use super::{Address, Kernel, Symbols};

/// What ftrace calls for a kprobe; its address decides.
const HANDLER: &str = "kprobe_ftrace_handler";
/// What ftrace calls for several tracers, and for all while it changes its functions. The second is the same one's other name.
const LIST: [&str; 2] = ["ftrace_ops_list_func", "arch_ftrace_ops_list_func"];
/// What it calls, where it calls anything, when BPF's trampolines are all there is.
const DIRECT: &str = "call_direct_funcs";
/// The kernel's own switch that hides addresses: 0 and 1 show them to whoever has `CAP_SYSLOG`, 2 to nobody.
const SWITCH: &str = "/proc/sys/kernel/kptr_restrict";

impl Kernel {
    /// Why kprobes must not be used; looked up once.
    #[must_use]
    pub fn kprobes_refused(&self) -> Option<String> {
        let find = || refusal(self.takes_odd_for_a_jump(), Symbols::address(HANDLER), hidden_from_all());
        self.kprobes_refused.get_or_init(find).clone()
    }

    /// What is known of the moment in which ftrace changes its functions: why it is safe, or, as an error, why not.
    pub fn ftrace_changes(&self) -> Result<&'static str, String> {
        if !self.takes_odd_for_a_jump() {
            return Ok("knows no jumps that a call could be taken for");
        }
        let [mut list, direct] = Symbols::addresses([LIST[0], DIRECT]);
        if list == Address::Absent {
            list = Symbols::address(LIST[1]);
        }
        safety(&[(LIST[0], list), (DIRECT, direct)])
    }

    /// Whether ftrace of this kernel may know jumps. No type tells of `CONFIG_DYNAMIC_FTRACE_WITH_JMP` itself; the commits that
    /// brought it (ae4a3160d19c and those around it) gave `bpf_arch_text_poke()` a second type of what is poked, a fifth
    /// parameter. x86-64 alone has it (arch/x86/Kconfig).
    fn takes_odd_for_a_jump(&self) -> bool {
        let parameters = || self.types.prototype("bpf_arch_text_poke").map(|prototype| prototype.parameters.len());
        self.machine == "x86_64" && parameters().is_none_or(|parameters| parameters >= 5)
    }
}

fn hidden_from_all() -> bool {
    fs::read_to_string(SWITCH).is_ok_and(|text| text.trim() == "2")
}

/// The decision: why not, and what to do.
fn refusal(takes_odd_for_a_jump: bool, handler: Address, hidden_from_all: bool) -> Option<String> {
    match handler {
        _ if !takes_odd_for_a_jump => None,
        Address::At(address) if address % 2 == 1 => Some(format!(
            "kprobes can crash this kernel: {HANDLER}() is at an odd address (CONFIG_CC_OPTIMIZE_FOR_SIZE), which \
             CONFIG_DYNAMIC_FTRACE_WITH_JMP takes for a jump. Build the kernel for performance, or iommufd into it"
        )),
        // Without it, kprobes do not go by ftrace.
        Address::At(_) | Address::Absent => None,
        Address::Hidden => {
            let remedy = if hidden_from_all {
                "Set the sysctl kernel.kptr_restrict to 1, which shows it to CAP_SYSLOG"
            } else {
                "Run with CAP_SYSLOG, to which it is shown"
            };
            Some(format!(
                "kprobes crash a kernel like this one if {HANDLER}() is at an odd address, and its address is hidden. {remedy}"
            ))
        }
    }
}

/// By the addresses of what is called in that moment.
fn safety(called: &[(&str, Address)]) -> Result<&'static str, String> {
    let odd = called.iter().find(|(_, address)| matches!(address, Address::At(at) if at % 2 == 1));
    if let Some((name, _)) = odd {
        return Err(format!(
            "a CPU that enters a traced function while tracers are attached or detached can crash this kernel: {name}() is at an odd \
             address (CONFIG_CC_OPTIMIZE_FOR_SIZE), which CONFIG_DYNAMIC_FTRACE_WITH_JMP takes for a jump"
        ));
    }
    let is = |kind: Address| move |(_, address): &(&str, Address)| *address == kind;
    Ok(if called.iter().any(is(Address::Hidden)) {
        "not known whether its calls are told from its jumps: addresses are hidden"
    } else if called.iter().all(is(Address::Absent)) {
        "has no call that could be taken for a jump"
    } else {
        "its calls are told from its jumps"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVEN: Address = Address::At(0xffff_ffff_8104_7a40);
    const ODD: Address = Address::At(0xffff_ffff_8104_7a43);

    #[test]
    fn an_odd_address_is_taken_for_a_jump_and_an_even_one_is_not() {
        assert_eq!(refusal(true, EVEN, false), None);
        let why = refusal(true, ODD, false).unwrap();
        assert!(why.contains("can crash") && why.contains("Build the kernel for performance"), "{why}");
    }

    #[test]
    fn what_cannot_be_told_is_refused_with_what_would_tell_it() {
        let why = refusal(true, Address::Hidden, false).unwrap();
        assert!(why.contains("is hidden") && why.contains("CAP_SYSLOG") && !why.contains("kptr_restrict"), "{why}");
        let why = refusal(true, Address::Hidden, true).unwrap();
        assert!(why.contains("is hidden") && why.contains("kernel.kptr_restrict to 1"), "{why}");
    }

    #[test]
    fn a_kernel_that_knows_no_jumps_has_nothing_to_fear() {
        for handler in [EVEN, ODD, Address::Hidden, Address::Absent] {
            assert_eq!(refusal(false, handler, true), None, "{handler:?}");
        }
    }

    #[test]
    fn a_kernel_that_may_crash_while_ftrace_changes_is_told_from_one_that_does_not() {
        let safety = |list, direct| safety(&[(LIST[0], list), (DIRECT, direct)]);
        for other in [EVEN, ODD, Address::Absent, Address::Hidden] {
            let why = safety(ODD, other).unwrap_err();
            assert!(why.contains("can crash this kernel: ftrace_ops_list_func()"), "{why}");
        }
        for other in [EVEN, Address::Absent, Address::Hidden] {
            let why = safety(other, ODD).unwrap_err();
            assert!(why.contains("can crash this kernel: call_direct_funcs()"), "{why}");
        }
        assert_eq!(safety(EVEN, EVEN), Ok("its calls are told from its jumps"));
        // Without CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS there is nothing of the second kind.
        assert_eq!(safety(EVEN, Address::Absent), Ok("its calls are told from its jumps"));
        assert!(safety(Address::Absent, Address::Absent).is_ok());
        assert!(safety(EVEN, Address::Hidden).is_ok_and(|said| said.contains("not known")));
    }

    #[test]
    fn kprobes_that_do_not_go_by_ftrace_have_no_handler() {
        assert_eq!(refusal(true, Address::Absent, false), None);
    }
}
