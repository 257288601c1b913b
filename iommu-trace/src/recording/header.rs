//! The document at a recording's beginning: the machine, its kernel, what was probed, and who recorded it.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use super::format::{Damage, MAGIC, MAX_HEADER, PREFIX, VERSION, checksum};
use crate::{event::harmless, model::span::Topic, source::SourceInfo};

/// What is known of a recording before its first event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The version of iommu-trace that wrote it.
    pub tool: String,
    /// What was recorded: kernel, machine, features, probes with their verdicts, clocks.
    pub source: SourceInfo,
    /// The topics that were asked for.
    #[serde(default)]
    pub topics: Vec<String>,
    /// The command that was run.
    #[serde(default)]
    pub command: Vec<String>,
    /// Whether what is attached at its beginning was followed by the recorder, and not read from the kernel: a later part
    /// of a recording in several, or what a flight recorder kept.
    #[serde(default)]
    pub continued: bool,
}

impl Header {
    /// Of a recording that begins now.
    #[must_use]
    pub fn new(source: &SourceInfo, topics: &[Topic], command: &[String]) -> Self {
        Header {
            tool: crate::version::VERSION.to_owned(),
            source: source.clone(),
            topics: topics.iter().map(|topic| topic.name().to_owned()).collect(),
            command: command.to_vec(),
            continued: false,
        }
    }

    /// Writes it: magic, version, length, the document, a checksum of all of it.
    pub fn write(&self, out: &mut impl Write) -> io::Result<u64> {
        let document = serde_json::to_vec(self)?;
        if document.len() > MAX_HEADER as usize {
            return Err(io::Error::other(format!("the header would take {} bytes", document.len())));
        }
        let mut bytes = Vec::with_capacity(PREFIX + document.len() + 4);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&(document.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&document);
        let checksum = checksum(&[&bytes]);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        out.write_all(&bytes)?;
        Ok(bytes.len() as u64)
    }

    /// Bytes of the document and the checksum behind `prefix`.
    pub fn rest(prefix: &[u8; PREFIX]) -> Result<usize, Damage> {
        let number = |at: usize| u32::from_le_bytes([prefix[at], prefix[at + 1], prefix[at + 2], prefix[at + 3]]);
        if prefix[..8] != MAGIC {
            return Err(Damage::NoRecording);
        }
        let (version, len) = (number(8), number(12));
        if version > VERSION {
            return Err(Damage::Newer(version));
        }
        if version == 0 || len > MAX_HEADER {
            return Err(Damage::Header(format!("version {version}, {len} bytes")));
        }
        Ok(len as usize + 4)
    }

    /// Reads the document behind `prefix`; `rest` is as long as [`Header::rest`] says.
    pub fn parse(prefix: &[u8; PREFIX], rest: &[u8]) -> Result<Header, Damage> {
        let (document, stored) = rest.split_at_checked(rest.len().saturating_sub(4)).ok_or(Damage::CutHeader)?;
        if checksum(&[prefix, document]).to_le_bytes() != stored {
            return Err(Damage::Header("its checksum does not match its bytes".into()));
        }
        let mut header: Header = serde_json::from_slice(document)
            .map_err(|error| Damage::Header(harmless(&error.to_string()).into_owned()))?;
        header.make_harmless();
        Ok(header)
    }

    /// Whoever made the file may have put anything into its texts, which are shown on terminals.
    fn make_harmless(&mut self) {
        let source = &mut self.source;
        let texts = [&mut self.tool, &mut source.kernel, &mut source.machine, &mut source.host].into_iter();
        let probes = source.probes.iter_mut().flat_map(|probe| {
            [&mut probe.function, &mut probe.kind, &mut probe.topic, &mut probe.cost]
                .into_iter()
                .chain(&mut probe.reason)
        });
        let stretched =
            source.stretched.iter_mut().flat_map(|step| [&mut step.step].into_iter().chain(&mut step.functions));
        for text in texts.chain(probes).chain(stretched).chain(&mut self.topics).chain(&mut self.command) {
            *text = harmless(text).into_owned();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probes::{ProbeStatus, Verdict, stretch::Stretched};

    fn header() -> Header {
        let probe = ProbeStatus {
            function: "iommu_attach_group_handle".into(),
            kind: "fentry".into(),
            topic: "attach".into(),
            verdict: Verdict::Broken,
            reason: Some("no \x1b[2J".into()),
            cost: "everything".into(),
            essential: true,
        };
        let source = SourceInfo {
            kernel: "7.3.4\n".into(),
            epoch_offset_ns: i64::MIN,
            started_ns: u64::MAX,
            probes: vec![probe],
            stretched: vec![Stretched {
                step: "lookup\u{7}".into(),
                wait_ns: 500_000,
                functions: vec!["\u{9b}2J".into()],
            }],
            ..SourceInfo::default()
        };
        Header::new(&source, &[Topic::Attach, Topic::Dma], &["sh".into(), "-c".into()])
    }

    fn bytes(header: &Header) -> Vec<u8> {
        let mut bytes = Vec::new();
        let len = header.write(&mut bytes).unwrap();
        assert_eq!(len, bytes.len() as u64);
        bytes
    }

    fn parse(bytes: &[u8]) -> Result<Header, Damage> {
        let prefix = bytes.first_chunk().ok_or(Damage::CutHeader)?;
        let rest = Header::rest(prefix)?;
        Header::parse(prefix, bytes.get(PREFIX..PREFIX + rest).ok_or(Damage::CutHeader)?)
    }

    #[test]
    fn a_header_comes_back_with_nothing_that_a_terminal_would_obey() {
        let back = parse(&bytes(&header())).unwrap();
        assert_eq!(back.source.kernel, "7.3.4\\n");
        assert_eq!(back.source.probes[0].reason.as_deref(), Some("no \\u{1b}[2J"));
        assert_eq!((back.source.epoch_offset_ns, back.source.started_ns), (i64::MIN, u64::MAX));
        let stretched = &back.source.stretched[0];
        assert_eq!((stretched.step.as_str(), stretched.wait_ns), ("lookup\\u{7}", 500_000));
        assert_eq!(stretched.functions, ["\\u{9b}2J"]);
        assert_eq!(back.topics, ["attach", "dma"]);
        assert_eq!(back.command, ["sh", "-c"]);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = bytes(&header());
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_future_version_and_an_absurd_length_are_told() {
        let mut future = bytes(&header());
        future[8] = 2;
        assert!(parse(&future).unwrap_err().to_string().contains("format version 2"));
        let mut absurd = bytes(&header());
        absurd[12..16].fill(0xff);
        assert!(parse(&absurd).unwrap_err().to_string().contains("4294967295 bytes"));
    }
}
