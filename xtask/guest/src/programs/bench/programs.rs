//! What the kernel tells of BPF programs: how often each has run, and for how long.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Context, Result};

use super::case::Program;

/// Commands of `bpf(2)` (`enum bpf_cmd`).
const PROG_GET_NEXT_ID: libc::c_int = 11;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const ENABLE_STATS: libc::c_int = 32;

/// The beginning of `union bpf_attr` as these commands use it: two ids, or a descriptor, a length and an address.
#[repr(C)]
#[derive(Default)]
struct Attr {
    first: u32,
    second: u32,
    third: u64,
}

/// The part of `struct bpf_prog_info` that is read here: what the kernel knows besides is left out.
#[repr(C)]
struct Info {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    before_name: [u32; 12],
    name: [u8; 16],
    after_name: [u32; 28],
    run_time_ns: u64,
    run_cnt: u64,
}

fn bpf(command: libc::c_int, attr: &mut Attr) -> io::Result<libc::c_long> {
    // SAFETY: the commands here read and write this much of the attribute, and of the info what they are told is there.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<Attr>()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(done) }
}

/// Has the kernel measure each program's run time while the result lives.
pub fn keep_statistics() -> Result<OwnedFd> {
    let fd = bpf(ENABLE_STATS, &mut Attr::default()).context("the kernel keeps no statistics of BPF programs")?;
    // SAFETY: a new descriptor, nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Every program that is loaded, by id and name.
pub fn all() -> Result<BTreeMap<(u32, String), Program>> {
    let mut programs = BTreeMap::new();
    let mut attr = Attr::default();
    while bpf(PROG_GET_NEXT_ID, &mut attr).is_ok() {
        let id = attr.second;
        if let Ok(fd) = bpf(PROG_GET_FD_BY_ID, &mut Attr { first: id, ..Attr::default() }) {
            // SAFETY: a new descriptor, nobody else's.
            let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
            let (name, program) = info(&fd)?;
            programs.insert((id, name), program);
        }
        attr = Attr { first: id, ..Attr::default() };
    }
    Ok(programs)
}

fn info(fd: &OwnedFd) -> Result<(String, Program)> {
    // SAFETY: integers and arrays of them: zeroes are a value.
    let mut info: Info = unsafe { std::mem::zeroed() };
    let mut attr =
        Attr { first: fd.as_raw_fd() as u32, second: size_of::<Info>() as u32, third: (&raw mut info) as u64 };
    bpf(OBJ_GET_INFO_BY_FD, &mut attr).context("the kernel does not tell of a BPF program")?;
    let name = info.name.split(|&byte| byte == 0).next().unwrap_or_default();
    let name = String::from_utf8_lossy(name).into_owned();
    Ok((name, Program { runs: info.run_cnt, time: info.run_time_ns }))
}

/// What ran between two moments, by name; what did not run is left out.
pub fn since(
    before: &BTreeMap<(u32, String), Program>,
    after: &BTreeMap<(u32, String), Program>,
) -> BTreeMap<String, Program> {
    let mut programs: BTreeMap<String, Program> = BTreeMap::new();
    for (key, now) in after {
        let then = before.get(key).copied().unwrap_or_default();
        if now.runs > then.runs {
            let sum = programs.entry(key.1.clone()).or_default();
            sum.runs += now.runs - then.runs;
            sum.time += now.time - then.time;
        }
    }
    programs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_info_has_its_members_where_the_kernel_has_them() {
        // include/uapi/linux/bpf.h
        assert_eq!(std::mem::offset_of!(Info, name), 64);
        assert_eq!(std::mem::offset_of!(Info, run_time_ns), 192);
        assert_eq!(std::mem::offset_of!(Info, run_cnt), 200);
    }

    #[test]
    fn what_ran_is_summed_up_by_name() {
        let program = |runs, time| Program { runs, time };
        let key = |id, name: &str| (id, name.to_owned());
        let before = BTreeMap::from([(key(1, "a"), program(5, 50)), (key(2, "b"), program(1, 1))]);
        let after = BTreeMap::from([
            (key(1, "a"), program(7, 90)),
            (key(2, "b"), program(1, 1)),
            (key(3, "a"), program(1, 10)),
        ]);
        let ran = since(&before, &after);
        assert_eq!(ran.len(), 1);
        assert_eq!((ran["a"].runs, ran["a"].time), (3, 50));
    }
}
