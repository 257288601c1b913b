//! Which spans are shown. The model sees everything; this only chooses among what it tells.

use anyhow::Context as _;
use globset::{Glob, GlobSet, GlobSetBuilder};

use super::{SelectArgs, parse::PidArg};
use crate::{
    event::Name,
    model::span::{FaultSpan, Span, SpanKind, Topic},
    source::live::Groups,
};

/// A predicate over spans: all that is asked for must match, and what an event does not have does not match.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    topics: Vec<Topic>,
    groups: Vec<u32>,
    devices: Option<GlobSet>,
    pasids: Vec<u32>,
    pids: Pids,
    comms: Option<GlobSet>,
    min_latency_ns: u64,
}

/// Processes asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pids {
    /// By their id.
    pub listed: Vec<u32>,
    /// The started command and its descendants.
    pub command: bool,
}

/// Knows which processes descend from the started command.
pub trait Processes {
    /// Whether the process that had this id at this time does.
    fn is_of_command(&mut self, pid: u32, ts: u64) -> bool;
}

/// What spans of all kinds are asked for.
struct Facets {
    group: Option<u32>,
    device: Option<Name>,
    /// 0 is the RID; `None` when the event is not about a PASID.
    pasid: Option<u32>,
    latency_ns: Option<u64>,
}

impl Facets {
    fn of(kind: &SpanKind) -> Self {
        let (group, device, pasid, latency_ns) = match kind {
            SpanKind::Attach(s) | SpanKind::Replace(s) | SpanKind::Detach(s) => {
                (s.group, s.device, Some(s.pasid), Some(s.duration_ns))
            }
            SpanKind::Fault(s) => (s.group, Some(s.device), Some(s.pasid.unwrap_or(0)), fault_latency(s)),
            SpanKind::FaultStage(s) => (s.group, Some(s.device), Some(s.pasid.unwrap_or(0)), Some(s.since_report_ns)),
            SpanKind::SvaBind(s) | SpanKind::SvaUnbind(s) => (s.group, Some(s.device), s.pasid, Some(s.duration_ns)),
            SpanKind::IopfEnable(s) | SpanKind::IopfDisable(s) => (s.group, Some(s.device), None, None),
            SpanKind::IommufdBind(s) | SpanKind::IommufdUnbind(s) => {
                (s.group, Some(s.device), None, Some(s.duration_ns))
            }
            SpanKind::FaultQueueDestroy(s) => (None, None, None, Some(s.duration_ns)),
            SpanKind::DeviceAdd(s) | SpanKind::DeviceRemove(s) | SpanKind::ResetPrepare(s) | SpanKind::ResetDone(s) => {
                (s.group, Some(s.device), None, None)
            }
            SpanKind::DomainFree(_) | SpanKind::Sum(_) | SpanKind::Lost(_) => (None, None, None, None),
            SpanKind::DmaFault(s) => (s.group, s.device, Some(s.pasid.unwrap_or(0)), None),
            SpanKind::Map(s) | SpanKind::Unmap(s) => (None, None, None, Some(s.duration_ns)),
            SpanKind::Invalidate(s) => (None, None, None, Some(s.duration_ns)),
            SpanKind::Flush(s) => (None, None, None, Some(s.duration_ns)),
        };
        Facets { group, device, pasid, latency_ns }
    }
}

/// From the report to the response; to the last stage that was seen, where there is none.
fn fault_latency(fault: &FaultSpan) -> Option<u64> {
    fault.response_ns.or_else(|| {
        [fault.lookup_ns, fault.device_id_ns, fault.handler_ns, fault.delivered_ns, fault.freed_ns]
            .into_iter()
            .flatten()
            .max()
    })
}

impl Filter {
    /// Checks what was asked for.
    pub fn new(select: &SelectArgs) -> anyhow::Result<Self> {
        Ok(Filter {
            topics: select.events.clone(),
            groups: select.group.clone(),
            devices: globs("--device", &select.device)?,
            pasids: select.pasid.clone(),
            pids: Pids {
                listed: select
                    .pid
                    .iter()
                    .filter_map(|pid| match pid {
                        PidArg::Pid(pid) => Some(*pid),
                        PidArg::Command => None,
                    })
                    .collect(),
                command: select.pid.contains(&PidArg::Command),
            },
            comms: globs("--comm", &select.comm)?,
            min_latency_ns: select.min_latency.map_or(0, |latency| latency.as_nanos().try_into().unwrap_or(u64::MAX)),
        })
    }

    /// Whether descendants of the started command are asked for.
    #[must_use]
    pub fn follows_command(&self) -> bool {
        self.pids.command
    }

    /// Whether a device of this name is asked for.
    #[must_use]
    pub fn wants_device(&self, name: &str) -> bool {
        self.devices.as_ref().is_none_or(|globs| globs.is_match(name))
    }

    /// The groups whose page faults can pass: those of others need not leave the kernel.
    #[must_use]
    pub fn passing_groups(&self) -> Groups {
        match (&self.groups[..], &self.devices) {
            ([], None) => Groups::All,
            ([], Some(globs)) => Groups::Devices(globs.clone()),
            (numbers, _) => Groups::Numbers(numbers.to_vec()),
        }
    }

    /// The topics of which something can pass: a mapping or an invalidation has no group, device or PASID.
    #[must_use]
    pub fn passing_topics(&self, topics: &[Topic]) -> Vec<Topic> {
        let places = !self.groups.is_empty() || self.devices.is_some() || !self.pasids.is_empty();
        let can_pass = |topic: &&Topic| !places || !matches!(topic, Topic::Dma | Topic::Invalidate);
        topics.iter().filter(can_pass).copied().collect()
    }

    /// Whether a span is shown. Losses always are.
    pub fn matches(&self, span: &Span, processes: &mut dyn Processes) -> bool {
        let Some(topic) = span.kind.topic() else { return true };
        let facets = Facets::of(&span.kind);
        let among =
            |list: &[u32], value: Option<u32>| list.is_empty() || value.is_some_and(|value| list.contains(&value));
        (self.topics.is_empty() || self.topics.contains(&topic))
            && among(&self.groups, facets.group)
            && among(&self.pasids, facets.pasid)
            && self.devices.as_ref().is_none_or(|globs| {
                facets.device.is_some_and(|name| !name.is_empty() && globs.is_match(name.to_string()))
            })
            && (self.min_latency_ns == 0 || facets.latency_ns.is_some_and(|latency| latency >= self.min_latency_ns))
            && self.comms.as_ref().is_none_or(|globs| globs.is_match(span.comm.to_string()))
            && self.matches_process(span, processes)
    }

    fn matches_process(&self, span: &Span, processes: &mut dyn Processes) -> bool {
        let Pids { listed, command } = &self.pids;
        (listed.is_empty() && !command)
            || listed.contains(&span.pid)
            || (*command && processes.is_of_command(span.pid, span.ts))
    }
}

pub(super) fn globs(option: &str, patterns: &[String]) -> anyhow::Result<Option<GlobSet>> {
    if patterns.is_empty() {
        return Ok(None);
    }
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        set.add(Glob::new(pattern).with_context(|| format!("{option} {pattern:?} is no pattern that can be matched"))?);
    }
    Ok(Some(set.build().with_context(|| format!("the patterns of {option} cannot be matched"))?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::{Comm, DomainType, Ptr},
        model::span::{ChangeSpan, DomainSpan, LostSpan},
    };
    use std::time::Duration;

    struct Command(Vec<u32>);
    impl Processes for Command {
        fn is_of_command(&mut self, pid: u32, _ts: u64) -> bool {
            self.0.contains(&pid)
        }
    }

    fn span(kind: SpanKind) -> Span {
        Span { ts: 0, kind, cpu: 0, pid: 100, tid: 101, comm: Comm::new("qemu"), stack: None }
    }

    fn fault() -> Span {
        span(SpanKind::Fault(FaultSpan {
            group: Some(3),
            device: Name::new("0000:00:02.0"),
            response_ns: Some(100_000),
            delivered_ns: Some(20_000),
            ..FaultSpan::default()
        }))
    }

    fn attach() -> Span {
        span(SpanKind::Attach(ChangeSpan { group: Some(3), pasid: 18, duration_ns: 500, ..ChangeSpan::default() }))
    }

    fn passes(edit: impl FnOnce(&mut SelectArgs), span: &Span) -> bool {
        let mut select = SelectArgs::default();
        edit(&mut select);
        Filter::new(&select).unwrap().matches(span, &mut Command(vec![100]))
    }

    #[test]
    fn without_options_everything_passes() {
        assert!(passes(|_| (), &fault()));
    }

    #[test]
    fn topics_groups_and_pasids_choose() {
        assert!(passes(|s| s.events = vec![Topic::Fault], &fault()));
        assert!(!passes(|s| s.events = vec![Topic::Attach], &fault()));
        assert!(passes(|s| s.group = vec![1, 3], &fault()));
        assert!(!passes(|s| s.group = vec![1], &fault()));
        assert!(passes(|s| s.pasid = vec![0], &fault()), "a request by RID is PASID 0");
        assert!(passes(|s| s.pasid = vec![18], &attach()));
        assert!(!passes(|s| s.pasid = vec![18], &fault()));
    }

    #[test]
    fn what_cannot_pass_need_not_be_told() {
        let filter = |edit: &dyn Fn(&mut SelectArgs)| {
            let mut select = SelectArgs::default();
            edit(&mut select);
            Filter::new(&select).unwrap()
        };
        let all = [Topic::Attach, Topic::Fault, Topic::Dma, Topic::Invalidate];
        let open = filter(&|s| s.pid = vec![PidArg::Pid(1)]);
        assert!(matches!(open.passing_groups(), Groups::All));
        assert_eq!(open.passing_topics(&all), all);
        let numbered = filter(&|s| s.group = vec![3]);
        assert!(matches!(numbered.passing_groups(), Groups::Numbers(numbers) if numbers == [3]));
        assert_eq!(numbered.passing_topics(&all), [Topic::Attach, Topic::Fault]);
        let named = filter(&|s| s.device = vec!["0000:00:*".into()]);
        assert!(matches!(named.passing_groups(), Groups::Devices(globs) if globs.is_match("0000:00:01.0")));
        // Of several groups some may have the device; by number is stricter.
        let both = filter(&|s| (s.group, s.device) = (vec![3], vec!["*".into()]));
        assert!(matches!(both.passing_groups(), Groups::Numbers(_)));
    }

    #[test]
    fn devices_match_by_pattern_and_an_event_without_one_does_not() {
        assert!(passes(|s| s.device = vec!["0000:00:*".into()], &fault()));
        assert!(passes(|s| s.device = vec!["mock?".into(), "*{2,3}.0".into()], &fault()));
        assert!(!passes(|s| s.device = vec!["0000:00:02".into()], &fault()));
        assert!(!passes(|s| s.device = vec!["*".into()], &attach()));
    }

    #[test]
    fn processes_match_by_id_by_name_and_by_descent() {
        assert!(passes(|s| s.pid = vec![PidArg::Pid(100)], &fault()));
        assert!(!passes(|s| s.pid = vec![PidArg::Pid(101)], &fault()));
        assert!(passes(|s| s.pid = vec![PidArg::Pid(1), PidArg::Command], &fault()));
        assert!(passes(|s| s.comm = vec!["qem*".into()], &fault()));
        assert!(!passes(|s| s.comm = vec!["kvm".into()], &fault()));
    }

    #[test]
    fn latency_is_the_response_s_or_the_last_stage_s_and_an_event_without_any_does_not_pass() {
        let at_least = |ns| move |s: &mut SelectArgs| s.min_latency = Some(Duration::from_nanos(ns));
        assert!(passes(at_least(100_000), &fault()));
        assert!(!passes(at_least(100_001), &fault()));
        assert!(!passes(at_least(501), &attach()));
        let mut unanswered = fault();
        let SpanKind::Fault(inner) = &mut unanswered.kind else { unreachable!() };
        inner.response_ns = None;
        assert!(passes(at_least(20_000), &unanswered));
        let free = span(SpanKind::DomainFree(DomainSpan { domain: Ptr(1), domain_type: DomainType::DMA }));
        assert!(!passes(at_least(1), &free));
    }

    #[test]
    fn losses_always_pass() {
        let lost = span(SpanKind::Lost(LostSpan { probe: "x", count: 1 }));
        assert!(passes(
            |s| {
                s.group = vec![9];
                s.device = vec!["none".into()];
                s.pid = vec![PidArg::Pid(1)];
            },
            &lost
        ));
    }

    #[test]
    fn a_bad_pattern_is_named() {
        let select = SelectArgs { device: vec!["0000:[".into()], ..SelectArgs::default() };
        let error = format!("{:#}", Filter::new(&select).unwrap_err());
        assert!(error.starts_with("--device \"0000:[\" is no pattern that can be matched: "), "{error}");
    }
}
