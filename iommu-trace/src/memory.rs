//! The allocator of the binary: the system's, but that running out of memory is an error as others are, with a message and an exit
//! status, where Rust would abort the process.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    io::Write as _,
};

#[global_allocator]
static ALLOCATOR: OrExit = OrExit;

struct OrExit;

/// Bad usage or a failed set-up: `iommu_trace::cli::EXIT_USAGE`.
const STATUS: i32 = 2;

// SAFETY: the system's allocator does all of it. Its null, which it is allowed to give, ends the process.
unsafe impl GlobalAlloc for OrExit {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract, which is the same.
        or_exit(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        or_exit(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        or_exit(unsafe { System.realloc(ptr, layout, size) }, size)
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[inline]
fn or_exit(ptr: *mut u8, size: usize) -> *mut u8 {
    if ptr.is_null() {
        out_of_memory(size);
    }
    ptr
}

#[cold]
fn out_of_memory(size: usize) -> ! {
    // Whole on the stack: there is no memory for anything else. What is on the screen stays there.
    let mut line = [0; 160];
    let mut rest = &mut line[..];
    let _ = writeln!(
        rest,
        "\niommu-trace: error: out of memory: {size} bytes could not be had; see `ulimit -v` and the limits of the cgroup"
    );
    let left = rest.len();
    let text = &line[..line.len() - left];
    // SAFETY: the pointer and the length are of a slice; the process ends here, and nothing is unwound or flushed.
    unsafe {
        libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len());
        libc::_exit(STATUS)
    }
}
