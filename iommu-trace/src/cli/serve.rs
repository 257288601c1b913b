//! `iommu-trace serve`: metrics for Prometheus, over HTTP.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};
use clap::Args;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use super::{
    ConsumerOptions, LiveArgs, OutputArgs, SelectArgs, StacksArgs, StopArgs, complain, log, parse, signals::Signals,
    source,
};
use crate::{
    metrics::DeviceLimit,
    model::{RuleId, RuleSet, span::Topic},
    output::{Format, TimeForm},
    sandbox::{self, Grant, Needs},
    serve::{Control, Exporter, MonitorOptions, ServeOptions},
    source::spawn,
};

/// Serve metrics to Prometheus over HTTP, and judge by the rules all the while.
///
/// `/metrics` has the numbers, `/violations` the latest violations as JSON, `/healthz` tells whether it is well. Privileges
/// are dropped once the probes are attached. SIGHUP has it read the web configuration file again, SIGTERM ends it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  iommu-trace serve
  iommu-trace serve --listen '[::]:9798' --web-config /etc/iommu-trace/web.yml
  curl http://127.0.0.1:9798/metrics")]
pub struct Serve {
    #[command(flatten)]
    arguments: ServeArgs,
}

/// What `serve` takes.
#[derive(Clone, Debug, Args)]
pub struct ServeArgs {
    /// Address and port to listen on. What is not of the loopback can be reached by others: see --web-config.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9798")]
    pub listen: SocketAddr,

    /// TLS, users and headers, in the form that Prometheus exporters share.
    #[arg(long, value_name = "FILE")]
    pub web_config: Option<PathBuf>,

    /// Devices that have series of their own; what comes later is counted as device `other`.
    #[arg(long, value_name = "N", default_value_t = DeviceLimit::default().0)]
    pub device_limit: usize,

    #[cfg(feature = "otlp")]
    /// Push the same metrics to an OpenTelemetry collector, too: OTLP over HTTP, as `http://collector:4318`.
    #[arg(long, value_name = "URL")]
    pub otlp: Option<crate::serve::Endpoint>,

    #[cfg(feature = "otlp")]
    /// How often they are pushed.
    #[arg(long, value_name = "DURATION", value_parser = parse::duration, default_value = "15s")]
    pub otlp_interval: Duration,

    /// Topics to trace. `dma` and `invalidate` are many; the metrics of what is not traced are left out.
    #[arg(
        short,
        long,
        value_name = "LIST",
        value_delimiter = ',',
        value_enum,
        default_value = "attach,fault,sva,iommufd,reset",
        help_heading = "What is watched"
    )]
    pub events: Vec<Topic>,

    /// Judge only these rules, by name. (An unknown name is answered with all there are.)
    #[arg(long, value_name = "LIST", value_delimiter = ',', help_heading = "What is watched")]
    pub rules: Vec<RuleId>,

    /// Do not judge these rules.
    #[arg(long, value_name = "LIST", value_delimiter = ',', help_heading = "What is watched")]
    pub silence: Vec<RuleId>,

    /// A page request without an answer for this long is a violation.
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = parse::duration,
        default_value = "10s",
        help_heading = "What is watched"
    )]
    pub answer_timeout: Duration,

    /// Whose kernel stacks are taken, and shown in /violations.
    #[command(flatten, next_help_heading = "What is watched")]
    pub stacks: StacksArgs,

    /// How it is traced.
    #[command(flatten)]
    pub live: LiveArgs,
}

impl ServeArgs {
    /// As the exporter takes them; an error when they make no sense together.
    pub fn options(&self) -> anyhow::Result<ServeOptions> {
        let mut rules = if self.rules.is_empty() { RuleSet::default() } else { self.rules.iter().copied().collect() };
        for &rule in &self.silence {
            rules = rules.without(rule);
        }
        if rules == RuleSet::NONE {
            bail!("--silence leaves no rule to judge");
        }
        Ok(ServeOptions {
            listen: self.listen,
            web_config: self.web_config.clone(),
            monitor: MonitorOptions {
                topics: self.events.clone(),
                rules,
                answer_timeout: self.answer_timeout,
                devices: DeviceLimit(self.device_limit),
                stacks: self.stacks.level.is_any(),
            },
            #[cfg(feature = "otlp")]
            push: self.otlp.clone().map(|endpoint| crate::serve::PushOptions { endpoint, every: self.otlp_interval }),
        })
    }

    /// What serving takes.
    fn needs(&self) -> Needs {
        // The configuration is read again when it is asked for, and what this process costs is in procfs.
        let needs = Needs::NOTHING.and(Grant::Read).and(Grant::Serve).and(Grant::Notify);
        #[cfg(feature = "otlp")]
        let needs = if self.otlp.is_some() { needs.and(Grant::Connect) } else { needs };
        needs
    }

    fn consumer(&self) -> ConsumerOptions {
        ConsumerOptions {
            select: SelectArgs { events: self.events.clone(), ..SelectArgs::default() },
            stop: StopArgs::default(),
            output: OutputArgs {
                format: Format::Text,
                output: None,
                stacks: self.stacks,
                stages: false,
                time: TimeForm::Utc,
            },
            live: self.live.clone(),
        }
    }
}

impl Serve {
    pub(super) fn run(&self) -> anyhow::Result<ExitCode> {
        let mut arguments = self.arguments.clone();
        arguments.live.settle_sums(&mut arguments.events, true);
        let arguments = &arguments;
        log::to_stderr(arguments.live.verbose);
        // What can be wrong shows before a probe is attached.
        let exporter = Exporter::bind(arguments.options()?)?;
        let needs = arguments.needs();
        let source = source::open(&arguments.consumer(), &arguments.events, &needs)?;
        let stream = spawn(source)?;
        // Every thread but the source's reader is started by this one, and has no more than it has.
        sandbox::enter(&needs.and_all(stream.needs()))?;
        complain("listening", &exporter.url()?);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot set up the event loop")?;
        runtime.block_on(async {
            let mut signals = Signals::new().context("cannot handle signals")?;
            let mut hangup = signal(SignalKind::hangup()).context("cannot handle SIGHUP")?;
            let (sender, control) = mpsc::channel(1);
            tokio::spawn(async move {
                loop {
                    let told = tokio::select! {
                        _ = signals.next() => Control::Stop,
                        _ = hangup.recv() => Control::Reload,
                    };
                    if sender.send(told).await.is_err() || told == Control::Stop {
                        return;
                    }
                }
            });
            exporter.run(stream, control).await
        })?;
        Ok(ExitCode::SUCCESS)
    }
}
