//! `iopf`: page faults of the test device, from the trigger to the answer.
//!
//! Normal faults are raised by threads in batches, read and answered. Then, on one thread and device by
//! device, come those that are to be left unanswered or unread, and the end that makes the kernel answer
//! them itself.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use super::join_all;
use crate::NotApplicable;
use crate::abi::iommufd::{
    HWPT_NEST_PARENT, HWPT_PASID, PERM_EXEC, PERM_PRIV, PERM_READ, PERM_WRITE, PageFault, PageResponse, RESP_INVALID,
    RESP_SUCCESS,
};
use crate::abi::iommufd_test::DEVICE_PASID;
use crate::iommufd::{FaultQueue, Iommufd, Pt, Refused};
use crate::mock::{Expect, Features, Mock, open};
use crate::sys;
use crate::truth::{Answerer, Code, Fact, Fault, Hex, Outcome, Truth};

/// What `iopf` does.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Faults to raise and answer, all threads together.
    #[arg(long, default_value_t = 16, value_name = "N")]
    pub faults: u32,
    /// Threads that raise, read and answer at once.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub threads: u32,
    /// Mock devices; thread i uses device i modulo N.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub devices: u32,
    /// One fault queue for all devices, or one for each.
    #[arg(long, value_enum, default_value_t = Queues::Own)]
    pub queue: Queues,
    /// Faults go to the RID and PASIDs 1 to N in turn.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub pasid: u32,
    /// How a PASID finds its handler: its own slot, the RID's nested page table (two look-ups), or
    /// whichever this kernel has.
    #[arg(long, value_enum, default_value_t = PasidVia::Auto)]
    pub pasid_via: PasidVia,
    /// The fault-capable page table. `paging` needs a kernel that allows it (6.14).
    #[arg(long, value_enum, default_value_t = Hwpt::Nested)]
    pub hwpt: Hwpt,
    /// The code to answer with.
    #[arg(long, value_enum, default_value_t = Answer::Cycle)]
    pub answer: Answer,
    /// Raise N faults, then read and answer N at once.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub batch: u32,
    /// Group ids start again at 0 after N faults; 0: never, each fault has its own.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub grpids: u32,
    /// Then raise N more faults on each device and never read them.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub leave_unread: u32,
    /// Before those, raise N faults on each device, read them and never answer them.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub leave_unanswered: u32,
    /// How the devices leave their fault-capable page table.
    #[arg(long, value_enum, default_value_t = End::Detach)]
    pub end: End,
    /// Also read and write the fault file in ways that the kernel must refuse.
    #[arg(long)]
    pub bad_answers: bool,
    /// Raise the faults on a device whose page tables have no fault queue.
    #[arg(long)]
    pub no_handler: bool,
    /// Raise faults that are not the last of their group.
    #[arg(long)]
    pub partial: bool,
}

/// Whose the fault queue is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Queues {
    Own,
    Shared,
}

/// Where a PASID's faults find their handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PasidVia {
    Auto,
    Slot,
    Rid,
}

/// Which page table handles faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Hwpt {
    Nested,
    Paging,
}

/// The codes to answer with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Answer {
    Success,
    Invalid,
    /// Each code that the ABI has, in turn.
    Cycle,
}

/// How a device leaves its fault-capable page table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum End {
    /// PASIDs and then the RID are detached.
    Detach,
    /// They are moved to page tables without a fault queue, then detached.
    Replace,
    /// The fault files and then iommufd are closed with everything attached.
    Close,
    /// As `detach`, with an attempt (refused) to destroy the fault queue before, and a real one after.
    Destroy,
}

impl Answer {
    fn code(self, n: u32) -> Code {
        match (self, n % 2) {
            (Self::Success, _) | (Self::Cycle, 0) => Code::Success,
            _ => Code::Invalid,
        }
    }
}

/// A fault on its way.
struct Flight {
    fault: Fault,
    raised: bool,
    answered: bool,
}

/// Faults on their way, by what identifies them in the fault file. Threads read each other's faults, so this is shared.
#[derive(Default)]
pub struct Flights {
    map: Mutex<HashMap<(u32, u32, u32), Flight>>,
    next: AtomicU32,
}

/// A device ready to fault: on a fault-capable page table, its PASIDs too.
pub struct Rig {
    /// The device.
    pub mock: Mock,
    /// Where its faults arrive.
    pub queue: Arc<FaultQueue>,
    /// The page table without a fault queue to go back to: for the RID.
    plain: Pt,
    /// The same for PASIDs.
    plain_pasid: Option<Pt>,
    /// The page tables to destroy in the end, leaves first.
    owned: Vec<(&'static str, u32)>,
}

impl Flights {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(u32, u32, u32), Flight>> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Raises one fault of `mock` by `pasid`; `n` picks address and permissions.
    pub fn raise(&self, mock: &Mock, pasid: u32, grpids: u32) -> Result<()> {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let grpid = if grpids == 0 { n } else { n % grpids };
        let addr = 0x1000_0000 + u64::from(n) * 0x1000;
        let perm = match n % 4 {
            0 => PERM_READ,
            1 => PERM_READ | PERM_WRITE,
            2 => PERM_READ | PERM_EXEC,
            _ => PERM_WRITE | PERM_PRIV,
        };
        let own = mock.held(pasid);
        let falls_back = own.is_none() && pasid != 0;
        let held = own.or_else(|| mock.held(0));
        let handler = held.filter(|held| held.fault_id.is_some());
        let key = (mock.device_id, pasid, grpid);
        let fault = Fault {
            device: mock.name.clone(),
            group: mock.group,
            device_id: mock.device_id,
            stdev_id: mock.stdev_id,
            pasid,
            grpid,
            addr: Hex(addr),
            perm,
            hwpt_id: handler.map(|h| h.hwpt_id),
            fault_id: handler.and_then(|h| h.fault_id),
            lookups: if falls_back { 2 } else { 1 },
            delivered: false,
            read_device_id: None,
            flags: None,
            cookie: None,
            response: Code::Invalid,
            by: Answerer::Core,
            raise_tid: sys::tid(),
            raise_ts0: sys::now(),
            raise_ts1: 0,
            read_ts0: None,
            read_ts1: None,
            answer_ts0: 0,
            answer_ts1: 0,
        };
        let old = self.lock().insert(key, Flight { fault, raised: false, answered: false });
        ensure!(old.is_none(), "group id {grpid} is still in use: --grpids is too small");
        let (outcome, result) = Outcome::of(|| mock.fd().trigger_iopf(mock.device_id, pasid, grpid, perm, addr));
        result?;
        let done = self.update(key, |flight| {
            flight.raised = true;
            flight.fault.raise_ts0 = outcome.ts0;
            flight.fault.raise_ts1 = outcome.ts1;
            if handler.is_none() {
                flight.fault.answer_ts0 = outcome.ts0;
                flight.fault.answer_ts1 = outcome.ts1;
                flight.answered = true;
            }
        })?;
        tell(mock.fd().truth(), done);
        Ok(())
    }

    /// Changes a flight, and takes it out when it is over.
    fn update(&self, key: (u32, u32, u32), change: impl FnOnce(&mut Flight)) -> Result<Option<Fault>> {
        let mut map = self.lock();
        let flight = map.get_mut(&key).with_context(|| {
            let (device, pasid, grpid) = key;
            format!("the fault file delivered a fault that was never raised: device {device}, pasid {pasid}, group id {grpid}")
        })?;
        change(flight);
        if flight.raised && flight.answered {
            return Ok(map.remove(&key).map(|flight| flight.fault));
        }
        Ok(None)
    }

    /// Reads exactly `count` faults, which must be waiting, and compares them with what was raised.
    pub fn read(&self, queue: &FaultQueue, count: u32) -> Result<Vec<PageFault>> {
        let (outcome, faults) = Outcome::of(|| queue.read(count as usize));
        let faults = faults?;
        ensure!(
            faults.len() == count as usize,
            "fault queue {} delivered {} faults where {count} were raised",
            queue.id,
            faults.len()
        );
        for read in &faults {
            let mut differs = None;
            self.update((read.dev_id, read.pasid, read.grpid), |flight| {
                let fault = &mut flight.fault;
                if fault.addr != Hex(read.addr) || fault.perm != read.perm {
                    differs = Some(format!("{fault:?} was delivered as {read:?}"));
                }
                fault.delivered = true;
                fault.read_device_id = Some(read.dev_id);
                fault.flags = Some(read.flags);
                fault.cookie = Some(read.cookie);
                fault.read_ts0 = Some(outcome.ts0);
                fault.read_ts1 = Some(outcome.ts1);
            })?;
            if let Some(differs) = differs {
                bail!(differs);
            }
        }
        Ok(faults)
    }

    /// Answers faults that were read, in one write.
    pub fn answer(&self, truth: &Truth, queue: &FaultQueue, faults: &[(PageFault, Code)]) -> Result<()> {
        let responses: Vec<_> = faults
            .iter()
            .map(|(fault, code)| PageResponse {
                cookie: fault.cookie,
                code: match code {
                    Code::Success => RESP_SUCCESS,
                    Code::Invalid => RESP_INVALID,
                },
            })
            .collect();
        // The group ids become free with the write, and a thread that uses one again must not find the old
        // flight: so take them out before. One whose trigger has not returned yet stays, for its raiser.
        let mut taken = Vec::new();
        let mut raising = Vec::new();
        {
            let mut map = self.lock();
            for (fault, code) in faults {
                let key = (fault.dev_id, fault.pasid, fault.grpid);
                match map.remove(&key) {
                    Some(flight) if flight.raised => taken.push((flight, *code)),
                    Some(flight) => {
                        map.insert(key, flight);
                        raising.push((key, *code));
                    }
                    None => bail!("fault {fault:?} was answered by another thread"),
                }
            }
        }
        let (outcome, result) = Outcome::of(|| queue.answer(&responses));
        result?;
        let land = |flight: &mut Flight, code| {
            flight.answered = true;
            flight.fault.response = code;
            flight.fault.by = Answerer::User;
            flight.fault.answer_ts0 = outcome.ts0;
            flight.fault.answer_ts1 = outcome.ts1;
        };
        for (mut flight, code) in taken {
            land(&mut flight, code);
            tell(truth, Some(flight.fault));
        }
        for (key, code) in raising {
            tell(truth, self.update(key, |flight| land(flight, code))?);
        }
        Ok(())
    }

    /// Tells the faults that a call has made iommufd answer by itself.
    pub fn answered_by_kernel(&self, truth: &Truth, outcome: Outcome, which: impl Fn(&Fault) -> bool) {
        let mut map = self.lock();
        let mut faults: Vec<_> =
            map.extract_if(|_, flight| which(&flight.fault)).map(|(_, flight)| flight.fault).collect();
        drop(map);
        faults.sort_by_key(|fault| fault.raise_ts0);
        for mut fault in faults {
            fault.response = Code::Invalid;
            fault.by = Answerer::Iommufd;
            fault.answer_ts0 = outcome.ts0;
            fault.answer_ts1 = outcome.ts1;
            tell(truth, Some(fault));
        }
    }

    /// Fails if a fault is left over.
    fn none_left(&self) -> Result<()> {
        let left = self.lock().len();
        ensure!(left == 0, "{left} faults are neither answered nor accounted for");
        Ok(())
    }
}

fn tell(truth: &Truth, fault: Option<Fault>) {
    if let Some(fault) = fault {
        truth.tell(&Fact::Fault(fault));
    }
}

/// What kind of rig to make.
#[derive(Clone, Copy, Debug)]
pub struct RigOptions {
    /// Which page table handles faults.
    pub hwpt: Hwpt,
    /// PASIDs 1 to this one get a slot of their own.
    pub pasid_slots: u32,
    /// Whether the device and its page tables are made for PASIDs.
    pub pasid_capable: bool,
}

impl Rig {
    /// Makes a device on `ioas`, and moves it onto a fault-capable page table.
    pub fn new(fd: &Arc<Iommufd>, ioas: Pt, queue: &Arc<FaultQueue>, options: RigOptions) -> Result<Self> {
        let RigOptions { hwpt, pasid_slots, pasid_capable } = options;
        let flags = if pasid_capable { DEVICE_PASID } else { 0 };
        let mock = Mock::create(fd, ioas, flags)?;
        let pasid_flag = if pasid_capable { HWPT_PASID } else { 0 };
        let parent = fd.hwpt_paging(mock.device_id, ioas, HWPT_NEST_PARENT | pasid_flag, None)?;
        let mut owned = vec![("hwpt_nest_parent", parent.id)];
        let mut rig_pt = |fault_id| -> Result<Pt> {
            let (kind, pt) = match hwpt {
                Hwpt::Nested => ("hwpt_nested", fd.hwpt_nested(mock.device_id, parent, fault_id, pasid_capable)?),
                Hwpt::Paging => match fd.hwpt_paging(mock.device_id, ioas, pasid_flag, fault_id) {
                    Err(f) if f.errno == libc::EOPNOTSUPP => {
                        bail!(NotApplicable(format!("this kernel allows no fault queue on a paging page table ({f})")))
                    }
                    result => ("hwpt_paging", result?),
                },
            };
            owned.push((kind, pt.id));
            Ok(pt)
        };
        let faulting = rig_pt(Some(queue.id))?;
        let plain = rig_pt(None)?;
        let pasid_pts = match pasid_slots {
            0 => None,
            _ => Some((rig_pt(Some(queue.id))?, rig_pt(None)?)),
        };
        owned.reverse();
        let mut rig =
            Self { mock, queue: Arc::clone(queue), plain, plain_pasid: pasid_pts.map(|(_, plain)| plain), owned };
        rig.mock.replace(0, faulting, Expect::Success)?;
        if let Some((faulting, _)) = pasid_pts {
            for pasid in 1..=pasid_slots {
                rig.mock.pasid_attach(pasid, faulting, Expect::Success)?;
            }
        }
        Ok(rig)
    }

    /// Moves every slot off the fault queue: the kernel answers what is left of each.
    fn replace_away(&mut self, flights: &Flights, truth: &Truth) -> Result<()> {
        for pasid in self.mock.pasids() {
            let Some(plain) = self.plain_pasid else { break };
            let outcome = self.mock.replace(pasid, plain, Expect::Success)?;
            flights.answered_by_kernel(truth, outcome, of_slot(&self.mock, pasid));
        }
        let outcome = self.mock.replace(0, self.plain, Expect::Success)?;
        flights.answered_by_kernel(truth, outcome, of_slot(&self.mock, 0));
        Ok(())
    }

    /// Detaches every slot, destroys the page tables. The kernel answers what is left of each slot.
    pub fn end(mut self, flights: &Flights) -> Result<()> {
        let fd = Arc::clone(self.mock.fd());
        for pasid in self.mock.pasids() {
            let outcome = self.mock.pasid_detach(pasid)?;
            flights.answered_by_kernel(fd.truth(), outcome, of_slot(&self.mock, pasid));
        }
        let device = self.mock.device_id;
        let outcome = self.mock.detach()?;
        flights.answered_by_kernel(fd.truth(), outcome, |fault| fault.device_id == device);
        for (kind, id) in self.owned {
            fd.destroy(kind, id)?;
        }
        Ok(())
    }
}

/// The faults whose handle is the one in the slot of `pasid`: by its own slot, or fallen back to the RID's.
fn of_slot(mock: &Mock, pasid: u32) -> impl Fn(&Fault) -> bool + use<> {
    let device = mock.device_id;
    move |fault| {
        let slot = if fault.lookups == 2 { 0 } else { fault.pasid };
        fault.device_id == device && slot == pasid
    }
}

/// Runs the program.
pub fn run(args: &Args, truth: &Arc<Truth>) -> Result<()> {
    if args.partial {
        bail!(NotApplicable(
            "the test device marks every page request as the last of its group: \
             no partial fault can be raised with it"
                .to_owned()
        ));
    }
    let (fd, features) = open(truth)?;
    features.need_mock()?;
    let options = options(args, features)?;
    if options.pasid_slots > 0 && args.end == End::Close {
        bail!(NotApplicable(
            "the test device must not be closed with PASIDs attached (the kernel warns): \
             use --pasid-via rid with --end close"
                .to_owned()
        ));
    }
    let ioas = fd.ioas_alloc()?;
    let flights = Flights::default();
    if args.no_handler {
        no_handler(args, features, &fd, ioas, &flights)?;
        fd.destroy("ioas", ioas.id)?;
        return flights.none_left();
    }

    let mut rigs: Vec<Rig> = Vec::new();
    for _ in 0..args.devices {
        let queue = match (args.queue, rigs.first()) {
            (Queues::Shared, Some(first)) => Arc::clone(&first.queue),
            _ => Arc::new(fd.fault_queue_alloc()?),
        };
        rigs.push(Rig::new(&fd, ioas, &queue, options)?);
    }

    if args.bad_answers {
        bad_answers(&rigs[0], &flights)?;
    }
    thread::scope(|scope| {
        let threads = (0..args.threads).map(|i| {
            let rig = &rigs[(i % args.devices) as usize];
            // The first threads take the remainder.
            let share = args.faults / args.threads + u32::from(i < args.faults % args.threads);
            let flights = &flights;
            scope.spawn(move || raise_and_answer(args, rig, flights, share))
        });
        join_all(threads.collect())
    })?;
    leave(args, &rigs, &flights)?;
    end(args, fd, ioas, rigs, &flights)?;
    flights.none_left()
}

/// What the rigs must be like on this kernel.
fn options(args: &Args, features: Features) -> Result<RigOptions> {
    let via_slot = match args.pasid_via {
        PasidVia::Auto => features.pasid_attach,
        PasidVia::Slot => {
            features.need_pasid()?;
            true
        }
        PasidVia::Rid => false,
    };
    if args.pasid > 0 && !via_slot && args.hwpt == Hwpt::Paging {
        bail!(NotApplicable("a PASID without a slot of its own falls back to a nested page table only".to_owned()));
    }
    Ok(RigOptions {
        hwpt: args.hwpt,
        pasid_slots: if via_slot { args.pasid } else { 0 },
        pasid_capable: args.pasid > 0 && features.pasid_attach,
    })
}

/// One thread's share of ordinary faults.
fn raise_and_answer(args: &Args, rig: &Rig, flights: &Flights, share: u32) -> Result<()> {
    let mut n = 0;
    while n < share && !sys::stopped() {
        let batch = args.batch.min(share - n);
        for i in 0..batch {
            flights.raise(&rig.mock, (n + i) % (args.pasid + 1), args.grpids)?;
        }
        // Every thread reads as many as it raised, so that so many are always waiting, whosever they are.
        let faults = flights.read(&rig.queue, batch)?;
        let answers: Vec<_> = faults.into_iter().map(|fault| (fault, args.answer.code(fault.grpid))).collect();
        flights.answer(rig.mock.fd().truth(), &rig.queue, &answers)?;
        n += batch;
    }
    Ok(())
}

/// The faults that are read and not answered, then those that are not even read.
fn leave(args: &Args, rigs: &[Rig], flights: &Flights) -> Result<()> {
    for rig in rigs {
        for i in 0..args.leave_unanswered {
            flights.raise(&rig.mock, i % (args.pasid + 1), 0)?;
        }
        if args.leave_unanswered > 0 {
            flights.read(&rig.queue, args.leave_unanswered)?;
        }
    }
    for rig in rigs {
        for i in 0..args.leave_unread {
            flights.raise(&rig.mock, i % (args.pasid + 1), 0)?;
        }
    }
    Ok(())
}

/// Takes everything down the way that `--end` says.
fn end(args: &Args, fd: Arc<Iommufd>, ioas: Pt, rigs: Vec<Rig>, flights: &Flights) -> Result<()> {
    let truth = Arc::clone(fd.truth());
    let mut queues: Vec<Arc<FaultQueue>> = Vec::new();
    for rig in &rigs {
        if !queues.iter().any(|queue| queue.id == rig.queue.id) {
            queues.push(Arc::clone(&rig.queue));
        }
    }
    if args.end == End::Close {
        let gone: Vec<_> = rigs.into_iter().map(|rig| rig.mock.forget()).collect();
        close_files(queues);
        let outcome = fd.close_shared()?;
        flights.answered_by_kernel(&truth, outcome, |_| true);
        for device in gone {
            device.tell(&truth, outcome);
        }
        return Ok(());
    }
    let ids: Vec<_> = queues.iter().map(|queue| queue.id).collect();
    if args.end == End::Destroy {
        for &id in &ids {
            match fd.destroy("fault_queue", id) {
                Err(f) if f.errno == libc::EBUSY => {}
                Err(f) => return Err(f.into()),
                Ok(()) => bail!("fault queue {id} was destroyed under a page table that uses it"),
            }
        }
    }
    for mut rig in rigs {
        if args.end == End::Replace {
            rig.replace_away(flights, &truth)?;
        }
        rig.end(flights)?;
    }
    close_files(queues);
    for id in ids {
        fd.destroy("fault_queue", id)?;
    }
    fd.destroy("ioas", ioas.id)?;
    Ok(())
}

/// Closes the fault files, which are the last users of their queues here.
fn close_files(queues: Vec<Arc<FaultQueue>>) {
    for queue in queues {
        if let Some(queue) = Arc::into_inner(queue) {
            queue.close();
        }
    }
}

/// Faults that nobody handles: the core answers each INVALID at once.
fn no_handler(args: &Args, features: Features, fd: &Arc<Iommufd>, ioas: Pt, flights: &Flights) -> Result<()> {
    let flags = if args.pasid > 0 && features.pasid_attach { DEVICE_PASID } else { 0 };
    let mut mock = Mock::create(fd, ioas, flags)?;
    let parent = fd.hwpt_paging(mock.device_id, ioas, HWPT_NEST_PARENT, None)?;
    let nested = fd.hwpt_nested(mock.device_id, parent, None, false)?;
    for i in 0..args.faults {
        // Half of them on the page table that iommufd made, half on a nested one without a fault queue.
        if i == args.faults / 2 {
            mock.replace(0, nested, Expect::Success)?;
        }
        flights.raise(&mock, i % (args.pasid + 1), args.grpids)?;
    }
    mock.detach()?;
    fd.destroy("hwpt_nested", nested.id)?;
    fd.destroy("hwpt_nest_parent", parent.id)?;
    Ok(())
}

/// Everything that the fault file must refuse, with one fault waiting that must survive it.
fn bad_answers(rig: &Rig, flights: &Flights) -> Result<()> {
    let queue = &rig.queue;
    flights.raise(&rig.mock, 0, 0)?;
    queue.refused("read of less than a record", libc::ESPIPE, Refused::Read(39))?;
    let faults = flights.read(queue, 1)?;
    let cookie = faults[0].cookie;
    let response = |cookie: u32, code: u32| {
        let mut bytes = cookie.to_ne_bytes().to_vec();
        bytes.extend_from_slice(&code.to_ne_bytes());
        bytes
    };
    queue.refused("half a response", libc::ESPIPE, Refused::Write(&response(cookie, 0)[..4]))?;
    queue.refused("unknown code", libc::EINVAL, Refused::Write(&response(cookie, 2)))?;
    queue.refused("unknown cookie", libc::EINVAL, Refused::Write(&response(cookie + 1000, 0)))?;
    flights.answer(rig.mock.fd().truth(), queue, &[(faults[0], Code::Success)])?;
    queue.refused("answered twice", libc::EINVAL, Refused::Write(&response(cookie, 0)))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cycling_answers_uses_every_code_of_the_abi() {
        let codes: Vec<_> = (0..4).map(|n| Answer::Cycle.code(n)).collect();
        assert_eq!(codes, [Code::Success, Code::Invalid, Code::Success, Code::Invalid]);
        assert_eq!(Answer::Invalid.code(0), Code::Invalid);
        assert_eq!(Answer::Success.code(1), Code::Success);
    }
}
