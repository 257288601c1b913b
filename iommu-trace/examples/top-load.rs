//! The dashboard under a storm that is made here, to measure what it costs: `--rate` events a second until it is left.
//!
//!     cargo run --release -p iommu-trace --example top-load -- --rate 100000
//!
//! The events are those of page faults of many devices, from report to free, with an attach, a replace and a detach now and
//! then. At the end it prints how many events were applied, and the process's own processor time by thread.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Parser;
use iommu_trace::{
    event::Event,
    model::{
        ModelOptions,
        span::Topic,
        testing::{Dev, Hnd, Req, Script, dev, group, hnd, kernel_7_3},
    },
    source::{self, Batch, NoStacks, Progress, Source, SourceInfo, Stacks},
    tui::{
        engine::Engine,
        run::{Alone, Dashboard, run},
        state::{Ui, World},
    },
};

#[derive(Parser)]
struct Arguments {
    /// Events a second.
    #[arg(long, default_value_t = 100_000)]
    rate: u64,
    /// Devices, each with a handle.
    #[arg(long, default_value_t = 64)]
    devices: u32,
    /// Leave after so many seconds.
    #[arg(long)]
    seconds: Option<u64>,
    /// Milliseconds between two pictures.
    #[arg(long, default_value_t = 250)]
    interval: u64,
}

/// Gives as many events as the time that has passed asks for.
struct Storm {
    info: SourceInfo,
    rate: u64,
    began: Instant,
    given: u64,
    script: Script,
    waiting: VecDeque<Event>,
    devices: Vec<(Dev, Hnd)>,
    round: u32,
    stopped: bool,
}

impl Storm {
    fn new(rate: u64, devices: u32) -> Self {
        let mut script = Script::new();
        let devices: Vec<(Dev, Hnd)> = (1..=devices)
            .map(|n| {
                let device = dev(n);
                (device, hnd(n, &device))
            })
            .collect();
        for (device, handle) in &devices {
            script.by(1).attach(device, 0, handle);
        }
        let info = SourceInfo {
            kernel: "none".into(),
            host: "storm".into(),
            features: kernel_7_3(),
            started_ns: script.now,
            settled: false,
            ..SourceInfo::default()
        };
        Storm {
            info,
            rate,
            began: Instant::now(),
            given: 0,
            script,
            waiting: VecDeque::new(),
            devices,
            round: 0,
            stopped: false,
        }
    }

    fn more(&mut self) {
        self.round = self.round.wrapping_add(1);
        let round = self.round;
        let (device, handle) = self.devices[round as usize % self.devices.len()];
        let request = Req::new(None, round % 512, u64::from(round) << 12);
        let address = group(round % 4096);
        let script = &mut self.script;
        script.by(100 + round % 4).fault(address, &device, &request, &handle);
        script.by(200).read(device.id, &request, round).write(address, &device, &request, &handle, round % 50 / 49);
        self.waiting.extend(script.events.drain(..));
    }
}

impl Source for Storm {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn poll(&mut self, timeout: Duration, batch: &mut Batch) -> anyhow::Result<Progress> {
        let elapsed = self.began.elapsed();
        let wanted = (elapsed.as_secs_f64() * self.rate as f64) as u64;
        let now = self.info.started_ns + elapsed.as_nanos() as u64;
        let from = self.given;
        while self.given < wanted && batch.events.len() < 8192 {
            if self.waiting.is_empty() {
                self.more();
            }
            batch.events.extend(self.waiting.pop_front());
            self.given += 1;
        }
        // Spread over the time that has passed since the last ones.
        let (count, began) =
            (batch.events.len() as u64, self.info.started_ns + from * 1_000_000_000 / self.rate.max(1));
        for (n, event) in (0..).zip(&mut batch.events) {
            event.ts = began + n * 1_000_000_000 / self.rate.max(1);
        }
        batch.upto = if count == 8192 { batch.events.last().map_or(0, |event| event.ts) } else { now };
        if batch.events.is_empty() {
            std::thread::sleep(timeout.min(Duration::from_millis(2)));
        }
        Ok(if self.stopped { Progress::End } else { Progress::More })
    }

    fn stop(&mut self) -> anyhow::Result<()> {
        self.stopped = true;
        Ok(())
    }

    fn stacks(&self) -> Arc<dyn Stacks> {
        Arc::new(NoStacks)
    }
}

/// Processor time of each thread, in hundredths of a second.
fn threads() -> Vec<(String, u64)> {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return Vec::new() };
    let stats = tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok());
    stats
        .filter_map(|stat| {
            let (head, tail) = stat.rsplit_once(')')?;
            let name = head.split_once('(')?.1.to_owned();
            let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
            Some((name, fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?))
        })
        .collect()
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let stream = source::spawn(Box::new(Storm::new(arguments.rate, arguments.devices)))?;
    let info = Arc::clone(stream.info());
    let fresh = move || World::new(Arc::clone(&info), vec![Topic::Attach, Topic::Fault], ModelOptions::default());
    let world = Arc::new(tokio::sync::Mutex::new(fresh()));
    let engine = Engine::start(stream, Arc::clone(&world))?;
    let dashboard = Dashboard {
        world: Arc::clone(&world),
        engine,
        player: None,
        fresh: Box::new(fresh),
        ui: Ui::default(),
        interval: Duration::from_millis(arguments.interval),
        save_to: PathBuf::from("."),
    };
    let began = Instant::now();
    let own = std::thread::spawn(move || {
        let mut last = Vec::new();
        // Threads that have ended are not told any more: what was told last counts.
        while Arc::strong_count(&world) > 1 {
            last = threads();
            std::thread::sleep(Duration::from_millis(100));
        }
        (last, world)
    });
    run(dashboard, &mut Alone, arguments.seconds.map(Duration::from_secs)).await?;
    let elapsed = began.elapsed().as_secs_f64();
    let (threads, world) = own.join().map_err(|_| anyhow::anyhow!("the thread that measures has failed"))?;
    let world = world.lock().await;
    let events = world.model.counts().events;
    println!("{events} events in {elapsed:.1} s: {:.0} a second", events as f64 / elapsed);
    for (name, hundredths) in threads {
        println!("{name:<16} {:5.1}% of a CPU", hundredths as f64 / elapsed);
    }
    Ok(())
}
