//! A stream of events as a busy host with virtual machines makes it.

#![allow(dead_code, reason = "each benchmark uses its part")]

pub mod cpu;

use std::ops::Range;

use iommu_trace::{
    event::{Event, ProbeId},
    model::testing::{Dev, Hnd, Req, Script, dev_in, group, hnd},
};

/// PASIDs of a device that are attached at once.
const PASIDS: u32 = 100;
/// Page requests that one handle sees between two changes.
const FAULTS: u32 = 8;

/// `n` live handles, a hundred to a device, attached with nothing else happening.
pub fn attached(n: u32) -> (Script, Vec<(Dev, u32, Hnd)>) {
    let mut script = Script::new();
    let mut live = Vec::new();
    for at in 0..n {
        let (device, pasid) = (dev_in(at / PASIDS, at / PASIDS), at % PASIDS);
        if pasid == 0 {
            script.by(10).bind(&device).queue_add(&device, 0);
        }
        let handle = hnd(at, &device);
        script.by(10 + at % 4).attach(&device, pasid, &handle);
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
    let (mut script, mut live) = attached(n);
    let before = std::mem::take(&mut script.events);
    let mut fresh = n;
    for round in rounds {
        let at = (mix(u64::from(round)) % u64::from(n)) as usize;
        let (device, pasid, handle) = live[at];
        let request = |number: u32| {
            let pasid = (pasid != 0).then_some(pasid);
            Req::new(pasid, number % 4, u64::from(mix(u64::from(round * FAULTS + number)) as u16) << 12)
        };
        for number in 0..FAULTS {
            let fault_group = group(mix(u64::from(round)) as u32 % 1024 * 4 + number % 4);
            script
                .by(200 + round % 4)
                .report(&device, &request(number))
                .lookup(&device, pasid, &handle)
                .group(ProbeId::IommufdIopfHandler, fault_group, &device, &request(number), &handle, 1)
                .group(ProbeId::GroupDequeue, fault_group, &device, &request(number), &handle, 1)
                .reported(0);
            if number % 4 != 3 {
                continue;
            }
            script.by(300).file(ProbeId::FaultRead);
            for told in number - 3..=number {
                script.by(300).message(device.id, &request(told), round * FAULTS + told + 1);
            }
            script.by(300).file_ret(ProbeId::FaultRead, 160).file(ProbeId::FaultWrite);
            for told in number - 3..=number {
                let from = script.events.len();
                let fault_group = group(mix(u64::from(round)) as u32 % 1024 * 4 + told % 4);
                script.by(300).respond(fault_group, &device, &request(told), &handle, 0);
                script.by(300).free(fault_group, &device, &request(told), &handle);
                script.answer_with_cookie(from, round * FAULTS + told + 1);
            }
            script.by(300).file_ret(ProbeId::FaultWrite, 32);
        }
        fresh += 1;
        let new = hnd(fresh, &device);
        if round % 2 == 0 {
            script.by(10).replace(&device, pasid, &handle, &new);
        } else {
            script.by(10).detach(&device, pasid, &handle).attach(&device, pasid, &new);
        }
        live[at].2 = new;
    }
    (before, script.events)
}
