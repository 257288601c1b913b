//! The system calls that are left: a table of what each kind of work takes.
//!
//! A call that is in no row of it is refused with `EPERM`. What is always allowed works on memory, threads, time, and
//! descriptors that are open.

use caps::Capability;
use libc::c_long;

/// A kind of work that takes system calls of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant {
    /// Open files and directories to read them.
    Read,
    /// Make, rename and remove files.
    Create,
    /// Read and change BPF maps that are open, and ask about programs.
    Maps,
    /// Fork a child that takes the probes with it.
    Detach,
    /// Attach loaded programs to functions of a module that comes later.
    Probe,
    /// Wait for the command after `--`, and end it.
    Command,
    /// Stop and go on with the terminal's job.
    Stop,
    /// Answer on a listening socket that is open.
    Serve,
    /// Tell the service manager, by a local socket.
    Notify,
    /// Connect to others.
    Connect,
}

impl Grant {
    /// The capability that this takes where the caller had it.
    #[must_use]
    pub fn capability(self) -> Option<Capability> {
        match self {
            // `perf_event_open()` of a kprobe: `perf_kprobe_event_init()` asks for it.
            Grant::Probe => Some(Capability::CAP_PERFMON),
            // A command may have become another user.
            Grant::Command => Some(Capability::CAP_KILL),
            _ => None,
        }
    }
}

/// What an argument has to be. Arguments are counted from 0; their lower 32 bits are looked at.
#[derive(Clone, Copy, Debug)]
pub enum Only {
    /// One of these values.
    OneOf(u8, &'static [u64]),
    /// These bits, as they are in the value.
    Bits(u8, u64, u64),
}

/// Calls with any arguments.
pub struct Row(pub Option<Grant>, pub &'static [c_long]);

/// Calls with arguments that are looked at. Of several rows for one call, any may fit.
pub struct Checked(pub Option<Grant>, pub c_long, pub Only);

/// Opened to be read, and nothing made or cut: of `O_TMPFILE` the bit that is its own.
const CHANGES: u64 = (libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | (libc::O_TMPFILE & !libc::O_DIRECTORY)) as u64;
const THREAD: u64 = libc::CLONE_THREAD as u64;
/// A namespace of its own for a child gives it every capability there.
const NAMESPACES: u64 = (libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP) as u64;

/// Commands of `bpf()`, from the kernel's `enum bpf_cmd`.
mod bpf {
    pub const MAP_LOOKUP_ELEM: u64 = 1;
    pub const MAP_UPDATE_ELEM: u64 = 2;
    pub const MAP_DELETE_ELEM: u64 = 3;
    pub const MAP_GET_NEXT_KEY: u64 = 4;
    pub const OBJ_GET_INFO_BY_FD: u64 = 15;
    pub const MAP_LOOKUP_AND_DELETE_ELEM: u64 = 21;
    pub const LINK_CREATE: u64 = 28;
}

/// Requests of `ioctl()` on a perf event, from the kernel's `uapi/linux/perf_event.h`.
mod perf {
    pub const ENABLE: u64 = 0x2400;
    pub const DISABLE: u64 = 0x2401;
    pub const SET_BPF: u64 = 0x4004_2408;
}

/// `TCGETS2`, `TCSETS2`, `TCSETSW2`, `TCSETSF2`, which some C libraries use in place of the older ones.
const TERMIOS2: [u64; 4] = [0x802c_542a, 0x402c_542b, 0x402c_542c, 0x402c_542d];

/// Calls with any arguments.
pub const ROWS: &[Row] = &[
    Row(
        None,
        &[
            libc::SYS_brk,
            libc::SYS_capget,
            libc::SYS_capset,
            libc::SYS_clock_getres,
            libc::SYS_clock_gettime,
            libc::SYS_clock_nanosleep,
            // Its flags are in memory, where a filter cannot look: see `filter`.
            libc::SYS_clone3,
            libc::SYS_close,
            libc::SYS_dup,
            libc::SYS_dup3,
            libc::SYS_epoll_create1,
            libc::SYS_epoll_ctl,
            libc::SYS_epoll_pwait,
            libc::SYS_eventfd2,
            libc::SYS_exit,
            libc::SYS_exit_group,
            libc::SYS_fcntl,
            libc::SYS_fdatasync,
            libc::SYS_fstat,
            libc::SYS_fsync,
            libc::SYS_ftruncate,
            libc::SYS_futex,
            libc::SYS_getcpu,
            libc::SYS_getcwd,
            libc::SYS_getegid,
            libc::SYS_geteuid,
            libc::SYS_getgid,
            libc::SYS_getpgid,
            libc::SYS_getpid,
            libc::SYS_getppid,
            libc::SYS_getpriority,
            libc::SYS_getrandom,
            libc::SYS_getrusage,
            libc::SYS_gettid,
            libc::SYS_gettimeofday,
            libc::SYS_getuid,
            libc::SYS_lseek,
            libc::SYS_madvise,
            libc::SYS_membarrier,
            libc::SYS_mincore,
            libc::SYS_mmap,
            libc::SYS_mprotect,
            libc::SYS_mremap,
            libc::SYS_munmap,
            libc::SYS_nanosleep,
            // Of a descriptor, with no path; of a path they tell that it is there, and not what is in it.
            libc::SYS_newfstatat,
            libc::SYS_statx,
            libc::SYS_pipe2,
            libc::SYS_ppoll,
            libc::SYS_prctl,
            libc::SYS_pread64,
            libc::SYS_preadv,
            libc::SYS_prlimit64,
            libc::SYS_pselect6,
            libc::SYS_pwrite64,
            libc::SYS_read,
            libc::SYS_readv,
            libc::SYS_restart_syscall,
            libc::SYS_rseq,
            libc::SYS_rt_sigaction,
            libc::SYS_rt_sigprocmask,
            libc::SYS_rt_sigreturn,
            libc::SYS_sched_getaffinity,
            libc::SYS_sched_getparam,
            libc::SYS_sched_getscheduler,
            libc::SYS_sched_yield,
            libc::SYS_seccomp,
            libc::SYS_set_robust_list,
            libc::SYS_sigaltstack,
            libc::SYS_sysinfo,
            libc::SYS_tgkill,
            libc::SYS_timerfd_create,
            libc::SYS_timerfd_settime,
            libc::SYS_uname,
            libc::SYS_write,
            libc::SYS_writev,
            // What others say to a socket that is open; tokio hands signals on by a pair of them.
            libc::SYS_recvfrom,
            libc::SYS_recvmsg,
            libc::SYS_sendto,
            libc::SYS_shutdown,
        ],
    ),
    Row(
        Some(Grant::Read),
        &[
            libc::SYS_chdir,
            libc::SYS_faccessat,
            libc::SYS_faccessat2,
            libc::SYS_fstatfs,
            libc::SYS_getdents64,
            libc::SYS_readlinkat,
            libc::SYS_statfs,
        ],
    ),
    Row(
        Some(Grant::Create),
        &[
            libc::SYS_faccessat,
            libc::SYS_faccessat2,
            libc::SYS_fchmod,
            libc::SYS_mkdirat,
            libc::SYS_openat,
            libc::SYS_readlinkat,
            libc::SYS_renameat,
            libc::SYS_renameat2,
            libc::SYS_unlinkat,
        ],
    ),
    Row(Some(Grant::Detach), &[libc::SYS_setsid]),
    Row(Some(Grant::Probe), &[libc::SYS_perf_event_open]),
    Row(
        Some(Grant::Command),
        &[libc::SYS_kill, libc::SYS_pidfd_open, libc::SYS_pidfd_send_signal, libc::SYS_wait4, libc::SYS_waitid],
    ),
    Row(Some(Grant::Stop), &[libc::SYS_kill]),
    Row(
        Some(Grant::Serve),
        &[
            libc::SYS_accept4,
            libc::SYS_getpeername,
            libc::SYS_getsockname,
            libc::SYS_getsockopt,
            libc::SYS_sendmsg,
            libc::SYS_setsockopt,
        ],
    ),
    Row(Some(Grant::Notify), &[libc::SYS_connect, libc::SYS_getsockopt, libc::SYS_sendmsg, libc::SYS_setsockopt]),
    Row(
        Some(Grant::Connect),
        &[
            libc::SYS_bind,
            libc::SYS_connect,
            libc::SYS_getpeername,
            libc::SYS_getsockname,
            libc::SYS_getsockopt,
            libc::SYS_recvmmsg,
            libc::SYS_sendmmsg,
            libc::SYS_sendmsg,
            libc::SYS_setsockopt,
            libc::SYS_socket,
        ],
    ),
];

/// Older calls of x86-64, which other architectures never had and some C libraries still use.
#[cfg(target_arch = "x86_64")]
pub const OLDER: &[Row] = &[
    Row(
        None,
        &[
            libc::SYS_arch_prctl,
            libc::SYS_dup2,
            libc::SYS_epoll_create,
            libc::SYS_epoll_wait,
            libc::SYS_getpgrp,
            libc::SYS_pipe,
            libc::SYS_poll,
            libc::SYS_select,
            libc::SYS_time,
        ],
    ),
    Row(
        Some(Grant::Read),
        &[libc::SYS_access, libc::SYS_getdents, libc::SYS_lstat, libc::SYS_readlink, libc::SYS_stat],
    ),
    Row(
        Some(Grant::Create),
        &[
            libc::SYS_access,
            libc::SYS_lstat,
            libc::SYS_mkdir,
            libc::SYS_open,
            libc::SYS_readlink,
            libc::SYS_rename,
            libc::SYS_stat,
            libc::SYS_unlink,
        ],
    ),
    Row(Some(Grant::Detach), &[libc::SYS_fork]),
];
/// Older calls: none.
#[cfg(not(target_arch = "x86_64"))]
pub const OLDER: &[Row] = &[];

/// Calls with arguments that are looked at.
pub const CHECKED: &[Checked] = &[
    // Threads are anybody's.
    Checked(None, libc::SYS_clone, Only::Bits(0, THREAD | NAMESPACES, THREAD)),
    Checked(Some(Grant::Detach), libc::SYS_clone, Only::Bits(0, NAMESPACES, 0)),
    Checked(Some(Grant::Read), libc::SYS_openat, Only::Bits(2, CHANGES, 0)),
    // A terminal is asked and set, and never typed into (`TIOCSTI`).
    Checked(
        None,
        libc::SYS_ioctl,
        Only::OneOf(
            1,
            &[
                libc::TCGETS,
                libc::TCSETS,
                libc::TCSETSW,
                libc::TCSETSF,
                TERMIOS2[0],
                TERMIOS2[1],
                TERMIOS2[2],
                TERMIOS2[3],
                libc::TIOCGWINSZ,
                libc::TIOCGPGRP,
                libc::FIONBIO,
                libc::FIONREAD,
                libc::FIOCLEX,
            ],
        ),
    ),
    // A pair is joined to nobody else.
    Checked(None, libc::SYS_socketpair, Only::OneOf(0, &[libc::AF_UNIX as u64])),
    Checked(Some(Grant::Notify), libc::SYS_socket, Only::OneOf(0, &[libc::AF_UNIX as u64])),
    Checked(
        Some(Grant::Maps),
        libc::SYS_bpf,
        Only::OneOf(
            0,
            &[
                bpf::MAP_LOOKUP_ELEM,
                bpf::MAP_UPDATE_ELEM,
                bpf::MAP_DELETE_ELEM,
                bpf::MAP_GET_NEXT_KEY,
                bpf::MAP_LOOKUP_AND_DELETE_ELEM,
                bpf::OBJ_GET_INFO_BY_FD,
            ],
        ),
    ),
    Checked(Some(Grant::Probe), libc::SYS_bpf, Only::OneOf(0, &[bpf::LINK_CREATE])),
    Checked(Some(Grant::Probe), libc::SYS_ioctl, Only::OneOf(1, &[perf::ENABLE, perf::DISABLE, perf::SET_BPF])),
];

/// As [`CHECKED`], of calls that x86-64 alone has.
#[cfg(target_arch = "x86_64")]
pub const OLDER_CHECKED: &[Checked] = &[Checked(Some(Grant::Read), libc::SYS_open, Only::Bits(1, CHANGES, 0))];
/// None.
#[cfg(not(target_arch = "x86_64"))]
pub const OLDER_CHECKED: &[Checked] = &[];
