//! Guest programs under iommu-trace: what it tells is what they did, event by event.

use anyhow::{Context, Result, ensure};

use super::{
    Checks, Guest, GuestTest,
    compare::{Trust, compare},
    session::{Files, Script, case, quoted},
    trace::{Schema, Trace},
    truth::{By, Fact, Truth},
};
use crate::qemu::Iommu;

/// The table.
pub const TESTS: &[GuestTest] = &[
    GuestTest {
        name: "trace-built-7.3",
        about: "the trace of each program is what it did, on the newest kernel with iommufd and beside VT-d",
        kernel: "built-7.3",
        iommu: Iommu::Intel,
        tracer: true,
        run: |guest, checks| run(guest, checks, &[PAGE_FAULTS, PAGE_FAULTS_7_3, ATTACHES, ATTACHES_7_3, VT_D, STORM]),
    },
    GuestTest {
        name: "trace-built-6.12",
        about: "the trace of each program is what it did, on the oldest kernel with attach handles",
        kernel: "built-6.12",
        iommu: Iommu::None,
        tracer: true,
        run: |guest, checks| run(guest, checks, &[PAGE_FAULTS, ATTACHES, STORM]),
    },
    GuestTest {
        name: "trace-stock-6.12",
        about: "the trace of each program is what it did, on a distribution's kernel without iommufd",
        kernel: "stock-6.12",
        iommu: Iommu::Intel,
        tracer: true,
        run: |guest, checks| run(guest, checks, &[STOCK, STORM]),
    },
];

/// A program and its name here.
pub(super) type Program = (&'static str, &'static str);

/// Page faults that every kernel with the test device can have.
pub(super) const PAGE_FAULTS: &[Program] = &[
    ("iopf-one", "iopf --faults 1"),
    ("iopf-10000-in-a-row", "iopf --faults 10000"),
    ("iopf-4-threads-3-devices", "iopf --faults 2000 --threads 4 --devices 3"),
    ("iopf-4-threads-one-device", "iopf --faults 1000 --threads 4"),
    ("iopf-shared-queue", "iopf --faults 400 --threads 4 --devices 2 --queue shared"),
    ("iopf-pasid-by-rid", "iopf --faults 300 --pasid 3 --pasid-via rid --leave-unread 4 --leave-unanswered 4"),
    ("iopf-batches", "iopf --faults 200 --batch 16 --threads 2"),
    ("iopf-group-ids-again", "iopf --faults 300 --grpids 8 --batch 4"),
    ("iopf-all-succeed", "iopf --faults 8 --answer success"),
    ("iopf-all-invalid", "iopf --faults 8 --answer invalid"),
    ("iopf-left-at-detach", "iopf --faults 2 --leave-unread 3 --leave-unanswered 3"),
    ("iopf-left-at-replace", "iopf --faults 2 --leave-unread 3 --leave-unanswered 3 --end replace"),
    ("iopf-left-at-close", "iopf --faults 2 --leave-unread 3 --leave-unanswered 3 --end close"),
    ("iopf-left-at-destroy", "iopf --faults 2 --leave-unread 3 --leave-unanswered 3 --devices 2 --end destroy"),
    ("iopf-no-handler", "iopf --faults 20 --no-handler"),
    ("iopf-no-handler-pasid", "iopf --faults 20 --no-handler --pasid 2"),
    ("iopf-bad-answers", "iopf --faults 2 --bad-answers"),
];

/// Page faults of PASIDs with slots of their own, and without a nested page table.
pub(super) const PAGE_FAULTS_7_3: &[Program] = &[
    ("iopf-pasid-slots", "iopf --faults 300 --pasid 3 --pasid-via slot --threads 2 --devices 2"),
    ("iopf-pasid-slots-detach", "iopf --faults 4 --pasid 2 --pasid-via slot --leave-unread 4 --leave-unanswered 4"),
    (
        "iopf-pasid-slots-replace",
        "iopf --faults 4 --pasid 2 --pasid-via slot --leave-unread 4 --leave-unanswered 4 --end replace",
    ),
    ("iopf-paging", "iopf --faults 100 --hwpt paging --leave-unread 2"),
];

/// Slots filled, moved and emptied, with everything that must fail.
pub(super) const ATTACHES: &[Program] =
    &[("attach-cycles", "attach --cycles 10"), ("attach-threads", "attach --cycles 5 --threads 3")];

/// The same with PASIDs.
pub(super) const ATTACHES_7_3: &[Program] = &[
    ("attach-pasids", "attach --cycles 5 --pasids 3"),
    ("attach-pasids-threads", "attach --cycles 3 --threads 2 --pasids 2"),
];

/// A device behind emulated VT-d, with iommufd.
pub(super) const VT_D: &[Program] = &[
    ("vfio", "vfio --cycles 3"),
    ("vfio-container", "vfio --container --cycles 3"),
    ("vfio-siblings", "vfio --siblings --cycles 3"),
    ("default-domain", "default-domain --cycles 2"),
    ("dma-fault", "dma-fault --count 6"),
];

/// The same without iommufd.
const STOCK: &[Program] = &[
    ("default-domain", "default-domain --cycles 2"),
    ("dma-fault", "dma-fault --count 6"),
    ("vfio-container", "vfio --container --cycles 5"),
];

/// A bit of everything, and as fast as it goes.
pub(super) const STORM: &[Program] =
    &[("mixed", "workload mixed --seconds 3 --rate 40"), ("storm", "workload storm --seconds 2")];

/// What is traced with mappings.
const MAPS: &[Program] = &[("map-load", "map-load --ops 60 --threads 2")];

/// Faster than a ring of one page can take.
pub(super) const FLOOD: &[Program] = &[("flood", "iopf --faults 3000 --threads 4 --devices 2")];

/// The topics of a trace with mappings.
const WITH_DMA: &[&str] = &["--events", "attach,fault,sva,iommufd,reset,dma"];

/// A trace of several programs, one after the other.
struct Session {
    name: &'static str,
    options: &'static [&'static str],
    programs: Vec<Program>,
    trust: Trust,
}

fn run(guest: &Guest, checks: &mut Checks, programs: &[&[Program]]) -> Result<()> {
    let mut sessions = vec![
        Session { name: "trace", options: &[], programs: programs.concat(), trust: Trust::Whole },
        Session { name: "maps", options: WITH_DMA, programs: MAPS.to_vec(), trust: Trust::Whole },
    ];
    if programs.contains(&PAGE_FAULTS) {
        sessions.push(Session {
            name: "tiny-ring",
            options: &["--buffer-size", "4096"],
            programs: FLOOD.to_vec(),
            trust: Trust::Lossy,
        });
    }
    let mut script = Script::new();
    for session in &sessions {
        script.case(session.name, &session.script());
    }
    let files = script.run(guest.vm().timeout(std::time::Duration::from_secs(600)))?;
    let schema = Schema::load()?;
    for session in &sessions {
        session.judge(&files, &schema, checks);
    }
    Ok(())
}

impl Session {
    /// The tracer, around a shell that runs the programs.
    fn script(&self) -> String {
        let programs: String = self
            .programs
            .iter()
            .map(|(name, arguments)| case(name, &format!("exec guest {arguments} --truth /out/{name}.truth")))
            .collect();
        format!(
            "exec iommu-trace trace --format json --output /out/{}.jsonl {} -- sh -c {}",
            self.name,
            self.options.join(" "),
            quoted(&programs)
        )
    }

    fn judge(&self, files: &Files, schema: &Schema, checks: &mut Checks) {
        checks.check(format!("{}: exit status", self.name), files.expect_status(self.name, 0));
        let text = match files.text(&format!("{}.jsonl", self.name)) {
            Ok(text) => text,
            Err(error) => return checks.check(format!("{}: output", self.name), Err(error)),
        };
        checks.check(format!("{}: schema", self.name), schema.check(&text));
        let trace = match Trace::parse(&text) {
            Ok(trace) => trace,
            Err(error) => return checks.check(format!("{}: output", self.name), Err(error)),
        };
        checks.check(format!("{}: start and end", self.name), trace.check_frame());
        checks.check(format!("{}: losses", self.name), self.check_losses(&trace));

        let mut truths = Vec::new();
        for (name, _) in &self.programs {
            match truth(files, name) {
                Ok(truth) => truths.push((*name, truth)),
                Err(error) => checks.check(*name, Err(error)),
            }
        }
        let (names, truths): (Vec<_>, Vec<_>) = truths.into_iter().unzip();
        let (results, rest) = compare(&trace, &truths, self.trust);
        for (name, result) in names.iter().zip(results) {
            checks.check(*name, result);
        }
        checks.check(format!("{}: nothing else", self.name), rest);
        if let Some(truth) = names.iter().position(|name| *name == "iopf-left-at-detach").map(|at| &truths[at]) {
            checks.check("a detach answers an unread fault INVALID by itself", unread_at_detach(&trace, truth));
        }
        checks.note(format!("{}: {} events, {} lost", self.name, trace.spans.len(), trace.lost()));
    }

    fn check_losses(&self, trace: &Trace) -> Result<()> {
        match self.trust {
            Trust::Whole => trace.check_lossless(),
            Trust::Lossy => {
                ensure!(trace.lost() > 0, "nothing was lost, which shows nothing: the ring is not tiny enough");
                Ok(())
            }
        }
    }
}

/// What a program did, which must have gone as it had to.
fn truth(files: &Files, name: &str) -> Result<Truth> {
    files.expect_status(name, 0)?;
    let truth = Truth::parse(&files.text(&format!("{name}.truth"))?)?;
    ensure!(truth.status == 0, "{name}: the program says that it ended with {}", truth.status);
    Ok(truth)
}

/// What nobody read when its device was detached is answered by the kernel.
fn unread_at_detach(trace: &Trace, truth: &Truth) -> Result<()> {
    let mut unread = 0;
    for line in &truth.lines {
        let Fact::Fault(fault) = &line.fact else { continue };
        if fault.delivered || fault.by != By::Iommufd {
            continue;
        }
        unread += 1;
        let span = trace
            .spans
            .iter()
            .find(|span| span.pid == truth.pid && span.event == "fault" && span.text("addr") == Some(&fault.addr))
            .with_context(|| format!("the trace lacks the fault of {}", line.raw))?;
        ensure!(
            span.text("response") == Some("invalid")
                && span.text("answered_by") == Some("automatic")
                && span.get("delivered_ns").is_null(),
            "this fault was never read, and the detach answered it:\n  {}",
            span.raw
        );
    }
    ensure!(unread > 0, "the program left no fault unread");
    Ok(())
}
