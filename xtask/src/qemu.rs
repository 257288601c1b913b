//! QEMU's command line. Pure: a machine in, arguments out.

use std::path::{Path, PathBuf};

use clap::ValueEnum;

use crate::{arch::Arch, emulator::Emulator};

/// The program that runs machines.
pub const PROGRAM: &str = "qemu-system-x86_64";

/// The tag of the 9p share with the guest; xtask/guest's init mounts it.
pub const SHARE_TAG: &str = "iommu-trace";

/// The emulated IOMMU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Iommu {
    /// VT-d, with interrupt remapping and caching mode, and the `edu` device to make it fault.
    #[default]
    Intel,
    /// VT-d in scalable mode with a page request queue, `edu`, and behind a root port a virtio-rng with ATS. Needs
    /// QEMU 10.1, which is fetched.
    IntelPri,
    /// AMD-Vi, and the `edu` device.
    Amd,
    /// virtio-iommu, and the `edu` device.
    Virtio,
    /// `SMMUv3` of an arm64 machine, and the `edu` device.
    Smmuv3,
    /// None: what Linux 6.12's iommufd test device needs.
    None,
}

impl Iommu {
    /// The architecture of the machines that have it.
    #[must_use]
    pub fn arch(self) -> Arch {
        if self == Self::Smmuv3 { Arch::Arm64 } else { Arch::Amd64 }
    }

    /// Whether the QEMU of an older Debian cannot emulate it.
    #[must_use]
    pub fn wants_newest_qemu(self) -> bool {
        matches!(self, Iommu::IntelPri | Iommu::Amd)
    }
}

/// How the guest is told that a device behind one of its hot-plug ports comes or goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Hotplug {
    /// By ACPI, as QEMU has it unless told otherwise: at once.
    Acpi,
    /// By the port's own attention button, which the kernel gives five seconds to be pressed again.
    Pcie,
}

impl Hotplug {
    /// How many ports there are, each with room for one device: `hotplug-0` and so on, at 00:04.0 and what follows.
    pub const PORTS: u32 = 4;
}

/// What runs the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// The host's virtualisation.
    Kvm,
    /// Emulation.
    Tcg,
}

/// A machine to run.
#[derive(Clone, Debug)]
pub struct Machine {
    /// What runs it.
    pub emulator: Emulator,
    /// The kernel.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initramfs: PathBuf,
    /// The emulated IOMMU.
    pub iommu: Iommu,
    /// How its instructions are run.
    pub accelerator: Accelerator,
    /// How many CPUs.
    pub smp: u32,
    /// How much memory, as QEMU says it.
    pub memory: String,
    /// Whether guest time counts guest instructions.
    pub icount: bool,
    /// Empty ports whose devices come and go by QEMU's machine protocol, and the socket for it.
    pub hotplug: Option<(Hotplug, PathBuf)>,
    /// More devices, as QEMU says them.
    pub devices: Vec<String>,
    /// More of the kernel's command line.
    pub append: Vec<String>,
    /// The directory shared with the guest.
    pub share: PathBuf,
    /// Where the console goes.
    pub console: PathBuf,
    /// Where the control channel goes.
    pub control: PathBuf,
    /// Where the serial ports go that stand in for the share.
    pub serial: [PathBuf; 2],
    /// Whether our own terminal is the guest's `ttyS2`.
    pub terminal: bool,
}

/// The kernel's command line.
#[must_use]
pub fn command_line(machine: &Machine) -> String {
    // loglevel 5 shows warnings, which `quiet` would hide: they are what the console is watched for.
    // On a busy host the emulated timer can be late enough for the kernel to take it for broken and panic.
    let console = if machine.iommu.arch() == Arch::Arm64 { "console=ttyAMA0" } else { "console=ttyS0" };
    let mut words = vec![console, "panic=-1", "oops=panic", "loglevel=5", "no_timer_check", "rdinit=/init"];
    // A busy host leaves an emulated CPU alone for seconds: that is no stall, and no fault of its clock.
    words.extend(["tsc=nowatchdog", "rcupdate.rcu_cpu_stall_timeout=60"]);
    match machine.iommu {
        Iommu::Intel => words.push("intel_iommu=on"),
        // The guest program reads the IOMMU's registers through /dev/mem.
        Iommu::IntelPri => words.extend(["intel_iommu=on,sm_on", "iomem=relaxed"]),
        Iommu::Amd => words.push("amd_iommu=on"),
        Iommu::Virtio | Iommu::Smmuv3 | Iommu::None => {}
    }
    words.extend(machine.append.iter().map(String::as_str));
    words.join(" ")
}

/// QEMU's arguments for a machine.
#[must_use]
pub fn arguments(machine: &Machine) -> Vec<String> {
    let mut args: Vec<String> = Vec::new();
    let mut add = |option: &str, value: String| {
        args.push(format!("-{option}"));
        args.push(value);
    };
    let (accel, cpu) = match machine.accelerator {
        Accelerator::Kvm => ("kvm", "host"),
        Accelerator::Tcg => ("tcg", "max"),
    };
    // Interrupt remapping needs the split irqchip.
    add(
        "machine",
        match machine.iommu.arch() {
            Arch::Amd64 => format!("q35,accel={accel},kernel-irqchip=split"),
            Arch::Arm64 => format!("virt,accel={accel},gic-version=3,iommu=smmuv3"),
        },
    );
    // The IOMMU's first-level tables have four levels: a process's must not have five.
    let without = match (machine.iommu, machine.icount) {
        (Iommu::IntelPri, _) => ",la57=off",
        // A copy by `rep movsb` would count as an instruction for each byte, so that nobody is told to copy so.
        (_, true) if machine.iommu.arch() == Arch::Amd64 => ",erms=off,fsrm=off",
        _ => "",
    };
    add("cpu", format!("{cpu}{without}"));
    add("m", machine.memory.clone());
    if machine.icount {
        add("icount", "shift=0,sleep=off".to_owned());
        add("smp", "1".to_owned());
    } else {
        add("smp", machine.smp.to_string());
    }
    add("display", "none".to_owned());
    add("monitor", "none".to_owned());
    add("vga", "none".to_owned());
    add("nic", "none".to_owned());
    // The IOMMU comes first: QEMU wants it there before the devices it translates for.
    match machine.iommu {
        Iommu::Intel => add("device", "intel-iommu,intremap=on,caching-mode=on".to_owned()),
        Iommu::IntelPri => add(
            "device",
            "intel-iommu,intremap=on,scalable-mode=on,fsts=on,svm=on,device-iotlb=on,pasid-bits=20,aw-bits=48"
                .to_owned(),
        ),
        Iommu::Amd => add("device", "amd-iommu,intremap=on,dma-remap=on".to_owned()),
        Iommu::Virtio => add("device", "virtio-iommu-pci,addr=0x1".to_owned()),
        // The machine brings its own.
        Iommu::Smmuv3 | Iommu::None => {}
    }
    match machine.iommu {
        Iommu::None => {}
        Iommu::IntelPri => {
            // It writes into the page request queue, which lies anywhere in memory.
            add("device", "edu,addr=0x2,dma_mask=0xffffffffffffffff".to_owned());
            add("device", "pcie-root-port,id=pri-port,addr=0x3,chassis=1".to_owned());
            add("device", "virtio-rng-pci,id=pri-device,bus=pri-port,ats=on,iommu_platform=on".to_owned());
        }
        _ => add("device", "edu,addr=0x2".to_owned()),
    }
    if let Some((hotplug, socket)) = &machine.hotplug {
        for port in 0..Hotplug::PORTS {
            let (addr, chassis) = (port + 4, port + 16);
            add("device", format!("pcie-root-port,id=hotplug-{port},addr={addr:#x},chassis={chassis}"));
        }
        if *hotplug == Hotplug::Pcie {
            add("global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off".to_owned());
        }
        add("qmp", format!("unix:{},server=on,wait=off", escaped(socket)));
    }
    for device in &machine.devices {
        add("device", device.clone());
    }
    add("fsdev", format!("local,id=share,path={},security_model=none,multidevs=remap", escaped(&machine.share)));
    // Out of the way of devices added by number, and not behind the IOMMU.
    add("device", format!("virtio-9p-pci,fsdev=share,mount_tag={SHARE_TAG},addr=0x1e"));

    let file = |id: &str, path: &Path| format!("file,id={id},path={}", escaped(path));
    let terminal =
        if machine.terminal { "stdio,id=serial2,signal=off".to_owned() } else { file("serial2", &machine.serial[0]) };
    add("chardev", file("serial0", &machine.console));
    add("chardev", file("serial1", &machine.control));
    add("chardev", terminal);
    add("chardev", file("serial3", &machine.serial[1]));
    if machine.iommu.arch() == Arch::Arm64 {
        // Its own port is the console; those of a PCI card are ttyS0, which nobody reads, to ttyS3.
        add("serial", "chardev:serial0".to_owned());
        add("chardev", "null,id=nobody".to_owned());
        add(
            "device",
            "pci-serial-4x,addr=0x1d,chardev1=nobody,chardev2=serial1,chardev3=serial2,chardev4=serial3".to_owned(),
        );
    }
    // Each port its own interrupt: kernels without CONFIG_SERIAL_8250_SHARE_IRQ cannot open two that share one.
    let irqs: &[u32] = if machine.iommu.arch() == Arch::Arm64 { &[] } else { &[4, 3, 5, 7] };
    for (index, irq) in irqs.iter().enumerate() {
        add("device", format!("isa-serial,index={index},irq={irq},chardev=serial{index}"));
    }
    add("kernel", machine.kernel.display().to_string());
    add("initrd", machine.initramfs.display().to_string());
    add("append", command_line(machine));
    args.push("-no-reboot".to_owned());
    args.push("-no-user-config".to_owned());
    args.push("-nodefaults".to_owned());
    args
}

/// A path inside a comma-separated option.
fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            emulator: Emulator::default(),
            kernel: "/k/bzImage".into(),
            initramfs: "/t/initramfs".into(),
            iommu: Iommu::Intel,
            accelerator: Accelerator::Tcg,
            smp: 2,
            memory: "1G".into(),
            icount: false,
            hotplug: None,
            devices: vec!["virtio-rng-pci".into()],
            append: vec!["iomem=relaxed".into()],
            share: "/t/a,b".into(),
            console: "/t/console".into(),
            control: "/t/control".into(),
            serial: ["/t/s2".into(), "/t/s3".into()],
            terminal: false,
        }
    }

    fn has(args: &[String], option: &str, value: &str) -> bool {
        args.windows(2).any(|w| w[0] == option && w[1] == value)
    }

    #[test]
    fn vt_d_comes_with_remapping_and_before_the_devices_it_translates_for() {
        let args = arguments(&machine());
        assert!(has(&args, "-machine", "q35,accel=tcg,kernel-irqchip=split"));
        let at = |value: &str| args.iter().position(|a| a.starts_with(value)).unwrap();
        assert!(at("intel-iommu,intremap=on,caching-mode=on") < at("edu"));
        assert!(at("edu") < at("virtio-rng-pci"));
        let append = &args[args.iter().position(|a| a == "-append").unwrap() + 1];
        assert!(append.contains("intel_iommu=on") && append.ends_with("iomem=relaxed"), "{append}");
    }

    #[test]
    fn ports_for_devices_that_come_and_go_are_there_when_asked_for() {
        let line = |hotplug| arguments(&Machine { hotplug, ..machine() }).join(" ");
        let acpi = line(Some((Hotplug::Acpi, "/t/qmp".into())));
        assert!(acpi.contains("pcie-root-port,id=hotplug-3,addr=0x7") && acpi.contains("-qmp unix:/t/qmp,"), "{acpi}");
        assert!(!acpi.contains("acpi-pci-hotplug"), "{acpi}");
        let pcie = line(Some((Hotplug::Pcie, "/t/qmp".into())));
        assert!(pcie.contains("acpi-pci-hotplug-with-bridge-support=off"), "{pcie}");
        let none = line(None);
        assert!(!none.contains("hotplug") && !none.contains("qmp"), "{none}");
    }

    #[test]
    fn without_an_iommu_nothing_of_it_is_left() {
        let args = arguments(&Machine { iommu: Iommu::None, ..machine() }).join(" ");
        assert!(!args.contains("iommu=on") && !args.contains("-iommu") && !args.contains("edu"), "{args}");
    }

    #[test]
    fn an_arm64_machine_has_its_console_elsewhere_and_the_same_channels() {
        let args = arguments(&Machine { iommu: Iommu::Smmuv3, ..machine() });
        assert!(has(&args, "-machine", "virt,accel=tcg,gic-version=3,iommu=smmuv3"));
        assert!(has(&args, "-serial", "chardev:serial0") && has(&args, "-device", "edu,addr=0x2"));
        let line = args.join(" ");
        assert!(line.contains("console=ttyAMA0") && line.contains("chardev2=serial1"), "{line}");
        assert!(!line.contains("isa-serial") && !line.contains("ttyS0"), "{line}");
    }

    #[test]
    fn icount_has_one_cpu_whatever_was_asked_for() {
        let args = arguments(&Machine { icount: true, smp: 4, ..machine() });
        assert!(has(&args, "-icount", "shift=0,sleep=off") && has(&args, "-smp", "1"));
        assert!(!has(&args, "-smp", "4"));
    }

    #[test]
    fn a_comma_in_a_path_is_doubled() {
        assert!(arguments(&machine()).iter().any(|a| a.contains("path=/t/a,,b,")));
    }
}
