//! What the page is given: one document, columns where there are many rows. Times are nanoseconds since the beginning.

use serde::{Serialize, Serializer};

use super::{Fault, NO_TIME, STAGES};
use crate::{
    analysis::{Life, StatsDocument},
    event::{Name, Phase},
    model::{Severity, Subject},
    output::stretched,
    probes::ProbeStatus,
    source::SourceInfo,
};

/// All of it.
#[derive(Debug, Serialize)]
pub struct Data {
    pub meta: Meta,
    pub stats: StatsDocument,
    pub thinned: Thinned,
    pub devices: Vec<DeviceRow>,
    pub stages: [&'static str; STAGES.len()],
    pub lives: Vec<LifeRow>,
    pub faults: FaultColumns,
    pub course: Vec<Course>,
    pub histograms: Vec<Vec<(u64, u64)>>,
    pub violations: Vec<ViolationRow>,
    pub probes: Vec<ProbeStatus>,
}

/// Where it comes from.
#[derive(Debug, Serialize)]
pub struct Meta {
    tool: &'static str,
    kernel: String,
    machine: String,
    host: String,
    epoch_ms: f64,
    duration: u64,
    features: serde_json::Value,
    stretched: Option<String>,
}

impl Meta {
    pub fn new(info: &SourceInfo, upto: u64) -> Self {
        let epoch = info.started_ns.saturating_add_signed(info.epoch_offset_ns);
        Meta {
            tool: crate::version::VERSION,
            kernel: info.kernel.clone(),
            machine: info.machine.clone(),
            host: info.host.clone(),
            epoch_ms: epoch as f64 / 1e6,
            duration: upto.saturating_sub(info.started_ns),
            stretched: stretched(&info.stretched),
            features: serde_json::to_value(&info.features).unwrap_or_default(),
        }
    }
}

/// How much of it is on the page.
#[derive(Debug, Serialize)]
pub struct Thinned {
    pub faults: u64,
    pub faults_drawn: u64,
    pub lives: u64,
    pub lives_drawn: u64,
    pub violations: u64,
    pub violations_shown: u64,
}

/// A device.
#[derive(Debug, Serialize)]
pub struct DeviceRow {
    pub group: Option<u32>,
    pub name: Name,
}

/// An attachment.
#[derive(Debug, Serialize)]
pub struct LifeRow {
    device: u32,
    pasid: u32,
    begin: Option<i64>,
    end: Option<i64>,
    handle: Option<String>,
    domain: String,
    domain_type: String,
    owner: &'static str,
    id: Option<u32>,
}

impl LifeRow {
    pub fn new(life: &Life, device: u32, start: u64) -> Self {
        let since = |ts: u64| ts as i64 - start as i64;
        LifeRow {
            device,
            pasid: life.pasid,
            begin: life.begin.map(since),
            end: life.end.map(since),
            handle: life.handle.map(|handle| format!("{:x}", handle.0)),
            domain: format!("{:x}", life.domain.0),
            domain_type: life.domain_type.to_string(),
            owner: life.owner.name(),
            id: life.device_id,
        }
    }
}

/// Faults, a column for each of their figures.
#[derive(Debug, Serialize)]
pub struct FaultColumns {
    /// Since the one before.
    ts: Vec<i64>,
    device: Vec<u32>,
    pasid: Vec<u32>,
    /// Hexadecimal.
    addr: Vec<String>,
    /// By stage; -1 where it was not reached.
    times: Vec<Vec<i64>>,
    response: Vec<u8>,
}

impl FaultColumns {
    pub fn new(faults: &[Fault], start: u64) -> Self {
        let mut last = start;
        FaultColumns {
            ts: faults
                .iter()
                .map(|fault| {
                    let since = fault.ts as i64 - last as i64;
                    last = fault.ts;
                    since
                })
                .collect(),
            device: faults.iter().map(|fault| fault.device).collect(),
            pasid: faults.iter().map(|fault| fault.pasid).collect(),
            addr: faults.iter().map(|fault| format!("{:x}", fault.addr)).collect(),
            times: (0..STAGES.len())
                .map(|stage| {
                    let time = |fault: &Fault| fault.times[stage];
                    faults.iter().map(time).map(|ns| if ns == NO_TIME { -1 } else { i64::from(ns) }).collect()
                })
                .collect(),
            response: faults.iter().map(|fault| fault.response).collect(),
        }
    }
}

/// Answers in one column of time.
#[derive(Debug, Serialize)]
pub struct Course {
    pub at: u64,
    pub count: u32,
    pub p50: u32,
    pub p99: u32,
    pub max: u32,
}

/// A broken rule.
#[derive(Debug, Serialize)]
pub struct ViolationRow {
    pub at: i64,
    pub rule: &'static str,
    pub severity: Severity,
    pub message: String,
    pub subject: Subject,
    pub evidence: Vec<Evidence>,
}

/// What proves it.
#[derive(Debug, Serialize)]
pub struct Evidence {
    pub at: i64,
    pub what: &'static str,
    pub function: &'static str,
    #[serde(serialize_with = "phase")]
    pub phase: Phase,
    pub task: String,
    pub cpu: u32,
    pub stack: Vec<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's `serialize_with` passes by reference")]
fn phase<S: Serializer>(phase: &Phase, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(match phase {
        Phase::Enter => "entry",
        Phase::Exit => "return",
    })
}
