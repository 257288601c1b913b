//! `iommu-trace top`: the live dashboard.

use std::{
    ffi::OsString,
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum as _};

use super::{
    Filter, LiveArgs, RareStacksArgs, SelectArgs,
    command::{Workload, find_command},
    log, mirror, parse,
    processes::Descendants,
};
use crate::{
    model::{
        ModelOptions,
        span::{Span, Topic},
    },
    output::{CommandEnd, Target, quoted},
    recording::{self, Header, Tee},
    sandbox::{self, Grant, Needs},
    source::{
        self, Source,
        live::{self, Groups, LiveOptions},
    },
    tui::{
        engine::Engine,
        playback::Player,
        run::{Alone, Companion, Dashboard, run},
        state::{Ui, World},
    },
};

/// Watch everything live: who is attached to what, who faults, how slowly, and whether a rule was broken.
///
/// Seven views, on the number keys and Tab; `?` shows every key. The time can be stopped and stepped through while
/// everything goes on being taken note of.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  iommu-trace top
  iommu-trace top --dma --device '0000:3b:*'
  iommu-trace top -- ./my_test
  iommu-trace top --from trace.itr --speed 4")]
pub struct Top {
    #[command(flatten)]
    select: SelectArgs,

    /// Trace each map, unmap and invalidation for the DMA view, with durations, in place of their sums: they are many, and
    /// cost a little each.
    #[arg(
        long,
        conflicts_with = "from",
        help_heading = "What is shown (several values of one option are alternatives)"
    )]
    dma: bool,

    /// Leave after this time.
    #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
    duration: Option<Duration>,

    /// A command to start once everything is attached. The dashboard stays when it ends; leaving sends it SIGTERM.
    #[arg(last = true, value_name = "CMD", conflicts_with = "from")]
    command: Vec<OsString>,

    /// Where the command's output goes, as the screen is taken; it is dropped otherwise.
    #[arg(long, value_name = "FILE", requires = "command")]
    command_output: Option<PathBuf>,

    /// Time between two pictures while no key is pressed.
    #[arg(long, value_name = "DURATION", value_parser = parse::duration, default_value = "250ms", help_heading = "How it looks")]
    interval: Duration,

    /// Draw with ASCII alone; this is the default where the locale is not UTF-8, and on the Linux console.
    #[arg(long, help_heading = "How it looks")]
    ascii: bool,

    #[command(flatten, next_help_heading = "How it is traced")]
    stacks: RareStacksArgs,

    /// Play a recording at so many times real time.
    #[arg(long, value_name = "N", default_value_t = 1.0, value_parser = speed, requires = "from", help_heading = "How it looks")]
    speed: f64,

    #[command(flatten)]
    live: LiveArgs,
}

/// Where states are saved.
const SAVE_TO: &str = ".";

/// A speed that a recording can be played at.
fn speed(text: &str) -> Result<f64, String> {
    let speed = text.trim_end_matches('x').parse().ok().filter(|speed| (1.0 / 64.0..=1024.0).contains(speed));
    speed.ok_or_else(|| "not a number from 1/64 (0.015625) to 1024".to_owned())
}

impl Top {
    pub(super) fn run(&self) -> anyhow::Result<ExitCode> {
        let filter = Filter::new(&self.select)?;
        let program = self.command.first().map(OsString::as_os_str).map(find_command).transpose()?;
        if filter.follows_command() && program.is_none() {
            bail!("`--pid command` stands for the command after `--`, and there is none");
        }
        if !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
            bail!("`top` needs a terminal on standard input and output; `iommu-trace trace` writes to files and pipes");
        }
        let output = self.command_output.as_ref().map(|path| {
            let create = || Target::new(path)?.emptied();
            create().with_context(|| format!("cannot create {}", quoted(path)))
        });
        let output = output.transpose()?;
        // The screen is taken: what the tracer says of itself would be drawn into it.
        let verbose = if io::stderr().is_terminal() { 0 } else { self.live.verbose };
        if !io::stderr().is_terminal() {
            log::to_stderr(verbose);
        }
        let opened = match &self.live.from.from {
            Some(path) => self.recorded(path)?,
            None => self.running(verbose)?,
        };
        // Kept while it runs. Without it, the views say that there are no times.
        let _statistics = opened.player.is_none().then(live::run_time_statistics);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot set up the event loop")?;
        runtime.block_on(self.show(opened, filter, program, output))
    }

    /// What the dashboard needs: it looks at its own cost, saves states, and is stopped from the shell.
    fn needs() -> Needs {
        Needs::NOTHING.and(Grant::Read).and(Grant::Stop).and_creating([Path::new(SAVE_TO).join("any").as_path()])
    }

    /// The running kernel.
    fn running(&self, verbose: u8) -> anyhow::Result<Opened> {
        let (mut live, mut topics) = (self.live.clone(), self.select.events.clone());
        if self.dma {
            topics.extend([Topic::Dma, Topic::Invalidate]);
        }
        live.settle_sums(&mut topics, true);
        topics.sort_unstable();
        topics.dedup();
        let target = self.live.from.record.as_deref().map(recording::target).transpose()?;
        let mut source = live::open(&LiveOptions {
            topics: topics.clone(),
            stacks: self.stacks.level(),
            buffer_size: self.live.buffer_size.unwrap_or_else(live::default_ring),
            verbose: verbose > 0,
            track_frees: self.live.track_frees,
            snapshot: true,
            sums: live.sums,
            // Another filter may be asked for while it runs.
            groups: Groups::All,
            ..LiveOptions::default()
        })?;
        if let Some(target) = target {
            let words: Vec<String> = self.command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
            let header = Header::new(source.info(), &topics, &words);
            source = Box::new(Tee::new(source, &target, &header)?);
        }
        Ok(Opened { source, topics, player: None })
    }

    /// A recording, to be played.
    fn recorded(&self, path: &Path) -> anyhow::Result<Opened> {
        let (opened, again) = {
            let opened = recording::Opened::at(path)?;
            let again = opened.again()?;
            (opened, again)
        };
        sandbox::enter(&Self::needs())?;
        let mut recording = opened.read()?;
        if !recording.is_seekable() {
            bail!("cannot play {}: `top` goes back and forth in a recording, and so needs a file", quoted(path));
        }
        let (info, named) = (recording.header().source.clone(), recording.header().topics.clone());
        let topics = Topic::value_variants().iter().copied().filter(|topic| named.iter().any(|n| n == topic.name()));
        let times = recording.index()?.times();
        let from = times.map_or(info.started_ns, |(first, _)| first.min(info.started_ns));
        let to = times.map(|(_, last)| last);
        let open = move || anyhow::Ok(Box::new(again.again()?.read()?) as Box<dyn Source>);
        let player = Player::new(Box::new(open), from, to, self.speed);
        Ok(Opened { source: player.play_from(from)?, topics: topics.collect(), player: Some(player) })
    }

    async fn show(
        &self,
        opened: Opened,
        filter: Filter,
        program: Option<PathBuf>,
        output: Option<std::fs::File>,
    ) -> anyhow::Result<ExitCode> {
        let Opened { source, topics, player } = opened;
        let stream = source::spawn(source)?;
        let info = Arc::clone(stream.info());
        let followed = filter.follows_command();
        let processes = Arc::new(Mutex::new(Descendants::none()));
        let asked = Arc::clone(&processes);
        let fresh = move || {
            let options = ModelOptions { clock: Some(Box::new(mirror::clock())), ..mirror::options(&info) };
            let (filter, asked) = (filter.clone(), Arc::clone(&asked));
            let wanted = move |span: &Span| {
                let mut processes = asked.lock().unwrap_or_else(PoisonError::into_inner);
                filter.matches(span, &mut *processes)
            };
            World::new(Arc::clone(&info), topics.clone(), options).showing(Box::new(wanted))
        };
        let world = Arc::new(tokio::sync::Mutex::new(fresh()));
        let workload = match program {
            Some(program) => {
                let mut processes = processes.lock().unwrap_or_else(PoisonError::into_inner);
                Some(Workload::start_with(&program, &self.command, followed, &mut processes, |command| {
                    let stdio = |file: Option<&std::fs::File>| match file.map(std::fs::File::try_clone) {
                        Some(Ok(file)) => Stdio::from(file),
                        _ => Stdio::null(),
                    };
                    command.stdin(Stdio::null()).stdout(stdio(output.as_ref())).stderr(stdio(output.as_ref()));
                })?)
            }
            None => None,
        };
        // The command has what its caller had; from here on, we have not.
        let needs = Self::needs().and_all(stream.needs());
        sandbox::enter(&if workload.is_some() { needs.and(Grant::Command) } else { needs })?;
        let engine = Engine::start(stream, Arc::clone(&world))?;
        let ui = Ui { ascii: self.ascii || !speaks_unicode(), colour: has_colour(), ..Ui::default() };
        let dashboard = Dashboard {
            world,
            engine,
            player,
            fresh: Box::new(fresh),
            ui,
            interval: self.interval,
            save_to: PathBuf::from(SAVE_TO),
        };
        match workload {
            None => {
                run(dashboard, &mut Alone, self.duration).await?;
                Ok(ExitCode::SUCCESS)
            }
            Some(workload) => {
                let mut command = Command(workload);
                let done = run(dashboard, &mut command, self.duration).await;
                let ended = command.0.end;
                command.0.finish().await;
                done?;
                // It ended by itself: its status stands, as with every other command here.
                Ok(ended.map_or(ExitCode::SUCCESS, |end| ExitCode::from(end.exit_code())))
            }
        }
    }
}

/// Where events come from.
struct Opened {
    source: Box<dyn Source>,
    topics: Vec<Topic>,
    player: Option<Player>,
}

/// The command after `--`, beside the dashboard.
struct Command(Workload);

impl Companion for Command {
    async fn ended(&mut self) -> anyhow::Result<String> {
        if self.0.end.is_some() {
            return std::future::pending().await;
        }
        self.0.wait().await?;
        Ok(match self.0.end {
            Some(CommandEnd { signal: Some(signal), .. }) => format!("command killed by signal {signal}"),
            Some(CommandEnd { status: Some(status), .. }) => format!("command exited with {status}"),
            Some(_) | None => "command ended".to_owned(),
        })
    }
}

/// Whether the locale is UTF-8 and the terminal has the signs for it.
fn speaks_unicode() -> bool {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
    let utf8 = locale.is_some_and(|locale| {
        let locale = locale.to_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    });
    // The Linux console's font lacks most of the blocks.
    utf8 && std::env::var("TERM").is_ok_and(|term| term != "linux" && term != "dumb")
}

/// Whether colours are wanted: `NO_COLOR` and `TERM` decide.
fn has_colour() -> bool {
    anstream::AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never
}
