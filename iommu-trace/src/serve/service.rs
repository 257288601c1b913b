//! The whole service: opens the door, runs the monitor, and ends cleanly.

use std::{
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use sd_notify::NotifyState;
use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval},
};

use super::{Access, Monitor, MonitorOptions, WebConfig, connection, monitor::State, pages::Site};
use crate::{cli::complain, source::Stream};

/// What is served, where, and to whom.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The web configuration file.
    pub web_config: Option<PathBuf>,
    /// What is watched.
    pub monitor: MonitorOptions,
    /// Where the metrics are pushed to, too.
    #[cfg(feature = "otlp")]
    pub push: Option<super::PushOptions>,
}

/// What a running service is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Read the configuration again.
    Reload,
    /// End.
    Stop,
}

/// A service that has its port and its configuration, and nothing to tell yet.
pub struct Exporter {
    listener: TcpListener,
    access: Access,
    options: ServeOptions,
}

impl Exporter {
    /// Takes the port and reads the configuration, so that what is wrong with them shows before anything is traced.
    pub fn bind(options: ServeOptions) -> anyhow::Result<Self> {
        let access = read_access(&options)?;
        let listener = TcpListener::bind(options.listen)
            .with_context(|| format!("cannot listen on {}: choose another address with --listen", options.listen))?;
        listener.set_nonblocking(true).context("cannot set up the listening socket")?;
        Ok(Exporter { listener, access, options })
    }

    /// Where it listens.
    pub fn address(&self) -> anyhow::Result<SocketAddr> {
        self.listener.local_addr().context("cannot find out where it listens")
    }

    /// The address as people write it.
    pub fn url(&self) -> anyhow::Result<String> {
        let scheme = if self.access.tls.is_some() { "https" } else { "http" };
        Ok(format!("{scheme}://{}/", self.address()?))
    }

    /// Serves until it is told to stop, or the source fails. A source that is over is served on.
    pub async fn run(self, stream: Stream, mut control: mpsc::Receiver<Control>) -> anyhow::Result<()> {
        let Exporter { listener, access, options } = self;
        let listener = tokio::net::TcpListener::from_std(listener).context("cannot set up the listening socket")?;
        let (monitor, thread) = Monitor::start(stream, options.monitor.clone())?;
        let site = Arc::new(Site::new(monitor.clone(), access));
        let (stopping, stop) = watch::channel(false);
        let server = tokio::spawn(connection::accept(listener, Arc::clone(&site), stop.clone()));
        #[cfg(feature = "otlp")]
        let pusher = options.push.clone().map(|push| tokio::spawn(super::push::run(push, monitor.clone(), stop)));
        let watchdog = tokio::spawn(watchdog(monitor.clone()));
        notify(&[NotifyState::Ready]);

        let mut ended = monitor.clone();
        let mut over = false;
        let result = loop {
            tokio::select! {
                told = control.recv() => match told {
                    Some(Control::Reload) => reload(&options, &site),
                    Some(Control::Stop) | None => break Ok(()),
                },
                state = ended.ended(), if !over => match state {
                    State::Failed(why) => break Err(anyhow!(why)),
                    State::Over | State::Reading => over = true,
                },
            }
        };
        notify(&[NotifyState::Stopping]);
        watchdog.abort();
        // What the source has left is counted before the last numbers are pushed.
        monitor.stop();
        if result.is_ok() {
            ended.ended().await;
        }
        stopping.send_replace(true);
        // Neither fails; a panic of theirs has been printed by its own hook.
        let _ = server.await;
        #[cfg(feature = "otlp")]
        if let Some(pusher) = pusher {
            let _ = pusher.await;
        }
        drop((site, monitor, ended));
        let _ = thread.join();
        result
    }
}

fn read_access(options: &ServeOptions) -> anyhow::Result<Access> {
    let Some(path) = &options.web_config else { return Access::new(&WebConfig::default()) };
    Access::new(&WebConfig::read(path)?)
}

/// What was there stays when what is new is no good: a slip in a file must not open or close the door.
fn reload(options: &ServeOptions, site: &Site) {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        notify(&[NotifyState::Reloading, now]);
    }
    match read_access(options) {
        Ok(access) => {
            site.set_access(access);
            complain("reload", "the configuration was read again");
        }
        Err(error) => complain("warning", &format!("the configuration stays as it was: {error:#}")),
    }
    notify(&[NotifyState::Ready]);
}

/// Tells a service manager that asks for it that the model still answers.
async fn watchdog(monitor: Monitor) {
    let Some(every) = sd_notify::watchdog_enabled() else { return };
    let mut ticks = interval((every / 2).max(Duration::from_millis(100)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if monitor.answers().await {
            notify(&[NotifyState::Watchdog]);
        }
    }
}

/// Tells a service manager, where there is one. That it does not listen is no reason to end.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "the service manager could not be told");
    }
}
