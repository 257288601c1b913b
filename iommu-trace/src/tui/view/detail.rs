//! One thing, whole: a life, a fault, a violation, a probe, a domain. As lines, so that it can be copied as text.

use ratatui::{
    style::Style,
    text::{Line, Span},
};

use super::{
    chart::{bar, timeline},
    text::{NONE, address, ago, bytes, count, device, group, maybe, pasid, permissions, since, wrapped},
    theme::Theme,
};
use crate::{
    event::{Phase, ProbeId},
    model::{
        Measure, RULES,
        span::{ChangeSpan, FaultSpan, Span as Event, SpanKind},
    },
    output::{duration, errno_name, nanoseconds},
    source::Frame,
    tui::state::{
        Ui, World,
        bins::{Bins, STAGES, least},
        dma,
        items::Item,
        lives::{Life, Moment},
        rows::{Row, probe_rows, rows},
        ui::View,
    },
};

/// Lines under construction.
struct Lines<'a> {
    world: &'a World,
    theme: Theme,
    width: u16,
    out: Vec<Line<'static>>,
}

/// What is known of an item.
pub fn lines(world: &World, ui: &Ui, theme: Theme, item: Item, width: u16) -> Vec<Line<'static>> {
    let mut all = Lines { world, theme, width, out: Vec::new() };
    let at = world.at(ui);
    match item {
        Item::Life(id) => match world.lives.get(id) {
            Some(life) => all.life(life, at),
            None => all.forgotten(),
        },
        Item::Group(number) => all.group(number, at),
        Item::Fault(ts, tid, addr) => all.fault(ui, ts, tid, addr, at),
        Item::Changing(ts, tid) => all.changing(ts, tid),
        Item::DmaFault(ts, addr) => all.dma_fault(ts, addr),
        Item::Breach(place) => all.breach(place),
        Item::Probe(place) => all.probe(place),
        Item::Domain(domain) => match world.dma.domains.get(&domain) {
            Some(row) => all.dma_row(&format!("domain {}", address(Some(domain))), row, &["map", "unmap"]),
            None => all.forgotten(),
        },
        Item::Invalidation(iommu, kind) => match world.dma.invalidations.get(&(iommu, kind)) {
            Some(row) => {
                all.dma_row(&format!("{kind} invalidations of IOMMU {}", address(Some(iommu))), row, &["invalidate"]);
            }
            None => all.forgotten(),
        },
        Item::Stage(stage) => all.stage(ui, stage),
        Item::Kind(name) => all.title(name),
    }
    all.out
}

impl Lines<'_> {
    fn title(&mut self, text: &str) {
        self.out.push(Line::styled(text.to_owned(), self.theme.strong()));
    }

    fn styled(&mut self, text: String, style: Style) {
        self.out.push(Line::styled(text, style));
    }

    fn text(&mut self, text: &str) {
        for line in wrapped(text, self.width.into()) {
            self.out.push(Line::raw(line));
        }
    }

    fn gap(&mut self) {
        self.out.push(Line::default());
    }

    fn pair(&mut self, name: &str, value: &str) {
        let mut name = format!("{name:<14} ");
        for line in wrapped(value, usize::from(self.width).saturating_sub(name.len())) {
            self.out.push(Line::from(vec![Span::styled(name, self.theme.dim()), Span::raw(line)]));
            name = " ".repeat(15);
        }
    }

    fn forgotten(&mut self) {
        self.text("It is too long ago: it was forgotten to make room for what came after.");
    }

    fn time(&self, ts: u64) -> String {
        format!("{}s", since(self.world.began, ts))
    }

    fn stack(&mut self, name: &str, id: Option<u32>) {
        let frames: Vec<Frame> = self.world.stack(id).map(<[Frame]>::to_vec).unwrap_or_default();
        if frames.is_empty() {
            return;
        }
        self.pair(name, "kernel stack, innermost first");
        for frame in frames {
            self.styled(format!("    {}", frame.symbol), self.theme.dim());
        }
    }

    fn moment(&mut self, moment: &Moment) {
        let text = format!(
            "{} at {} by {} ({}) in {}, took {}",
            moment.how,
            self.time(moment.ts),
            moment.comm,
            moment.pid,
            moment.function,
            duration(moment.took)
        );
        self.text(&text);
    }

    fn latency(&mut self, name: &str, bins: &Bins) {
        let text = match bins.count() {
            0 => NONE.to_owned(),
            n => format!(
                "p50 {} p99 {} max {} of {}",
                maybe(bins.quantile(0.5)),
                maybe(bins.quantile(0.99)),
                maybe(bins.max()),
                count(n)
            ),
        };
        self.pair(name, &text);
    }

    fn life(&mut self, life: &Life, at: u64) {
        let what = life.handle.map_or_else(|| "a bare domain".to_owned(), |handle| format!("handle {:x}", handle.0));
        self.title(&format!("{what} in group {} PASID {}", group(life.place.0), pasid(life.place.1)));
        self.pair("device", &device(life.device));
        self.pair("owner", life.owner.name());
        self.pair("domain", &format!("{} {:x}", life.domain_type, life.domain.0));
        if let Some(id) = life.device_id {
            self.pair("device id", &format!("{id} (iommufd)"));
        }
        if let Some(users) = life.users {
            self.pair("users", &users.to_string());
        }
        self.pair("age", &life.age(at).map_or_else(|| "attached before the trace".to_owned(), ago));
        self.pair("faults", &count(life.faults));
        self.latency("look-up", &life.lookup);
        self.latency("response", &life.response);
        self.gap();
        self.title("Life");
        let begin = life.born.map_or(self.world.began, |born| born.ts);
        let end = life.gone.map_or(at.max(begin), |gone| gone.ts);
        let mut marks: Vec<(u64, char)> =
            life.marks.iter().map(|&ts| (ts, self.theme.sign("•", "o").chars().next().unwrap_or('o'))).collect();
        if life.born.is_some() {
            marks.push((begin, 'A'));
        }
        if life.gone.is_some() {
            marks.push((end, 'D'));
        }
        let between = self.theme.sign("─", "-").chars().next().unwrap_or('-');
        let drawn = timeline(begin, end, self.width.saturating_sub(2).min(160), &marks, between);
        self.styled(drawn, self.theme.chart());
        self.text(&format!(
            "{} to {}; A attach, {} its last faults, D end",
            self.time(begin),
            self.time(end),
            self.theme.sign("•", "o")
        ));
        match &life.born {
            Some(born) => self.moment(born),
            None => self.text("it was attached before the trace"),
        }
        if let Some(gone) = &life.gone {
            self.moment(gone);
        }
        let (born, gone) = (life.born.and_then(|m| m.stack), life.gone.and_then(|m| m.stack));
        self.stack("attach", born);
        self.stack("end", gone);
        self.gap();
        self.title("Last faults");
        let of: Vec<String> = self
            .world
            .logs
            .faults
            .iter()
            .rev()
            .filter(|told| told.span.ts <= at && told.span.ts >= begin && told.end <= end.max(at))
            .filter_map(|told| told.fault().map(|fault| (told, fault)))
            .filter(|(_, fault)| fault.handle == life.handle && life.handle.is_some())
            .take(10)
            .map(|(told, fault)| self.fault_line(told.span.ts, fault))
            .collect();
        if of.is_empty() {
            self.text("none that is remembered");
        }
        for line in of {
            self.text(&line);
        }
    }

    fn fault_line(&self, ts: u64, fault: &FaultSpan) -> String {
        format!(
            "{:>10} {:#x} {:<4} look-up {} response {} {}",
            self.time(ts),
            fault.addr,
            permissions(fault.perm),
            maybe(fault.lookup_ns),
            maybe(fault.response_ns),
            fault.response.0.map_or_else(|| "none".to_owned(), |code| code.to_string())
        )
    }

    fn group(&mut self, number: Option<u32>, at: u64) {
        self.title(&format!("group {}", group(number)));
        let mirror = self.world.model.mirror();
        let mut names: Vec<String> = mirror
            .devices()
            .filter(|(_, device)| device.group_id == number)
            .map(|(_, device)| device.name.to_string())
            .collect();
        names.sort_unstable();
        for name in names {
            self.pair("device", &name);
        }
        if let Some((_, known)) = mirror.groups().find(|(_, known)| known.id == number) {
            self.pair("domain", &address(Some(known.domain)));
            self.pair("default", &address(Some(known.default_domain)));
        }
        self.gap();
        self.title("Last changes");
        let changes: Vec<String> = self
            .world
            .logs
            .changes
            .iter()
            .rev()
            .filter(|told| told.end <= at)
            .filter_map(|told| match &told.span.kind {
                SpanKind::Attach(change) | SpanKind::Replace(change) | SpanKind::Detach(change)
                    if change.group == number =>
                {
                    Some(self.change_line(&told.span, change))
                }
                _ => None,
            })
            .take(20)
            .collect();
        if changes.is_empty() {
            self.text("none since the trace began");
        }
        for line in changes {
            self.text(&line);
        }
    }

    fn change_line(&self, span: &Event, change: &ChangeSpan) -> String {
        let result = if change.ret == 0 { String::new() } else { format!(" {}", errno_name(change.ret)) };
        format!(
            "{:>10} {:<7}{result} {} {} {} handle {} {} {}",
            self.time(span.ts),
            span.kind.name(),
            pasid(change.pasid),
            change.owner.name(),
            change.domain_type,
            address(change.handle),
            duration(change.duration_ns),
            span.comm
        )
    }

    fn changing(&mut self, ts: u64, tid: u32) {
        let Some(change) = self.world.model.changing().find(|change| change.ts == ts && change.task.tid == tid) else {
            self.text("It has returned.");
            return;
        };
        self.title(&format!("{} under way", change.function));
        self.pair("group", &group(change.group));
        self.pair("device", &device(change.device));
        self.pair("PASID", &pasid(change.pasid));
        self.pair("handle", &address(change.handle));
        self.pair("by", &format!("{} ({})", change.task.comm, change.task.pid));
        self.pair("for", &duration(self.world.now.saturating_sub(ts)));
    }

    fn fault(&mut self, ui: &Ui, ts: u64, tid: u32, addr: u64, at: u64) {
        let ui = Ui { view: View::Faults, ..ui.clone() };
        let all = rows(self.world, &ui);
        let found = all.iter().find_map(|row| match row {
            Row::Fault(row) if row.span().ts == ts && row.span().tid == tid => {
                row.fault().filter(|fault| fault.addr == addr).map(|fault| (row, fault))
            }
            _ => None,
        });
        let Some((row, fault)) = found else {
            self.forgotten();
            return;
        };
        self.title(&format!("page fault of {} at {:#x}", fault.device, fault.addr));
        self.pair("reported", &format!("{} by {} ({})", self.time(ts), row.span().comm, row.span().pid));
        self.pair("group", &group(fault.group));
        self.pair("PASID", &fault.pasid.map_or_else(|| pasid(0), pasid));
        self.pair(
            "request",
            &format!(
                "{} group index {}{}",
                permissions(fault.perm),
                fault.grpid,
                if fault.last { ", last of its group" } else { ", partial" }
            ),
        );
        self.pair("handle", &address(fault.handle));
        if let Some(id) = fault.device_id {
            self.pair("device id", &format!("{id} (iommufd)"));
        }
        let answer = match (row.stage(at, fault.response_ns), fault.response.0) {
            (Some(_), Some(code)) => code.to_string(),
            _ if row.is_open() => format!("waits for {}", duration(at.saturating_sub(ts))),
            _ => "none".to_owned(),
        };
        self.pair("response", &answer);
        if let Some(ret) = fault.ret.filter(|ret| *ret != 0) {
            self.pair("returned", &errno_name(ret));
        }
        self.gap();
        self.title("Stages, since the report");
        if let Some(ns) = fault.interrupt_ns {
            self.text(&format!(
                "{:<10} {:>10} the interrupt's thread began its work",
                "interrupt",
                format!("-{}", duration(ns))
            ));
        }
        let stages = [
            ("look-up", fault.lookup_ns),
            ("device id", fault.device_id_ns),
            ("handler", fault.handler_ns),
            ("read", fault.delivered_ns),
            ("response", fault.response_ns),
            ("freed", fault.freed_ns),
        ];
        let longest = stages.iter().filter_map(|(_, ns)| row.stage(at, *ns)).max().unwrap_or(0);
        let room = self.width.saturating_sub(36).min(100);
        let mut before = 0;
        for (name, ns) in stages {
            let Some(ns) = row.stage(at, ns) else {
                self.text(&format!("{name:<10} {NONE:>10}"));
                continue;
            };
            let from = (u128::from(before.min(ns)) * u128::from(room) / u128::from(longest.max(1))) as usize;
            let bar = bar(ns.saturating_sub(before), longest, room, self.theme);
            let text =
                format!("{name:<10} {:>10} {:>11} ", duration(ns), format!("+{}", duration(ns.saturating_sub(before))));
            self.out.push(Line::from(vec![
                Span::raw(text),
                Span::styled(format!("{}{bar}", " ".repeat(from)), self.theme.chart()),
            ]));
            before = before.max(ns);
        }
        self.stack("report", row.span().stack);
    }

    fn dma_fault(&mut self, ts: u64, addr: u64) {
        let found = self.world.logs.dma_faults.iter().find_map(|told| match &told.span.kind {
            SpanKind::DmaFault(fault) if told.span.ts == ts && fault.addr == addr => Some(fault.clone()),
            _ => None,
        });
        let Some(fault) = found else {
            self.forgotten();
            return;
        };
        self.title("unrecoverable fault");
        self.pair("at", &self.time(ts));
        self.pair("device", &device(fault.device));
        self.pair("requester", fault.source_id.as_deref().unwrap_or(NONE));
        self.pair("access", fault.access);
        self.pair("address", &format!("{addr:#x}"));
        self.pair("reason", &fault.reason.map_or_else(|| NONE.to_owned(), |reason| format!("{reason:#04x}")));
        self.pair("flags", &fault.flags.map_or_else(|| NONE.to_owned(), |flags| format!("{flags:#05x}")));
        self.pair("IOMMU", fault.iommu.as_deref().unwrap_or(NONE));
        self.pair("told by", fault.function);
    }

    fn breach(&mut self, place: usize) {
        let Some(breach) = self.world.breaches.list().get(place).cloned() else {
            self.forgotten();
            return;
        };
        let violation = &breach.first;
        self.styled(format!("{} {}", violation.severity.name(), violation.rule.slug()), self.theme.bad());
        self.text(&violation.message);
        self.gap();
        if let Some(rule) = RULES.iter().find(|rule| rule.id == violation.rule) {
            self.pair("the kernel", rule.demands);
        }
        self.pair("times", &format!("{}, the last at {}", breach.count, self.time(breach.last)));
        let subject = &violation.subject;
        self.pair("group", &group(subject.group));
        self.pair("device", &device(subject.device));
        if let Some(number) = subject.pasid {
            self.pair("PASID", &pasid(number));
        }
        for (name, ptr) in
            [("handle", subject.handle), ("domain", subject.domain), ("fault group", subject.fault_group)]
        {
            if ptr.is_some() {
                self.pair(name, &address(ptr));
            }
        }
        self.gap();
        self.title("Evidence of the first time, oldest first");
        for piece in &violation.evidence {
            let phase = if piece.phase == Phase::Enter { "entry of" } else { "return of" };
            self.text(&format!(
                "{:>10} {:<12} {phase} {} on CPU {} by {} ({})",
                self.time(piece.ts),
                piece.what,
                piece.probe.function(),
                piece.task.cpu,
                piece.task.comm,
                piece.task.pid
            ));
            let frames: Vec<Frame> = self.world.stack(piece.stack).map(<[Frame]>::to_vec).unwrap_or_default();
            for frame in frames {
                self.styled(format!("             {}", frame.symbol), self.theme.dim());
            }
        }
    }

    fn probe(&mut self, place: usize) {
        let all = probe_rows(self.world);
        let Some(row) = all.get(place) else { return };
        let status = row.status;
        self.title(&status.function);
        self.pair("verdict", status.verdict.name());
        if let Some(reason) = &status.reason {
            self.pair("because", reason);
        }
        self.pair("kind", &status.kind);
        self.pair("topic", &status.topic);
        self.pair("without it", &status.cost);
        self.pair("events", &row.events.to_string());
        self.pair("lost", &row.lost.to_string());
        if let Some(cost) = row.cost.as_ref().filter(|cost| cost.runs > 0) {
            self.pair("runs", &cost.runs.to_string());
            self.pair("run time", &duration(cost.run_ns));
            self.pair("a run", &nanoseconds(cost.run_ns / cost.runs));
        }
        if let Some(id) = ProbeId::ALL.iter().copied().find(|id| id.function() == status.function) {
            let rules: Vec<&str> =
                RULES.iter().filter(|rule| rule.needs.contains(id)).map(|rule| rule.id.slug()).collect();
            if !rules.is_empty() {
                self.pair("rules on it", &rules.join(", "));
            }
        }
    }

    fn dma_row(&mut self, title: &str, row: &dma::Row, names: &[&str]) {
        self.title(title);
        for (name, calls) in names.iter().zip([&row.maps, &row.unmaps]) {
            self.gap();
            let amount = if *name == "invalidate" {
                format!("{} descriptors", count(calls.amount))
            } else {
                bytes(calls.amount)
            };
            self.pair(name, &format!("{} calls, {} failed, {amount}", count(calls.calls), count(calls.failed)));
            self.latency("took", &calls.took);
            self.histogram(&calls.took);
        }
    }

    fn histogram(&mut self, bins: &Bins) {
        let most = bins.iter().map(|(_, n)| u64::from(n)).max().unwrap_or(0);
        let room = self.width.saturating_sub(22).min(80);
        for (bin, n) in bins.iter() {
            let text = format!("  {:>10} {:>6} ", duration(least(bin)), count(n.into()));
            let bar = bar(n.into(), most, room, self.theme);
            self.out.push(Line::from(vec![Span::raw(text), Span::styled(bar, self.theme.chart())]));
        }
    }

    fn stage(&mut self, ui: &Ui, stage: usize) {
        let Some(measure) = STAGES.get(stage) else { return };
        let whose = ui.device.map_or_else(|| "all devices".to_owned(), |name| name.to_string());
        let from_to = match measure {
            Measure::Interrupt => "interrupt to report".to_owned(),
            _ => format!("report to {}", measure.name()),
        };
        self.title(&format!("{from_to} of {whose}, last {}", ui.span().name));
        let bins = self.world.latencies(self.world.window(ui), ui.device).0[stage].clone();
        self.latency("window", &bins);
        self.histogram(&bins);
        self.gap();
        self.title("By device, the whole run");
        let mut sets: Vec<(String, u64, u64, u64)> = self
            .world
            .model
            .latencies()
            .sets()
            .filter_map(|(key, set)| {
                let histogram = set.get(*measure)?;
                let who = key
                    .pasid
                    .map_or_else(|| key.device.to_string(), |number| format!("{} PASID {}", key.device, pasid(number)));
                Some((who, histogram.len(), histogram.value_at_quantile(0.5), histogram.value_at_quantile(0.99)))
            })
            .collect();
        sets.sort();
        for (who, n, p50, p99) in sets {
            self.text(&format!("  {who:<28} {:>6} p50 {:>9} p99 {:>9}", count(n), duration(p50), duration(p99)));
        }
    }
}
