//! Which programs to attach to what, decided from the catalogue, the kernel and the topics wanted. Pure.

use std::fmt;

use iommu_trace_common::{Phase, ProbeId};

use super::{CATALOGUE, Probe, ProbeStatus, Reach, SUMMED_BY, Verdict, Wanted};
use crate::{kernel::Home, model::Features};

/// How a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    /// At a function's entry, through a BPF trampoline.
    FEntry,
    /// At its return, through a BPF trampoline.
    FExit,
    /// At a function's entry.
    KProbe,
    /// At its return.
    KRetProbe,
    /// At a tracepoint, with typed arguments.
    TpBtf,
    /// At a tracepoint, with bare arguments.
    RawTp,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Way::FEntry => "fentry",
            Way::FExit => "fexit",
            Way::KProbe => "kprobe",
            Way::KRetProbe => "kretprobe",
            Way::TpBtf => "tp_btf",
            Way::RawTp => "raw_tp",
        })
    }
}

/// A program to attach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its name in the object.
    pub name: String,
    /// How.
    pub way: Way,
    /// At which phase of its function.
    pub phase: Phase,
}

/// What is planned for one row of the catalogue.
#[derive(Clone, Debug)]
pub struct Planned {
    /// The row.
    pub probe: &'static Probe,
    /// The programs to attach; none unless the verdict is [`Verdict::Ok`].
    pub programs: Vec<Program>,
    /// What is known before anything was attached.
    pub verdict: Verdict,
    /// Why, unless it is well.
    pub reason: Option<String>,
    /// The symbol to attach to, where it is not the function's name.
    pub symbol: Option<String>,
}

/// The plan: one entry for each row of the catalogue.
#[derive(Clone, Debug)]
pub struct Plan(pub Vec<Planned>);

/// What a plan must know of the machine.
pub trait Machine {
    /// Where a function lives.
    fn home(&self, function: &str) -> Option<Home>;
    /// The module that this function will be in, when that is not loaded.
    fn awaited(&self, _function: &str) -> Option<&str> {
        None
    }
    /// The symbol of the compiler's only copy of a function that is not there itself.
    fn copy_of(&self, _function: &str) -> Option<String> {
        None
    }
    /// Whether this kernel attaches fentry and fexit.
    fn has_fentry(&self) -> bool {
        true
    }
    /// Why kprobes must not be used on this kernel.
    fn kprobes_refused(&self) -> Option<String> {
        None
    }
    /// Whether vmlinux has this tracepoint.
    fn has_tracepoint(&self, name: &str) -> bool;
    /// Whether an IOMMU driver whose units begin with this is at work.
    fn has_driver(&self, prefix: &str) -> bool;
}

impl Plan {
    /// Plans for what is wanted.
    #[must_use]
    pub fn new(machine: &dyn Machine, wanted: &Wanted) -> Plan {
        let mut plan = Plan(CATALOGUE.iter().map(|probe| plan_one(machine, wanted, probe)).collect());
        plan.once();
        plan
    }

    /// Leaves out what tells again what another probe tells better. AMD-Vi's driver raises the tracepoint for some of the
    /// entries of its event log, and those are read. Where `iommu_print_event` is a function, the compiler has put copies of
    /// `iommu_poll_events` into its callers: the one that has the name is not the one that is called.
    fn once(&mut self) {
        let better = [ProbeId::AmdPrintEvent, ProbeId::AmdPollEvents].into_iter().find(|&id| self.has(id));
        let Some(better) = better else { return };
        for planned in &mut self.0 {
            let id = planned.probe.id;
            if id != better && matches!(id, ProbeId::AmdPollEvents | ProbeId::IoPageFault) {
                planned.programs.clear();
                planned.verdict = Verdict::NotApplicable;
                planned.reason = Some(format!("{} tells the same faults", better.function()));
            }
        }
    }

    /// Records that a program could not be attached: the whole probe is broken.
    pub fn broken(&mut self, id: ProbeId, reason: &str) {
        for planned in self.0.iter_mut().filter(|planned| planned.probe.id == id) {
            planned.verdict = Verdict::Broken;
            planned.reason = Some(reason.to_owned());
        }
    }

    /// Records that the kernel's types tell of a function that is not there by itself: the compiler has made it a part of
    /// its callers, or has given it another name along with other arguments.
    pub fn inlined(&mut self, id: ProbeId) {
        for planned in self.0.iter_mut().filter(|planned| planned.probe.id == id && planned.verdict == Verdict::Ok) {
            planned.verdict = Verdict::Missing;
            let function = id.function();
            planned.reason =
                Some(format!("this kernel has {function} in its types, and no code of that name: it is inlined"));
        }
    }

    /// Whether a probe is on a copy of its function.
    #[must_use]
    pub fn is_copy(&self, id: ProbeId) -> bool {
        self.0.iter().any(|planned| planned.probe.id == id && planned.symbol.is_some())
    }

    /// Whether a probe is well, or will be when there is something to see.
    #[must_use]
    pub fn has(&self, id: ProbeId) -> bool {
        let well = [Verdict::Ok, Verdict::Waiting];
        self.0.iter().any(|planned| planned.probe.id == id && well.contains(&planned.verdict))
    }

    /// Completes the kernel's features by what is probed.
    #[must_use]
    pub fn features(&self, features: &Features) -> Features {
        use ProbeId as P;
        let all = |ids: &[ProbeId]| ids.iter().all(|&id| self.has(id));
        Features {
            sees_responses: self.has(P::GroupResponse)
                || [P::MockPageResponse, P::IntelPageResponse, P::AmdPageResponse, P::SmmuPageResponse]
                    .iter()
                    .any(|&id| self.has(id)),
            sees_driver_responses: [P::IntelPageResponse, P::AmdPageResponse, P::SmmuPageResponse]
                .iter()
                .any(|&id| self.has(id)),
            sees_mock_responses: self.has(P::MockPageResponse),
            sees_group_frees: self.has(P::GroupFree),
            sees_reports: self.has(P::ReportDeviceFault),
            sees_lookups: self.has(P::AttachHandleGet),
            sees_iommufd: all(&[P::IommufdBind, P::IommufdUnbind, P::IommufdAttach, P::IommufdDetach]),
            ..features.clone()
        }
    }

    /// The verdicts, for people.
    #[must_use]
    pub fn status(&self) -> Vec<ProbeStatus> {
        self.0
            .iter()
            .map(|planned| ProbeStatus {
                function: planned.probe.id.function().into(),
                kind: kind(planned),
                topic: format!("{:?}", planned.probe.topic).to_lowercase(),
                verdict: planned.verdict,
                reason: planned.reason.clone(),
                cost: planned.probe.cost.into(),
                essential: planned.probe.essential,
            })
            .collect()
    }
}

fn kind(planned: &Planned) -> String {
    let ways: Vec<String> = planned.programs.iter().map(|program| program.way.to_string()).collect();
    if ways.is_empty() { "-".into() } else { ways.join("+") }
}

fn plan_one(machine: &dyn Machine, wanted: &Wanted, probe: &'static Probe) -> Planned {
    let not =
        |verdict, reason: String| Planned { probe, programs: Vec::new(), verdict, reason: Some(reason), symbol: None };
    if !probe.wanted_by(wanted) {
        return not(Verdict::NotApplicable, "nobody asked for it".into());
    }
    let function = probe.id.function();
    let well = |programs| Planned { probe, programs, verdict: Verdict::Ok, reason: None, symbol: None };
    let tracepoint = match probe.reach {
        Reach::Tracepoint => Some(Way::TpBtf),
        Reach::RawTracepoint => Some(Way::RawTp),
        Reach::Vmlinux | Reach::Either | Reach::Copied | Reach::Iommufd => None,
    };
    if let Some(way) = tracepoint {
        return if machine.has_tracepoint(function) {
            well(programs(probe, way, way, wanted))
        } else {
            not(Verdict::Missing, format!("this kernel has no tracepoint {function}"))
        };
    }
    if !probe.driver.is_empty() && !machine.has_driver(probe.driver) {
        return not(Verdict::NotApplicable, format!("no {}* unit is in /sys/class/iommu", probe.driver));
    }
    let summed_by = SUMMED_BY.iter().find(|(id, by)| *id == probe.id && machine.home(by.function()).is_some());
    if let Some((_, by)) = summed_by.filter(|_| wanted.sums) {
        return not(Verdict::NotApplicable, format!("summed up by {}, which it calls", by.function()));
    }
    let programs = |probe, enter, exit| programs(probe, enter, exit, wanted);
    let kprobes = |verdict, reason| {
        if let Some(why) = machine.kprobes_refused() {
            return not(Verdict::Broken, why);
        }
        let programs = programs(probe, Way::KProbe, Way::KRetProbe);
        Planned { probe, programs, verdict, reason, symbol: None }
    };
    if probe.reach == Reach::Copied
        && let Some(copy) = machine.copy_of(function)
    {
        return match machine.kprobes_refused() {
            Some(why) => not(Verdict::Missing, format!("this kernel has {copy} in place of {function}: {why}")),
            None => Planned { symbol: Some(copy), ..kprobes(Verdict::Ok, None) },
        };
    }
    let home = machine.home(function);
    if home.is_none()
        && probe.comes_and_goes()
        && let Some(module) = machine.awaited(function)
    {
        let reason = format!("module {module} is not loaded; the probe is attached when it is");
        return kprobes(Verdict::Waiting, Some(reason));
    }
    match home {
        None => not(Verdict::Missing, format!("this kernel has no function {function} (it is in: {})", probe.kernels)),
        Some(Home::Vmlinux) if machine.has_fentry() => well(programs(probe, Way::FEntry, Way::FExit)),
        Some(Home::Module(_)) if probe.has_kprobes() => kprobes(Verdict::Ok, None),
        Some(Home::Vmlinux) if probe.reach == Reach::Either => kprobes(Verdict::Ok, None),
        Some(Home::Vmlinux) => {
            not(Verdict::Missing, format!("this kernel has no fentry, and there is no other probe of {function}"))
        }
        Some(Home::Module(module)) => {
            not(Verdict::Broken, format!("{function} is in module {module}, where this probe does not reach"))
        }
    }
}

fn programs(probe: &Probe, enter: Way, exit: Way, wanted: &Wanted) -> Vec<Program> {
    let suffix = |way, phase| match (way, phase) {
        (Way::KProbe, _) => "kprobe",
        (Way::KRetProbe, _) => "kretprobe",
        (_, Phase::Enter) => "enter",
        (_, Phase::Exit) => "exit",
    };
    let enters = match enter {
        Way::KProbe => probe.enter || probe.keeps,
        _ => probe.enter && !probe.untimed(wanted),
    };
    [(probe.exit, exit, Phase::Exit), (enters, enter, Phase::Enter)]
        .into_iter()
        .filter(|&(there, ..)| there)
        .map(|(_, way, phase)| Program { name: format!("{}_{}", probe.stem, suffix(way, phase)), way, phase })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::span::Topic;

    fn topics(topics: &[Topic]) -> Wanted {
        Wanted { topics: topics.to_vec(), ..Wanted::default() }
    }

    struct Fake {
        vmlinux: Vec<&'static str>,
        module: Vec<&'static str>,
        drivers: Vec<&'static str>,
    }

    impl Machine for Fake {
        fn home(&self, function: &str) -> Option<Home> {
            if self.vmlinux.contains(&function) {
                Some(Home::Vmlinux)
            } else if self.module.contains(&function) {
                Some(Home::Module("iommufd".into()))
            } else {
                None
            }
        }
        fn has_tracepoint(&self, name: &str) -> bool {
            self.vmlinux.contains(&name)
        }
        fn has_driver(&self, prefix: &str) -> bool {
            self.drivers.contains(&prefix)
        }
    }

    fn planned(plan: &Plan, id: ProbeId) -> &Planned {
        plan.0.iter().find(|planned| planned.probe.id == id).unwrap()
    }

    #[test]
    fn a_function_of_iommufd_as_a_module_gets_kprobes_and_one_built_in_gets_trampolines() {
        let module = Fake { vmlinux: vec![], module: vec!["iommufd_fault_fops_read"], drivers: vec![] };
        let ways = |machine: &Fake| -> Vec<Way> {
            let plan = Plan::new(machine, &topics(&[Topic::Fault]));
            planned(&plan, ProbeId::FaultRead).programs.iter().map(|program| program.way).collect()
        };
        assert_eq!(ways(&module), [Way::KRetProbe, Way::KProbe]);
        let builtin = Fake { vmlinux: vec!["iommufd_fault_fops_read"], module: vec![], drivers: vec![] };
        assert_eq!(ways(&builtin), [Way::FExit, Way::FEntry]);
    }

    #[test]
    fn a_copy_of_the_compiler_s_making_stands_in_for_its_function() {
        struct Copied(Option<&'static str>);
        impl Machine for Copied {
            fn home(&self, _: &str) -> Option<Home> {
                Some(Home::Vmlinux)
            }
            fn copy_of(&self, function: &str) -> Option<String> {
                Some(format!("{function}.isra.0"))
            }
            fn kprobes_refused(&self) -> Option<String> {
                self.0.map(str::to_owned)
            }
            fn has_tracepoint(&self, _: &str) -> bool {
                true
            }
            fn has_driver(&self, _: &str) -> bool {
                true
            }
        }
        let wanted = topics(&[Topic::Invalidate]);
        let plan = Plan::new(&Copied(None), &wanted);
        let wait = planned(&plan, ProbeId::AmdCompletionWait);
        assert_eq!(wait.symbol.as_deref(), Some("iommu_completion_wait.isra.0"));
        assert_eq!(wait.programs.iter().map(|program| program.way).collect::<Vec<_>>(), [Way::KRetProbe, Way::KProbe]);
        assert!(plan.is_copy(ProbeId::AmdCompletionWait) && !plan.is_copy(ProbeId::QiSubmitSync));
        let plan = Plan::new(&Copied(Some("it would crash")), &wanted);
        let wait = planned(&plan, ProbeId::AmdCompletionWait);
        assert_eq!(wait.verdict, Verdict::Missing, "it is not there, and that kprobes crash is no defect of ours");
        assert!(wait.reason.as_ref().unwrap().ends_with("it would crash"), "{:?}", wait.reason);
    }

    #[test]
    fn without_fentry_kprobes_stand_in_and_keep_the_arguments_for_the_return() {
        struct Old;
        impl Machine for Old {
            fn home(&self, _: &str) -> Option<Home> {
                Some(Home::Vmlinux)
            }
            fn has_fentry(&self) -> bool {
                false
            }
            fn has_tracepoint(&self, _: &str) -> bool {
                true
            }
            fn has_driver(&self, _: &str) -> bool {
                true
            }
        }
        let all = &topics(&[Topic::Attach, Topic::Fault, Topic::Dma]);
        let ways = |wanted: &Wanted, id| -> Vec<Way> {
            planned(&Plan::new(&Old, wanted), id).programs.iter().map(|program| program.way).collect()
        };
        assert_eq!(ways(all, ProbeId::AttachGroup), [Way::KRetProbe, Way::KProbe]);
        assert_eq!(ways(all, ProbeId::QueueAddDevice), [Way::KRetProbe, Way::KProbe]);
        assert_eq!(ways(all, ProbeId::DeviceAdd), [Way::TpBtf]);
        let sums = &Wanted { sums: true, ..all.clone() };
        assert_eq!(ways(sums, ProbeId::Unmap), [Way::KRetProbe, Way::KProbe], "the kretprobe needs the domain");
        let plan = Plan::new(&Old, all);
        let newer = planned(&plan, ProbeId::AttachGroupHandle);
        assert_eq!((newer.verdict, newer.programs.len()), (Verdict::Missing, 0));
        assert!(newer.reason.as_ref().unwrap().contains("no fentry"), "{:?}", newer.reason);
    }

    #[test]
    fn a_function_of_a_module_that_may_come_is_waited_for() {
        struct Awaiting;
        impl Machine for Awaiting {
            fn home(&self, _: &str) -> Option<Home> {
                None
            }
            fn awaited(&self, _: &str) -> Option<&str> {
                Some("iommufd")
            }
            fn has_tracepoint(&self, _: &str) -> bool {
                false
            }
            fn has_driver(&self, _: &str) -> bool {
                false
            }
        }
        let plan = Plan::new(&Awaiting, &topics(&[Topic::Fault, Topic::Iommufd]));
        let read = planned(&plan, ProbeId::FaultRead);
        assert_eq!((read.verdict, read.programs.len()), (Verdict::Waiting, 2));
        assert!(read.reason.as_ref().unwrap().contains("iommufd is not loaded"), "{:?}", read.reason);
        assert!(plan.has(ProbeId::FaultRead), "what it will see counts as seen: before, there is nothing to see");
        assert_eq!(planned(&plan, ProbeId::GroupFree).verdict, Verdict::Missing);
    }

    #[test]
    fn where_kprobes_crash_the_kernel_none_is_used() {
        struct Odd;
        impl Machine for Odd {
            fn home(&self, _: &str) -> Option<Home> {
                Some(Home::Module("iommufd".into()))
            }
            fn kprobes_refused(&self) -> Option<String> {
                Some("it would crash".into())
            }
            fn has_tracepoint(&self, _: &str) -> bool {
                false
            }
            fn has_driver(&self, _: &str) -> bool {
                false
            }
        }
        let plan = Plan::new(&Odd, &topics(&[Topic::Fault]));
        let read = planned(&plan, ProbeId::FaultRead);
        assert_eq!((read.verdict, read.programs.len()), (Verdict::Broken, 0));
        assert_eq!(read.reason.as_deref(), Some("it would crash"));
    }

    #[test]
    fn what_nobody_asked_for_is_not_attached() {
        let machine = Fake { vmlinux: vec!["iommu_map"], module: vec![], drivers: vec![] };
        let plan = Plan::new(&machine, &topics(&[Topic::Attach]));
        assert_eq!(planned(&plan, ProbeId::Map).verdict, Verdict::NotApplicable);
        assert!(planned(&plan, ProbeId::Map).programs.is_empty());
        assert!(Plan::new(&machine, &topics(&[Topic::Dma])).has(ProbeId::Map));
    }

    #[test]
    fn a_missing_function_says_which_kernels_have_it() {
        let machine = Fake { vmlinux: vec![], module: vec![], drivers: vec![] };
        let plan = Plan::new(&machine, &topics(&[Topic::Attach]));
        let planned = planned(&plan, ProbeId::ReplaceDevicePasid);
        assert_eq!(planned.verdict, Verdict::Missing);
        assert!(planned.reason.as_ref().unwrap().contains("6.15 on"), "{:?}", planned.reason);
    }

    #[test]
    fn a_fault_that_the_event_log_tells_is_not_told_again_by_the_tracepoint() {
        let verdict = |drivers: Vec<&'static str>| {
            let machine = Fake { vmlinux: vec!["iommu_poll_events", "io_page_fault"], module: vec![], drivers };
            planned(&Plan::new(&machine, &topics(&[Topic::Fault])), ProbeId::IoPageFault).verdict
        };
        assert_eq!(verdict(vec!["ivhd"]), Verdict::NotApplicable);
        assert_eq!(verdict(vec!["dmar"]), Verdict::Ok);
        // A copy of iommu_poll_events is in its caller.
        let vmlinux = vec!["iommu_poll_events", "iommu_print_event", "io_page_fault"];
        let machine = Fake { vmlinux, module: vec![], drivers: vec!["ivhd"] };
        let plan = Plan::new(&machine, &topics(&[Topic::Fault]));
        assert!(
            plan.has(ProbeId::AmdPrintEvent) && !plan.has(ProbeId::AmdPollEvents) && !plan.has(ProbeId::IoPageFault)
        );
    }

    #[test]
    fn a_function_that_was_inlined_is_missing_and_not_broken() {
        let machine = Fake { vmlinux: vec!["iommu_completion_wait"], module: vec![], drivers: vec!["ivhd"] };
        let mut plan = Plan::new(&machine, &topics(&[Topic::Invalidate]));
        plan.inlined(ProbeId::AmdCompletionWait);
        let planned = planned(&plan, ProbeId::AmdCompletionWait);
        assert_eq!(planned.verdict, Verdict::Missing);
        assert!(planned.reason.as_ref().unwrap().contains("inlined"), "{:?}", planned.reason);
    }

    #[test]
    fn another_vendors_driver_is_not_applicable() {
        let machine = Fake { vmlinux: vec!["dmar_fault"], module: vec![], drivers: vec![] };
        assert_eq!(
            planned(&Plan::new(&machine, &topics(&[Topic::Fault])), ProbeId::DmarFault).verdict,
            Verdict::NotApplicable
        );
        let machine = Fake { drivers: vec!["dmar"], ..machine };
        assert!(Plan::new(&machine, &topics(&[Topic::Fault])).has(ProbeId::DmarFault));
    }
}
