//! One measurement: a reader's process, producers, and what became of it.

use std::{
    fs,
    io::Read as _,
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::{
    load::{self, Lap},
    shared::Ring,
};

/// How long the reader may take to begin, and to come to the end of what is in the ring.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub producers: u32,
    /// Of the ring.
    pub bytes: usize,
    /// Records a second of all producers together; as many as they can if there is none.
    pub rate: Option<f64>,
    pub time: Duration,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub made: u64,
    pub lost: u64,
    /// From the first record to the moment that the recording was complete.
    pub seconds: f64,
    /// Of a core, of all threads of the reader's process.
    pub cpu: f64,
    /// Resident memory a tenth after the beginning, half-way, and at the end.
    pub resident_kib: [u64; 3],
    pub peak_kib: u64,
    /// Of the file.
    pub bytes: u64,
}

impl Outcome {
    /// Records that came through.
    pub fn recorded(&self) -> u64 {
        self.made - self.lost
    }
}

/// Runs it.
pub fn run(load: &Load, laps: &[Lap]) -> Result<Outcome> {
    let ring = Ring::new(load.bytes)?;
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("ring.itr");
    let mut reader = start(&ring, &file)?;
    let measured = measure(load, laps, &ring, &reader);
    // However it went: nothing is left running.
    let ended = end(&mut reader);
    let (mut outcome, began, before) = measured?;
    let (said, at) = ended?;
    outcome.seconds = at.duration_since(began).as_secs_f64();
    outcome.bytes = fs::metadata(&file)?.len();
    check(&outcome, before, &said)?;
    Ok(outcome)
}

fn measure(load: &Load, laps: &[Lap], ring: &Ring, reader: &Child) -> Result<(Outcome, Instant, u64)> {
    let pid = reader.id();
    wait(|| ring.shared.is_read().load(Ordering::Acquire) != 0).context("the reader did not begin")?;
    let before = load::begin(ring, laps);
    wait(|| ring.shared.is_empty()).context("the reader is behind before anything has begun")?;
    let (began, used, stop) = (Instant::now(), cpu(pid)?, AtomicBool::new(false));
    let mut resident_kib = [0; 3];
    let sent = thread::scope(|scope| -> Result<load::Sent> {
        let producers = scope.spawn(|| load::run(ring, laps, load.rate, load.time, &stop));
        let looked = [0.1, 0.5, 0.99].iter().zip(&mut resident_kib).try_for_each(|(part, resident)| {
            thread::sleep(load.time.mul_f64(*part).saturating_sub(began.elapsed()));
            *resident = memory(pid, "VmRSS:")?;
            anyhow::Ok(())
        });
        stop.store(looked.is_err(), Ordering::Relaxed);
        let sent = producers.join().expect("producers have no reason to panic");
        looked.map(|()| sent)
    })?;
    wait(|| ring.shared.is_empty()).context("the reader does not come to the end")?;
    let cpu = (cpu(pid)? - used) / began.elapsed().as_secs_f64();
    let peak_kib = memory(pid, "VmHWM:")?;
    let outcome = Outcome { made: sent.made, lost: sent.lost, cpu, resident_kib, peak_kib, ..Outcome::default() };
    Ok((outcome, began, before))
}

fn wait(mut is_so: impl FnMut() -> bool) -> Result<()> {
    let since = Instant::now();
    while !is_so() {
        ensure!(since.elapsed() < PATIENCE, "gave up after {PATIENCE:?}");
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn start(ring: &Ring, file: &Path) -> Result<Child> {
    let (memory, wake) = ring.shared.descriptors();
    Command::new(std::env::current_exe()?)
        .arg("--reader")
        .arg(format!("{memory},{wake},{}", ring.shared.size()))
        .arg("--file")
        .arg(file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start the reader")
}

/// Ends the reader as a user does; what it said, and when it was done.
fn end(reader: &mut Child) -> Result<(String, Instant)> {
    kill_process(Pid::from_child(reader), Signal::TERM).context("the reader has ended by itself")?;
    let mut said = String::new();
    if let Some(stderr) = &mut reader.stderr {
        stderr.read_to_string(&mut said)?;
    }
    let status = reader.wait()?;
    ensure!(status.success(), "the reader: {status}\n{said}");
    Ok((said, Instant::now()))
}

/// Whatever was lost: all else is recorded, what is lost is told, and no rule fires on it.
fn check(outcome: &Outcome, before: u64, said: &str) -> Result<()> {
    let Some(line) = said.lines().find(|line| line.contains(" events in ")) else { bail!("the reader said: {said}") };
    let number = |end: &str| -> Result<u64> {
        let words = line.split(end).next().unwrap_or_default();
        let word = words.rsplit(|letter: char| !letter.is_ascii_digit()).next().unwrap_or_default();
        word.parse().with_context(|| format!("no number before {end:?} in {line:?}"))
    };
    ensure!(number(" lost")? == outcome.lost, "{} were lost, and the reader says: {line}", outcome.lost);
    ensure!(number(" violations")? == 0, "the stream is lawful, and the reader says:\n{said}");
    let (events, least) = (number(" events")?, before + outcome.recorded());
    // A loss is an event, too.
    ensure!(
        events == least || outcome.lost > 0 && events > least,
        "{least} records came through the ring, and the reader says: {line}"
    );
    Ok(())
}

/// Seconds that all threads of a process were on a CPU.
fn cpu(pid: u32) -> Result<f64> {
    let mut nanoseconds = 0.0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        let first = text.split_whitespace().next().context("an empty schedstat")?;
        nanoseconds += first.parse::<f64>()?;
    }
    Ok(nanoseconds / 1e9)
}

fn memory(pid: u32, name: &str) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
