//! Which threads serve a page request interrupt, and since when: what a report on such a thread came after.

use super::table::Map;
use crate::event::{Event, Phase};

/// Threads at once; an IOMMU has one. Past it they are forgotten: their faults have no interrupt, never a wrong one.
const MAX_THREADS: usize = 1 << 10;

/// The interrupt threads at work.
#[derive(Debug, Default)]
pub struct Interrupts {
    since: Map<u32, u64>,
}

impl Interrupts {
    /// An interrupt thread begins or ends its work.
    pub fn seen(&mut self, event: &Event) {
        match event.phase {
            Phase::Enter => {
                if self.since.len() >= MAX_THREADS {
                    self.since.clear();
                }
                self.since.insert(event.task.tid, event.ts);
            }
            Phase::Exit => {
                self.since.remove(&event.task.tid);
            }
        }
    }

    /// Since when a thread serves an interrupt, if it does.
    pub fn of(&self, tid: u32) -> Option<u64> {
        self.since.get(&tid).copied()
    }

    /// Records were lost: what is known may be over.
    pub fn forget(&mut self) {
        self.since.clear();
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        event::{Body, Phase, ProbeId, Ptr},
        model::{
            Measure, ModelOptions,
            testing::{By, EINVAL, ENOENT, Req, Script, dev, kernel_7_3},
        },
    };

    const IRQ: ProbeId = ProbeId::PrqEventThread;
    const RAISED: Body = Body::Interrupt { iommu: Ptr(0x10) };

    /// What became of the faults that a script reports: the time from the interrupt to each report.
    fn interrupts(script: &mut Script) -> Vec<Option<u64>> {
        crate::model::tests::faults(&script.run()).iter().map(|fault| fault.interrupt_ns).collect()
    }

    fn refused(script: &mut Script, tid: u32, grpid: u32) {
        let (device, req) = (dev(1), Req::new(None, grpid, 0x1000));
        let mut by = script.by(tid);
        by.report(&device, &req).lookup_fails(&device, 0, ENOENT);
        by.page_response(By::evt(tid), &device, &req, 1).reported(EINVAL);
    }

    #[test]
    fn each_request_of_one_interrupt_is_timed_from_its_thread_s_beginning() {
        let mut script = Script::new();
        script.by(20).event(IRQ, Phase::Enter, RAISED);
        refused(&mut script, 20, 3);
        refused(&mut script, 20, 4);
        script.by(20).event(IRQ, Phase::Exit, RAISED);
        assert_eq!(interrupts(&mut script), [Some(100), Some(500)]);
    }

    #[test]
    fn the_times_are_kept_with_those_of_the_stages() {
        let mut script = Script::new();
        script.by(20).event(IRQ, Phase::Enter, RAISED);
        refused(&mut script, 20, 3);
        refused(&mut script, 20, 4);
        let (model, _) = script.model(kernel_7_3(), ModelOptions::default());
        let overall = model.latencies().overall();
        let histogram = overall.get(Measure::Interrupt).unwrap();
        assert_eq!((histogram.len(), histogram.min(), histogram.max()), (2, 100, 500));
    }

    #[test]
    fn a_report_by_another_thread_or_after_the_interrupt_has_none() {
        let mut script = Script::new();
        script.by(20).event(IRQ, Phase::Enter, RAISED);
        refused(&mut script, 21, 3);
        script.by(20).event(IRQ, Phase::Exit, RAISED);
        refused(&mut script, 20, 4);
        assert_eq!(interrupts(&mut script), [None, None]);
    }

    #[test]
    fn what_was_lost_may_have_ended_the_interrupt() {
        let mut script = Script::new();
        script.by(20).event(IRQ, Phase::Enter, RAISED);
        script.by(20).lost(IRQ, Phase::Exit, 1);
        refused(&mut script, 20, 3);
        assert_eq!(interrupts(&mut script), [None]);
    }
}
