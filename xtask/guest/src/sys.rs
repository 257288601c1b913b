//! System calls: ioctl, clock, thread id, signals. The only `unsafe` outside `edu` lives here.

use std::ffi::{c_int, c_ulong};
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::abi::Command;

/// A failed system call: what was tried, and the error number.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What was tried, with the objects it was tried on.
    pub tried: String,
    /// The positive error number.
    pub errno: i32,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.tried, io::Error::from_raw_os_error(self.errno))
    }
}

impl std::error::Error for Failure {}

impl Failure {
    /// A failure with `errno` while doing `tried`.
    pub fn new(errno: i32, tried: impl Into<String>) -> Self {
        Self { tried: tried.into(), errno }
    }

    /// The same from an [`io::Error`]; one that carries no number counts as `EIO`.
    pub fn from_io(error: &io::Error, tried: impl Into<String>) -> Self {
        Self::new(error.raw_os_error().unwrap_or(libc::EIO), tried)
    }
}

/// The result of a system call.
pub type Tried<T> = Result<T, Failure>;

/// Runs one typed ioctl. The context names the objects, e.g. `"hwpt 5"`.
pub fn ioctl<C: Command>(fd: BorrowedFd<'_>, cmd: &mut C, context: impl FnOnce() -> String) -> Tried<i32> {
    // SAFETY: `Command` promises that the request reads and writes no more than the struct, which is
    // borrowed mutably for the call; the descriptor is borrowed, hence open.
    let ret = unsafe { libc::ioctl(fd.as_raw_fd(), C::REQUEST, std::ptr::from_mut(cmd)) };
    if ret < 0 {
        let error = io::Error::last_os_error();
        return Err(Failure::from_io(&error, format!("{} ({})", C::NAME, context())));
    }
    Ok(ret)
}

/// Runs an ioctl whose argument is a value, not a pointer.
pub fn ioctl_value(fd: BorrowedFd<'_>, request: c_ulong, value: c_ulong, tried: &str) -> Tried<()> {
    // SAFETY: nothing is passed that the kernel could take for an address, if the request takes a value, as all
    // callers' do; the descriptor is borrowed, hence open.
    let ret = unsafe { libc::ioctl(fd.as_raw_fd(), request, value) };
    if ret < 0 {
        return Err(Failure::from_io(&io::Error::last_os_error(), tried));
    }
    Ok(())
}

/// A new eventfd.
pub fn eventfd() -> Tried<OwnedFd> {
    // SAFETY: no pointers.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    if fd < 0 {
        return Err(Failure::from_io(&io::Error::last_os_error(), "eventfd"));
    }
    // SAFETY: the kernel has just made this descriptor for us; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Waits until there is something to read. Gives back whether there is.
pub fn readable(fd: &OwnedFd, limit: Duration) -> Tried<bool> {
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one live pollfd, and its count.
    let ret = unsafe { libc::poll(&raw mut poll, 1, limit.as_millis().min(i32::MAX as u128) as c_int) };
    if ret < 0 {
        return Err(Failure::from_io(&io::Error::last_os_error(), "poll"));
    }
    Ok(ret > 0)
}

/// `CLOCK_MONOTONIC` in nanoseconds: the clock of `bpf_ktime_get_ns`.
pub fn now() -> u64 {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live timespec. The clock exists on every Linux: the call cannot fail.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut ts) };
    ts.tv_sec as u64 * 1_000_000_000 + ts.tv_nsec as u64
}

/// The calling thread's id.
pub fn tid() -> u32 {
    // SAFETY: gettid has no arguments and cannot fail.
    (unsafe { libc::gettid() }) as u32
}

static STOP: AtomicBool = AtomicBool::new(false);

extern "C" fn on_signal(_: c_int) {
    STOP.store(true, Ordering::Relaxed);
}

/// Makes SIGINT and SIGTERM ask for a clean end instead of killing: a mock device that dies with PASIDs
/// attached makes the kernel warn.
pub fn catch_signals() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
        unsafe { libc::signal(signal, on_signal as *const () as libc::sighandler_t) };
    }
}

/// Whether SIGINT or SIGTERM came.
pub fn stopped() -> bool {
    STOP.load(Ordering::Relaxed)
}

/// An anonymous, page-aligned, populated buffer for the IOMMU to map.
#[derive(Debug)]
pub struct Buffer {
    addr: *mut libc::c_void,
    len: usize,
}

// SAFETY: the buffer is plain memory that this process never touches through the pointer; only its
// address is handed to the kernel.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// Maps `len` bytes.
    pub fn new(len: usize) -> Tried<Self> {
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches no existing memory.
        let addr = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE,
                -1,
                0,
            )
        };
        if addr == libc::MAP_FAILED {
            let error = io::Error::last_os_error();
            return Err(Failure::from_io(&error, format!("mmap of {len} bytes")));
        }
        Ok(Self { addr, len })
    }

    /// The address, as the ABI wants it.
    pub fn addr(&self) -> u64 {
        self.addr as u64
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing borrows from it.
        unsafe { libc::munmap(self.addr, self.len) };
    }
}

/// Anonymous memory of which no page is there yet.
#[derive(Debug)]
pub struct Untouched {
    addr: *mut libc::c_void,
    len: usize,
}

const PAGE: usize = 4096;

impl Untouched {
    /// Maps so many pages.
    pub fn new(pages: usize) -> Tried<Self> {
        let len = pages * PAGE;
        let failed = |what: &str| Failure::from_io(&io::Error::last_os_error(), format!("{what} of {len} bytes"));
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches no existing memory.
        let addr = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if addr == libc::MAP_FAILED {
            return Err(failed("mmap"));
        }
        let memory = Self { addr, len };
        // SAFETY: the range is the mapping. Page by page: a huge page would bring others in.
        if unsafe { libc::madvise(addr, len, libc::MADV_NOHUGEPAGE) } != 0 {
            return Err(failed("madvise"));
        }
        Ok(memory)
    }

    /// Where it begins.
    pub fn addr(&self) -> u64 {
        self.addr as u64
    }

    /// Whether the page at an address inside is there.
    pub fn is_in(&self, addr: u64) -> Tried<bool> {
        let mut there = 0_u8;
        let offset = addr.wrapping_sub(self.addr()) as usize / PAGE * PAGE;
        if offset >= self.len {
            return Err(Failure::new(libc::EFAULT, format!("mincore at {addr:#x}, which is outside")));
        }
        let page = self.addr.wrapping_byte_add(offset);
        // SAFETY: the page is inside the mapping, and the kernel writes one byte for it.
        if unsafe { libc::mincore(page, PAGE, &raw mut there) } != 0 {
            return Err(Failure::from_io(&io::Error::last_os_error(), format!("mincore at {addr:#x}")));
        }
        Ok(there & 1 != 0)
    }
}

impl Drop for Untouched {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing borrows from it.
        unsafe { libc::munmap(self.addr, self.len) };
    }
}

/// The symbolic name of an error number, for the ground truth; `"?"` for one not met here.
pub fn errno_name(errno: i32) -> &'static str {
    match errno {
        libc::EPERM => "EPERM",
        libc::ENOENT => "ENOENT",
        libc::EIO => "EIO",
        libc::ENOMEM => "ENOMEM",
        libc::EACCES => "EACCES",
        libc::EFAULT => "EFAULT",
        libc::EBUSY => "EBUSY",
        libc::EEXIST => "EEXIST",
        libc::ENODEV => "ENODEV",
        libc::EINVAL => "EINVAL",
        libc::ENOTTY => "ENOTTY",
        libc::ENOSPC => "ENOSPC",
        libc::ESPIPE => "ESPIPE",
        libc::E2BIG => "E2BIG",
        libc::EOVERFLOW => "EOVERFLOW",
        libc::EOPNOTSUPP => "EOPNOTSUPP",
        libc::ETIMEDOUT => "ETIMEDOUT",
        _ => "?",
    }
}
