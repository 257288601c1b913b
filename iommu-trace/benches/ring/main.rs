//! How much comes through the ring: producers that send records as fast as they like, and `record` as their reader.
//!
//! The ring is the kernel's, done again in memory that two processes share (`shared`). The reader is the program from there on: decoding,
//! order, thread and channel, model and rules, file. docs/performance.md has the tables that this prints.
//!
//!     cargo bench -p iommu-trace --bench ring -- --seconds 2 --soak 600
#![allow(missing_docs, clippy::unwrap_used, reason = "this is a benchmark")]

#[path = "../common/mod.rs"]
mod common;
mod load;
mod measure;
mod reader;
mod shared;

use std::{fmt::Write as _, io::Write as _, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;

use self::{
    measure::{Load, Outcome},
    shared::Shared,
};

/// Ring sizes; what `record` takes when nobody says anything is among them.
const SIZES: [usize; 4] = [1 << 20, 2 << 20, 4 << 20, 8 << 20];
const DEFAULT: usize = 2;
const PRODUCERS: [u32; 4] = [1, 4, 16, 64];
/// Records a second of all producers; none is as many as they can.
const RATES: [Option<f64>; 4] = [Some(100_000.0), Some(1_000_000.0), Some(3_000_000.0), None];
/// Records a second of the long runs.
const SOAKED: [f64; 6] = [1.0, 10.0, 100.0, 1_000.0, 10_000.0, 100_000.0];
/// What resident memory may grow by from a tenth of a long run to its end.
const GROWTH_KIB: u64 = 4 << 10;

#[derive(Parser)]
struct Arguments {
    /// Seconds of each of the runs that look for losses.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Seconds of the runs at a steady rate, which are all at once.
    #[arg(long, default_value_t = 10.0)]
    soak: f64,
    /// The reader's process: descriptors of the memory and of what wakes it, size.
    #[arg(long, hide = true, requires = "file")]
    reader: Option<String>,
    #[arg(long, hide = true)]
    file: Option<PathBuf>,
    /// `cargo bench` says so.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if let (Some(reader), Some(file)) = (&arguments.reader, &arguments.file) {
        let numbers: Vec<usize> = reader.split(',').map(str::parse).collect::<Result<_, _>>()?;
        let [memory, wake, size] = numbers[..] else { anyhow::bail!("three numbers, not {reader:?}") };
        return reader::record(Shared::inherited(size, memory as i32, wake as i32)?, file);
    }
    ensure!(arguments.seconds > 0.0 && arguments.soak > 0.0, "there is nothing to measure in no time");
    let (time, soak) = (Duration::from_secs_f64(arguments.seconds), Duration::from_secs_f64(arguments.soak));
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", losses(time)?)?;
    writeln!(out, "{}", steady(soak)?)?;
    Ok(())
}

/// How much is lost: a line for each rate and number of producers.
fn losses(time: Duration) -> Result<String> {
    let sizes: Vec<String> = SIZES.iter().map(|size| format!("{}M", size >> 20)).collect();
    let mut text = format!(
        "Records lost of those that were sent, in {:.0} seconds each; what follows is with a ring of {}:\n\n\
         | sent a second | producers | {} | recorded a second | reader's CPU, of a core | most resident, MiB |\n|--:|--:|{}--:|--:|--:|\n",
        time.as_secs_f64(),
        sizes[DEFAULT],
        sizes.iter().map(|size| format!("lost, {size}")).collect::<Vec<_>>().join(" | "),
        "--:|".repeat(sizes.len())
    );
    for producers in PRODUCERS {
        let laps = load::laps(producers);
        for rate in RATES {
            let mut outcomes = Vec::new();
            for bytes in SIZES {
                let load = Load { producers, bytes, rate, time };
                let outcome = measure::run(&load, &laps).with_context(|| format!("{load:?}"))?;
                eprintln!("{load:?}: {} of {} lost, CPU {:.2}", outcome.lost, outcome.made, outcome.cpu);
                outcomes.push(outcome);
            }
            let lost: Vec<String> = outcomes.iter().map(share).collect();
            let usual = &outcomes[DEFAULT];
            writeln!(
                text,
                "| {} | {producers} | {} | {} | {:.0} % | {} |",
                rate.map_or_else(|| format!("all they can: {}", whole(usual.made as f64 / time.as_secs_f64())), whole),
                lost.join(" | "),
                whole(usual.recorded() as f64 / usual.seconds),
                usual.cpu * 100.0,
                mib(usual.peak_kib)
            )?;
        }
    }
    Ok(text)
}

/// What a steady rate costs: a line for each.
fn steady(time: Duration) -> Result<String> {
    let producers = |rate: f64| if rate < 1_000.0 { 1 } else { 4 };
    let bytes = SIZES[DEFAULT];
    let laps = [load::laps(1), load::laps(4)];
    let outcomes: Vec<(f64, Result<Outcome>)> = std::thread::scope(|scope| {
        let laps = &laps;
        let runs = SOAKED.map(|rate| {
            let load = Load { producers: producers(rate), bytes, rate: Some(rate), time };
            let laps = &laps[usize::from(load.producers != 1)];
            (rate, scope.spawn(move || measure::run(&load, laps)))
        });
        runs.into_iter().map(|(rate, run)| (rate, run.join().unwrap())).collect()
    });
    let mut text = format!(
        "For {:.0} seconds, all at once, with a ring of {}M:\n\n\
         | records a second | recorded | lost | reader's CPU, of a core | resident at first, MiB | half-way | at the end | bytes a record in the file |\n\
         |--:|--:|--:|--:|--:|--:|--:|--:|\n",
        time.as_secs_f64(),
        bytes >> 20
    );
    for (rate, outcome) in &outcomes {
        let outcome = match outcome {
            Ok(outcome) => outcome,
            // The others have taken as long, and are as good.
            Err(error) => {
                writeln!(
                    text,
                    "| {} | {} | | | | | | |",
                    whole(*rate),
                    format!("{error:#}").replace(['\n', '|'], " ")
                )?;
                continue;
            }
        };
        let [first, middle, last] = outcome.resident_kib;
        writeln!(
            text,
            "| {} | {} | {} | {:.3} % | {} | {} | {} | {:.1} |",
            whole(*rate),
            whole(outcome.recorded() as f64),
            whole(outcome.lost as f64),
            outcome.cpu * 100.0,
            mib(first),
            mib(middle),
            mib(last),
            outcome.bytes as f64 / outcome.recorded().max(1) as f64
        )?;
        if last > first + GROWTH_KIB {
            eprintln!("{rate} a second: resident memory has grown from {first} KiB to {last} KiB");
        }
    }
    Ok(text)
}

fn share(outcome: &Outcome) -> String {
    if outcome.lost == 0 {
        return "0".to_owned();
    }
    let share = outcome.lost as f64 * 100.0 / outcome.made as f64;
    if share < 0.1 { format!("{share:.3} %") } else { format!("{share:.1} %") }
}

fn mib(kib: u64) -> String {
    format!("{:.1}", kib as f64 / 1024.0)
}

/// A number without places, its thousands apart.
fn whole(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
