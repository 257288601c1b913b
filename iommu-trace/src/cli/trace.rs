//! `iommu-trace trace`: prints events as they happen.

use std::process::ExitCode;

use clap::Args;

use super::{ConsumerOptions, complain, log, run::Run, source};
use crate::{kernel, sandbox::Needs};

/// Print attachments, page faults and what belongs to them as they happen.
///
/// One line an event, once it is whole: a call when it has returned, a fault when it was answered and freed. Ends on
/// Ctrl-C with a summary.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  iommu-trace trace
  iommu-trace trace --events fault --device '0000:3b:*' --min-latency 100us
  iommu-trace trace --format json --output trace.jsonl --stacks -- ./my_test
  iommu-trace trace --from run.itr --device '0000:3b:*'")]
pub struct Trace {
    #[command(flatten)]
    options: ConsumerOptions,
}

impl Trace {
    pub(super) fn run(&self) -> anyhow::Result<ExitCode> {
        let mut options = self.options.clone();
        options.live.settle_sums(&mut options.select.events, false);
        let options = &options;
        log::to_stderr(options.live.verbose);
        let run = Run::new(options)?;
        if options.live.from.from.is_none() {
            warn_of_the_unknown(&run, options);
        }
        let source = source::open_filtered(options, &options.select.events, &Needs::NOTHING, run.filter())?;
        run.consume(source)
    }
}

/// A device or group that is not there may still come: that is worth a word, not a refusal.
fn warn_of_the_unknown(run: &Run<'_>, options: &ConsumerOptions) {
    let groups = kernel::iommu_groups();
    let devices: Vec<String> = groups.iter().flat_map(|group| kernel::group_devices(group)).collect();
    if !options.select.device.is_empty() && !devices.iter().any(|name| run.filter().wants_device(name)) {
        let there = match devices.len() {
            0 => "no device is in an IOMMU group".to_owned(),
            1..=8 => format!("there are {}", devices.join(", ")),
            many => format!("there are {many}, such as {}", devices[..4].join(", ")),
        };
        complain("warning", &format!("no device matches --device {} now; {there}", options.select.device.join(" ")));
    }
    let known = |number: u32| groups.iter().any(|path| path.file_name().is_some_and(|n| *n == *number.to_string()));
    for number in options.select.group.iter().filter(|&&number| !known(number)) {
        complain("warning", &format!("there is no IOMMU group {number} now; there are {}", groups.len()));
    }
}
