//! `iommu-trace check`: judges the lives of attach handles by their rules.

use std::{ffi::OsString, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::bail;
use clap::{Args, ValueEnum};

use super::{
    ConsumerOptions, LiveArgs, OutputArgs, RareStacksArgs, SelectArgs, StopArgs, complain, log, parse, run::Run,
    session::Judging, source,
};
use crate::{
    model::{RuleId, RuleSet, span::Topic},
    output::{Format, TimeForm, stretched},
    probes::stretch::Stretch,
    sandbox::Needs,
};

/// What the rules rest on; maps, unmaps and invalidations are many and of no use to them.
const TOPICS: [Topic; 5] = [Topic::Attach, Topic::Fault, Topic::Sva, Topic::Iommufd, Topic::Reset];

/// Check that attach handles live and die by the rules.
///
/// Shows nothing but what is wrong, the moment it is found, and a summary of what was watched, what was judged, and what
/// could not be judged and why. What is not certain, because records were lost or a beginning was not seen, is counted and
/// never told as a violation.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status: 3 when a rule was broken (see --violations-exit); otherwise 0, or the command's own status; 2 for bad usage or a
failed set-up. A warning is told and counted, and changes the exit status only with --strict.

Examples:
  iommu-trace check -- ./my_test
  iommu-trace check --track-frees --duration 1m
  iommu-trace check --silence device-id-dangling --format json --output check.jsonl -- make check
  iommu-trace check --ownership refcounted -- ./my_test
  iommu-trace check --track-frees --stretch 500us@lookup,replace -- ./my_test
  iommu-trace check --from run.itr")]
pub struct Check {
    #[command(flatten)]
    arguments: CheckArgs,
}

/// What `check` takes.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// Judge only these rules, by name. (An unknown name is answered with all there are.)
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub rules: Vec<RuleId>,

    /// Do not judge these rules.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub silence: Vec<RuleId>,

    /// Who owns a handle. `refcounted` judges by the first proposal, too, and tells what it would have made of the same events.
    #[arg(long, value_enum, default_value_t = Ownership::CallerOwned)]
    pub ownership: Ownership,

    /// A page request without an answer for this long is a violation.
    #[arg(long, value_name = "DURATION", value_parser = parse::duration, default_value = "10s")]
    pub answer_timeout: Duration,

    /// Exit with this status when a rule was broken.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub violations_exit: u8,

    /// Let a warning change the exit status, too.
    #[arg(long)]
    pub strict: bool,

    /// Make races likelier: have the kernel wait so long at these steps, each time, 50ms at the most. `lookup`: a fault's handle
    /// was looked up, and its handler is not called yet. `handler`: it has just been called. `replace`: the attach op of a
    /// replace is done, and the new handle is not stored yet. Not for a machine that others work on: a CPU does
    /// nothing else meanwhile. May be given several times.
    #[arg(long, value_name = "DURATION@STEP,STEP", conflicts_with = "from")]
    pub stretch: Vec<Stretch>,

    /// End after this time.
    #[arg(long, value_name = "DURATION", value_parser = parse::duration, conflicts_with = "from")]
    pub duration: Option<Duration>,

    /// Watch on for this long when the command has ended: what it left behind is taken down then.
    #[arg(long, value_name = "DURATION", value_parser = parse::duration, default_value = "1s")]
    pub settle: Duration,

    /// A command to start once everything is attached; the run ends with it and takes its exit status. If the run ends
    /// first, the command gets SIGTERM.
    #[arg(last = true, value_name = "CMD", conflicts_with = "from")]
    pub command: Vec<OsString>,

    /// Text for people, or JSON lines for programs.
    #[arg(long, value_enum, default_value_t = Format::Text, help_heading = "How it looks")]
    pub format: Format,

    /// Write to this file instead of standard output.
    #[arg(short, long, value_name = "FILE", help_heading = "How it looks")]
    pub output: Option<PathBuf>,

    /// Whose kernel stacks are taken, and shown with the evidence.
    #[command(flatten, next_help_heading = "How it looks")]
    pub stacks: RareStacksArgs,

    /// What times count from.
    #[arg(long, value_enum, default_value_t = TimeForm::Relative, help_heading = "How it looks")]
    pub time: TimeForm,

    /// How it is traced.
    #[command(flatten)]
    pub live: LiveArgs,
}

/// By whose design handles are judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Ownership {
    /// The caller owns the handle, as merged.
    #[default]
    CallerOwned,
    /// Besides, the first proposal: the handle has a reference count and a private pointer of the caller's.
    Refcounted,
}

impl CheckArgs {
    /// The rules that are asked for; an error when none is left.
    pub fn rule_set(&self) -> anyhow::Result<RuleSet> {
        let mut rules = if self.rules.is_empty() { RuleSet::default() } else { self.rules.iter().copied().collect() };
        if self.ownership == Ownership::Refcounted {
            rules = rules.with(RuleId::PrivUnfreeable).with(RuleId::FreedWhileReferenced);
        }
        for &rule in &self.silence {
            rules = rules.without(rule);
        }
        if rules == RuleSet::NONE {
            bail!("--silence leaves no rule to judge");
        }
        Ok(rules)
    }

    /// As every consumer of events takes them.
    #[must_use]
    pub fn consumer(&self) -> ConsumerOptions {
        ConsumerOptions {
            select: SelectArgs { events: TOPICS.to_vec(), ..SelectArgs::default() },
            stop: StopArgs { duration: self.duration, count: None, command: self.command.clone() },
            output: OutputArgs {
                format: self.format,
                output: self.output.clone(),
                stacks: self.stacks.level().into(),
                stages: false,
                time: self.time,
            },
            live: self.live.clone(),
        }
    }

    /// What makes it a check.
    pub fn judging(&self) -> anyhow::Result<Judging> {
        Ok(Judging {
            rules: self.rule_set()?,
            refcounted: self.ownership == Ownership::Refcounted,
            answer_timeout: self.answer_timeout,
            settle: self.settle,
            violations_exit: self.violations_exit,
            strict: self.strict,
            track_frees: self.live.track_frees,
        })
    }
}

impl Check {
    pub(super) fn run(&self) -> anyhow::Result<ExitCode> {
        let arguments = &self.arguments;
        log::to_stderr(arguments.live.verbose);
        let options = arguments.consumer();
        let run = Run::new(&options)?.judging(arguments.judging()?);
        let source = source::open_stretched(&options, &TOPICS, &Needs::NOTHING, &arguments.stretch)?;
        if let Some(told) = stretched(&source.info().stretched) {
            complain("warning", &told);
        }
        run.consume(source)
    }
}
