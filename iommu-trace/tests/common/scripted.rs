//! A source that gives what it is told, so that the whole consumer runs without a kernel.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use iommu_trace::{
    event::{Body, Comm, DeviceRef, Event, FLAG_LAST_PAGE, Name, PageResponse, Phase, ProbeId, Ptr, Report, Task},
    source::{Batch, Frame, Progress, Source, SourceInfo, Stacks},
};

/// What happens at one poll.
pub enum Step {
    Events(Vec<Event>),
    Fail(&'static str),
}

pub struct Scripted {
    pub info: SourceInfo,
    pub steps: VecDeque<Step>,
    /// When the steps are over: wait to be stopped, as a live source does, or end.
    pub live: bool,
    /// Repeat the first step for ever.
    pub storm: bool,
    pub stopped: bool,
}

impl Scripted {
    pub fn new(steps: Vec<Step>) -> Self {
        Scripted { info: super::info(), steps: steps.into(), live: false, storm: false, stopped: false }
    }

    pub fn live(steps: Vec<Step>) -> Self {
        Scripted { live: true, ..Scripted::new(steps) }
    }

    pub fn boxed(self) -> Box<dyn Source> {
        Box::new(self)
    }
}

struct OneStack;

impl Stacks for OneStack {
    fn frames(&self, id: u32) -> Vec<Frame> {
        let ours = Frame { addr: 1, symbol: "bpf_prog_95e71f8dbbd63a09_report_enter+0x12a [bpf]".into() };
        if id == 7 { [vec![ours], super::frames()].concat() } else { Vec::new() }
    }
}

impl Source for Scripted {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn poll(&mut self, timeout: Duration, batch: &mut Batch) -> anyhow::Result<Progress> {
        if self.storm
            && !self.stopped
            && let Some(Step::Events(events)) = self.steps.front()
        {
            batch.events.clone_from(events);
            batch.upto = events.last().map_or(0, |event| event.ts);
            return Ok(Progress::More);
        }
        match self.steps.pop_front() {
            Some(Step::Events(events)) => {
                batch.upto = events.last().map_or(0, |event| event.ts);
                batch.events = events;
                Ok(Progress::More)
            }
            Some(Step::Fail(message)) => Err(anyhow::anyhow!(message)),
            None if self.live && !self.stopped => {
                std::thread::sleep(timeout.min(Duration::from_millis(5)));
                Ok(Progress::More)
            }
            None => Ok(Progress::End),
        }
    }

    fn stop(&mut self) -> anyhow::Result<()> {
        self.stopped = true;
        Ok(())
    }

    fn stacks(&self) -> Arc<dyn Stacks> {
        Arc::new(OneStack)
    }
}

fn event(ts: u64, probe: ProbeId, phase: Phase, body: Body) -> Event {
    let task = Task { cpu: 0, pid: 77, tid: 77, comm: Comm::new("irq/24-mock") };
    Event { ts, task, probe, phase, stack: Some(7), body }
}

/// A page request with the group index `n` that the core answers inside its report.
pub fn fault(n: u32) -> Vec<Event> {
    let at = super::info().started_ns + u64::from(n) * 1_000_000;
    let device = DeviceRef {
        ptr: Ptr(0xffff_8881_0100_0000),
        group: Ptr(0xffff_8881_0100_1000),
        group_id: Some(3),
        name: Name::new("iommufd_mock0"),
    };
    let evt = Ptr(0xffff_c900_0000_1000);
    let report = Report {
        device,
        evt,
        kind: 1,
        flags: FLAG_LAST_PAGE,
        pasid: 0,
        grpid: n,
        perm: 1,
        addr: 0x1000 * u64::from(n),
    };
    let response = PageResponse { device: device.ptr, evt, grpid: n, code: 1, pasid: 0 };
    vec![
        event(at, ProbeId::ReportDeviceFault, Phase::Enter, Body::Report(report)),
        event(at + 5_000, ProbeId::MockPageResponse, Phase::Enter, Body::PageResponse(response)),
        event(at + 6_000, ProbeId::ReportDeviceFault, Phase::Exit, Body::Return { ret: -22 }),
    ]
}

/// Records that were lost.
pub fn lost(n: u32, count: u64) -> Vec<Event> {
    let at = super::info().started_ns + u64::from(n) * 1_000_000;
    vec![event(at, ProbeId::GroupFree, Phase::Enter, Body::Lost { count })]
}
