//! Loads the BPF object and attaches what the plan says.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use aya::{
    Btf, Ebpf, EbpfLoader,
    programs::{
        BtfTracePoint, FEntry, FExit, KProbe, Program as AyaProgram, ProgramError, RawTracePoint, kprobe::KProbeLinkId,
    },
    util::nr_cpus,
};
use iommu_trace_common::{ProbeId, Settings};

use super::{LiveOptions, MAX_RING, MIN_RING, diagnostics::LEVEL, stretch, sums, targets};
use crate::{
    event::harmless,
    kernel::{Asked, Kernel},
    probes::{Plan, Probe, Program, Verdict, Way},
};

/// The BPF programs, built by the build script.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/iommu-trace.bpf.o"));

/// Threads that load programs at the most: beyond them the kernel's own locks are what is waited for.
const MAX_LOADERS: usize = 8;

/// The types of what the plan attaches to, in the form that the loader wants them in.
pub fn kernel_types(kernel: &Kernel, plan: &Plan, stretch: &stretch::Plan) -> anyhow::Result<Btf> {
    let (mut functions, mut tracepoints) = (Vec::new(), Vec::new());
    for planned in &plan.0 {
        for program in &planned.programs {
            match program.way {
                Way::FEntry | Way::FExit => functions.push(planned.probe.id.function()),
                Way::TpBtf => tracepoints.push(planned.probe.id.function()),
                Way::KProbe | Way::KRetProbe | Way::RawTp => {}
            }
        }
    }
    for function in stretch.functions() {
        if !functions.contains(&function) {
            functions.push(function);
        }
    }
    functions.dedup();
    targets::as_btf(&kernel.types.attach_targets(&functions, &tracepoints))
}

/// Loads and attaches what the plan says. What can't be attached is noted in it with the reason.
///
/// Programs read kernel structures by loads that the verifier checks against the kernel's types. Where it refuses one, as
/// where a type is not what the function's prototype has us believe, all are loaded anew to read through helpers.
pub fn load_and_attach(
    kernel: &Kernel,
    btf: &Btf,
    plan: &mut Plan,
    stretch: &mut stretch::Plan,
    options: &LiveOptions,
) -> anyhow::Result<Ebpf> {
    if let Err(why) = kernel.ftrace_changes() {
        tracing::warn!("{why}");
    }
    let before = plan.clone();
    let mut ebpf = load(kernel, plan, options, true)?;
    stretch.attach(&mut ebpf, btf)?;
    let refused = attach_all(&mut ebpf, btf, plan)?;
    if refused {
        tracing::warn!(
            "the verifier refused a program that reads by loads: all read through helpers, which costs more"
        );
        // Before the others are attached, so that nothing is told twice.
        drop(ebpf);
        *plan = before;
        ebpf = load(kernel, plan, options, false)?;
        stretch.attach(&mut ebpf, btf)?;
        attach_all(&mut ebpf, btf, plan)?;
    }
    Ok(ebpf)
}

/// Creates the maps and readies the programs, with this kernel's offsets in them.
fn load(kernel: &Kernel, plan: &Plan, options: &LiveOptions, direct: bool) -> anyhow::Result<Ebpf> {
    raise_memlock();
    let mut settings = kernel.settings(Asked {
        stacks: options.stacks.setting(),
        direct,
        track_frees: options.track_frees,
        sums: options.sums,
        filter: options.groups.setting(),
    });
    settings.amd_wait_void = u32::from(plan.is_copy(ProbeId::AmdCompletionWait));
    let ring = options.buffer_size.clamp(MIN_RING, MAX_RING).next_power_of_two();
    let log_level = if options.verbose { log::LevelFilter::Debug as u8 } else { 0 };
    let started = Instant::now();
    let mut loader = without_files(EbpfLoader::new);
    tracing::debug!(took = ?started.elapsed(), "loader made");
    // The object has no relocations that would need the kernel's types.
    loader
        .btf(None)
        .override_global(LEVEL, &log_level, true)
        .override_global("OFFSETS", kernel.offsets.as_slice(), true)
        .override_global("SETTINGS", as_bytes(&settings), true)
        .map_max_entries("RING", ring);
    if !options.stacks.is_any() {
        loader.map_max_entries("STACKS", 1);
    }
    if !options.track_frees {
        loader.map_max_entries("WATCHED", 1);
    }
    if options.stretch.is_empty() {
        loader.map_max_entries("STRETCH_INSIDE", 1);
    }
    if options.sums {
        let cpus = nr_cpus().map_err(|(_, error)| error).context("cannot tell the number of CPUs")?;
        loader.map_max_entries("SUMS", sums::ROOM).map_max_entries("NEAR", cpus as u32);
    }
    loader.load(OBJECT).context(
        "cannot create the BPF maps. Root or CAP_BPF and CAP_PERFMON are needed, and a kernel with \
         CONFIG_BPF_SYSCALL that is not locked down; `iommu-trace doctor` tells which of them is missing",
    )
}

/// Runs something that must open no file. What aya's loader does first is to read and parse all of the kernel's types, a
/// third of a second and tens of megabytes, only to be told that they are not wanted: this way it finds that it cannot.
fn without_files<T>(run: impl FnOnce() -> T) -> T {
    let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to an `rlimit` of ours.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut before) } == 0;
    let none = libc::rlimit { rlim_cur: 0, ..before };
    if known {
        // SAFETY: as above.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const none) };
    }
    let result = run();
    if known {
        // SAFETY: as above. The soft limit may always be put back.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const before) };
    }
    result
}

fn as_bytes(settings: &Settings) -> &[u8] {
    // SAFETY: `Settings` is `repr(C)` of integers without padding between or after them, so every byte is initialised.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(settings).cast(), size_of::<Settings>()) }
}

/// Kernels before 5.11 count BPF memory against this limit; where it may not be raised, nothing is lost on newer ones.
fn raise_memlock() {
    let unlimited = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the pointer is to an `rlimit` of ours.
    unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const unlimited) };
}

/// Loads every program of the plan, and attaches those on functions of vmlinux. What can't be attached is noted in the plan with the reason.
/// Tells whether the verifier refused one. That something has run out is no property of the kernel, and so an error.
///
/// The verifier's work is most of it, and it runs on as many threads as there are CPUs, up to a few.
fn attach_all(ebpf: &mut Ebpf, btf: &Btf, plan: &mut Plan) -> anyhow::Result<bool> {
    let mut refused = false;
    let mut there: BTreeMap<String, &mut AyaProgram> =
        ebpf.programs_mut().map(|(name, program)| (name.to_owned(), program)).collect();
    let mut jobs: VecDeque<Job<'_>> = plan
        .0
        .iter()
        .filter(|planned| matches!(planned.verdict, Verdict::Ok | Verdict::Waiting))
        .flat_map(|planned| planned.programs.iter().map(move |program| (planned, program.clone())))
        .map(|(planned, program)| Job {
            loaded: there.remove(&program.name),
            probe: planned.probe,
            symbol: planned.symbol.clone(),
            program,
        })
        .collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_LOADERS);
    let queue = Mutex::new(&mut jobs);
    let broken = Mutex::new(Vec::new());
    let exhausted = Mutex::new(None);
    let work = || {
        while let Some(job) = next(&queue) {
            let started = Instant::now();
            let name = &job.program.name;
            match attach(job.loaded, job.probe, job.symbol.as_deref(), &job.program, btf) {
                Ok(program) => tracing::trace!(
                    program = name.as_str(),
                    load = ?program.1,
                    took = ?started.elapsed(),
                    verified = program.0.info().ok().and_then(|info| info.verified_instruction_count()),
                    "loaded and attached"
                ),
                Err(error) if has_run_out(&error).is_some() => {
                    exhausted.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    break;
                }
                Err(error) => {
                    let refused = is_refusal(&error);
                    let reason = format!("{} {name}: {}", job.program.way, reason(&error));
                    broken.lock().unwrap_or_else(PoisonError::into_inner).push((job.probe.id, reason, refused));
                }
            }
        }
    };
    std::thread::scope(|scope| {
        // Where there is no memory for more threads, this one does it all.
        let spawn = || std::thread::Builder::new().spawn_scoped(scope, work);
        let _others: Vec<_> = (1..threads).map_while(|_| spawn().ok()).collect();
        work();
    });
    if let Some(error) = exhausted.into_inner().unwrap_or_else(PoisonError::into_inner) {
        let what = has_run_out(&error).unwrap_or("something has run out");
        return Err(anyhow::anyhow!("{}", reason(&error)).context(format!("cannot attach the probes: {what}")));
    }
    for (id, reason, of_its_loads) in broken.into_inner().unwrap_or_else(PoisonError::into_inner) {
        tracing::debug!(%reason, "a probe could not be attached");
        if has_no_address(&reason) {
            plan.inlined(id);
        } else {
            refused |= of_its_loads;
            plan.broken(id, &reason);
        }
    }
    Ok(refused)
}

/// What has run out, and what to do about it, where that is why something failed.
fn has_run_out(error: &anyhow::Error) -> Option<&'static str> {
    let codes = error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>()?.raw_os_error());
    codes.into_iter().find_map(|code| match code {
        libc::EMFILE => Some("this process may open no more files; `ulimit -n` should be 512 or more"),
        libc::ENFILE => Some("the system has as many open files as it may have (fs.file-max)"),
        libc::ENOMEM => Some("the kernel has no memory for them"),
        _ => None,
    })
}

/// One program to attach; `None` where the object lacks it.
struct Job<'a> {
    probe: &'static Probe,
    symbol: Option<String>,
    program: Program,
    loaded: Option<&'a mut AyaProgram>,
}

fn next<'a>(queue: &Mutex<&mut VecDeque<Job<'a>>>) -> Option<Job<'a>> {
    queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
}

/// Loads and attaches one program, and gives it back.
fn attach<'a>(
    loaded: Option<&'a mut AyaProgram>,
    probe: &Probe,
    symbol: Option<&str>,
    program: &Program,
    btf: &Btf,
) -> anyhow::Result<(&'a AyaProgram, Duration)> {
    let started = Instant::now();
    let mut load = Duration::ZERO;
    let function = probe.id.function();
    let loaded = loaded.with_context(|| format!("the BPF object has no program {}", program.name))?;
    match program.way {
        Way::FEntry => {
            let program: &mut FEntry = (&mut *loaded).try_into()?;
            program.load(function, btf)?;
            load = started.elapsed();
            program.attach()?;
        }
        Way::FExit => {
            let program: &mut FExit = (&mut *loaded).try_into()?;
            program.load(function, btf)?;
            load = started.elapsed();
            program.attach()?;
        }
        Way::TpBtf => {
            let program: &mut BtfTracePoint = (&mut *loaded).try_into()?;
            program.load(function, btf)?;
            program.attach()?;
        }
        Way::RawTp => {
            let program: &mut RawTracePoint = (&mut *loaded).try_into()?;
            program.load()?;
            program.attach(function)?;
        }
        Way::KProbe | Way::KRetProbe => {
            let program: &mut KProbe = (&mut *loaded).try_into()?;
            program.load()?;
            // Otherwise attached when the module is there: see `modules`.
            if !probe.comes_and_goes() {
                program.attach(symbol.unwrap_or(function), 0)?;
            }
        }
    }
    Ok((loaded, load))
}

/// Attaches a loaded program to a function of a module.
pub fn attach_kprobe(ebpf: &mut Ebpf, name: &str, function: &str) -> anyhow::Result<KProbeLinkId> {
    let program = ebpf.program_mut(name).with_context(|| format!("the BPF object has no program {name}"))?;
    let program: &mut KProbe = program.try_into()?;
    Ok(program.attach(function, 0)?)
}

/// Detaches it again. The module may be gone, and its functions with it.
pub fn detach_kprobe(ebpf: &mut Ebpf, name: &str, link: KProbeLinkId) -> anyhow::Result<()> {
    let program = ebpf.program_mut(name).with_context(|| format!("the BPF object has no program {name}"))?;
    let program: &mut KProbe = program.try_into()?;
    Ok(program.detach(link)?)
}

/// Whether the verifier found the function in the kernel's types and not among its symbols
/// (`bpf_check_attach_target` of kernel/bpf/verifier.c).
fn has_no_address(reason: &str) -> bool {
    reason.contains("The address of function ") && reason.contains(" cannot be found")
}

/// Whether the verifier read the program and did not like what it does.
fn is_refusal(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref(),
        Some(ProgramError::LoadError { io_error, verifier_log })
            if matches!(io_error.raw_os_error(), Some(libc::EACCES | libc::EINVAL)) && !verifier_log.to_string().is_empty()
    )
}

/// An error with its causes in one line. A verifier's log is cut to its last lines, where the reason is.
pub fn reason(error: &anyhow::Error) -> String {
    let mut text = Vec::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        let lines: Vec<&str> = cause.lines().filter(|line| !line.trim().is_empty()).collect();
        let tail = lines.len().saturating_sub(6);
        text.push(harmless(&lines.get(tail..).unwrap_or_default().join(" | ")).into_owned());
    }
    text.dedup();
    text.join(": ")
}

#[cfg(test)]
mod tests {
    use aya::sys::SyscallError;

    use super::*;
    use crate::probes::{
        CATALOGUE,
        stretch::{POINTS, Point},
    };

    #[test]
    fn a_function_without_an_address_is_told_by_the_verifiers_words() {
        let text = "fentry a_enter: the BPF_PROG_LOAD syscall returned No such file or directory (os error 2). Verifier \
            output: The address of function iommu_completion_wait cannot be found | processed 0 insns";
        assert!(has_no_address(text));
        assert!(!has_no_address("fentry a_enter: Permission denied (os error 13)"));
    }

    #[test]
    fn what_has_run_out_is_told_from_what_a_kernel_lacks() {
        let failed = |errno| {
            let io_error = std::io::Error::from_raw_os_error(errno);
            anyhow::Error::new(ProgramError::SyscallError(SyscallError { call: "bpf_link_create", io_error }))
        };
        assert!(has_run_out(&failed(libc::EMFILE)).unwrap().contains("ulimit -n"));
        assert!(has_run_out(&failed(libc::ENOMEM)).unwrap().contains("memory"));
        assert_eq!(has_run_out(&failed(libc::EBUSY)), None);
    }

    #[test]
    fn a_refusal_has_the_verifiers_word_and_a_lack_of_privileges_has_not() {
        let failed = |errno, log: &str| {
            let io_error = std::io::Error::from_raw_os_error(errno);
            anyhow::Error::new(ProgramError::LoadError {
                io_error,
                verifier_log: aya_obj::VerifierLog::new(log.into()),
            })
        };
        let log = "cannot access ptr member dev with moff 48 in struct iommu_fault_param with off 49 size 8\nprocessed 108 insns";
        assert!(is_refusal(&failed(libc::EACCES, log)));
        assert!(!is_refusal(&failed(libc::EPERM, "")) && !is_refusal(&failed(libc::EACCES, "")));
        assert!(!is_refusal(&anyhow::anyhow!("the BPF object has no program a_enter")));
    }

    #[test]
    fn the_object_has_no_debug_information_to_be_read_at_each_start() {
        assert!(OBJECT.len() < 1 << 20, "{} bytes", OBJECT.len());
        assert!(aya_obj::Object::parse(OBJECT).unwrap().btf_ext.is_some(), "the verifier is told of source lines");
    }

    #[test]
    fn the_object_has_every_program_of_the_tables_and_no_other() {
        let object = aya_obj::Object::parse(OBJECT).unwrap();
        let mut wanted: Vec<String> = Vec::new();
        for probe in CATALOGUE {
            let kprobes = probe.has_kprobes();
            let programs = [
                (probe.enter, "enter"),
                (probe.exit, "exit"),
                (kprobes && (probe.enter || probe.keeps), "kprobe"),
                (kprobes && probe.exit, "kretprobe"),
            ];
            for (_, suffix) in programs.iter().filter(|(there, _)| *there) {
                wanted.push(format!("{}_{suffix}", probe.stem));
            }
        }
        let stretching = POINTS.iter().flat_map(Point::programs).map(|(_, name, _)| name.to_owned());
        wanted.extend(stretching);
        let mut there: Vec<String> = object.programs.keys().cloned().collect();
        wanted.sort();
        there.sort();
        assert_eq!(there, wanted);
    }
}
