//! The ground truth: one JSON object a line for everything that a program did.
//!
//! Fields are flat, times are `CLOCK_MONOTONIC` nanoseconds, addresses are hexadecimal strings. README.md
//! beside this crate is the schema in words. A line is written when the thing it tells is over.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use serde::{Serialize, Serializer};

use crate::group::View;
use crate::sys::{self, Tried, errno_name};

/// An address, written as a hexadecimal string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hex(pub u64);

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:#x}", self.0))
    }
}

/// When a call began and ended, and what it returned.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Outcome {
    /// 0, or the negative error number.
    pub ret: i32,
    /// The error's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errno: Option<&'static str>,
    /// Before the call.
    pub ts0: u64,
    /// After the call.
    pub ts1: u64,
}

impl Outcome {
    /// Runs `call` between two looks at the clock.
    pub fn of<T>(call: impl FnOnce() -> Tried<T>) -> (Self, Tried<T>) {
        let ts0 = sys::now();
        let result = call();
        let ts1 = sys::now();
        let mut outcome = Self { ret: 0, errno: None, ts0, ts1 };
        if let Err(failure) = &result {
            outcome.ret = -failure.errno;
            outcome.errno = Some(errno_name(failure.errno));
        }
        (outcome, result)
    }
}

/// What kind of object a page table id names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PtKind {
    /// An I/O address space: iommufd picks or makes a page table itself.
    Ioas,
    /// A page table allocated by the user.
    Paging,
    /// A nested one.
    Nested,
    /// Something that is no page table: such an attach must fail.
    Wrong,
    /// An id that names nothing.
    Missing,
}

/// Which kernel interface an operation went through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Via {
    /// iommufd's test device.
    Mock,
    /// VFIO's device file.
    Vfio,
    /// VFIO's container, which knows no iommufd.
    VfioContainer,
}

/// `attach`, `replace` and `detach` of one slot.
#[derive(Clone, Debug, Serialize)]
pub struct Slot {
    pub via: Via,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<u32>,
    /// The iommufd device object; missing when the device was never made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_id: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdev_id: Option<u32>,
    /// 0 is the RID.
    pub pasid: u32,
    /// What was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pt_id: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pt: Option<PtKind>,
    /// The page table in the slot afterwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hwpt_id: Option<u32>,
    /// The page table in the slot before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old_hwpt_id: Option<u32>,
    /// The fault queue of the new page table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault_id: Option<u32>,
    /// Whether the IOMMU core's function is called: an attach that iommufd refuses, and a replace by the
    /// page table that is already there, never reach it.
    pub core: bool,
    /// Whether the kernel did it on its own, because a file was closed.
    pub implicit: bool,
    /// Why it was expected to fail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<&'static str>,
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// Who answered a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Answerer {
    /// This program, by writing to the fault file.
    User,
    /// iommufd, because the handle went away.
    Iommufd,
    /// The core, because nobody handles the fault.
    Core,
}

/// The code that a fault was answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    Success,
    Invalid,
}

/// One page request from the trigger to its answer.
#[derive(Clone, Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "fault_id is the ABI's name for the fault queue")]
pub struct Fault {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<u32>,
    /// The device that the fault was raised on.
    pub device_id: u32,
    pub stdev_id: u32,
    pub pasid: u32,
    pub grpid: u32,
    pub addr: Hex,
    pub perm: u32,
    /// The page table whose fault queue must get it; missing when nobody handles it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hwpt_id: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault_id: Option<u32>,
    /// How many times the core looks a handle up: 2 when a PASID without a slot falls back to the RID.
    pub lookups: u32,
    /// Whether the fault file delivered it.
    pub delivered: bool,
    /// As delivered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_device_id: Option<u32>,
    /// As delivered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flags: Option<u32>,
    /// As delivered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cookie: Option<u32>,
    pub response: Code,
    pub by: Answerer,
    /// The thread that raised it.
    pub raise_tid: u32,
    pub raise_ts0: u64,
    pub raise_ts1: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_ts0: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_ts1: Option<u64>,
    /// Around the write that answered it, or around the call that made the kernel answer it.
    pub answer_ts0: u64,
    pub answer_ts1: u64,
}

/// One line of ground truth.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "truth", rename_all = "snake_case")]
pub enum Fact {
    /// First line.
    Start {
        schema: u32,
        program: &'static str,
        pid: u32,
        kernel: String,
        ts: u64,
    },
    /// What the test device and iommufd of this kernel offer, as probed.
    Features {
        mock: bool,
        pasid_attach: bool,
    },
    /// An iommufd object was made.
    Alloc {
        kind: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<u32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        parent: Option<u32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        fault_id: Option<u32>,
        #[serde(flatten)]
        outcome: Outcome,
    },
    /// An iommufd object was destroyed, other than a device.
    Destroy {
        kind: &'static str,
        id: u32,
        #[serde(flatten)]
        outcome: Outcome,
    },
    /// A device was bound to iommufd. For a mock device: made and bound.
    Bind {
        via: Via,
        #[serde(skip_serializing_if = "Option::is_none")]
        device: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        group: Option<u32>,
        device_id: u32,
        #[serde(flatten)]
        outcome: Outcome,
    },
    /// And unbound. For a mock device: and removed.
    Unbind {
        via: Via,
        #[serde(skip_serializing_if = "Option::is_none")]
        device: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        group: Option<u32>,
        device_id: u32,
        implicit: bool,
        #[serde(flatten)]
        outcome: Outcome,
    },
    Attach(Slot),
    Replace(Slot),
    Detach(Slot),
    Fault(Fault),
    /// A read or write on a fault file that the kernel must refuse.
    BadAnswer {
        case: &'static str,
        fault_id: u32,
        #[serde(flatten)]
        outcome: Outcome,
    },
    /// A descriptor was closed; `what` is `iommufd`, `fault_fd` or `vfio_device`.
    Close {
        what: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<u32>,
        #[serde(flatten)]
        outcome: Outcome,
    },
    /// `IOMMU_IOAS_MAP`; without `ioas_id`, the container's `VFIO_IOMMU_MAP_DMA`.
    Map {
        #[serde(skip_serializing_if = "Option::is_none")]
        ioas_id: Option<u32>,
        iova: Hex,
        length: u64,
        #[serde(flatten)]
        outcome: Outcome,
    },
    /// `IOMMU_IOAS_UNMAP` or `VFIO_IOMMU_UNMAP_DMA`; `unmapped` bytes went.
    Unmap {
        #[serde(skip_serializing_if = "Option::is_none")]
        ioas_id: Option<u32>,
        iova: Hex,
        length: u64,
        unmapped: u64,
        #[serde(flatten)]
        outcome: Outcome,
    },
    /// A write to a group's `type`.
    DefaultDomain {
        group: u32,
        devices: Vec<String>,
        asked: String,
        before: String,
        after: String,
        /// Whether the group got another domain: DMA becomes DMA-FQ in place, and the same type is no change.
        core: bool,
        #[serde(flatten)]
        outcome: Outcome,
    },
    /// A driver was bound to (`bind`) or unbound from a PCI device.
    Driver {
        device: String,
        group: Option<u32>,
        driver: String,
        bind: bool,
        #[serde(flatten)]
        outcome: Outcome,
    },
    /// A device left its group because it was removed.
    DeviceRemove {
        device: String,
        group: Option<u32>,
        #[serde(flatten)]
        outcome: Outcome,
    },
    /// A device came (back) by a rescan.
    DeviceAdd {
        device: String,
        group: Option<u32>,
        #[serde(flatten)]
        outcome: Outcome,
    },
    /// A page request put into VT-d's queue; between the times the kernel was told of it and took it.
    PageRequest {
        device: String,
        group: Option<u32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pasid: Option<u32>,
        grpid: u32,
        addr: Hex,
        response: Code,
        #[serde(flatten)]
        outcome: Outcome,
    },
    /// A DMA that no mapping allows.
    DmaFault {
        device: String,
        group: Option<u32>,
        iova: Hex,
        write: bool,
        length: u32,
        #[serde(flatten)]
        outcome: Outcome,
    },
    /// Everything asked for is attached: a tracer that starts now sees it only in a snapshot.
    Ready {
        slots: u32,
        ts: u64,
    },
    /// The program has stopped after something: with --at-step.
    Step {
        step: u32,
        after: &'static str,
        groups: Vec<View>,
        ts: u64,
    },
    /// Something this kernel or machine cannot do was left out: told once a run.
    Skipped {
        what: &'static str,
        why: String,
    },
    /// Last line: how many lines of each kind there were (also of those that `--summary` swallowed).
    End {
        status: i32,
        counts: BTreeMap<&'static str, u64>,
        ts: u64,
    },
}

impl Fact {
    /// The value of the `truth` field.
    fn kind(&self) -> &'static str {
        match self {
            Self::Start { .. } => "start",
            Self::Features { .. } => "features",
            Self::Alloc { .. } => "alloc",
            Self::Destroy { .. } => "destroy",
            Self::Bind { .. } => "bind",
            Self::Unbind { .. } => "unbind",
            Self::Attach(_) => "attach",
            Self::Replace(_) => "replace",
            Self::Detach(_) => "detach",
            Self::Fault(_) => "fault",
            Self::BadAnswer { .. } => "bad_answer",
            Self::Close { .. } => "close",
            Self::Map { .. } => "map",
            Self::Unmap { .. } => "unmap",
            Self::DefaultDomain { .. } => "default_domain",
            Self::Driver { .. } => "driver",
            Self::DeviceRemove { .. } => "device_remove",
            Self::DeviceAdd { .. } => "device_add",
            Self::PageRequest { .. } => "page_request",
            Self::DmaFault { .. } => "dma_fault",
            Self::Ready { .. } => "ready",
            Self::Step { .. } => "step",
            Self::Skipped { .. } => "skipped",
            Self::End { .. } => "end",
        }
    }

    /// Whether `--summary` keeps the line.
    fn framing(&self) -> bool {
        matches!(
            self,
            Self::Start { .. } | Self::Features { .. } | Self::Ready { .. } | Self::Skipped { .. } | Self::End { .. }
        )
    }
}

/// A line: the fact, its number in the file, the thread that writes it.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    fact: &'a Fact,
    n: u64,
    tid: u32,
}

struct Sink {
    out: Box<dyn Write + Send>,
    n: u64,
    counts: BTreeMap<&'static str, u64>,
    /// What was said to be left out already: once is enough.
    skipped: BTreeSet<&'static str>,
    /// The first error in writing: reported at the end, so that no device is left behind half-way.
    error: Option<io::Error>,
}

/// The file of ground truth. Shared by all threads of a program.
pub struct Truth {
    sink: Mutex<Sink>,
    summary: bool,
}

impl Truth {
    /// Opens `path`, or standard output for `None` and `-`. With `summary`, only the framing lines are written.
    pub fn open(path: Option<&Path>, summary: bool) -> Result<Self> {
        let out: Box<dyn Write + Send> = match path {
            Some(path) if path != Path::new("-") => Box::new(
                File::create(path).with_context(|| format!("cannot create the truth file {}", path.display()))?,
            ),
            _ => Box::new(io::stdout()),
        };
        let sink = Sink { out, n: 0, counts: BTreeMap::new(), skipped: BTreeSet::new(), error: None };
        Ok(Self { sink: Mutex::new(sink), summary })
    }

    /// Writes one fact, in one write, so that a reader at the other end never sees half a line.
    pub fn tell(&self, fact: &Fact) {
        let mut guard = self.lock();
        let sink = &mut *guard;
        if let Fact::Skipped { what, .. } = fact
            && !sink.skipped.insert(what)
        {
            return;
        }
        *sink.counts.entry(fact.kind()).or_default() += 1;
        if self.summary && !fact.framing() {
            return;
        }
        let line = Line { fact, n: sink.n, tid: sys::tid() };
        sink.n += 1;
        let written = serde_json::to_vec(&line).map_err(io::Error::from).and_then(|mut bytes| {
            bytes.push(b'\n');
            sink.out.write_all(&bytes)?;
            sink.out.flush()
        });
        if let Err(error) = written {
            sink.error.get_or_insert(error);
        }
    }

    /// Writes the last line and reports the first error in writing.
    pub fn end(&self, status: i32) -> Result<()> {
        let counts = self.lock().counts.clone();
        self.tell(&Fact::End { status, counts, ts: sys::now() });
        match self.lock().error.take() {
            Some(error) => Err(error).context("cannot write the ground truth"),
            None => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Sink> {
        self.sink.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(fact: &Fact) -> serde_json::Value {
        let line = Line { fact, n: 3, tid: 7 };
        serde_json::to_value(line).unwrap()
    }

    #[test]
    fn lines_are_flat_and_addresses_hexadecimal() {
        let outcome = Outcome { ret: -22, errno: Some("EINVAL"), ts0: 1, ts1: 2 };
        let fact = Fact::Map { ioas_id: Some(1), iova: Hex(0x1000), length: 4096, outcome };
        let value = json(&fact);
        assert_eq!(value["truth"], "map");
        assert_eq!(value["iova"], "0x1000");
        assert_eq!(value["ret"], -22);
        assert_eq!(value["errno"], "EINVAL");
        assert!(value.as_object().unwrap().values().all(|v| !v.is_object()));
    }

    #[test]
    fn the_kind_counted_is_the_kind_written() {
        let fact = Fact::Skipped { what: "pasid", why: String::new() };
        assert_eq!(json(&fact)["truth"], fact.kind());
        let fact = Fact::Ready { slots: 1, ts: 2 };
        assert_eq!(json(&fact)["truth"], fact.kind());
    }

    #[test]
    fn the_readme_has_a_row_for_every_kind() {
        let readme = include_str!("../README.md");
        let source = include_str!("truth.rs");
        let kinds: Vec<_> = source
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Self::")?.split_once("=> \"")?.1.strip_suffix("\","))
            .collect();
        assert_eq!(kinds.len(), 24);
        for kind in kinds {
            let named = readme.lines().any(|line| line.starts_with("| `") && line.contains(&format!("`{kind}`")));
            assert!(named, "README.md does not describe {kind}");
        }
    }
}
