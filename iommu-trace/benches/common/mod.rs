//! A stream of events as a busy host with virtual machines makes it.

#![allow(dead_code, reason = "each benchmark uses its part")]

pub mod cpu;
pub mod flame;

use std::ops::Range;

use iommu_trace::{
    event::{Event, ProbeId, Ptr},
    model::testing::{Dev, Hnd, Req, Script, dev_in, group, hnd},
};

/// PASIDs of a device that are attached at once.
const PASIDS: u32 = 100;
/// Page requests that one handle sees between two changes.
const FAULTS: u32 = 8;

/// Whose devices, handles, threads and the like they are: several parts can happen at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Part(pub u32);

impl Part {
    fn device(self, n: u32) -> Dev {
        let n = self.0 * 1_000 + n;
        dev_in(n, n)
    }

    fn handle(self, n: u32, device: &Dev) -> Hnd {
        hnd(self.0 * 100_000 + n, device)
    }

    fn thread(self, n: u32) -> u32 {
        self.0 * 1_000 + n
    }

    fn group(self, n: u32) -> Ptr {
        group(self.0 * 4_096 + n)
    }

    fn cookie(self, n: u32) -> u32 {
        self.0 * 1_000_000 + n
    }
}

/// `n` live handles, a hundred to a device, attached with nothing else happening.
pub fn attached(n: u32) -> (Script, Vec<(Dev, u32, Hnd)>) {
    attached_of(Part::default(), n)
}

fn attached_of(part: Part, n: u32) -> (Script, Vec<(Dev, u32, Hnd)>) {
    let mut script = Script::new();
    let mut live = Vec::new();
    for at in 0..n {
        let (device, pasid) = (part.device(at / PASIDS), at % PASIDS);
        if pasid == 0 {
            script.by(part.thread(10)).bind(&device).queue_add(&device, 0);
        }
        let handle = part.handle(at, &device);
        script.by(part.thread(10 + at % 4)).attach(&device, pasid, &handle);
        live.push((device, pasid, handle));
    }
    (script, live)
}

/// A number that looks random and is the same every time.
pub fn mix(n: u64) -> u64 {
    let mut z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^ (z >> 27)
}

/// What follows while `n` handles are live: in each round one of them, at random, has eight page requests with all
/// their stages, four of which are outstanding at once, and is then replaced or detached and attached again. Gives the
/// attaches before it, and it.
pub fn stream(n: u32, rounds: Range<u32>) -> (Vec<Event>, Vec<Event>) {
    let (before, script, _) = stream_of(Part::default(), n, rounds);
    (before, script.events)
}

/// The same of a part; in the end everything is as it was, so that it can begin again.
pub fn lap(part: Part, n: u32, rounds: Range<u32>) -> (Vec<Event>, Vec<Event>) {
    let (before, mut script, live) = stream_of(part, n, rounds);
    for (at, (device, pasid, handle)) in (0..).zip(live) {
        let first = part.handle(at, &device);
        if handle.handle.ptr != first.handle.ptr {
            script.by(part.thread(10)).replace(&device, pasid, &handle, &first);
        }
    }
    (before, script.events)
}

fn stream_of(part: Part, n: u32, rounds: Range<u32>) -> (Vec<Event>, Script, Vec<(Dev, u32, Hnd)>) {
    let (mut script, mut live) = attached_of(part, n);
    let before = std::mem::take(&mut script.events);
    let mut fresh = n;
    let thread = |n: u32| part.thread(n);
    for round in rounds {
        let at = (mix(u64::from(round)) % u64::from(n)) as usize;
        let (device, pasid, handle) = live[at];
        let request = |number: u32| {
            let pasid = (pasid != 0).then_some(pasid);
            Req::new(pasid, number % 4, u64::from(mix(u64::from(round * FAULTS + number)) as u16) << 12)
        };
        let fault_group = |number: u32| part.group(mix(u64::from(round)) as u32 % 1024 * 4 + number % 4);
        for number in 0..FAULTS {
            let faulted = fault_group(number);
            script
                .by(thread(200 + round % 4))
                .report(&device, &request(number))
                .lookup(&device, pasid, &handle)
                .group(ProbeId::IommufdIopfHandler, faulted, &device, &request(number), &handle, 1)
                .group(ProbeId::GroupDequeue, faulted, &device, &request(number), &handle, 1)
                .reported(0);
            if number % 4 != 3 {
                continue;
            }
            let answerer = thread(300);
            script.by(answerer).file(ProbeId::FaultRead);
            for told in number - 3..=number {
                script.by(answerer).message(device.id, &request(told), part.cookie(round * FAULTS + told + 1));
            }
            script.by(answerer).file_ret(ProbeId::FaultRead, 160).file(ProbeId::FaultWrite);
            for told in number - 3..=number {
                let from = script.events.len();
                let fault_group = fault_group(told);
                script.by(answerer).respond(fault_group, &device, &request(told), &handle, 0);
                script.by(answerer).free(fault_group, &device, &request(told), &handle);
                script.answer_with_cookie(from, part.cookie(round * FAULTS + told + 1));
            }
            script.by(answerer).file_ret(ProbeId::FaultWrite, 32);
        }
        fresh += 1;
        let new = part.handle(fresh, &device);
        if round % 2 == 0 {
            script.by(thread(10)).replace(&device, pasid, &handle, &new);
        } else {
            script.by(thread(10)).detach(&device, pasid, &handle).attach(&device, pasid, &new);
        }
        live[at].2 = new;
    }
    (before, script, live)
}
