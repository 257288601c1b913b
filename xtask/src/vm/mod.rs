//! Running a command in a guest: the one way everything here uses.
//!
//! [`Vm`] says what to run; [`Vm::run`] gives back an [`Outcome`]. The guest's side is `xtask/guest/src/bin/init.rs`.

mod command;
mod control;
mod monitor;
mod outcome;
mod qmp;

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};

pub use command::{Arguments, main as command_main};
pub use outcome::{CRASH_CODE, Outcome, Status, Unlucky};

use crate::{
    accel::{self, Accel},
    busybox,
    emulator::Emulator,
    initramfs::Initramfs,
    kernel::{self, Image},
    modules,
    programs::Programs,
    qemu::{self, Hotplug, Iommu, Machine},
};

/// A file of the host and where it is in the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// On the host.
    pub from: PathBuf,
    /// In the guest.
    pub to: String,
}

/// A guest to run one command in.
#[derive(Clone, Debug)]
pub struct Vm {
    kernel: Image,
    programs: Programs,
    command: Vec<String>,
    environment: Vec<(String, String)>,
    iommu: Iommu,
    accel: Accel,
    smp: u32,
    memory: String,
    icount: bool,
    timeout: Duration,
    append: Vec<String>,
    hotplug: Option<Hotplug>,
    devices: Vec<String>,
    modules: Vec<String>,
    copies: Vec<Copy>,
    trees: Vec<Copy>,
    collect: Vec<String>,
    terminal: bool,
    sleeps: bool,
    bare: bool,
}

impl Vm {
    /// A guest with a kernel and the programs to put into it. Until told otherwise: emulated VT-d, two CPUs, 1 GiB,
    /// two minutes, and `true` for a command.
    #[must_use]
    pub fn new(kernel: &Image, programs: &Programs) -> Self {
        Self {
            kernel: kernel.clone(),
            programs: programs.clone(),
            command: vec!["true".to_owned()],
            environment: Vec::new(),
            iommu: Iommu::default(),
            accel: Accel::Auto,
            smp: 2,
            memory: "1G".to_owned(),
            icount: false,
            timeout: Duration::from_secs(120),
            append: Vec::new(),
            hotplug: None,
            devices: Vec::new(),
            modules: Vec::new(),
            copies: Vec::new(),
            trees: Vec::new(),
            collect: Vec::new(),
            terminal: false,
            sleeps: false,
            bare: false,
        }
    }

    /// The command, looked up in the guest's `PATH`.
    #[must_use]
    pub fn command<S: Into<String>>(mut self, command: impl IntoIterator<Item = S>) -> Self {
        self.command = command.into_iter().map(Into::into).collect();
        self
    }

    /// A shell script as the command.
    #[must_use]
    pub fn script(self, script: impl Into<String>) -> Self {
        self.command(["sh".to_owned(), "-c".to_owned(), script.into()])
    }

    /// A variable of the command's environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// The emulated IOMMU.
    #[must_use]
    pub fn iommu(mut self, iommu: Iommu) -> Self {
        self.iommu = iommu;
        self
    }

    /// What runs the guest's instructions.
    #[must_use]
    pub fn accel(mut self, accel: Accel) -> Self {
        self.accel = accel;
        self
    }

    /// How many CPUs.
    #[must_use]
    pub fn smp(mut self, smp: u32) -> Self {
        self.smp = smp;
        self
    }

    /// How much memory, as QEMU says it: `1G`.
    #[must_use]
    pub fn memory(mut self, memory: impl Into<String>) -> Self {
        self.memory = memory.into();
        self
    }

    /// Lets guest nanoseconds count guest instructions, on one CPU under TCG.
    #[must_use]
    pub fn icount(mut self, icount: bool) -> Self {
        self.icount = icount;
        self
    }

    /// The wall-clock limit.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// More of the kernel's command line.
    #[must_use]
    pub fn append(mut self, words: impl Into<String>) -> Self {
        self.append.push(words.into());
        self
    }

    /// Ports whose devices come and go while the guest runs, as a program in it asks for: see `qmp.rs`.
    #[must_use]
    pub fn hotplug(mut self, hotplug: impl Into<Option<Hotplug>>) -> Self {
        self.hotplug = hotplug.into();
        self
    }

    /// One more device, as QEMU says it.
    #[must_use]
    pub fn device(mut self, device: impl Into<String>) -> Self {
        self.devices.push(device.into());
        self
    }

    /// One more module of a stock kernel, loaded before the command runs.
    #[must_use]
    pub fn module(mut self, module: impl Into<String>) -> Self {
        self.modules.push(module.into());
        self
    }

    /// Puts a file or directory of the host into the guest.
    #[must_use]
    pub fn copy(mut self, from: impl Into<PathBuf>, to: impl Into<String>) -> Self {
        self.copies.push(Copy { from: from.into(), to: to.into() });
        self
    }

    /// Puts a directory of the host into the guest as it is, with its links.
    #[must_use]
    pub fn tree(mut self, from: impl Into<PathBuf>, to: impl Into<String>) -> Self {
        self.trees.push(Copy { from: from.into(), to: to.into() });
        self
    }

    /// Brings a file or directory of the guest back when the command has ended: see [`Outcome::collected`].
    #[must_use]
    pub fn collect(mut self, path: impl Into<String>) -> Self {
        self.collect.push(path.into());
        self
    }

    /// Connects the command to our own terminal instead of capturing its output.
    #[must_use]
    pub fn terminal(mut self, terminal: bool) -> Self {
        self.terminal = terminal;
        self
    }

    /// Leaves everything but init out of the initramfs.
    #[must_use]
    pub(crate) fn bare(mut self) -> Self {
        self.bare = true;
        self
    }

    /// Runs the command and captures its output.
    ///
    /// An error means that no guest could be started; everything that goes wrong in it is in the outcome.
    pub fn run(&self) -> Result<Outcome> {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let mut outcome = self.run_into(&mut stdout, &mut stderr)?;
        outcome.stdout = stdout;
        outcome.stderr = stderr;
        Ok(outcome)
    }

    /// Runs the command and passes its output on as it comes; the outcome's `stdout` and `stderr` stay empty.
    pub fn run_into(&self, stdout: &mut dyn Write, stderr: &mut dyn Write) -> Result<Outcome> {
        let accelerator = accel::choose(self.accel, self.icount, self.iommu.arch(), &self.kernel, &self.programs)?;
        let dir = tempfile::Builder::new().prefix("iommu-trace-vm-").tempdir().context("cannot make a directory")?;
        let share = dir.path().join("share");
        fs::create_dir(&share)?;
        if self.hotplug.is_some() {
            fs::create_dir(share.join(qmp::DIRECTORY))?;
        }
        let machine = Machine {
            emulator: Emulator::for_iommu(self.iommu)?,
            kernel: self.kernel.bzimage.clone(),
            initramfs: dir.path().join("initramfs"),
            iommu: self.iommu,
            accelerator,
            smp: self.smp,
            memory: self.memory.clone(),
            icount: self.icount,
            hotplug: self.hotplug.map(|hotplug| (hotplug, dir.path().join("qmp"))),
            devices: self.devices.clone(),
            append: self.append.clone(),
            console: dir.path().join("console"),
            control: dir.path().join("control"),
            serial: [dir.path().join("serial-stdout"), dir.path().join("serial-stderr")],
            terminal: self.terminal,
            share,
        };
        // They are there before QEMU is: what follows them never waits for a file to appear.
        for file in [
            &machine.console,
            &machine.control,
            &machine.serial[0],
            &machine.serial[1],
            &machine.share.join("stdout"),
            &machine.share.join("stderr"),
        ] {
            File::create(file).with_context(|| format!("cannot make {}", file.display()))?;
        }
        self.write_initramfs(&machine.initramfs)?;
        let mut outcome = monitor::run(&machine, self.timeout, stdout, stderr)?;
        for (index, path) in self.collect.iter().enumerate() {
            let collected = machine.share.join(format!("collected-{index}"));
            if collected.exists() {
                outcome.collected.insert(path.clone(), collected);
            }
        }
        outcome.directory = Some(dir);
        Ok(outcome)
    }

    /// The machine will sleep, which the share with the host does not survive: output comes slowly, through serial ports, and files
    /// are collected at the end.
    #[must_use]
    pub fn sleeps(mut self, sleeps: bool) -> Self {
        self.sleeps = sleeps;
        self
    }

    fn write_initramfs(&self, path: &Path) -> Result<()> {
        let file = File::create(path).with_context(|| format!("cannot make {}", path.display()))?;
        let mut archive = Initramfs::new(BufWriter::with_capacity(1 << 20, file))?;
        archive.copy(&self.programs.init, "init")?;
        let mut paths = Vec::new();
        if !self.bare {
            for program in &self.programs.others {
                let name = program.file_name().and_then(|n| n.to_str()).context("a program without a name")?;
                archive.copy(program, &format!("bin/{name}"))?;
            }
            busybox::install(&mut archive, self.iommu.arch())?;
            if let Some(dir) = &self.kernel.modules {
                let wanted = modules::WANTED.iter().copied().chain(self.modules.iter().map(String::as_str));
                for module in modules::load(dir, wanted)? {
                    archive.file(&module.path, 0o644, &module.content)?;
                    paths.push(module.path);
                }
            }
        }
        // The guest program that wants it loads it.
        if self.iommu == Iommu::IntelPri
            && let Some(module) = kernel::test_module(&self.kernel)?
        {
            archive.copy(&module, "lib/modules/iommu_trace_pri.ko")?;
        }
        for Copy { from, to } in &self.copies {
            archive.copy(from, to)?;
        }
        for Copy { from, to } in &self.trees {
            archive.tree(from, to)?;
        }
        archive.file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")?;
        archive.file("etc/group", 0o644, b"root:x:0:\nnogroup:x:65534:\n")?;
        archive.file("etc/vm/modules", 0o644, &control::list(&paths))?;
        archive.file("etc/vm/command", 0o644, &control::list(&self.command))?;
        archive.file("etc/vm/collect", 0o644, &control::list(&self.collect))?;
        if self.sleeps {
            archive.file("etc/vm/sleeps", 0o644, b"")?;
        }
        let mut environment: Vec<String> = self.environment.iter().map(|(k, v)| format!("{k}={v}")).collect();
        if self.terminal {
            let term = std::env::var("TERM").unwrap_or_else(|_| "linux".to_owned());
            environment.push(format!("TERM={term}"));
            archive.file("etc/vm/terminal", 0o644, terminal_size().as_bytes())?;
        }
        // Under icount the guest's clock is not the host's.
        if !self.icount {
            archive.file("etc/vm/limit", 0o644, self.timeout.as_secs().to_string().as_bytes())?;
        }
        archive.file("etc/vm/environment", 0o644, &control::list(&environment))?;
        archive.finish()?.flush().with_context(|| format!("cannot write {}", path.display()))
    }
}

/// "ROWS COLUMNS" of our own terminal.
fn terminal_size() -> String {
    rustix::termios::tcgetwinsize(std::io::stdout())
        .ok()
        .filter(|size| size.ws_row > 0 && size.ws_col > 0)
        .map_or_else(|| "24 80".to_owned(), |size| format!("{} {}", size.ws_row, size.ws_col))
}

/// Whether QEMU is there.
pub fn require_qemu() -> Result<()> {
    crate::command::find(qemu::PROGRAM)
        .map(drop)
        .with_context(|| format!("{} is not installed: run `cargo xtask setup`", qemu::PROGRAM))
}
