//! `iommu-trace handles`: what is attached now.

use std::{io::Write as _, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};
use clap::Args;
use globset::GlobSet;

use super::{
    complain, filter, log,
    parse::{self, Moment},
    source,
};
use crate::{
    event::{Body, Event, ProbeId},
    model::{Effects, Model, ModelOptions, RuleSet, snapshot_events},
    output::{Holdings, Output, Seen},
    probes::Verdict,
    sandbox::{self, Needs},
    source::{
        Batch, Progress, Source,
        live::{self, LiveOptions},
    },
};

/// How long one poll may wait; the source is stopped, so that there is nothing to wait for.
const POLL: Duration = Duration::from_millis(50);

/// Show what is attached now: groups, their devices and domains, and the handle in each slot.
///
/// A slot is a place for one domain: the RID's (requests without a PASID), or one PASID's.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  iommu-trace handles
  iommu-trace handles --device '0000:3b:*'
  iommu-trace handles --json | jq '.groups[].slots[] | select(.owner == \"iommufd\")'
  iommu-trace handles --from run.itr --at 2.5s")]
pub struct Handles {
    /// Only these IOMMU groups.
    #[arg(long, value_name = "NUMBER", value_delimiter = ',', value_parser = parse::number)]
    group: Vec<u32>,

    /// Only groups that have a device of such a name, as `0000:00:02.0`; `*`, `?`, `[…]` and `{a,b}` work.
    #[arg(long, value_name = "GLOB")]
    device: Vec<String>,

    /// Only these PASIDs' slots, and groups that have one; `rid` stands for requests without one.
    #[arg(long, value_name = "NUMBER", value_delimiter = ',', value_parser = parse::pasid)]
    pasid: Vec<u32>,

    /// One JSON document for programs.
    #[arg(long)]
    json: bool,

    /// Show what was attached in this recording, in place of the running kernel; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,

    /// At this time of the recording: a duration since its beginning, as 2.5s, or a time in UTC. Its end otherwise.
    #[arg(long, value_name = "TIME", value_parser = parse::moment, requires = "from", allow_hyphen_values = true)]
    at: Option<Moment>,

    /// Tell on standard error what the tracer itself does; twice for more.
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
}

impl Handles {
    pub(super) fn run(&self) -> anyhow::Result<ExitCode> {
        log::to_stderr(self.verbose);
        let devices = filter::globs("--device", &self.device)?;
        let mut holdings = if let Some(path) = &self.from {
            holdings_at(Box::new(source::recorded(path, &Needs::NOTHING)?), self.at)?
        } else {
            let source = live::open(&LiveOptions {
                topics: Vec::new(),
                verbose: self.verbose > 0,
                snapshot: true,
                ..LiveOptions::default()
            })?;
            // This thread reads it.
            sandbox::enter(&source.needs())?;
            holdings(source)?
        };
        if holdings.lost > 0 {
            complain("warning", &format!("{} pieces were lost, what is shown is not complete", holdings.lost));
        }
        self.select(&mut holdings, devices.as_ref());
        let mut output = Output::stdout();
        let text = if self.json { holdings.json()? } else { holdings.text(output.palette()) };
        output.write_all(text.as_bytes())?;
        output.flush()?;
        Ok(ExitCode::SUCCESS)
    }

    fn select(&self, holdings: &mut Holdings, devices: Option<&GlobSet>) {
        let filtered = !(self.group.is_empty() && self.pasid.is_empty()) || devices.is_some();
        if !filtered {
            return;
        }
        let before = holdings.groups.len();
        holdings.groups.retain(|group| self.group.is_empty() || group.group.is_some_and(|n| self.group.contains(&n)));
        holdings.groups.retain(|group| {
            devices.is_none_or(|globs| group.devices.iter().any(|name| globs.is_match(name.to_string())))
        });
        if !self.pasid.is_empty() {
            for group in &mut holdings.groups {
                group.slots.retain(|slot| self.pasid.contains(&slot.pasid));
            }
            holdings.groups.retain(|group| !group.slots.is_empty());
        }
        holdings.left_out = before - holdings.groups.len();
    }
}

/// Stops the source and reads what it has: the whole snapshot, when it was opened for one.
pub fn holdings(mut source: Box<dyn Source>) -> anyhow::Result<Holdings> {
    let function = ProbeId::GroupShowType.function();
    if let Some(probe) = source.info().probes.iter().find(|probe| probe.function == function)
        && probe.verdict != Verdict::Ok
    {
        let reason = probe.reason.as_deref().unwrap_or("the reason is not known");
        bail!("cannot read what is attached: {function} is not probed ({reason}). `iommu-trace doctor` tells more");
    }
    source.stop().context("cannot end the reading of what is attached")?;
    let info = source.info().clone();
    let mut model = Model::new(info.features.clone(), ModelOptions::default());
    let mut effects = Effects::default();
    let mut pieces: Vec<Event> = Vec::new();
    loop {
        let mut batch = Batch::default();
        let progress = source.poll(POLL, &mut batch)?;
        for event in &batch.events {
            model.apply(event, &mut effects);
            effects.clear();
        }
        pieces.extend(batch.events);
        if progress == Progress::End {
            break;
        }
    }
    Ok(Holdings::collect(&info, &pieces, &Seen::of(&model)))
}

/// What the mirror holds at a time of a recording, or at its end.
pub fn holdings_at(mut source: Box<dyn Source>, at: Option<Moment>) -> anyhow::Result<Holdings> {
    let info = source.info().clone();
    let until = at.map_or(u64::MAX, |at| at.ts(info.started_ns, info.epoch_offset_ns));
    let options = ModelOptions { rules: RuleSet::NONE, ..ModelOptions::default() };
    let mut model = Model::new(info.features.clone(), options);
    let mut effects = Effects::default();
    let mut lost = Vec::new();
    let mut newest = info.started_ns;
    'all: loop {
        let mut batch = Batch::default();
        let progress = source.poll(POLL, &mut batch)?;
        for event in batch.events {
            if event.ts > until {
                break 'all;
            }
            newest = newest.max(event.ts);
            model.apply(&event, &mut effects);
            effects.clear();
            if matches!(event.body, Body::Lost { .. }) {
                lost.push(event);
            }
        }
        if progress == Progress::End {
            break;
        }
    }
    let mut pieces = lost;
    pieces.extend(snapshot_events(model.mirror(), if at.is_some() { until } else { newest }));
    Ok(Holdings::collect(&info, &pieces, &Seen::of(&model)))
}
