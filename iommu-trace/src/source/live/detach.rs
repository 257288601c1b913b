//! Detaches the probes without making anybody wait for it.
//!
//! Removing a trampoline from a function, the kernel waits for grace periods under its global ftrace lock: some 60 ms a
//! function on Linux 6.12, so a few seconds for all of them, and no order or number of threads changes that. A child
//! that inherits the links and exits at once has the kernel do it on the child's way out, while we print the summary.

use aya::Ebpf;

/// Detaches all probes of `ebpf`. When this returns they may still run for some seconds; what they send goes nowhere.
pub fn in_background(ebpf: Ebpf) {
    let mut ends = [-1; 2];
    // SAFETY: the pointer is to two descriptors of ours.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return;
    }
    let [wait, done] = ends;
    // SAFETY: the child of a process with threads may call async-signal-safe functions only, and does.
    if unsafe { libc::fork() } == 0 {
        linger(wait, done);
    }
    // Our own descriptors go first; with a child holding them too, that takes no time. Without one it takes what it takes.
    drop(ebpf);
    // SAFETY: the two descriptors are ours, and nobody uses them after this.
    unsafe {
        libc::close(done);
        libc::close(wait);
    }
}

/// The child: waits until the links are only its own, and takes them with it.
fn linger(wait: libc::c_int, done: libc::c_int) -> ! {
    // SAFETY: async-signal-safe calls on constants and our own descriptors. The standard streams are given back, so that
    // nobody who reads them waits for us; a signal to the parent's group does not reach the new session.
    unsafe {
        libc::setsid();
        libc::prctl(libc::PR_SET_NAME, c"iommu-trace-end".as_ptr());
        for stream in 0..3 {
            libc::close(stream);
        }
        libc::close(done);
        let mut byte = 0u8;
        while libc::read(wait, (&raw mut byte).cast(), 1) > 0 {}
        libc::_exit(0)
    }
}
