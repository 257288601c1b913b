//! The loop: keys, signals, the command, and a picture when there is something new to see.
//!
//! A picture is drawn into memory while the state is held, and written to the terminal after it was let go: a terminal
//! that does not read holds up nobody but itself.

use std::{
    io::{self, BufWriter, Stdout, Write as _, stdout},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use crossterm::event::{Event as Input, EventStream};
use futures_util::StreamExt as _;
use ratatui::{Terminal, backend::CrosstermBackend, buffer::Buffer, layout::Rect};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::Mutex,
    time::sleep_until,
};

use super::{
    engine::Engine,
    keys::{Key, on_key},
    playback::Player,
    state::{
        Own, Ui, World,
        save::json,
        ui::{Order, Time},
        update::{happened, update},
    },
    terminal::{Screen, again, copy, restore},
    view,
};
use crate::{output::create_new, source};

/// The least time between two pictures, keys or not.
const LEAST_FRAME: Duration = Duration::from_millis(33);
/// How often costs are looked at.
const SAMPLE: Duration = Duration::from_secs(1);

/// What is to be shown, and how.
pub struct Dashboard {
    /// The state.
    pub world: Arc<Mutex<World>>,
    /// What feeds it; replaced when a recording is played from another time on.
    pub engine: Engine,
    /// The recording's player, where it is one.
    pub player: Option<Player>,
    /// Makes a state in which nothing has happened.
    pub fresh: Box<dyn Fn() -> World>,
    /// What is looked at.
    pub ui: Ui,
    /// The time between two pictures when no key is pressed.
    pub interval: Duration,
    /// Where states are saved.
    pub save_to: PathBuf,
}

/// Something that ends by itself while the dashboard runs, as the command after `--`.
pub trait Companion {
    /// Waits for its end and tells of it; never returns again after that. Cancel safe.
    fn ended(&mut self) -> impl Future<Output = anyhow::Result<String>>;
}

/// Nobody.
pub struct Alone;

impl Companion for Alone {
    async fn ended(&mut self) -> anyhow::Result<String> {
        std::future::pending().await
    }
}

/// The signals that are of interest to who holds a terminal.
struct Signals {
    end: [Signal; 3],
    stop: Signal,
    go_on: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Signals {
            end: [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?],
            stop: signal(SignalKind::from_raw(libc::SIGTSTP))?,
            go_on: signal(SignalKind::from_raw(libc::SIGCONT))?,
        })
    }
}

/// Shows it until somebody leaves or a deadline has come.
pub async fn run(
    mut dashboard: Dashboard,
    companion: &mut impl Companion,
    deadline: Option<Duration>,
) -> anyhow::Result<()> {
    let mut signals = Signals::new().context("cannot handle signals")?;
    let _screen = Screen::take().context("cannot take the terminal")?;
    let mut terminal = Terminal::new(CrosstermBackend::new(BufWriter::with_capacity(1 << 16, stdout())))
        .context("cannot use the terminal")?;
    let mut inputs = EventStream::new();
    let began = Instant::now();
    let deadline = deadline.and_then(|after| began.checked_add(after));
    let mut sampler = Sampler::new();
    let mut drawn: Option<Instant> = None;
    let mut shown = u64::MAX;
    let mut dirty = true;
    loop {
        let now = Instant::now();
        let due = match drawn {
            None => now,
            Some(last) => last + if dirty { LEAST_FRAME } else { dashboard.interval.max(LEAST_FRAME) },
        };
        let mut draw = false;
        let [interrupt, terminate, hangup] = &mut signals.end;
        tokio::select! {
            biased;
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            _ = hangup.recv() => break,
            _ = signals.stop.recv() => dashboard.ui.orders.push(Order::Suspend),
            _ = signals.go_on.recv() => {
                again().context("cannot take the terminal again")?;
                dashboard.ui.orders.push(Order::Redraw);
            }
            input = inputs.next() => match input {
                // The terminal is gone.
                None | Some(Err(_)) => break,
                Some(Ok(Input::Key(key))) => {
                    if let Some(action) = Key::from_event(&key).and_then(|key| on_key(key, dashboard.ui.mode())) {
                        update(&mut dashboard.ui, &mut *dashboard.world.lock().await, action);
                        dirty = true;
                    }
                }
                Some(Ok(Input::Resize(..))) => dirty = true,
                Some(Ok(_)) => {}
            },
            ended = companion.ended() => {
                dashboard.world.lock().await.command = Some(ended?);
                dirty = true;
            }
            () = until(deadline) => break,
            () = sleep_until(due.into()) => draw = true,
        }
        for order in std::mem::take(&mut dashboard.ui.orders) {
            match order {
                Order::Quit => return Ok(()),
                Order::Suspend => suspend(&mut terminal)?,
                Order::Redraw => clear(&mut terminal)?,
                order => dashboard.carry_out(order).await,
            }
            dirty = true;
        }
        if !draw {
            continue;
        }
        let mut world = dashboard.world.lock().await;
        sampler.sample(&mut world, &dashboard.engine);
        world.played = dashboard.player.as_ref().map(Player::played);
        happened(&mut dashboard.ui, &world);
        // Nothing moves on a paused screen.
        let moved = dashboard.ui.time == Time::Live && world.now != shown;
        if dirty || moved || sampler.fresh {
            shown = world.now;
            let size = terminal.size().context("cannot ask the terminal for its size")?;
            let area = Rect::new(0, 0, size.width, size.height);
            let mut picture = Buffer::empty(area);
            dashboard.ui.page = view::draw(&mut picture, area, &world, &dashboard.ui);
            drop(world);
            show(&mut terminal, &picture).context("cannot write to the terminal")?;
            (dirty, sampler.fresh) = (false, false);
        }
        drawn = Some(Instant::now());
    }
    Ok(())
}

type Screened = Terminal<CrosstermBackend<BufWriter<Stdout>>>;

fn show(terminal: &mut Screened, picture: &Buffer) -> io::Result<()> {
    terminal
        .draw(|frame| {
            // It may have been resized since.
            let area = frame.area().intersection(picture.area);
            let buffer = frame.buffer_mut();
            for position in area.positions() {
                if let (Some(to), Some(from)) = (buffer.cell_mut(position), picture.cell(position)) {
                    to.clone_from(from);
                }
            }
        })
        .map(drop)
}

/// Gives the terminal back, stops, and takes it again when the shell lets us go on.
fn suspend(terminal: &mut Screened) -> anyhow::Result<()> {
    restore();
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::STOP).context("cannot stop")?;
    again().context("cannot take the terminal again")?;
    clear(terminal)
}

/// Clears the screen, so that the next picture is written whole. (`Terminal::clear` asks the terminal where its cursor is,
/// and the answer would be read as keys.)
fn clear(terminal: &mut Screened) -> anyhow::Result<()> {
    let size = terminal.size().context("cannot ask the terminal for its size")?;
    terminal.resize(Rect::new(0, 0, size.width, size.height)).context("cannot clear the terminal")
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

impl Dashboard {
    async fn carry_out(&mut self, order: Order) {
        let done = match order {
            Order::Copy(text) => copy(&text).context("cannot hand it to the terminal").map(|()| None),
            Order::Save => self.save().await.map(Some),
            Order::Speed(speed) => {
                if let Some(player) = &self.player {
                    player.set_speed(speed);
                }
                Ok(None)
            }
            Order::Hold(held) => {
                if let Some(player) = &self.player {
                    player.hold(held);
                }
                Ok(None)
            }
            Order::Seek(ts) => self.seek(ts).await.map(|()| None),
            Order::Suspend | Order::Redraw | Order::Quit => Ok(None),
        };
        match done {
            Ok(None) => {}
            Ok(Some(note)) => self.ui.note = Some(note),
            Err(error) => self.ui.note = Some(format!("{error:#}")),
        }
    }

    /// Plays the recording from another time on: everything before that is applied anew.
    async fn seek(&mut self, ts: u64) -> anyhow::Result<()> {
        let Some(player) = &self.player else { return Ok(()) };
        let stream = source::spawn(player.play_from(ts)?)?;
        let world = Arc::new(Mutex::new((self.fresh)()));
        // The old one is let go first: it holds the old state.
        self.engine = Engine::start(stream, Arc::clone(&world))?;
        {
            let mut new = world.lock().await;
            new.played = Some(player.played());
        }
        self.world = world;
        self.ui.detail = None;
        self.ui.device = None;
        self.ui.frozen = None;
        Ok(())
    }

    async fn save(&self) -> anyhow::Result<String> {
        let (document, text, seconds) = {
            let world = self.world.lock().await;
            let text = self.ui.detail.and_then(|_| view::detail_text(&world, &self.ui));
            (
                json(&world, &self.ui).context("cannot write the state as JSON")?,
                text,
                world.at(&self.ui) / 1_000_000_000,
            )
        };
        let stem = format!("iommu-trace-top-{seconds}");
        let path = write_new(&self.save_to, &stem, "json", document.as_bytes())?;
        let mut note = format!("saved {}", path.display());
        if let Some(text) = text {
            let path = write_new(&self.save_to, &stem, "txt", text.as_bytes())?;
            note = format!("{note} and {}", path.display());
        }
        Ok(note)
    }
}

/// Writes a file that was not there before.
fn write_new(dir: &Path, stem: &str, extension: &str, bytes: &[u8]) -> anyhow::Result<PathBuf> {
    let mut number = 0;
    loop {
        let suffix = if number == 0 { String::new() } else { format!("-{number}") };
        let path = dir.join(format!("{stem}{suffix}.{extension}"));
        match create_new(&path) {
            Ok(mut file) => {
                file.write_all(bytes).with_context(|| format!("cannot write {}", path.display()))?;
                return Ok(path);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < 1000 => number += 1,
            Err(error) => return Err(error).with_context(|| format!("cannot create {}", path.display())),
        }
    }
}

/// Looks at what the tool and its programs take.
struct Sampler {
    at: Instant,
    cpu: Option<Duration>,
    bpf: Option<(u64, Instant)>,
    /// Whether there is something new.
    fresh: bool,
}

impl Sampler {
    fn new() -> Self {
        Sampler { at: Instant::now(), cpu: cpu_time(), bpf: None, fresh: false }
    }

    fn sample(&mut self, world: &mut World, engine: &Engine) {
        let (now, elapsed) = (Instant::now(), self.at.elapsed());
        if elapsed < SAMPLE {
            return;
        }
        let cpu = cpu_time();
        if let (Some(before), Some(after), Some(memory)) = (self.cpu, cpu, memory()) {
            let cpu = after.saturating_sub(before).as_secs_f64() / elapsed.as_secs_f64();
            world.own = Some(Own { cpu, memory });
        }
        if let Some(cost) = engine.control().cost().filter(|cost| !cost.programs.is_empty()) {
            let run_ns = cost.programs.iter().fold(0_u64, |sum, program| sum.saturating_add(program.run_ns));
            // A kernel that keeps no statistics says zero, whatever ran.
            world.bpf_cpu = self.bpf.filter(|_| run_ns > 0).map(|(before, at)| {
                run_ns.saturating_sub(before) as f64 / now.duration_since(at).as_nanos().max(1) as f64
            });
            self.bpf = Some((run_ns, now));
            world.cost = Some(cost);
        }
        (self.at, self.cpu, self.fresh) = (now, cpu, true);
    }
}

/// Processor time that this process has taken.
fn cpu_time() -> Option<Duration> {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Some(Duration::new(u64::try_from(time.tv_sec).ok()?, u32::try_from(time.tv_nsec).ok()?))
}

/// Memory of this process that is resident.
fn memory() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}
