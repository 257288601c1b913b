//! What is traced: programs of the guest that do one thing many times.

/// A workload.
#[derive(Debug)]
pub struct Workload {
    /// Its name.
    pub name: &'static str,
    /// What an operation is.
    pub operation: &'static str,
    /// What it does.
    pub about: &'static str,
    /// The command line in the guest; `{n}` stands for how often.
    pub command: &'static str,
    /// Operations each time.
    pub each: u32,
    /// How often, where a tracer does little for each operation.
    pub often: u32,
    /// How often, where it does much.
    pub seldom: u32,
    /// How often before it counts.
    pub warm_up: u32,
    /// The modes that `--check` measures, besides the workload alone.
    pub checked: &'static [&'static str],
    /// The scripts of bpftrace: to print, to aggregate, to do the least.
    pub bpftrace: [&'static str; 3],
    /// The events for trace-cmd, in the form of the kernel's `dynamic_events`; none where there are tracepoints.
    pub events: &'static str,
    /// The tracepoints.
    pub tracepoints: &'static str,
}

/// All of them.
pub const WORKLOADS: &[Workload] = &[
    Workload {
        name: "fault",
        operation: "fault",
        about: "a page fault of iommufd's test device: raised, read by user space, answered",
        command: "guest --truth /dev/null --summary iopf --faults {n}",
        each: 1,
        often: 5_000,
        seldom: 1_000,
        warm_up: 200,
        checked: &["floor", "record", "trace-json", "filtered", "check"],
        bpftrace: [
            include_str!("scripts/fault.bt"),
            include_str!("scripts/fault-sum.bt"),
            include_str!("scripts/two.bt"),
        ],
        events: include_str!("scripts/fault.events"),
        tracepoints: "",
    },
    Workload {
        name: "attach",
        operation: "attach, replace or detach",
        about: "a device attached, moved through every kind of page table, two PASIDs attached, moved, detached",
        command: "guest --truth /dev/null --summary attach --no-failures --pasids 2 --cycles {n}",
        // By RID an attach, nine replaces and a detach (one replace is to what is there already), by PASID two of each, and two
        // replaces of the RID for them.
        each: 17,
        often: 300,
        seldom: 60,
        warm_up: 10,
        checked: &[],
        bpftrace: [include_str!("scripts/attach.bt"), include_str!("scripts/attach-sum.bt"), ""],
        events: include_str!("scripts/attach.events"),
        tracepoints: "",
    },
    Workload {
        name: "map",
        operation: "map or unmap",
        about: "4 KiB mapped and unmapped by iommufd on its test device",
        command: "guest --truth /dev/null --summary map-load --backing mock --sizes 4K --ops {n}",
        each: 2,
        often: 5_000,
        seldom: 2_000,
        warm_up: 200,
        checked: &[],
        bpftrace: [include_str!("scripts/map.bt"), include_str!("scripts/map-sum.bt"), ""],
        events: "",
        tracepoints: "-e iommu:map -e iommu:unmap",
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::modes::{FLOOR, MODES};

    #[test]
    fn what_is_checked_is_in_the_table_and_has_the_floor_to_be_compared_with() {
        for workload in WORKLOADS {
            for name in workload.checked {
                let mode = MODES.iter().find(|mode| mode.name == *name);
                assert!(mode.is_some_and(|mode| mode.recipe(workload).is_some()), "{name} with {}", workload.name);
            }
            assert!(workload.checked.is_empty() || workload.checked.contains(&FLOOR), "{}", workload.name);
        }
    }

    #[test]
    fn each_workload_takes_a_number() {
        assert!(WORKLOADS.iter().all(|workload| workload.command.split(' ').any(|word| word == "{n}")));
    }
}
