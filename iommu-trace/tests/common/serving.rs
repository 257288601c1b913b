//! A running exporter, and a client that speaks HTTP to it.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use clap::Parser as _;
use iommu_trace::{
    cli::ServeArgs,
    serve::{Control, Exporter},
    source::{Source, spawn},
};
use tokio::sync::mpsc;

#[derive(clap::Parser)]
struct Arguments {
    #[command(flatten)]
    arguments: ServeArgs,
}

/// An exporter on a thread of its own; stopped and waited for when it is dropped.
pub struct Serving {
    pub address: SocketAddr,
    pub url: String,
    control: Option<mpsc::Sender<Control>>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

pub fn exporter(arguments: &[&str]) -> anyhow::Result<Exporter> {
    let all = ["test", "--listen", "127.0.0.1:0"].iter().chain(arguments);
    Exporter::bind(Arguments::try_parse_from(all)?.arguments.options()?)
}

impl Serving {
    pub fn start(source: impl Source + 'static, arguments: &[&str]) -> Self {
        let exporter = exporter(arguments).unwrap();
        let (address, url) = (exporter.address().unwrap(), exporter.url().unwrap());
        let (sender, control) = mpsc::channel(1);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(exporter.run(spawn(Box::new(source)).unwrap(), control))
        });
        Serving { address, url, control: Some(sender), thread: Some(thread) }
    }

    pub fn tell(&self, control: Control) {
        self.control.as_ref().unwrap().blocking_send(control).unwrap();
    }

    /// Stops it; how it ended.
    pub fn stop(mut self) -> anyhow::Result<()> {
        self.end()
    }

    /// Waits for its end without stopping it.
    pub fn wait(mut self) -> anyhow::Result<()> {
        self.thread.take().unwrap().join().unwrap()
    }

    fn end(&mut self) -> anyhow::Result<()> {
        drop(self.control.take());
        self.thread.take().map_or(Ok(()), |thread| thread.join().unwrap())
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    }

    pub fn get(&self, path: &str) -> Reply {
        self.get_with(path, "")
    }

    /// With more lines in the head.
    pub fn get_with(&self, path: &str, lines: &str) -> Reply {
        let head = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{lines}\r\n");
        self.send(head.as_bytes())
    }

    pub fn send(&self, bytes: &[u8]) -> Reply {
        let mut stream = self.connect();
        // It may answer, and close, before it has read everything.
        let _ = stream.write_all(bytes);
        Reply::read(stream)
    }

    pub fn metrics(&self) -> Metrics {
        let reply = self.get("/metrics");
        assert_eq!(reply.status, 200, "{}", reply.body);
        Metrics::parse(&reply.body)
    }

    /// Scrapes until the metrics are as they should be.
    pub fn metrics_when(&self, ready: impl Fn(&Metrics) -> bool) -> Metrics {
        let begun = Instant::now();
        loop {
            let metrics = self.metrics();
            if ready(&metrics) {
                return metrics;
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "it never came to that");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let done = self.end();
        if !std::thread::panicking() {
            done.unwrap();
        }
    }
}

pub struct Reply {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Reply {
    /// What comes until the other side closes; status 0 if there is none.
    pub fn read(mut stream: TcpStream) -> Self {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        Self::parse(&String::from_utf8(bytes).unwrap())
    }

    pub fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).unwrap_or(0);
        let header = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned()));
        Reply { status, headers: lines.filter_map(header).collect(), body: body.to_owned() }
    }
}

/// Series and their values.
pub struct Metrics(pub BTreeMap<String, f64>);

impl Metrics {
    pub fn parse(text: &str) -> Self {
        Metrics(text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect())
    }

    /// The sum of all series of this name that have all these labels, written as they are in the text.
    pub fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let fits =
            |series: &str| series.split('{').next() == Some(name) && labels.iter().all(|label| series.contains(label));
        self.0.iter().filter(|(series, _)| fits(series)).map(|(_, value)| value).sum()
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.keys().any(|series| series.split('{').next() == Some(name))
    }
}

/// A series as it is written, but for the order of its labels and the form of `le`, and its value.
fn sample(line: &str) -> Option<(String, f64)> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = Vec::new();
    while let Some(label) = rest.strip_prefix(['{', ',']) {
        let (name, value) = label.split_once("=\"")?;
        let mut escaped = false;
        let close = value.find(|c| {
            let closes = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            closes
        })?;
        let value_there = &value[..close];
        rest = &value[close + 1..];
        labels.push(match value_there.parse::<f64>() {
            Ok(bound) if name == "le" && bound.is_finite() => format!("le=\"{bound}\""),
            _ => format!("{name}=\"{value_there}\""),
        });
    }
    labels.sort();
    let value = rest.trim_start_matches('}').trim_start().split(' ').next()?.parse().ok()?;
    let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
    Some((format!("{name}{labels}"), value))
}
