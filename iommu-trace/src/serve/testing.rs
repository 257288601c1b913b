//! For fuzzers and tests: a site that answers bytes with bytes, without a socket.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    runtime::Runtime,
    sync::watch,
};

use super::{
    Access, Monitor, MonitorOptions, WebConfig,
    connection::{MAX_HEAD, speak},
    monitor::State,
    pages::Site,
};
use crate::{
    metrics::DeviceLimit,
    model::{RuleSet, span::Topic},
    source::{Source, spawn},
};

/// How long one connection may take.
const LIMIT: Duration = Duration::from_secs(10);

/// Everything that `serve` answers, of a source that is over.
pub struct Answers {
    runtime: Runtime,
    site: Arc<Site>,
}

impl Answers {
    /// About this source, to who the configuration lets in.
    pub fn new(source: Box<dyn Source>, config: &WebConfig) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let options = MonitorOptions {
            topics: vec![Topic::Attach, Topic::Fault, Topic::Dma, Topic::Invalidate],
            rules: RuleSet::default(),
            answer_timeout: LIMIT,
            devices: DeviceLimit::default(),
            stacks: false,
        };
        let (monitor, _thread) = Monitor::start(spawn(source)?, options)?;
        let mut ended = monitor.clone();
        runtime.block_on(async { ended.ended().await });
        if let State::Failed(why) = monitor.state() {
            anyhow::bail!(why);
        }
        Ok(Answers { runtime, site: Arc::new(Site::new(monitor, Access::new(config)?)) })
    }

    /// What comes back when these bytes are all that a client says.
    pub fn answer(&self, request: &[u8]) -> anyhow::Result<Vec<u8>> {
        let (mut ours, theirs) = tokio::io::duplex(MAX_HEAD);
        let (_stopping, stop) = watch::channel(false);
        let site = Arc::clone(&self.site);
        let began = Instant::now();
        let conversation = async {
            let connection = tokio::spawn(speak(theirs, site, stop, true));
            let mut answer = Vec::new();
            let (mut read, mut write) = tokio::io::split(&mut ours);
            let say = async {
                // It may hang up in the midst of what it does not like.
                let _ = write.write_all(request).await;
                let _ = write.shutdown().await;
            };
            let ((), heard) = tokio::join!(say, read.read_to_end(&mut answer));
            heard?;
            connection.await?;
            anyhow::Ok(answer)
        };
        let answer = self.runtime.block_on(async { tokio::time::timeout(LIMIT, conversation).await });
        answer.with_context(|| format!("no end after {:?}", began.elapsed()))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        recording::{Header, Recording},
        source::Source,
    };

    fn nothing() -> Box<dyn Source> {
        let mut file = tempfile::tempfile().unwrap();
        Header::default().write(&mut file).unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        Box::new(Recording::from_file(file, "nothing".into()).unwrap())
    }

    #[test]
    fn bytes_are_answered_with_bytes_and_nonsense_is_hung_up_on() {
        let answers = Answers::new(nothing(), &WebConfig::default()).unwrap();
        let answer = |request: &str| String::from_utf8(answers.answer(request.as_bytes()).unwrap()).unwrap();
        assert!(answer("GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").contains("iommu_trace_build_info"));
        assert!(answer("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n").starts_with("HTTP/1.1 405"));
        assert!(answer("\0\r\n\r\n").starts_with("HTTP/1.1 400"));
        assert_eq!(answer(""), "");
    }
}
