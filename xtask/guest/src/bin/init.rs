//! The first process of a guest: mounts, loads modules, runs one command, reports one verdict and powers off.
//!
//! It talks to `cargo xtask vm` through
//! - `/etc/vm/*`, what to do, put into the initramfs by `xtask/src/vm`;
//! - the control channel on `ttyS1`: `note TEXT` lines, and exactly one `verdict …` line;
//! - a 9p share mounted on [`SHARE`]: the command's output as it comes, and the files collected at the end. A kernel
//!   without 9p sends the output through `ttyS2` and `ttyS3` instead, which is slow but always there.

use std::{
    ffi::{CString, OsStr},
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::{ffi::OsStrExt, process::CommandExt},
    },
    path::Path,
    process::{Command, Stdio},
    ptr, thread,
    time::Duration,
};

/// Where the host's share is mounted.
const SHARE: &str = "/run/host";
/// Says that the machine will sleep: nothing may use the share until it is awake for good.
const SLEEPS: &str = "/etc/vm/sleeps";
/// The share's tag, as QEMU was given it.
const SHARE_TAG: &str = "iommu-trace";
/// The control channel.
const CONTROL: &str = "/dev/ttyS1";
/// The terminal of an interactive command, and the slow way out for standard output.
const TERMINAL: &str = "/dev/ttyS2";
/// The slow way out for standard error.
const SLOW_STDERR: &str = "/dev/ttyS3";
/// Where commands are looked up.
const SEARCH_PATH: &str = "/bin:/sbin:/usr/bin:/usr/sbin";

/// What is mounted before anything else: (type, directory, options).
const EARLY_MOUNTS: &[(&str, &str, &str)] = &[
    ("devtmpfs", "/dev", "mode=0755"),
    ("proc", "/proc", ""),
    ("sysfs", "/sys", ""),
    ("tmpfs", "/run", "mode=0755"),
    ("tmpfs", "/tmp", "mode=1777"),
];

/// What is mounted when the modules are loaded, where the kernel has it.
const LATE_MOUNTS: &[(&str, &str, &str)] = &[
    ("devpts", "/dev/pts", "mode=0620,ptmxmode=0666"),
    ("tmpfs", "/dev/shm", "mode=1777"),
    ("debugfs", "/sys/kernel/debug", ""),
    ("tracefs", "/sys/kernel/tracing", ""),
    ("bpf", "/sys/fs/bpf", ""),
    ("cgroup2", "/sys/fs/cgroup", ""),
];

fn main() {
    if std::process::id() != 1 {
        eprintln!("init: to be run as the first process of a guest only");
        std::process::exit(2);
    }
    for (kind, target, options) in EARLY_MOUNTS {
        if let Err(error) = mount(kind, kind, target, options) {
            eprintln!("init: cannot mount {kind} on {target}: {error}");
        }
    }
    let mut control = match Control::open() {
        Ok(control) => control,
        Err(error) => {
            eprintln!("init: cannot open {CONTROL}: {error}");
            power_off();
        }
    };
    match run(&mut control) {
        Ok(verdict) => control.line(&format!("verdict {verdict}")),
        Err(error) => control.line(&format!("verdict failed {error}")),
    }
    power_off();
}

/// Does everything between the early mounts and the verdict, and returns the verdict.
fn run(control: &mut Control) -> Result<String, String> {
    load_modules(control);
    for (kind, target, options) in LATE_MOUNTS {
        // A kernel without one of these is a kernel to be tested, too: the command will say what it misses.
        let _ = fs::create_dir_all(target).and_then(|()| mount(kind, kind, target, options));
    }
    let _ = std::os::unix::fs::symlink("/proc/self/fd", "/dev/fd");
    for (name, fd) in [("stdin", 0), ("stdout", 1), ("stderr", 2)] {
        let _ = std::os::unix::fs::symlink(format!("/proc/self/fd/{fd}"), format!("/dev/{name}"));
    }
    raise_memlock();
    let sleeps = Path::new(SLEEPS).exists();
    let shared = !sleeps
        && mount_share()
            .inspect_err(|error| {
                let without = "output goes through serial ports, nothing is collected";
                control.line(&format!("note no 9p share ({error}): {without}"));
            })
            .is_ok();
    let _ = Command::new("/bin/busybox").args(["ip", "link", "set", "lo", "up"]).status();

    let argv = list("/etc/vm/command");
    let Some(program) = argv.first() else {
        return Err("/etc/vm/command is empty".to_owned());
    };
    let terminal = fs::read_to_string("/etc/vm/terminal").ok();
    let (outputs, mut command) = if let Some(size) = &terminal {
        (None, interactive(program, size).map_err(|e| format!("cannot use {TERMINAL}: {e}"))?)
    } else {
        let outputs = Outputs::open(shared).map_err(|e| format!("cannot open the output channels: {e}"))?;
        let mut command = Command::new(OsStr::from_bytes(program));
        command.stdin(Stdio::null());
        (Some(outputs), command)
    };
    command
        .args(argv[1..].iter().map(|a| OsStr::from_bytes(a)))
        .env_clear()
        .env("PATH", SEARCH_PATH)
        .env("HOME", "/root")
        .env("LANG", "C.UTF-8")
        .current_dir("/root");
    for pair in list("/etc/vm/environment") {
        if let Some(at) = pair.iter().position(|b| *b == b'=') {
            command.env(OsStr::from_bytes(&pair[..at]), OsStr::from_bytes(&pair[at + 1..]));
        }
    }
    control.line("ready");
    let limit = fs::read_to_string("/etc/vm/limit").ok().and_then(|seconds| seconds.parse().ok());
    if let Some(seconds) = limit {
        iommu_trace_guest::stuck::watch(Duration::from_secs(seconds));
    }
    let verdict = execute(command, outputs, program);

    if sleeps && let Err(error) = wake_share().and_then(|()| mount_share()) {
        control.line(&format!("note no 9p share ({error}): nothing is collected"));
    }
    for (index, path) in list("/etc/vm/collect").iter().enumerate() {
        let from = Path::new(OsStr::from_bytes(path));
        if let Err(error) = copy(from, &Path::new(SHARE).join(format!("collected-{index}"))) {
            control.line(&format!("note cannot collect {}: {error}", from.display()));
        }
    }
    Ok(verdict)
}

/// Runs the command to its end, pumps its output, and leaves no other process behind.
fn execute(mut command: Command, outputs: Option<Outputs>, program: &[u8]) -> String {
    let mut complaint = outputs.as_ref().and_then(|o| o.stderr.try_clone().ok());
    let mut pumps = Vec::new();
    if let Some(Outputs { stdout, stderr }) = outputs {
        // SAFETY: setsid takes no pointers and is async-signal-safe.
        unsafe { command.pre_exec(|| check(libc::setsid()).map(drop)) };
        for (to, is_stdout) in [(stdout, true), (stderr, false)] {
            match pipe() {
                Ok((read, write)) => {
                    if is_stdout {
                        command.stdout(write);
                    } else {
                        command.stderr(write);
                    }
                    pumps.push(thread::spawn(move || pump(read.into(), to)));
                }
                Err(error) => return format!("failed cannot make a pipe: {error}"),
            }
        }
    }
    let verdict = match command.spawn() {
        // The exit status is taken from waitpid below, which reaps orphans at the same time.
        Ok(child) => {
            drop(command);
            reap_until(child.id() as libc::pid_t)
        }
        Err(error) => {
            drop(command);
            let message = format!("init: cannot run {}: {error}\n", String::from_utf8_lossy(program));
            if let Some(complaint) = &mut complaint {
                let _ = complaint.write_all(message.as_bytes());
            }
            // As a shell would: 127 for not found, 126 for found and not executable.
            let code = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
            format!("exit {code}")
        }
    };
    // SAFETY: no pointers; from process 1 it reaches every process but this one.
    unsafe { libc::kill(-1, libc::SIGKILL) };
    reap_until(-1);
    for pump in pumps {
        let _ = pump.join();
    }
    verdict
}

/// Reaps children until `wanted` ends, or until none is left if `wanted` is -1; returns how `wanted` ended.
fn reap_until(wanted: libc::pid_t) -> String {
    loop {
        let mut status = 0;
        // SAFETY: status is a valid int for the kernel to fill in.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, 0) };
        if pid < 0 {
            if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return "failed the command is not a child any more".to_owned();
        }
        if pid == wanted {
            return if libc::WIFSIGNALED(status) {
                format!("signal {}", libc::WTERMSIG(status))
            } else {
                format!("exit {}", libc::WEXITSTATUS(status))
            };
        }
    }
}

/// Copies everything from a pipe to a channel until the last writer is gone.
fn pump(mut from: File, mut to: File) {
    let mut buffer = vec![0; 256 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                if let Err(error) = to.write_all(&buffer[..n]) {
                    eprintln!("init: output lost: {error}");
                    break;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    drain(&to);
}

/// Where the command's output goes.
struct Outputs {
    stdout: File,
    stderr: File,
}

impl Outputs {
    fn open(shared: bool) -> io::Result<Self> {
        if shared {
            let open = |name| OpenOptions::new().append(true).open(Path::new(SHARE).join(name));
            return Ok(Self { stdout: open("stdout")?, stderr: open("stderr")? });
        }
        let open = |path| -> io::Result<File> {
            let file = OpenOptions::new().write(true).open(path)?;
            raw(&file)?;
            Ok(file)
        };
        Ok(Self { stdout: open(TERMINAL)?, stderr: open(SLOW_STDERR)? })
    }
}

/// A command whose standard streams are the interactive terminal, of `size` "ROWS COLUMNS".
fn interactive(program: &[u8], size: &str) -> io::Result<Command> {
    let terminal = OpenOptions::new().read(true).write(true).open(TERMINAL)?;
    let mut numbers = size.split_whitespace().map(|n| n.parse().unwrap_or(0));
    let size = libc::winsize {
        ws_row: numbers.next().unwrap_or(24),
        ws_col: numbers.next().unwrap_or(80),
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCSWINSZ reads one winsize.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) })?;
    let mut command = Command::new(OsStr::from_bytes(program));
    command.stdin(terminal.try_clone()?).stdout(terminal.try_clone()?).stderr(terminal);
    // SAFETY: both calls are async-signal-safe; descriptor 0 is the terminal by then.
    unsafe {
        command.pre_exec(|| {
            check(libc::setsid())?;
            check(libc::ioctl(0, libc::TIOCSCTTY, 0)).map(drop)
        });
    }
    Ok(command)
}

/// The control channel to the host.
struct Control(File);

impl Control {
    fn open() -> io::Result<Self> {
        let file = OpenOptions::new().write(true).open(CONTROL)?;
        raw(&file)?;
        Ok(Self(file))
    }

    /// Sends one line and waits until it is out. There is nobody to tell when that fails.
    fn line(&mut self, text: &str) {
        let line = format!("{}\n", text.replace('\n', " "));
        let _ = self.0.write_all(line.as_bytes());
        drain(&self.0);
    }
}

/// Loads the modules listed in `/etc/vm/modules`, which is in dependency order.
fn load_modules(control: &mut Control) {
    for path in list("/etc/vm/modules") {
        let path = Path::new(OsStr::from_bytes(&path)).to_owned();
        let loaded = File::open(&path).and_then(|file| {
            // SAFETY: the descriptor is open and the parameters are an empty C string.
            check(unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) } as libc::c_int)
        });
        match loaded {
            Err(error) if error.raw_os_error() != Some(libc::EEXIST) => {
                control.line(&format!("note cannot load {}: {error}", path.display()));
            }
            _ => {}
        }
    }
}

fn mount_share() -> io::Result<()> {
    fs::create_dir_all(SHARE)?;
    mount("9p", SHARE_TAG, SHARE, "trans=virtio,version=9p2000.L,msize=524288,cache=none")
}

/// The share's device is set up anew: its driver does nothing for it when the machine sleeps, which resets it.
fn wake_share() -> io::Result<()> {
    let driver = Path::new("/sys/bus/virtio/drivers/9pnet_virtio");
    for device in fs::read_dir(driver)?.flatten().map(|entry| entry.file_name()) {
        if device.as_bytes().starts_with(b"virtio") {
            fs::write(driver.join("unbind"), device.as_bytes())?;
            fs::write(driver.join("bind"), device.as_bytes())?;
        }
    }
    Ok(())
}

/// Copies a file, or a directory with all that is in it.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    if from.is_dir() {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
        return Ok(());
    }
    // Whoever reads a FIFO or a device may wait for ever.
    if !fs::metadata(from)?.is_file() {
        return Ok(());
    }
    // By hand: pseudo files have no size, which some copying system calls take for empty.
    let (mut from, mut to) = (File::open(from)?, File::create(to)?);
    let mut buffer = vec![0; 256 << 10];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            n => to.write_all(&buffer[..n])?,
        }
    }
}

/// The NUL-terminated items of a file; none if it is not there.
fn list(path: &str) -> Vec<Vec<u8>> {
    let mut items: Vec<Vec<u8>> = fs::read(path).unwrap_or_default().split(|b| *b == 0).map(<[u8]>::to_vec).collect();
    // What follows the last NUL.
    items.pop();
    items
}

fn mount(kind: &str, source: &str, target: &str, options: &str) -> io::Result<()> {
    let [kind, source, target, options] = [kind, source, target, options].map(CString::new);
    let (kind, source, target, options) = (kind?, source?, target?, options?);
    // SAFETY: all four are NUL-terminated strings that outlive the call.
    check(unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), 0, options.as_ptr().cast()) }).map(drop)
}

/// BPF maps are charged to this limit on kernels before 5.11, and pinned user memory still is.
fn raise_memlock() {
    let limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the kernel reads one rlimit.
    unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) };
}

/// Bytes as they are: no echo, no newline translation.
fn raw(file: &File) -> io::Result<()> {
    // SAFETY: a zeroed termios is valid, and the three calls get a valid one.
    unsafe {
        let mut settings: libc::termios = std::mem::zeroed();
        check(libc::tcgetattr(file.as_raw_fd(), &raw mut settings))?;
        libc::cfmakeraw(&raw mut settings);
        check(libc::tcsetattr(file.as_raw_fd(), libc::TCSANOW, &raw const settings)).map(drop)
    }
}

/// Waits until a terminal has sent everything; does nothing on other files.
fn drain(file: &File) {
    // SAFETY: the descriptor is open.
    unsafe { libc::tcdrain(file.as_raw_fd()) };
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: two ints for the kernel to fill in, owned by nobody else afterwards.
    unsafe {
        check(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC))?;
        Ok((OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])))
    }
}

fn power_off() -> ! {
    // SAFETY: neither takes pointers.
    unsafe {
        libc::sync();
        libc::reboot(libc::RB_POWER_OFF);
    }
    // Only reached on a kernel that cannot power off: process 1 must not end, and the host has its verdict.
    loop {
        // SAFETY: select with no sets and no time-out sleeps for ever.
        unsafe { libc::select(0, ptr::null_mut(), ptr::null_mut(), ptr::null_mut(), ptr::null_mut()) };
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
