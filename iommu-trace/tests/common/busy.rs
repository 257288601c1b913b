//! A busy machine, in rounds: devices that are attached, fault and are answered, and everything else that is counted.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, SystemTime},
};

use iommu_trace::{
    event::{Body, DmaOp, Event, Invalidate, Name, Phase, ProbeId, Ptr},
    model::testing::{Dev, ENOENT, Hnd, Req, Script, bond, dev, group, hnd, kernel_7_3},
    probes::{ProbeStatus, Verdict},
    source::{Batch, Cost, NoStacks, ProgramCost, Progress, Source, SourceInfo, Stacks},
};

/// Devices that fault.
pub const DEVICES: u32 = 3;
/// Faults of each device in a round.
pub const FAULTS: u32 = 4;

/// Names that no label was made for: what a driver may call its device is its own affair.
pub const HOSTILE: [&[u8]; 4] = [b"quote\"and\\slash", b"new\nline", b"not \xff\xfe utf-8", b"le=\"0.1\"} 7 # {"];

pub fn info() -> SourceInfo {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let probe = |id: ProbeId, verdict| ProbeStatus {
        function: id.function().into(),
        kind: "fentry".into(),
        topic: "fault".into(),
        verdict,
        reason: None,
        cost: "nothing".into(),
        essential: false,
    };
    SourceInfo {
        kernel: "7.3.4".into(),
        machine: "x86_64".into(),
        host: "guest".into(),
        features: kernel_7_3(),
        probes: vec![
            probe(ProbeId::ReportDeviceFault, Verdict::Ok),
            probe(ProbeId::AttachGroupHandle, Verdict::Ok),
            probe(ProbeId::GroupResponse, Verdict::Ok),
            probe(ProbeId::AmdCompletionWait, Verdict::NotApplicable),
        ],
        epoch_offset_ns: i64::try_from(now.as_nanos()).unwrap(),
        started_ns: 0,
        settled: false,
        stretched: Vec::new(),
    }
}

fn handle_of(device: &Dev, n: u32) -> Hnd {
    hnd(n, device)
}

/// The devices come, are bound and attached.
pub fn setup(script: &mut Script) {
    for n in 1..=DEVICES {
        let device = dev(n);
        script.by(10).device(ProbeId::DeviceAdd, &device).bind(&device).queue_add(&device, 0);
        script.by(10).attach(&device, 0, &handle_of(&device, n));
        script.by(10).attach(&device, 5, &handle_of(&device, 100 + n));
    }
    let device = dev(DEVICES + 1);
    let bond = bond(50, &device);
    script.by(11).device(ProbeId::DeviceAdd, &device).sva(ProbeId::SvaBind, &device, None, 9, 0);
    script.by(11).core_attach(&device, 9, &bond, 0).sva_bound(&device, Some(&bond), 9, 1, 0);
}

/// Faults that are answered, and one of everything else.
pub fn round(script: &mut Script, round: u32) {
    for n in 1..=DEVICES {
        let device = dev(n);
        let interrupt = Body::Interrupt { iommu: Ptr(1) };
        script.by(24).event(ProbeId::PrqEventThread, Phase::Enter, interrupt.clone());
        for fault in 0..FAULTS {
            let number = (round * DEVICES + n) * FAULTS + fault;
            let pasid = (fault % 2 == 1).then_some(5);
            let handle = handle_of(&device, if pasid.is_some() { 100 + n } else { n });
            let request = Req::new(pasid, number & 0x1ff, 0x1000 * u64::from(number));
            let at = group(number % 4096);
            // From a tenth of a microsecond to a tenth of a millisecond.
            script.step = 100 * 10_u64.pow(fault % 4);
            script.by(24).fault(at, &device, &request, &handle);
            script.by(77).pass(20_000).read(device.id, &request, number);
            script.by(77).pass(80_000).write(at, &device, &request, &handle, u32::from(fault == 3));
        }
        script.by(24).event(ProbeId::PrqEventThread, Phase::Exit, interrupt);
        script.step = 100;
    }
    let (device, other) = (dev(1), handle_of(&dev(1), 200));
    script.by(10).replace(&device, 0, &handle_of(&device, 1), &other);
    script.by(10).replace(&device, 0, &other, &handle_of(&device, 1));
    script.by(24).lookup_fails(&device, 77, ENOENT);
    let map = DmaOp { domain: Ptr(0xe000), iova: 0x10_0000, size: 0x20_0000, ret: 0, duration: 2_200 };
    let body = Body::IoPageFault { device: device.device, iova: 0xbad_0000, flags: 1 };
    let invalidate = Invalidate { iommu: Ptr(1), desc: 2, count: 1, options: 0, ret: 0, duration: 41_000 };
    script
        .by(30)
        .event(ProbeId::Map, Phase::Exit, Body::Dma(map))
        .event(ProbeId::Unmap, Phase::Exit, Body::Dma(DmaOp { ret: 0x20_0000, ..map }))
        .event(ProbeId::Map, Phase::Exit, Body::Dma(DmaOp { ret: -12, ..map }))
        .event(ProbeId::QiSubmitSync, Phase::Exit, Body::Invalidate(invalidate))
        .event(ProbeId::CacheTagFlushRange, Phase::Exit, Body::Flush(map))
        .event(ProbeId::IoPageFault, Phase::Enter, body);
}

/// A rule is broken: a handle is attached where another one sits.
pub fn violation(script: &mut Script, n: u32) {
    let device = dev(2);
    script.by(12).core_attach(&device, 5, &hnd(300 + n, &device), 0);
    script.by(12).core_detach(&device, 5, &hnd(300 + n, &device));
    script.by(12).core_attach(&device, 5, &handle_of(&device, 102), 0);
}

/// What should not be: a rule is broken, records are lost, a fault is not answered, and what is about it is uncertain.
pub fn trouble(script: &mut Script, n: u32) {
    violation(script, n);
    script.by(0).lost(ProbeId::DetachDevicePasid, Phase::Exit, 3);
    violation(script, n + 1);
    let (device, request) = (dev(3), Req::new(None, n & 0x1ff, 0x5000));
    script.by(25).report(&device, &request).lookup_fails(&device, 0, ENOENT).reported(-22);
}

/// Devices of names that nobody thought of, which fault.
pub fn hostile(script: &mut Script) {
    for (n, name) in (0x100..).zip(HOSTILE) {
        let mut device = dev(n);
        let mut bytes = device.device.name.0;
        bytes.fill(0);
        bytes[..name.len()].copy_from_slice(name);
        device.device.name = Name::from_kernel(bytes);
        let handle = hnd(n, &device);
        let request = Req::new(None, n, 0x1000);
        script.by(10).bind(&device).attach(&device, 0, &handle).queue_add(&device, 0);
        script.by(24).fault(group(n), &device, &request, &handle);
        script.by(77).read(device.id, &request, n).write(group(n), &device, &request, &handle, 0);
    }
}

/// Many devices, each attached to its RID and a PASID, each with one fault.
pub fn crowd(script: &mut Script, devices: u32) {
    for n in 0..devices {
        let mut device = dev(0x1000 + n);
        device.device.name = Name::new(&format!("{n:04x}:00:00.0"));
        let (rid, pasid) = (hnd(0x1000 + 2 * n, &device), hnd(0x1001 + 2 * n, &device));
        let request = Req::new(None, n & 0x1ff, 0x1000);
        script.by(10).bind(&device).queue_add(&device, 0).attach(&device, 0, &rid);
        script.by(10).attach(&device, 1 + n, &pasid);
        script.by(24).fault(group(n), &device, &request, &rid);
        script.by(77).read(device.id, &request, n).write(group(n), &device, &request, &rid, 0);
    }
}

/// Plays the set-up, and then rounds, one each `every`, until it is stopped.
pub struct Busy {
    info: SourceInfo,
    script: Script,
    rounds: u32,
    /// How many rounds at most; then it waits.
    pub most: u32,
    pub every: Duration,
    /// Ends after the last round, as a recording does.
    pub ends: bool,
    stopped: bool,
    /// What is played besides.
    pub besides: fn(&mut Script, u32),
}

impl Busy {
    pub fn new(most: u32) -> Self {
        Busy {
            info: info(),
            script: Script::new(),
            rounds: 0,
            most,
            every: Duration::ZERO,
            ends: false,
            stopped: false,
            besides: |_, _| {},
        }
    }
}

impl Source for Busy {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn poll(&mut self, timeout: Duration, batch: &mut Batch) -> anyhow::Result<Progress> {
        let over = self.rounds >= self.most;
        if self.stopped || (over && self.ends) {
            batch.upto = self.script.now;
            return Ok(Progress::End);
        }
        if over {
            std::thread::sleep(timeout.min(Duration::from_millis(5)));
        } else {
            if self.rounds == 0 {
                setup(&mut self.script);
                // What began before is settled by then.
                self.script.pass(200_000_000);
            } else {
                std::thread::sleep(self.every);
            }
            round(&mut self.script, self.rounds);
            (self.besides)(&mut self.script, self.rounds);
            self.script.pass(1_000_000);
            self.rounds += 1;
        }
        batch.events = std::mem::take(&mut self.script.events);
        batch.upto = self.script.now;
        Ok(Progress::More)
    }

    fn stop(&mut self) -> anyhow::Result<()> {
        self.stopped = true;
        Ok(())
    }

    fn stacks(&self) -> Arc<dyn Stacks> {
        Arc::new(NoStacks)
    }

    fn cost(&self) -> Cost {
        let rounds = u64::from(self.rounds + 1);
        let program = |name: &str| ProgramCost { program: name.into(), runs: 7 * rounds, run_ns: 700 * rounds };
        Cost { programs: vec![program("report_enter"), program("report_exit")] }
    }
}

/// All events as fast as it goes, in batches as large as a live source's; then nothing.
pub struct Given {
    info: SourceInfo,
    events: VecDeque<Event>,
    stopped: bool,
}

impl Given {
    pub fn new(script: Script) -> Self {
        Given { info: info(), events: script.events.into(), stopped: false }
    }
}

impl Source for Given {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn poll(&mut self, timeout: Duration, batch: &mut Batch) -> anyhow::Result<Progress> {
        if self.stopped {
            return Ok(Progress::End);
        }
        batch.events = self.events.drain(..self.events.len().min(8192)).collect();
        match batch.events.last() {
            Some(last) => batch.upto = last.ts,
            None => std::thread::sleep(timeout.min(Duration::from_millis(5))),
        }
        Ok(Progress::More)
    }

    fn stop(&mut self) -> anyhow::Result<()> {
        self.stopped = true;
        Ok(())
    }

    fn stacks(&self) -> Arc<dyn Stacks> {
        Arc::new(NoStacks)
    }
}
