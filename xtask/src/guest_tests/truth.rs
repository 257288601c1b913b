//! The ground truth that a guest program wrote, read back. `xtask/guest/README.md` is its schema in words.

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

/// A line of ground truth.
#[derive(Clone, Debug, Deserialize)]
pub struct Line {
    /// The thread that wrote it; for calls the one that made them.
    pub tid: u32,
    /// What it tells.
    #[serde(flatten)]
    pub fact: Fact,
    /// The line as it is in the file.
    #[serde(skip)]
    pub raw: String,
}

/// What a line tells.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "truth", rename_all = "snake_case")]
pub enum Fact {
    Start { program: String, pid: u32, ts: u64 },
    Features {},
    Alloc(Object),
    Destroy(Object),
    Bind(Bind),
    Unbind(Bind),
    Attach(Slot),
    Replace(Slot),
    Detach(Slot),
    Fault(Fault),
    BadAnswer {},
    Close(Close),
    Map(Range),
    Unmap(Range),
    DefaultDomain(DefaultDomain),
    Driver(Driver),
    DeviceRemove(Device),
    DeviceAdd(Device),
    DmaFault(DmaFault),
    Ready {},
    Step(Step),
    Skipped {},
    End { status: i32, ts: u64 },
}

/// When a call began and ended, and what it returned.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Call {
    pub ret: i64,
    pub ts0: u64,
    pub ts1: u64,
}

/// An iommufd object.
#[derive(Clone, Debug, Deserialize)]
pub struct Object {
    pub kind: String,
    pub id: Option<u32>,
    #[serde(flatten)]
    pub call: Call,
}

/// A device and iommufd.
#[derive(Clone, Debug, Deserialize)]
pub struct Bind {
    pub via: Via,
    pub device: Option<String>,
    pub group: Option<u32>,
    pub device_id: u32,
    #[serde(flatten)]
    pub call: Call,
}

/// Which kernel interface was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Via {
    Mock,
    Vfio,
    VfioContainer,
}

/// `attach`, `replace`, `detach` of one slot.
#[derive(Clone, Debug, Deserialize)]
pub struct Slot {
    pub via: Via,
    pub device: Option<String>,
    pub group: Option<u32>,
    pub device_id: Option<u32>,
    pub pasid: u32,
    pub hwpt_id: Option<u32>,
    pub fault_id: Option<u32>,
    pub core: bool,
    #[serde(flatten)]
    pub call: Call,
}

/// Who answered a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    User,
    Iommufd,
    Core,
}

/// One page request.
#[derive(Clone, Debug, Deserialize)]
pub struct Fault {
    pub device: Option<String>,
    pub group: Option<u32>,
    pub device_id: u32,
    pub pasid: u32,
    pub grpid: u32,
    pub addr: String,
    pub perm: u32,
    pub hwpt_id: Option<u32>,
    pub lookups: u32,
    pub delivered: bool,
    pub read_device_id: Option<u32>,
    pub flags: Option<u32>,
    pub cookie: Option<u32>,
    pub response: String,
    pub by: By,
    pub raise_tid: u32,
    pub raise_ts0: u64,
    pub raise_ts1: u64,
    pub read_ts0: Option<u64>,
    pub read_ts1: Option<u64>,
    pub answer_ts0: u64,
    pub answer_ts1: u64,
}

/// A descriptor that was closed.
#[derive(Clone, Debug, Deserialize)]
pub struct Close {
    pub what: String,
    #[serde(flatten)]
    pub call: Call,
}

/// A range that was mapped or unmapped.
#[derive(Clone, Debug, Deserialize)]
pub struct Range {
    pub iova: String,
    pub length: u64,
    pub unmapped: Option<u64>,
    #[serde(flatten)]
    pub call: Call,
}

/// A write to a group's `type`.
#[derive(Clone, Debug, Deserialize)]
pub struct DefaultDomain {
    pub group: u32,
    pub after: String,
    pub core: bool,
    #[serde(flatten)]
    pub call: Call,
}

/// A driver bound or unbound.
#[derive(Clone, Debug, Deserialize)]
pub struct Driver {
    pub group: Option<u32>,
    #[serde(flatten)]
    pub call: Call,
}

/// A device that was removed or found.
#[derive(Clone, Debug, Deserialize)]
pub struct Device {
    #[serde(rename = "device")]
    pub name: String,
    pub group: Option<u32>,
    #[serde(flatten)]
    pub call: Call,
}

/// A stop between two steps.
#[derive(Clone, Debug, Deserialize)]
pub struct Step {
    pub after: String,
    pub groups: Vec<View>,
}

/// What sysfs shows of a group.
#[derive(Clone, Debug, Deserialize)]
pub struct View {
    pub group: u32,
    pub devices: Vec<String>,
    pub default_domain: String,
}

/// A DMA that no mapping allows.
#[derive(Clone, Debug, Deserialize)]
pub struct DmaFault {
    pub device: String,
    pub group: Option<u32>,
    pub iova: String,
    pub write: bool,
    pub length: u64,
    #[serde(flatten)]
    pub call: Call,
}

impl Fact {
    /// The call that it tells, if it is one. A fault is not: it is several.
    pub fn call(&self) -> Option<Call> {
        Some(match self {
            Self::Alloc(object) | Self::Destroy(object) => object.call,
            Self::Bind(bind) | Self::Unbind(bind) => bind.call,
            Self::Attach(slot) | Self::Replace(slot) | Self::Detach(slot) => slot.call,
            Self::Close(close) => close.call,
            Self::Map(range) | Self::Unmap(range) => range.call,
            Self::DefaultDomain(domain) => domain.call,
            Self::Driver(driver) => driver.call,
            Self::DeviceRemove(device) | Self::DeviceAdd(device) => device.call,
            Self::DmaFault(fault) => fault.call,
            Self::Start { .. }
            | Self::Features {}
            | Self::Fault(_)
            | Self::BadAnswer {}
            | Self::Ready {}
            | Self::Step(_)
            | Self::Skipped {}
            | Self::End { .. } => return None,
        })
    }

    /// The group that it is about.
    pub fn group(&self) -> Option<u32> {
        match self {
            Self::Bind(bind) | Self::Unbind(bind) => bind.group,
            Self::Attach(slot) | Self::Replace(slot) | Self::Detach(slot) => slot.group,
            Self::DefaultDomain(domain) => Some(domain.group),
            Self::Driver(driver) => driver.group,
            Self::DeviceRemove(device) | Self::DeviceAdd(device) => device.group,
            _ => None,
        }
    }
}

/// The ground truth of one program's run.
#[derive(Clone, Debug)]
pub struct Truth {
    /// Its process.
    pub pid: u32,
    /// When it began.
    pub began: u64,
    /// When it ended.
    pub ended: u64,
    /// How.
    pub status: i32,
    /// What it did.
    pub lines: Vec<Line>,
}

impl Truth {
    /// Reads a whole file.
    pub fn parse(text: &str) -> Result<Self> {
        let mut lines = Vec::new();
        for (number, raw) in text.lines().enumerate() {
            let mut line: Line =
                serde_json::from_str(raw).with_context(|| format!("ground truth, line {}: {raw}", number + 1))?;
            raw.clone_into(&mut line.raw);
            lines.push(line);
        }
        let Some(Line { fact: Fact::Start { program, pid, ts: began }, .. }) = lines.first() else {
            bail!("the ground truth does not begin with a start");
        };
        let (program, pid, began) = (program.clone(), *pid, *began);
        let Some(Line { fact: Fact::End { status, ts: ended }, .. }) = lines.last() else {
            bail!("the ground truth of {program} does not end with an end");
        };
        let (status, ended) = (*status, *ended);
        ensure!(ended >= began, "the ground truth of {program} ends before it begins");
        Ok(Self { pid, began, ended, status, lines })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: &str =
        r#"{"truth":"start","schema":1,"program":"iopf","pid":56,"kernel":"7.3.4","ts":10,"n":0,"tid":56}"#;
    const END: &str = r#"{"truth":"end","status":0,"counts":{"start":1},"ts":99,"n":2,"tid":56}"#;

    #[test]
    fn a_run_is_read_whole() {
        let skipped = r#"{"truth":"skipped","what":"mock","why":"none","n":1,"tid":56}"#;
        let truth = Truth::parse(&[START, skipped, END].join("\n")).unwrap();
        assert_eq!((truth.pid, truth.began, truth.ended, truth.status), (56, 10, 99, 0));
        assert_eq!(truth.lines.len(), 3);
    }

    #[test]
    fn a_cut_file_is_refused() {
        assert!(Truth::parse(START).unwrap_err().to_string().contains("does not end"));
        assert!(Truth::parse(END).unwrap_err().to_string().contains("does not begin"));
        assert!(Truth::parse("{").is_err());
    }
}
