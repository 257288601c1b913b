//! Watching a machine: one loop that passes output on, reads console and control channel, and knows when to stop.
//!
//! Everything comes through files that grow, so that one thread follows them all, and what a dying guest wrote last is
//! still there after it.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{ErrorKind, Read, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{
    control::{self, Line, Verdict},
    outcome::{Outcome, Status},
    qmp::Bridge,
};
use crate::{
    command,
    console::Console,
    qemu::{self, Machine},
};

/// How often the files are looked at.
const TICK: Duration = Duration::from_millis(5);
/// How long a dying kernel may go on explaining itself.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long a guest may take to power off once it has given its verdict.
const FAREWELL: Duration = Duration::from_secs(10);

/// Runs a machine to its end.
pub fn run(machine: &Machine, timeout: Duration, stdout: &mut dyn Write, stderr: &mut dyn Write) -> Result<Outcome> {
    let mut qemu = Qemu::start(machine)?;
    let mut console_file = Follow::open(&machine.console)?;
    let mut control_file = Follow::open(&machine.control)?;
    // The share, and the serial ports that stand in for it on kernels without 9p.
    let mut outs = [Follow::open(&machine.share.join("stdout"))?, Follow::open(&machine.serial[0])?];
    let mut errs = [Follow::open(&machine.share.join("stderr"))?, Follow::open(&machine.serial[1])?];

    let mut bridge = machine.hotplug.as_ref().map(|(_, socket)| Bridge::new(socket, &machine.share));

    let started = Instant::now();
    let mut console = Console::default();
    let mut control = Control::default();
    let mut deadline: Option<Instant> = None;
    let mut timed_out = false;
    let mut loaded = false;
    let ended = loop {
        // Asked before the files are read: what was written before the end is then read for sure.
        let ended = qemu.ended()?;
        let spoke = console_file.read(&mut |bytes| {
            console.feed(bytes);
            Ok(())
        })?;
        if spoke && !loaded {
            // The largest file of a run is not left behind by one that is interrupted: QEMU has read it.
            loaded = fs::remove_file(&machine.initramfs).is_ok();
        }
        let mut moved = spoke;
        moved |= control_file.read(&mut |bytes| {
            control.feed(bytes, started);
            Ok(())
        })?;
        for file in &mut outs {
            moved |= file.pass_on(stdout)?;
        }
        for file in &mut errs {
            moved |= file.pass_on(stderr)?;
        }
        if let Some(ended) = ended {
            break ended;
        }
        if let Some(bridge) = &mut bridge {
            moved |= bridge.pump()?;
        }
        let now = Instant::now();
        if deadline.is_none() {
            if console.fatal().is_some() {
                deadline = Some(now + LAST_WORDS);
            } else if !control.verdicts.is_empty() {
                deadline = Some(now + FAREWELL);
            }
        }
        if deadline.is_some_and(|d| now >= d) {
            break qemu.kill()?;
        }
        if now.duration_since(started) >= timeout {
            timed_out = true;
            break qemu.kill()?;
        }
        if !moved {
            thread::sleep(TICK);
        }
    };
    console.finish();
    stdout.flush().ok();
    stderr.flush().ok();

    let status = if let Some(alarm) = console.fatal() {
        Status::Crashed(alarm.clone())
    } else {
        match control.verdicts.as_slice() {
            [Verdict::Exit(code)] => Status::Exited(*code),
            [Verdict::Signal(signal)] => Status::Signalled(*signal),
            [Verdict::Failed(why)] => Status::NoVerdict(format!("the guest's init failed: {why}")),
            [] if timed_out => Status::TimedOut(timeout, control.ready.is_some()),
            [] => Status::NoVerdict(format!("the guest ended without a verdict ({ended})")),
            several => Status::NoVerdict(format!("the guest gave several verdicts: {several:?}")),
        }
    };
    Ok(Outcome {
        status,
        stdout: Vec::new(),
        stderr: Vec::new(),
        alarms: console.alarms().to_vec(),
        console: console.text().to_owned(),
        notes: control.notes,
        collected: BTreeMap::new(),
        boot: control.ready,
        wall: started.elapsed(),
        directory: None,
    })
}

/// The control channel as it comes.
#[derive(Debug, Default)]
struct Control {
    partial: Vec<u8>,
    ready: Option<Duration>,
    verdicts: Vec<Verdict>,
    notes: Vec<String>,
}

impl Control {
    fn feed(&mut self, bytes: &[u8], started: Instant) {
        for byte in bytes {
            if *byte != b'\n' {
                self.partial.push(*byte);
                continue;
            }
            match control::parse(&String::from_utf8_lossy(&self.partial)) {
                Line::Ready => self.ready = Some(started.elapsed()),
                Line::Note(text) => self.notes.push(text),
                Line::Verdict(verdict) => self.verdicts.push(verdict),
                Line::Garbage(text) => self.notes.push(format!("not understood on the control channel: {text}")),
            }
            self.partial.clear();
        }
    }
}

/// A file that grows.
struct Follow {
    file: File,
    buffer: Vec<u8>,
}

impl Follow {
    fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        Ok(Self { file, buffer: vec![0; 1 << 16] })
    }

    /// Hands over what was added since the last time; whether there was anything.
    fn read(&mut self, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<bool> {
        let mut any = false;
        loop {
            match self.file.read(&mut self.buffer) {
                Ok(0) => return Ok(any),
                Ok(n) => {
                    any = true;
                    take(&self.buffer[..n])?;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("cannot read what the guest wrote"),
            }
        }
    }

    fn pass_on(&mut self, to: &mut dyn Write) -> Result<bool> {
        let any = self.read(&mut |bytes| to.write_all(bytes).context("cannot pass the guest's output on"))?;
        if any {
            to.flush().context("cannot pass the guest's output on")?;
        }
        Ok(any)
    }
}

/// A running QEMU, killed when dropped.
struct Qemu {
    child: Child,
    errors: Option<tempfile::NamedTempFile>,
}

impl Qemu {
    fn start(machine: &Machine) -> Result<Self> {
        let errors = tempfile::NamedTempFile::new().context("cannot make a file for QEMU's messages")?;
        let mut command = machine.emulator.command();
        command.args(qemu::arguments(machine)).stderr(errors.reopen()?);
        if !machine.terminal {
            command.stdin(Stdio::null()).stdout(errors.reopen()?);
        }
        // SAFETY: the closure only makes one async-signal-safe system call.
        unsafe {
            // A guest never outlives the run that started it, however that ends.
            command.pre_exec(|| {
                rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
                    .map_err(Into::into)
            });
        }
        let child = command.spawn().map_err(|error| command::cannot_start(&command, &error))?;
        Ok(Self { child, errors: Some(errors) })
    }

    /// How QEMU ended, if it has; fails if QEMU itself did.
    fn ended(&mut self) -> Result<Option<String>> {
        let Some(status) = self.child.try_wait().context("cannot wait for QEMU")? else {
            return Ok(None);
        };
        let said = self.errors.as_ref().and_then(|e| fs::read_to_string(e.path()).ok()).unwrap_or_default();
        if !status.success() {
            bail!("QEMU failed ({status}):\n{}", command::tail(&said, 20));
        }
        Ok(Some(format!("QEMU: {status}{}", if said.is_empty() { String::new() } else { format!(", {said}") })))
    }

    fn kill(&mut self) -> Result<String> {
        self.child.kill().context("cannot end QEMU")?;
        self.child.wait().context("cannot wait for QEMU")?;
        Ok("ended by xtask".to_owned())
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
