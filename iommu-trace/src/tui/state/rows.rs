//! What a view lists at a time: filtered and sorted.

use std::{cmp::Reverse, collections::BTreeMap};

use crate::{
    event::{Name, Ptr},
    model::{
        Changing, Severity,
        span::{FaultSpan, Span, SpanKind},
    },
    probes::ProbeStatus,
    source::ProgramCost,
};

use super::{
    Ui, World,
    bins::STAGES,
    dma,
    filter::Facts,
    items::Item,
    lives::Life,
    logs::{Breach, Told},
    ui::View,
};

/// How long something that is gone stays in the list.
pub const FADE_NS: u64 = 10_000_000_000;
/// Faults under way that are listed.
const MAX_UNDER_WAY: usize = 1 << 10;

/// A group, with what is known of it now.
#[derive(Clone, Debug)]
pub struct GroupRow {
    /// Its number.
    pub group: Option<u32>,
    /// Its devices, by name.
    pub devices: Vec<Name>,
    /// Its current domain.
    pub domain: Ptr,
    /// Its default domain.
    pub default_domain: Ptr,
    /// Its slots that are listed.
    pub slots: usize,
}

/// A fault, under way or over.
#[derive(Clone, Debug)]
pub enum FaultRow<'a> {
    /// It is not over.
    UnderWay(Box<Span>),
    /// It is over now, and was not at the time that is looked at.
    Later(&'a Told),
    /// It is over.
    Over(&'a Told),
}

impl FaultRow<'_> {
    /// The span.
    #[must_use]
    pub fn span(&self) -> &Span {
        match self {
            FaultRow::UnderWay(span) => span,
            FaultRow::Later(told) | FaultRow::Over(told) => &told.span,
        }
    }

    /// The fault; every span here is one.
    #[must_use]
    pub fn fault(&self) -> Option<&FaultSpan> {
        match &self.span().kind {
            SpanKind::Fault(fault) => Some(fault),
            _ => None,
        }
    }

    /// Whether it is outstanding at the time that is looked at.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !matches!(self, FaultRow::Over(_))
    }

    /// When a stage was reached, if that was by then.
    #[must_use]
    pub fn stage(&self, at: u64, ns: Option<u64>) -> Option<u64> {
        ns.filter(|&ns| self.span().ts.saturating_add(ns) <= at)
    }
}

/// A probe with what it did and cost.
#[derive(Clone, Debug)]
pub struct ProbeRow<'a> {
    /// Its place.
    pub place: usize,
    /// Its verdict.
    pub status: &'a ProbeStatus,
    /// Its events.
    pub events: u64,
    /// Its records that were lost.
    pub lost: u64,
    /// What its programs cost; `None` where nothing is known of it.
    pub cost: Option<ProgramCost>,
}

/// A row.
#[derive(Clone, Debug)]
pub enum Row<'a> {
    /// A group.
    Group(GroupRow),
    /// An attachment.
    Life(&'a Life),
    /// A change under way.
    Changing(Changing),
    /// A page fault.
    Fault(FaultRow<'a>),
    /// An unrecoverable fault.
    DmaFault(&'a Told),
    /// A broken rule.
    Breach(usize, &'a Breach),
    /// A probe.
    Probe(ProbeRow<'a>),
    /// A domain's mappings.
    Domain(Ptr, &'a dma::Row),
    /// Invalidations.
    Invalidation(Ptr, &'static str, &'a dma::Row),
    /// A stage.
    Stage(usize),
}

impl Row<'_> {
    /// Its name.
    #[must_use]
    pub fn item(&self) -> Item {
        match self {
            Row::Group(group) => Item::Group(group.group),
            Row::Life(life) => Item::Life(life.id),
            Row::Changing(changing) => Item::Changing(changing.ts, changing.task.tid),
            Row::Fault(row) => fault_item(row.span()),
            Row::DmaFault(told) => match &told.span.kind {
                SpanKind::DmaFault(fault) => Item::DmaFault(told.span.ts, fault.addr),
                _ => Item::DmaFault(told.span.ts, 0),
            },
            Row::Breach(place, _) => Item::Breach(*place),
            Row::Probe(row) => Item::Probe(row.place),
            Row::Domain(domain, _) => Item::Domain(*domain),
            Row::Invalidation(iommu, kind, _) => Item::Invalidation(*iommu, kind),
            Row::Stage(stage) => Item::Stage(*stage),
        }
    }
}

fn fault_item(span: &Span) -> Item {
    let addr = if let SpanKind::Fault(fault) = &span.kind { fault.addr } else { 0 };
    Item::Fault(span.ts, span.tid, addr)
}

fn life_facts(life: &Life) -> Facts {
    Facts {
        group: life.place.0,
        device: life.device,
        pasid: Some(life.place.1),
        text: format!(
            "{} {} {} {} {} {}",
            life.owner.name(),
            life.domain_type,
            life.handle.map(|handle| handle.to_string()).unwrap_or_default(),
            life.domain,
            life.device_id.map(|id| format!("id {id}")).unwrap_or_default(),
            life.born.map(|born| born.comm.to_string()).unwrap_or_default(),
        )
        .to_lowercase(),
    }
}

fn fault_facts(span: &Span) -> Facts {
    let SpanKind::Fault(fault) = &span.kind else { return Facts::default() };
    Facts {
        group: fault.group,
        device: Some(fault.device),
        pasid: Some(fault.pasid.unwrap_or(0)),
        text: format!(
            "{:#x} {} {} {}",
            fault.addr,
            fault.handle.map(|handle| handle.to_string()).unwrap_or_default(),
            fault.response.0.map_or_else(|| "none".to_owned(), |code| code.to_string()),
            span.comm
        )
        .to_lowercase(),
    }
}

/// What the view lists.
#[must_use]
pub fn rows<'a>(world: &'a World, ui: &Ui) -> Vec<Row<'a>> {
    let mut rows = match ui.view {
        View::Overview => Vec::new(),
        View::Handles => handles(world, ui),
        View::Faults => faults(world, ui),
        View::Latency => (0..STAGES.len()).map(Row::Stage).collect(),
        View::Dma => dma_rows(world, ui),
        View::Violations => violations(world, ui),
        View::Probes => probes(world, ui),
    };
    if ui.list().reverse {
        rows.reverse();
    }
    rows
}

fn handles<'a>(world: &'a World, ui: &Ui) -> Vec<Row<'a>> {
    let at = world.at(ui);
    let shown = |life: &&Life| ui.filter.matches(|| life_facts(life));
    let there = world.lives.live().filter(|life| life.is_at(at));
    let then = world.lives.gone().filter(|life| {
        let began = life.born.is_none_or(|born| born.ts <= at);
        began && life.gone.is_some_and(|gone| gone.ts.saturating_add(FADE_NS) > at)
    });
    let mut lives: Vec<&Life> = there.chain(then).filter(shown).collect();
    match ui.list().sort {
        1 => lives.sort_by_key(|life| (Reverse(life.faults), life.place, life.id)),
        2 => lives.sort_by_key(|life| (Reverse(life.age(at).unwrap_or(u64::MAX)), life.place, life.id)),
        3 => lives.sort_by_key(|life| (Reverse(life.last_fault), life.place, life.id)),
        _ => return tree(world, ui, lives),
    }
    lives.into_iter().map(Row::Life).collect()
}

/// Groups by number, in each what is under way and its slots by PASID.
fn tree<'a>(world: &'a World, ui: &Ui, mut lives: Vec<&'a Life>) -> Vec<Row<'a>> {
    let mirror = world.model.mirror();
    let mut groups: BTreeMap<Option<u32>, GroupRow> = BTreeMap::new();
    let new = |group| GroupRow { group, devices: Vec::new(), domain: Ptr::NULL, default_domain: Ptr::NULL, slots: 0 };
    for (_, group) in mirror.groups().filter(|(_, group)| group.id.is_some()) {
        let row = groups.entry(group.id).or_insert_with(|| new(group.id));
        (row.domain, row.default_domain) = (group.domain, group.default_domain);
    }
    for (_, device) in mirror.devices().filter(|(_, device)| device.group_id.is_some()) {
        let row = groups.entry(device.group_id).or_insert_with(|| new(device.group_id));
        row.devices.push(device.name);
    }
    lives.sort_by_key(|life| (life.place, life.id));
    for life in &lives {
        groups.entry(life.place.0).or_insert_with(|| new(life.place.0)).slots += 1;
    }
    let mut changing: BTreeMap<Option<u32>, Vec<Changing>> = BTreeMap::new();
    if ui.time == super::ui::Time::Live {
        for change in world.model.changing() {
            changing.entry(change.group).or_default().push(change);
        }
    }
    let mut rows = Vec::new();
    let mut lives = lives.into_iter().peekable();
    for (number, mut group) in groups {
        group.devices.sort_unstable();
        let changes = changing.remove(&number).unwrap_or_default();
        let facts = || Facts {
            group: number,
            device: None,
            pasid: None,
            text: group.devices.iter().fold(String::new(), |text, name| text + &name.to_string() + " ").to_lowercase(),
        };
        if group.slots > 0 || !changes.is_empty() || ui.filter.matches(facts) {
            rows.push(Row::Group(group));
            rows.extend(changes.into_iter().map(Row::Changing));
        }
        while let Some(life) = lives.next_if(|life| life.place.0 == number) {
            rows.push(Row::Life(life));
        }
    }
    rows
}

fn faults<'a>(world: &'a World, ui: &Ui) -> Vec<Row<'a>> {
    let at = world.at(ui);
    let shown = |span: &Span| ui.filter.matches(|| fault_facts(span));
    let under_way = world.model.faults_under_way().filter(|span| span.ts <= at && shown(span)).take(MAX_UNDER_WAY);
    let mut open: Vec<FaultRow<'a>> = under_way.map(|span| FaultRow::UnderWay(Box::new(span))).collect();
    let mut over: Vec<FaultRow<'a>> = Vec::new();
    for told in world.logs.faults.iter().rev().filter(|told| told.span.ts <= at && shown(&told.span)) {
        if told.end > at {
            open.push(FaultRow::Later(told));
        } else {
            over.push(FaultRow::Over(told));
        }
    }
    open.sort_by_key(|row| row.span().ts);
    let of = |row: &FaultRow<'_>, time: fn(&FaultSpan) -> Option<u64>| row.fault().and_then(time);
    match ui.list().sort {
        1 => over.sort_by_key(|row| (row.fault().map(|fault| fault.device), Reverse(row.span().ts))),
        2 => over.sort_by_key(|row| Reverse(of(row, |fault| fault.lookup_ns))),
        3 => over.sort_by_key(|row| Reverse(of(row, |fault| fault.response_ns))),
        _ => over.sort_by_key(|row| Reverse(row.span().ts)),
    }
    open.into_iter().chain(over).map(Row::Fault).collect()
}

fn dma_rows<'a>(world: &'a World, ui: &Ui) -> Vec<Row<'a>> {
    let text = |text: String| Facts { text: text.to_lowercase(), ..Facts::default() };
    let domains = world.dma.domains.iter().map(|(&domain, row)| (Row::Domain(domain, row), row));
    let invalidations =
        world.dma.invalidations.iter().map(|(&(iommu, kind), row)| (Row::Invalidation(iommu, kind, row), row));
    let sort = ui.list().sort;
    let order = |row: &dma::Row| match sort {
        1 => row.maps.calls + row.unmaps.calls,
        2 => row.maps.amount.saturating_add(row.unmaps.amount),
        3 => row.maps.took.max().max(row.unmaps.took.max()).unwrap_or(0),
        _ => row.last,
    };
    let mut rows: Vec<(Row<'a>, &dma::Row)> = domains
        .chain(invalidations)
        .filter(|(row, _)| {
            ui.filter.matches(|| match row {
                Row::Domain(domain, _) => text(format!("{domain} domain")),
                Row::Invalidation(iommu, kind, _) => text(format!("{iommu} {kind}")),
                _ => Facts::default(),
            })
        })
        .collect();
    rows.sort_by_key(|(row, data)| (matches!(row, Row::Invalidation(..)), Reverse(order(data))));
    let at = world.at(ui);
    let faults = world.logs.dma_faults.iter().rev().filter(|told| told.span.ts <= at).filter(|told| {
        ui.filter.matches(|| match &told.span.kind {
            SpanKind::DmaFault(fault) => Facts {
                group: fault.group,
                device: fault.device,
                pasid: fault.pasid,
                text: format!("{:#x} {} {}", fault.addr, fault.access, fault.source_id.as_deref().unwrap_or_default()),
            },
            _ => Facts::default(),
        })
    });
    rows.into_iter().map(|(row, _)| row).chain(faults.map(Row::DmaFault)).collect()
}

fn violations<'a>(world: &'a World, ui: &Ui) -> Vec<Row<'a>> {
    let at = world.at(ui);
    let mut rows: Vec<(usize, &Breach)> = world
        .breaches
        .list()
        .iter()
        .enumerate()
        .filter(|(_, breach)| breach.first.ts <= at)
        .filter(|(_, breach)| {
            let (subject, violation) = (&breach.first.subject, &breach.first);
            ui.filter.matches(|| Facts {
                group: subject.group,
                device: subject.device,
                pasid: subject.pasid,
                text: format!("{} {} {}", violation.rule.slug(), violation.severity.name(), violation.message)
                    .to_lowercase(),
            })
        })
        .collect();
    match ui.list().sort {
        1 => rows.sort_by_key(|(_, breach)| Reverse(breach.count)),
        2 => rows.sort_by_key(|(_, breach)| breach.first.rule.slug()),
        _ => rows.sort_by_key(|(_, breach)| Reverse((breach.first.severity == Severity::Error, breach.last))),
    }
    rows.into_iter().map(|(place, breach)| Row::Breach(place, breach)).collect()
}

/// The probes with their programs' cost: each program is named after its probe.
#[must_use]
pub fn probe_rows(world: &World) -> Vec<ProbeRow<'_>> {
    use crate::{event::ProbeId, probes::CATALOGUE};
    let mut costs: BTreeMap<ProbeId, ProgramCost> = BTreeMap::new();
    for program in world.cost.iter().flat_map(|cost| &cost.programs) {
        let stem = program.program.rsplit_once('_').map_or(program.program.as_str(), |(stem, _)| stem);
        let Some(probe) = CATALOGUE.iter().find(|probe| probe.stem == stem) else { continue };
        let sum = costs.entry(probe.id).or_default();
        sum.runs = sum.runs.saturating_add(program.runs);
        sum.run_ns = sum.run_ns.saturating_add(program.run_ns);
    }
    let lost = &world.model.counts().lost;
    let rows = world.info.probes.iter().enumerate().map(|(place, status)| {
        let id = ProbeId::ALL.iter().copied().find(|id| id.function() == status.function);
        let of = |map: &BTreeMap<ProbeId, u64>| id.and_then(|id| map.get(&id).copied()).unwrap_or(0);
        ProbeRow {
            place,
            status,
            events: of(&world.events),
            lost: of(lost),
            cost: id.and_then(|id| costs.get(&id).cloned()),
        }
    });
    rows.collect()
}

fn probes<'a>(world: &'a World, ui: &Ui) -> Vec<Row<'a>> {
    let mut rows: Vec<ProbeRow<'a>> = probe_rows(world)
        .into_iter()
        .filter(|row| {
            ui.filter.matches(|| Facts {
                text: format!(
                    "{} {} {} {}",
                    row.status.function,
                    row.status.kind,
                    row.status.topic,
                    row.status.verdict.name()
                )
                .to_lowercase(),
                ..Facts::default()
            })
        })
        .collect();
    match ui.list().sort {
        1 => rows.sort_by_key(|row| Reverse(row.events)),
        2 => rows.sort_by_key(|row| Reverse(row.cost.as_ref().map(|cost| cost.run_ns))),
        3 => rows.sort_by_key(|row| Reverse(row.lost)),
        _ => {}
    }
    rows.into_iter().map(Row::Probe).collect()
}

/// The row that is selected, and its place: what was selected while it is there, else what is in its place.
#[must_use]
pub fn selected(rows: &[Row<'_>], ui: &Ui) -> Option<usize> {
    let list = ui.list();
    let end = rows.len().checked_sub(1)?;
    let found = list.selected.and_then(|item| rows.iter().position(|row| row.item() == item));
    Some(found.unwrap_or(list.place.min(end)))
}
