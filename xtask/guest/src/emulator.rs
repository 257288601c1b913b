//! The QEMU that this machine is run by: devices that it plugs in and takes away while the guest runs.
//!
//! `cargo xtask vm --hotplug` passes commands on that are put into the share, and brings the answers: see
//! `xtask/src/vm/qmp.rs`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::NotApplicable;
use crate::pci::Pci;
use crate::sys::{Failure, Tried};
use crate::truth::{Fact, Outcome, Truth};

/// Where the share has the go-between's files.
const SHARE: &str = "/run/host/qmp";
/// How long QEMU may take for an answer.
const ANSWER: Duration = Duration::from_secs(20);
/// How long a device may take to come or go: a port's button is heeded after five seconds, and each device waits for the
/// one before it.
const MOVE: Duration = Duration::from_secs(60);
/// How often a file is looked for.
const TICK: Duration = Duration::from_millis(5);
/// The number of the first port's device on bus 0.
const FIRST_PORT: u32 = 4;

/// The way to QEMU.
pub struct Emulator {
    next: AtomicU32,
}

impl Emulator {
    /// Fails where nobody passes commands on.
    pub fn reach() -> Result<Self> {
        if !Path::new(SHARE).exists() {
            bail!(NotApplicable("nobody passes commands on to QEMU (cargo xtask vm --hotplug)".to_owned()));
        }
        // Those of a program before this one stay.
        let next = (0..u32::MAX).find(|&n| !file(n, "command").exists()).unwrap_or(0);
        Ok(Self { next: AtomicU32::new(next) })
    }

    /// Runs one command.
    fn execute(&self, command: &str, arguments: &Value) -> Tried<()> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let tried = || format!("{command} {arguments}");
        let failed = |error: &std::io::Error| Failure::from_io(error, tried());
        let partial = file(number, "partial");
        fs::write(&partial, json!({ "execute": command, "arguments": arguments }).to_string())
            .and_then(|()| fs::rename(&partial, file(number, "command")))
            .map_err(|error| failed(&error))?;
        let answer = file(number, "answer");
        wait(ANSWER, &tried, || answer.exists())?;
        let text = fs::read_to_string(&answer).map_err(|error| failed(&error))?;
        let answer: Value = serde_json::from_str(&text).unwrap_or_default();
        match answer.get("return") {
            Some(_) => Ok(()),
            None => Err(Failure::new(libc::EIO, format!("{}: {}", tried(), answer["error"]["desc"]))),
        }
    }
}

fn file(number: u32, kind: &str) -> PathBuf {
    Path::new(SHARE).join(format!("{number}.{kind}"))
}

/// How many events there were.
fn events() -> u32 {
    (0..u32::MAX).find(|&n| !file(n, "event").exists()).unwrap_or(0)
}

/// Whether QEMU has said, from the event of this number on, that it is done with the device.
fn is_deleted(id: &str, from: u32) -> bool {
    (from..).map_while(|n| fs::read_to_string(file(n, "event")).ok()).any(|text| {
        let event: Value = serde_json::from_str(&text).unwrap_or_default();
        event["event"] == "DEVICE_DELETED" && event["data"]["device"] == id
    })
}

fn wait(limit: Duration, tried: &dyn Fn() -> String, is_so: impl Fn() -> bool) -> Tried<()> {
    let deadline = Instant::now() + limit;
    while !is_so() {
        if Instant::now() > deadline {
            return Err(Failure::new(libc::ETIMEDOUT, tried()));
        }
        thread::sleep(TICK);
    }
    Ok(())
}

/// A hot-plug port, which has room for one device.
pub struct Port {
    emulator: Arc<Emulator>,
    number: u32,
}

impl Port {
    /// The port of this number, from 0 on.
    pub fn new(emulator: &Arc<Emulator>, number: u32) -> Result<Self> {
        let port = Self { emulator: Arc::clone(emulator), number };
        if !port.pci().path("").exists() {
            bail!(NotApplicable(format!("this machine has no hot-plug port {number}")));
        }
        Ok(port)
    }

    fn pci(&self) -> Pci {
        Pci { address: format!("0000:00:{:02x}.0", FIRST_PORT + self.number) }
    }

    /// QEMU's name for the device.
    fn id(&self) -> String {
        format!("plugged-{}", self.number)
    }

    /// The device in it.
    fn device(&self) -> Option<Pci> {
        let names = fs::read_dir(self.pci().path("")).ok()?.flatten().filter_map(|e| e.file_name().into_string().ok());
        let address =
            names.into_iter().find(|name| name.len() == "0000:00:00.0".len() && name.matches(':').count() == 2)?;
        Some(Pci { address })
    }

    /// Plugs an edu device in, waits until the kernel has found it and put it into a group, and tells.
    pub fn plug(&self, truth: &Truth) -> Tried<Pci> {
        let arguments = json!({ "driver": "edu", "id": self.id(), "bus": format!("hotplug-{}", self.number) });
        let (outcome, result) = Outcome::of(|| {
            self.emulator.execute("device_add", &arguments)?;
            let grouped = || self.device().filter(|device| device.group().is_some());
            wait(MOVE, &|| format!("the coming of {arguments}"), || grouped().is_some())?;
            grouped().ok_or_else(|| Failure::new(libc::ENODEV, format!("the coming of {arguments}")))
        });
        if let Ok(pci) = &result {
            truth.tell(&Fact::DeviceAdd { device: pci.address.clone(), group: pci.group(), outcome });
        }
        result
    }

    /// Asks for the device back, waits until the kernel and QEMU are done with it, and tells.
    pub fn unplug(&self, pci: &Pci, truth: &Truth) -> Tried<Outcome> {
        let (group, id, from) = (pci.group(), self.id(), events());
        let (outcome, result) = Outcome::of(|| {
            self.emulator.execute("device_del", &json!({ "id": id }))?;
            wait(MOVE, &|| format!("the removal of {} by the kernel", pci.address), || !pci.path("").exists())?;
            wait(MOVE, &|| format!("the removal of {id} by QEMU"), || is_deleted(&id, from))
        });
        truth.tell(&Fact::DeviceRemove { device: pci.address.clone(), group, outcome });
        result.map(|()| outcome)
    }
}
