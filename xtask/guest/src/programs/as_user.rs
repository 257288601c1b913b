//! Runs a command as another user with some capabilities, as a service manager would.
//!
//! No trace of IOMMU work is in here: it is for what a tracer may do that is not root.

use std::{
    ffi::OsString,
    io,
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, anyhow};
use caps::{CapSet, Capability, CapsHashSet};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The user and group number to become.
    #[arg(long, default_value_t = 65534, value_name = "NUMBER")]
    user: u32,
    /// The capabilities to keep, as `CAP_BPF,CAP_PERFMON`; none unless given.
    #[arg(long, value_delimiter = ',', value_name = "NAME,...")]
    caps: Vec<Capability>,
    /// The command.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Becomes the command; comes back only if that fails.
pub fn run(args: &Args) -> ExitCode {
    match exec(args) {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("guest as: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn failed(what: &'static str) -> impl Fn(caps::errors::CapsError) -> anyhow::Error {
    move |error| anyhow!("cannot {what}: {error}")
}

fn ok(result: libc::c_int, what: &'static str) -> Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()).context(what) }
}

fn exec(args: &Args) -> Result<std::convert::Infallible> {
    let kept: CapsHashSet = args.caps.iter().copied().collect();
    // Nothing outside the list can come back, not even by a set-user-id program.
    for capability in caps::runtime::thread_all_supported().difference(&kept) {
        caps::drop(None, CapSet::Bounding, *capability).map_err(failed("narrow the bounding set"))?;
    }
    // SAFETY: numbers and a null list; no memory of ours is touched.
    unsafe {
        ok(libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0), "cannot keep capabilities over the change of user")?;
        ok(libc::setgroups(0, std::ptr::null()), "cannot leave all groups")?;
        ok(libc::setresgid(args.user, args.user, args.user), "cannot change the group")?;
        ok(libc::setresuid(args.user, args.user, args.user), "cannot change the user")?;
    }
    for set in [CapSet::Permitted, CapSet::Effective, CapSet::Inheritable] {
        // What may be inherited has to be permitted, and what is effective, too: first widen nothing, then narrow.
        caps::set(None, set, &kept).map_err(failed("keep the capabilities asked for"))?;
    }
    caps::set(None, CapSet::Ambient, &kept).map_err(failed("hand the capabilities on"))?;
    let (program, arguments) = args.command.split_first().context("no command")?;
    let error = Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("cannot start {}", program.display()))
}
