//! Options that every consumer of events takes.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::Args;

use super::parse::{self, PidArg};
use crate::{
    model::span::Topic,
    output::{Format, TimeForm},
    source::live::{LiveOptions, StackLevel},
};

/// What every consumer takes.
#[derive(Clone, Debug, Args)]
pub struct ConsumerOptions {
    /// What is shown.
    #[command(flatten)]
    pub select: SelectArgs,
    /// When it ends.
    #[command(flatten)]
    pub stop: StopArgs,
    /// How it looks.
    #[command(flatten)]
    pub output: OutputArgs,
    /// How it is traced.
    #[command(flatten)]
    pub live: LiveArgs,
}

/// The topics that are summed up with `--sums`.
const SUMMED: [Topic; 2] = [Topic::Dma, Topic::Invalidate];

impl LiveArgs {
    /// Has the topics with sums in them, where sums are wanted: by the option or, where that is the habit of the command,
    /// unless `topics` is not what it is when nobody says anything. Of a recording, what it has is taken.
    pub fn settle_sums(&mut self, topics: &mut Vec<Topic>, habit: bool) {
        let unsaid = *topics == LiveOptions::default().topics;
        self.sums |= habit && unsaid;
        if self.sums {
            topics.extend(SUMMED.into_iter().filter(|topic| !topics.contains(topic)).collect::<Vec<_>>());
        }
    }
}

/// What is shown. Options of different names must all match, several values of one are alternatives.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "What is shown (several values of one option are alternatives)")]
pub struct SelectArgs {
    /// Topics to trace; what is not among them costs nothing. `dma` and `invalidate` are many.
    #[arg(
        short,
        long,
        value_name = "LIST",
        value_delimiter = ',',
        value_enum,
        default_value = "attach,fault,sva,iommufd,reset"
    )]
    pub events: Vec<Topic>,

    /// Only events of these IOMMU groups.
    #[arg(long, value_name = "NUMBER", value_delimiter = ',', value_parser = parse::number)]
    pub group: Vec<u32>,

    /// Only events of devices with such a name, as `0000:00:02.0`; `*`, `?`, `[…]` and `{a,b}` work.
    #[arg(long, value_name = "GLOB")]
    pub device: Vec<String>,

    /// Only events of these PASIDs; `rid` stands for requests without one.
    #[arg(long, value_name = "NUMBER", value_delimiter = ',', value_parser = parse::pasid)]
    pub pasid: Vec<u32>,

    /// Only what these processes did; `command` stands for the one after `--` and its descendants. A fault belongs to
    /// the thread that reported it, often an interrupt's.
    #[arg(long, value_name = "PID", value_delimiter = ',', value_parser = parse::pid)]
    pub pid: Vec<PidArg>,

    /// Only what tasks of such a name did; globs work.
    #[arg(long, value_name = "GLOB")]
    pub comm: Vec<String>,

    /// Only what took at least this long, as `100us`: calls from entry to return, faults from report to response.
    #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
    pub min_latency: Option<Duration>,
}

/// When a run ends.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "When it ends (also on SIGINT and SIGTERM, with the summary)")]
pub struct StopArgs {
    /// End after this time.
    #[arg(long, value_name = "DURATION", value_parser = parse::duration, conflicts_with = "from")]
    pub duration: Option<Duration>,

    /// End after this many events were shown.
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,

    /// A command to start once everything is attached; the run ends with it and takes its exit status. If the run ends
    /// first, the command gets SIGTERM.
    #[arg(last = true, value_name = "CMD", conflicts_with = "from")]
    pub command: Vec<OsString>,
}

/// How it looks.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "How it looks")]
pub struct OutputArgs {
    /// Text for people, or JSON lines for programs.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,

    /// Write to this file instead of standard output.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Whose kernel stacks are shown.
    #[command(flatten)]
    pub stacks: StacksArgs,

    /// Show each stage of a fault as it happens, too.
    #[arg(long)]
    pub stages: bool,

    /// What times count from.
    #[arg(long, value_enum, default_value_t = TimeForm::Relative)]
    pub time: TimeForm,
}

/// Whose kernel stacks are taken, by a command that takes none by itself.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct StacksArgs {
    /// Take kernel stacks, and show them: of everything, or only of what is `rare`, which is all but page faults, DMA faults,
    /// mappings and invalidations. A stack costs ten times what else an event does.
    #[arg(
        id = "stacks",
        long = "stacks",
        value_name = "WHICH",
        value_enum,
        num_args = 0..=1,
        require_equals = true,
        default_value = "none",
        default_missing_value = "all"
    )]
    pub level: StackLevel,
}

impl From<StackLevel> for StacksArgs {
    fn from(level: StackLevel) -> Self {
        StacksArgs { level }
    }
}

/// Whose kernel stacks are taken, by a command that takes those of what is rare by itself.
#[derive(Clone, Copy, Debug, Args)]
pub struct RareStacksArgs {
    /// Whose kernel stacks are taken: of what is `rare`, which is all but page faults, DMA faults, mappings and invalidations,
    /// or of everything. A stack costs ten times what else an event does.
    #[arg(
        id = "stacks",
        long = "stacks",
        value_name = "WHICH",
        value_enum,
        num_args = 0..=1,
        require_equals = true,
        default_value = "rare",
        default_missing_value = "all",
        overrides_with = "no_stacks"
    )]
    asked: StackLevel,

    /// Take no kernel stacks: cheaper.
    #[arg(long, overrides_with = "stacks")]
    no_stacks: bool,
}

impl RareStacksArgs {
    /// What came of the two options.
    #[must_use]
    pub fn level(self) -> StackLevel {
        if self.no_stacks { StackLevel::None } else { self.asked }
    }
}

/// Where events come from: the running kernel, unless a recording is named.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Where it comes from, and goes besides")]
pub struct FromArgs {
    /// Read this recording in place of the running kernel; `-` is standard input. Topics that were not recorded are not
    /// there. Needs no privileges.
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["buffer_size", "track_frees"]
    )]
    pub from: Option<PathBuf>,

    /// Record everything that is seen to this file, too.
    #[arg(long, value_name = "FILE", conflicts_with = "from")]
    pub record: Option<PathBuf>,
}

/// How it is traced.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "How it is traced")]
pub struct LiveArgs {
    /// Where it comes from.
    #[command(flatten)]
    pub from: FromArgs,

    /// Room for events that wait to be read; a power of two is best. Larger loses less under a storm. Without it, 1M for
    /// each CPU, from 4M to 32M.
    #[arg(long, value_name = "SIZE", value_parser = parse::size)]
    pub buffer_size: Option<u32>,

    /// Watch the kernel's frees of memory, to find handles and fault groups that are freed while they are in use. Costs
    /// a little at each free in the kernel.
    #[arg(long)]
    pub track_frees: bool,

    /// Sum map, unmap and invalidation up in the kernel, and tell each second what they came to, in place of an event for
    /// each call. `stats`, `serve` and `top` do so unless --events names topics.
    #[arg(long)]
    pub sums: bool,

    /// Tell on standard error what the tracer itself does; twice for more.
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Rare {
        #[command(flatten)]
        stacks: RareStacksArgs,
    }

    #[test]
    fn of_two_words_about_stacks_the_last_counts() {
        let level = |words: &[&str]| Rare::try_parse_from([&["x"], words].concat()).unwrap().stacks.level();
        assert_eq!(level(&[]), StackLevel::Rare);
        assert_eq!(level(&["--stacks"]), StackLevel::All);
        assert_eq!(level(&["--stacks=rare"]), StackLevel::Rare);
        assert_eq!(level(&["--stacks", "--no-stacks"]), StackLevel::None);
        assert_eq!(level(&["--no-stacks", "--stacks=all"]), StackLevel::All);
    }
}
