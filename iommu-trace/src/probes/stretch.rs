//! Where the kernel can be made to wait, so that lifetime races have more time to happen: `check --stretch`.
//!
//! These are no probes: they tell nothing, and change when things happen. So they are not in the catalogue, and none of their
//! programs is loaded unless somebody asks.

use std::{fmt, str::FromStr, time::Duration};

use iommu_trace_common::stretch;
use serde::{Deserialize, Serialize};

use super::{Machine, Verdict, Way};
use crate::kernel::Home;

/// The longest wait.
pub const LONGEST: Duration = Duration::from_nanos(stretch::MAX_NS);

/// A step that can be made longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    /// From the look-up of a fault's handle to the call of its handler.
    Lookup,
    /// From the call of a fault's handler to what that does.
    Handler,
    /// From the attach op of a replace to the store of the new handle.
    Replace,
}

impl Step {
    /// All of them, in the order of their places in what BPF counts.
    pub const ALL: [Step; stretch::STEPS] = [Step::Lookup, Step::Handler, Step::Replace];

    /// As it is asked for and told.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Step::Lookup => "lookup",
            Step::Handler => "handler",
            Step::Replace => "replace",
        }
    }

    /// What a wait there widens.
    #[must_use]
    pub fn about(self) -> &'static str {
        match self {
            Step::Lookup => "a fault's handle is looked up, and its handler not called yet",
            Step::Handler => "a fault's handler is called, and has done nothing yet",
            Step::Replace => "a replace has run its attach op, and not stored the new handle yet",
        }
    }

    /// Its place in what BPF is told and counts.
    #[must_use]
    pub fn place(self) -> usize {
        match self {
            Step::Lookup => stretch::LOOKUP,
            Step::Handler => stretch::HANDLER,
            Step::Replace => stretch::REPLACE,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Step {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Step::ALL.into_iter().find(|step| step.name() == text).ok_or_else(|| {
            let names = Step::ALL.map(Step::name);
            format!("there is no step `{text}` to stretch, only: {}", names.join(", "))
        })
    }
}

/// A wait at some steps, as it is asked for: `500us@lookup,replace`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// How long.
    pub wait: Duration,
    /// Where.
    pub steps: Vec<Step>,
}

impl FromStr for Stretch {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (wait, steps) =
            text.split_once('@').ok_or("not a duration and the steps it is for, such as 500us@lookup,replace")?;
        let wait = humantime::parse_duration(wait).map_err(|_| format!("`{wait}` is not a duration such as 500us"))?;
        let steps = steps.split(',').map(Step::from_str).collect::<Result<Vec<_>, _>>()?;
        if wait.is_zero() {
            return Err("a wait of no time changes nothing".into());
        }
        if wait > LONGEST {
            let longest = humantime::format_duration(LONGEST);
            return Err(format!("a wait is {longest} at the most: its CPU can do nothing else meanwhile"));
        }
        Ok(Stretch { wait, steps })
    }
}

/// A place where a step is stretched. A step may have several; each is good by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// The step.
    pub step: Step,
    /// The kernel function at which is waited.
    pub function: &'static str,
    /// The program there, and how it is attached.
    pub program: (&'static str, Way),
    /// The function that the thread has to be inside of, where the other has more callers; and what notes that.
    pub inside: Option<Inside>,
}

/// A function that a thread has to be inside of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inside {
    /// The function.
    pub function: &'static str,
    /// The programs at its entry and at its return.
    pub programs: [&'static str; 2],
}

impl Point {
    /// Its functions, the one at which is waited last.
    pub fn functions(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.inside.map(|inside| inside.function).into_iter().chain([self.function])
    }

    /// Its programs: the function of each, its name and how it is attached. The one that waits comes last.
    pub fn programs(&self) -> impl Iterator<Item = (&'static str, &'static str, Way)> + use<> {
        let inside = self.inside.into_iter().flat_map(|Inside { function, programs: [enter, exit] }| {
            [(function, enter, Way::FEntry), (function, exit, Way::FExit)]
        });
        inside.chain([(self.function, self.program.0, self.program.1)])
    }
}

/// All of them.
pub const POINTS: &[Point] = &[
    Point {
        step: Step::Lookup,
        function: "iommu_attach_handle_get",
        program: ("stretch_lookup_exit", Way::FExit),
        inside: Some(Inside {
            function: "iommu_report_device_fault",
            programs: ["stretch_report_enter", "stretch_report_exit"],
        }),
    },
    Point {
        step: Step::Handler,
        function: "iommufd_fault_iopf_handler",
        program: ("stretch_handler_enter", Way::FEntry),
        inside: None,
    },
    Point {
        step: Step::Handler,
        function: "iommu_sva_iopf_handler",
        program: ("stretch_sva_handler_enter", Way::FEntry),
        inside: None,
    },
    Point {
        step: Step::Replace,
        function: "__iommu_group_set_domain_internal",
        program: ("stretch_rid_op_exit", Way::FExit),
        inside: Some(Inside {
            function: "iommu_replace_group_handle",
            programs: ["stretch_replace_rid_enter", "stretch_replace_rid_exit"],
        }),
    },
    Point {
        step: Step::Replace,
        function: "__iommu_set_group_pasid",
        program: ("stretch_pasid_op_exit", Way::FExit),
        inside: Some(Inside {
            function: "iommu_replace_device_pasid",
            programs: ["stretch_replace_pasid_enter", "stretch_replace_pasid_exit"],
        }),
    },
];

/// What this kernel offers of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StepStatus {
    /// The step.
    pub step: &'static str,
    /// What a wait there widens.
    pub about: &'static str,
    /// Whether it can be stretched.
    pub verdict: Verdict,
    /// The functions that take part.
    pub functions: Vec<&'static str>,
    /// Why something of it, or all, cannot be had.
    pub reason: Option<String>,
}

/// A stretched step, as recordings and JSON lines tell it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stretched {
    /// The step.
    pub step: String,
    /// How long is waited there each time, nanoseconds.
    pub wait_ns: u64,
    /// The functions that take part.
    pub functions: Vec<String>,
}

/// What is planned for a step.
#[derive(Clone, Debug)]
pub struct Planned {
    /// Which.
    pub step: Step,
    /// Where.
    pub points: Vec<&'static Point>,
    /// Why it is not everywhere where it could be.
    pub reasons: Vec<String>,
}

impl Planned {
    /// Plans a step on a kernel.
    #[must_use]
    pub fn new(machine: &dyn Machine, step: Step) -> Planned {
        let mut planned = Planned { step, points: Vec::new(), reasons: Vec::new() };
        for point in POINTS.iter().filter(|point| point.step == step) {
            match point.functions().find_map(|function| refusal(machine, function)) {
                None => planned.points.push(point),
                Some(reason) => planned.reasons.push(reason),
            }
        }
        planned
    }

    /// What is told of it.
    #[must_use]
    pub fn status(&self) -> StepStatus {
        StepStatus {
            step: self.step.name(),
            about: self.step.about(),
            verdict: if self.points.is_empty() { Verdict::Missing } else { Verdict::Ok },
            functions: self.points.iter().map(|point| point.function).collect(),
            reason: (!self.reasons.is_empty()).then(|| self.reasons.join("; ")),
        }
    }
}

/// Why no program can be put at a function.
fn refusal(machine: &dyn Machine, function: &str) -> Option<String> {
    match machine.home(function) {
        Some(Home::Vmlinux) if machine.has_fentry() => None,
        Some(Home::Vmlinux) => Some(format!("this kernel has no fentry to stop in {function}")),
        Some(Home::Module(module)) => Some(format!("{function} is in module {module}, where no wait can be put")),
        None => Some(format!("this kernel has no function {function}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fake {
        vmlinux: Vec<&'static str>,
        fentry: bool,
    }

    impl Machine for Fake {
        fn home(&self, function: &str) -> Option<Home> {
            if self.vmlinux.contains(&function) {
                Some(Home::Vmlinux)
            } else {
                function.starts_with("iommufd").then(|| Home::Module("iommufd".into()))
            }
        }
        fn has_fentry(&self) -> bool {
            self.fentry
        }
        fn has_tracepoint(&self, _: &str) -> bool {
            false
        }
        fn has_driver(&self, _: &str) -> bool {
            false
        }
    }

    #[test]
    fn what_is_asked_for_is_a_duration_and_its_steps() {
        let stretch = Stretch::from_str("500us@lookup,replace").unwrap();
        assert_eq!(stretch, Stretch { wait: Duration::from_micros(500), steps: vec![Step::Lookup, Step::Replace] });
        let refused = |text| Stretch::from_str(text).unwrap_err();
        assert!(refused("500us").contains("500us@lookup"));
        assert!(refused("500us@").contains("there is no step ``"));
        assert!(refused("500us@report").contains("only: lookup, handler, replace"));
        assert!(refused("soon@lookup").contains("`soon` is not a duration"));
        assert!(refused("0s@lookup").contains("no time"));
    }

    #[test]
    fn a_wait_is_bounded() {
        assert!(Stretch::from_str("50ms@lookup").is_ok());
        let refused = Stretch::from_str("50ms1ns@lookup").unwrap_err();
        assert!(refused.starts_with("a wait is 50ms at the most"), "{refused}");
    }

    #[test]
    fn a_step_is_there_when_one_of_its_points_is_whole() {
        let most = [
            "iommu_report_device_fault",
            "iommu_attach_handle_get",
            "iommu_replace_group_handle",
            "__iommu_group_set_domain_internal",
            "__iommu_set_group_pasid",
        ];
        let kernel = Fake { vmlinux: most.to_vec(), fentry: true };
        let status = |step| Planned::new(&kernel, step).status();
        assert_eq!(status(Step::Lookup).functions, ["iommu_attach_handle_get"]);
        let replace = status(Step::Replace);
        assert_eq!((replace.verdict, replace.functions), (Verdict::Ok, vec!["__iommu_group_set_domain_internal"]));
        // Partly there, which is told.
        assert!(replace.reason.unwrap().contains("no function iommu_replace_device_pasid"));
        let handler = status(Step::Handler);
        assert_eq!((handler.verdict, handler.functions), (Verdict::Missing, vec![]));
        assert!(handler.reason.unwrap().contains("iommufd_fault_iopf_handler is in module iommufd"));

        let blind = Fake { vmlinux: vec!["iommu_attach_handle_get", "__iommu_set_group_pasid"], fentry: true };
        for step in Step::ALL {
            assert_eq!(Planned::new(&blind, step).status().verdict, Verdict::Missing, "{step}");
        }
        let old = Fake { vmlinux: most.to_vec(), fentry: false };
        assert!(Planned::new(&old, Step::Lookup).status().reason.unwrap().contains("no fentry"));
    }

    #[test]
    fn what_waits_is_attached_when_what_it_rests_on_is() {
        for point in POINTS {
            let programs: Vec<_> = point.programs().collect();
            assert_eq!(programs.last().map(|program| program.0), Some(point.function));
            assert_eq!(programs.len(), if point.inside.is_some() { 3 } else { 1 });
        }
    }
}
