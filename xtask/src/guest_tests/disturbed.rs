//! The machine is disturbed while it is traced: CPUs leave, clocks jump, memory runs out, it sleeps; the tracer is killed, held up,
//! starved. Whatever happens, nothing wrong is told, nothing is lost without being counted, and the next run is as good as any.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    Checks, Guest, GuestTest,
    compare::{Trust, compare},
    session::{Files, Script, quoted, said_nothing},
    trace::Trace,
    truth::Truth,
};
use crate::qemu::Iommu;

const ABOUT: &str =
    "CPUs leave, clocks jump, the tracer is killed, held up and starved: nothing wrong is told, and every loss";
const FAILING: &str =
    "allocations fail at random, for the programs and for the tracer: no rule is broken, and a failed start says why";
const ASLEEP: &str = "the machine sleeps while it is traced, and what comes afterwards is told as ever";
const SOAK: &str = "a long trace of everything tells what was done, and its memory stays as it is";

/// The table.
pub const TESTS: &[GuestTest] = &[
    GuestTest {
        name: "disturbed-built-7.3",
        about: ABOUT,
        kernel: "built-7.3",
        iommu: Iommu::None,
        tracer: true,
        run: |guest, checks| run(guest, checks, SHORT),
    },
    GuestTest {
        name: "long-disturbed-built-7.3",
        about: ABOUT,
        kernel: "built-7.3",
        iommu: Iommu::None,
        tracer: true,
        run: |guest, checks| run(guest, checks, LONG),
    },
    GuestTest {
        name: "long-disturbed-built-6.12",
        about: ABOUT,
        kernel: "built-6.12",
        iommu: Iommu::None,
        tracer: true,
        run: |guest, checks| run(guest, checks, LONG),
    },
    GuestTest {
        name: "long-failing-built-7.3",
        about: FAILING,
        kernel: "built-7.3",
        iommu: Iommu::None,
        tracer: true,
        run: failing,
    },
    GuestTest {
        name: "long-failing-built-6.12",
        about: FAILING,
        kernel: "built-6.12",
        iommu: Iommu::None,
        tracer: true,
        run: failing,
    },
    GuestTest {
        name: "long-asleep-stock-7.3",
        about: ASLEEP,
        kernel: "stock-7.3",
        iommu: Iommu::Intel,
        tracer: true,
        run: asleep,
    },
    GuestTest {
        name: "long-asleep-stock-6.12",
        about: ASLEEP,
        kernel: "stock-6.12",
        iommu: Iommu::Intel,
        tracer: true,
        run: asleep,
    },
    GuestTest {
        name: "long-soak-built-7.3",
        about: SOAK,
        kernel: "built-7.3",
        iommu: Iommu::None,
        tracer: true,
        run: soak,
    },
];

/// How much of each.
#[derive(Clone, Copy)]
struct Amount {
    /// How long the machine is shaken.
    seconds: u32,
    /// For how long the tracer is held up.
    held: u32,
    /// When, in tenths of a second after their start, tracers are killed.
    killed: &'static [u32],
}

const SHORT: Amount = Amount { seconds: 2, held: 2, killed: &[20] };
const LONG: Amount = Amount { seconds: 20, held: 10, killed: &[1, 3, 6, 10, 15, 20, 30, 50] };

/// Said by the guest in the kernel's log: what the kernel said between the two is of the disturbances.
const MARKS: [&str; 2] = ["disturbed: begin", "disturbed: end"];

/// Shell functions. A trace has begun when its first line is there; after a tracer that was killed the kernel takes its time.
const TOOLS: &str = "\
wait_for() { i=0; until [ -s $1 ] || [ $i = 600 ]; do sleep 0.1; i=$((i+1)); done; }
attached() { cat /sys/kernel/tracing/enabled_functions; grep -F '[bpf]' /proc/kallsyms; }
all_gone() { i=0; while [ -n \"$(attached)\" ]; do [ $i = 60 ] && { attached >&2; return 1; }; sleep 1; i=$((i+1)); done; }
";

/// What disturbs the machine, over and over.
const CPUS: &str =
    "echo 0 > /sys/devices/system/cpu/cpu1/online; sleep 0.2; echo 1 > /sys/devices/system/cpu/cpu1/online; sleep 0.2";
const CLOCKS: &str =
    "now=$(date +%s); date -s @$((now + 86400)); sleep 0.15; date -s @$((now - 86400)); sleep 0.15; date -s @$now";

/// `check` with a recording, around a workload that tells the truth and something that disturbs it.
fn shaken(name: &str, options: &str, seconds: u32, disturb: &[&str]) -> String {
    let disturbers: Vec<String> = disturb
        .iter()
        .map(|what| {
            format!("( while [ ! -e /out/{name}.over ]; do {what}; done >> /out/{name}.said 2>&1 ) & pids=\"$pids $!\"")
        })
        .collect();
    let disturbers = disturbers.join("\n");
    let command = format!(
        "pids=\n{disturbers}\nguest workload mixed --seconds {seconds} --rate 40 --truth /out/{name}.truth\ns=$?\n\
         touch /out/{name}.over\nfor pid in $pids; do wait $pid; done\nexit $s"
    );
    format!(
        "exec iommu-trace check --track-frees {options} --format json --output /out/{name}.jsonl --record /out/{name}.itr -- sh -c {}",
        quoted(&command)
    )
}

/// What was told of the workload is what it did.
fn told(files: &Files, name: &str) -> Result<()> {
    files.expect_status(name, 0)?;
    let mut check = Trace::parse(&files.text(&format!("{name}.jsonl"))?)?;
    check.check_probes()?;
    // What the first proposal of handles would have done wrong is told where it is asked for.
    check.spans.retain(|span| span.text("rule") != Some("priv-unfreeable"));
    check.check_clean()?;
    let unjudged = &check.end["check"]["unjudged"];
    ensure!(unjudged.as_array().is_some_and(Vec::is_empty), "not judged: {unjudged}");
    let trace = Trace::parse(&files.text(&format!("{name}-spans.stdout"))?)?;
    let truth = Truth::parse(&files.text(&format!("{name}.truth"))?)?;
    ensure!(truth.lines.len() > 20, "the workload did nothing to speak of: {} lines", truth.lines.len());
    let (results, rest) = compare(&trace, &[truth], Trust::Whole);
    results.into_iter().chain([rest]).collect()
}

/// The spans of a recording.
fn spans(script: &mut Script, name: &str) {
    script.case(&format!("{name}-spans"), &format!("exec iommu-trace trace --from /out/{name}.itr --format json"));
}

fn run(guest: &Guest, checks: &mut Checks, amount: Amount) -> Result<()> {
    let Amount { seconds, held, killed } = amount;
    let mut script = Script::new();
    script.case("begin", &format!("exec echo '<4>{}' > /dev/kmsg", MARKS[0]));
    script.case("shaken", &shaken("shaken", "", seconds, &[CPUS, CLOCKS]));
    spans(&mut script, "shaken");
    script.case("cpus", "exec cat /sys/devices/system/cpu/online");
    for after in killed {
        let case = format!("killed-{after}");
        script.case(
            &case,
            &format!(
                "{TOOLS} iommu-trace check --track-frees --output /out/{case}.text & pid=$!\n\
                 guest workload storm --seconds {} --truth /dev/null & storm=$!\n\
                 usleep {}; kill -KILL $pid; wait $pid; echo $? > /out/{case}.how\n\
                 all_gone || exit 9; wait $storm",
                after / 10 + 2,
                after * 100_000
            ),
        );
    }
    script.case("held", &held_up(held));
    spans(&mut script, "held");
    script.case("files", &starved("ulimit -n", "8 12 16 24 32 48 64 96"));
    script.case("memory", &starved("ulimit -v", "8000 12000 16000 20000 25000 30000 40000 60000 100000 300000"));
    script.case("end", &format!("exec echo '<4>{}' > /dev/kmsg", MARKS[1]));
    let files = script.run(guest.vm().timeout(Duration::from_secs(1800)))?;

    checks.check("CPUs that leave and clocks that jump change nothing in what is told", told(&files, "shaken"));
    checks.check("they did leave, and jump", was_shaken(&files));
    for after in killed {
        let case = format!("killed-{after}");
        checks.check(format!("{case}: nothing of it is left, and the workload is none the worse"), {
            files.expect_status(&case, 0).and_then(|()| {
                let how = files.text(&format!("{case}.how"))?;
                ensure!(how.trim() == "137", "it ended with {} before it was killed", how.trim());
                Ok(())
            })
        });
    }
    let lost = counted(&files);
    if let Ok(lost) = &lost {
        checks.note(format!("held up for {held} s, the tracer lost {lost} records, and counted them all"));
    }
    checks.check("a tracer that is held up counts exactly what it lost, and raises no alarm", lost.map(drop));
    for case in ["files", "memory"] {
        checks.check(format!("without enough {case} it starts, or says why not"), said_why(&files, case));
    }
    checks.check("the kernel says nothing", said_nothing(files.console(), MARKS, &ORDINARY));
    Ok(())
}

/// What the kernel says anyway of CPUs that come and go.
const ORDINARY: [&str; 2] = ["smpboot: ", "x86: Booting SMP configuration"];

/// The kernel's own word for it.
fn was_shaken(files: &Files) -> Result<()> {
    let said = files.text("shaken.said")?;
    ensure!(!said.contains("rror") && !said.contains("annot"), "the disturbance failed:\n{said}");
    // `date -s` prints the time that it has set.
    ensure!(said.lines().count() >= 3, "the clock was set {} times", said.lines().count());
    let online = files.text("cpus.stdout")?;
    ensure!(online.trim() == "0-1", "these CPUs are back: {online}");
    Ok(())
}

/// Two tracers, of which one is stopped under a storm, with little room: both saw the same, so that what the one has read and
/// lost is what the other has read.
fn held_up(seconds: u32) -> String {
    let check = |name: &str, room: &str| {
        format!(
            "iommu-trace check --buffer-size {room} --format json --output /out/{name}.jsonl --record /out/{name}.itr & {name}=$!\n\
             wait_for /out/{name}.jsonl\n"
        )
    };
    format!(
        "{TOOLS}{}{}guest iopf --faults 20 --truth /dev/null || exit 7\n\
         kill -STOP $held; guest workload storm --seconds {seconds} --truth /dev/null || exit 8\nkill -CONT $held\n\
         sleep 1; guest iopf --faults 20 --truth /dev/null || exit 9\nsleep 1\n\
         kill -INT $held; wait $held || exit; kill -INT $whole; wait $whole",
        check("whole", "64M"),
        check("held", "64K"),
    )
}

/// How many the held tracer lost.
fn counted(files: &Files) -> Result<u64> {
    files.expect_status("held", 0)?;
    let read = |name: &str| -> Result<(u64, Trace)> {
        let trace = Trace::parse(&files.text(&format!("{name}.jsonl"))?)?;
        let records = trace.end["check"]["watched"]["records"].as_u64().context("the end counts no records")?;
        Ok((records, trace))
    };
    let ((whole, all), (held, some)) = (read("whole")?, read("held")?);
    all.check_clean().context("the tracer that was left alone")?;
    let alarm = some.spans.iter().find(|span| span.event == "violation");
    ensure!(alarm.is_none(), "a false alarm: {:?}", alarm.map(|span| &span.raw));
    // Each loss is told by a record of its own.
    let told = Trace::parse(&files.text("held-spans.stdout")?)?;
    let losses = told.spans.iter().filter(|span| span.event == "lost").count() as u64;
    let lost = some.lost();
    ensure!(lost > 0, "nothing was lost, which shows nothing");
    ensure!(
        held - losses + lost == whole,
        "{held} records with {losses} that tell losses, {lost} lost: {} in all, of {whole}",
        held - losses + lost
    );
    Ok(lost)
}

/// A start with too little of something, several times.
fn starved(limit: &str, amounts: &str) -> String {
    let case = if limit.ends_with("-n") { "files" } else { "memory" };
    format!(
        "for amount in {amounts}; do ( {limit} $amount; exec iommu-trace check --settle 0 --output /out/{case}.out -- true ) \
         2> /out/{case}.$amount; s=$?; echo $amount $s; done\n\
         exec iommu-trace check --settle 0 --output /out/{case}.out -- true"
    )
}

/// Each start went well, or ended with an error for people.
fn said_why(files: &Files, case: &str) -> Result<()> {
    files.expect_status(case, 0).context("with enough of it again")?;
    let mut failed = 0;
    for line in files.text(&format!("{case}.stdout"))?.lines() {
        let (amount, status) = line.split_once(' ').with_context(|| format!("no two words: {line}"))?;
        let said = files.text(&format!("{case}.{amount}"))?;
        understood(status, &said).with_context(|| format!("with {amount}"))?;
        failed += u32::from(status != "0");
    }
    ensure!(failed > 0, "every start went well, which shows nothing");
    Ok(())
}

/// A status of 0, or 2 with a message that has a reason. What the shell cannot even start is not ours.
fn understood(status: &str, said: &str) -> Result<()> {
    match status {
        "0" => Ok(()),
        // Killed by the kernel in the midst of its exec, for want of memory.
        "139" if !said.contains("iommu-trace:") => Ok(()),
        "126" | "127" if !said.contains("iommu-trace:") || said.contains("sh: ") => Ok(()),
        "2" => {
            let error = said.lines().find_map(|line| line.strip_prefix("iommu-trace: error: "));
            let error = error.with_context(|| format!("no error is told:\n{said}"))?;
            ensure!(!said.contains("panicked"), "it panicked:\n{said}");
            let reasons = ["open files", "emory", "os error", "Resource temporarily unavailable"];
            ensure!(reasons.iter().any(|reason| error.contains(reason)), "no reason is told: {error}");
            Ok(())
        }
        _ => anyhow::bail!("exit status {status}:\n{said}"),
    }
}

/// The kernel's own fault injection: one allocation in some fails, for those tasks that ask for it.
const FAIL: &str = "\
cd /sys/kernel/debug/failslab && echo N > ignore-gfp-wait && echo Y > task-filter && echo 0 > verbose || exit 4
fail() { echo $1 > probability; echo $2 > times; echo $3 > space; echo $4 > interval; }
";

/// What the kernel says of its own failed allocations.
const OF_FAILURES: [&str; 3] =
    ["iommufd_mock iommufd_mock", "kobject: ", "Huh VM_FAULT_OOM leaked out to the #PF handler"];

fn failing(guest: &Guest, checks: &mut Checks) -> Result<()> {
    let mut script = Script::new();
    script.case("begin", &format!("exec echo '<4>{}' > /dev/kmsg", MARKS[0]));
    let programs = "\
        for i in $(seq 60); do echo $((i * i)) > /sys/kernel/debug/failslab/interval; for words in 'iopf --faults 4 --leave-unread 1' 'attach --cycles 1' 'workload mixed --seconds 0.5 --rate 100'; do\n\
        ( echo 1 > /proc/self/make-it-fail; exec guest $words --truth /dev/null ) > /dev/null 2>> /out/programs.said; echo $?; done; done\n\
        exit 0";
    script.case(
        "programs",
        &format!(
            "{FAIL} fail 100 -1 0 1; iommu-trace check --track-frees --format json --output /out/programs.jsonl -- sh -c {}",
            quoted(programs)
        ),
    );
    // One allocation fails, a little later each time.
    script.case(
        "starts",
        &format!(
            "{FAIL} for i in $(seq 40); do fail 100 1 $((i * i * 600)) 1; ( echo 1 > /proc/self/make-it-fail; \
             exec iommu-trace check --settle 0 --output /dev/null -- true ) 2> /out/starts.$i; s=$?; echo $i $s; done; fail 0 0 0 1\n\
             exec iommu-trace check --settle 0 --output /dev/null -- true"
        ),
    );
    script.case("end", &format!("exec echo '<4>{}' > /dev/kmsg", MARKS[1]));
    script.case("dmesg", "exec dmesg");
    let files = script.run(guest.vm().timeout(Duration::from_secs(1800)))?;
    files.expect_status("programs", 0)?;
    checks.check("nobody goes astray in memory", {
        files.expect_status("dmesg", 0).and_then(|()| {
            let said = files.text("dmesg.stdout")?;
            let astray: Vec<&str> = said.lines().filter(|line| line.contains("segfault at")).collect();
            ensure!(astray.is_empty(), "{}", astray.join("\n"));
            Ok(())
        })
    });
    let trace = Trace::parse(&files.text("programs.jsonl")?)?;
    checks.check("no rule is broken while the programs' allocations fail", trace.check_clean());
    let ended = files.text("programs.stdout")?;
    let failed = ended.lines().filter(|status| *status != "0").count();
    checks.check("some of the programs fail for it, and some do not", {
        let all = ended.lines().count();
        if failed > 0 && failed < all { Ok(()) } else { Err(anyhow::anyhow!("{failed} of {all} failed")) }
    });
    checks.check("a tracer whose allocation fails starts, or says why not", said_why(&files, "starts"));
    checks.check("the kernel says nothing", said_nothing(files.console(), MARKS, &OF_FAILURES));
    let starts = files.text("starts.stdout")?;
    let refused = starts.lines().filter(|line| !line.ends_with(" 0")).count();
    checks.note(format!(
        "{failed} programs and {refused} starts failed; {} faults watched",
        trace.end["check"]["watched"]["faults"]
    ));
    Ok(())
}

/// Two sleeps, until the alarm of the machine's own clock; stock kernels have that.
fn asleep(guest: &Guest, checks: &mut Checks) -> Result<()> {
    // To memory: from the sleep that only idles, no alarm wakes this emulator.
    let nap = "echo 0 > /sys/class/rtc/rtc0/wakealarm; echo +8 > /sys/class/rtc/rtc0/wakealarm; echo mem > /sys/power/state || exit 5";
    let program = |n: u32| format!("guest vfio --container --cycles 3 --truth /out/asleep-{n}.truth || exit");
    let mut script = Script::new();
    script.case("states", "exec grep -H . /sys/power/state /sys/power/mem_sleep");
    script.case(
        "asleep",
        &format!(
            "exec iommu-trace check --track-frees --format json --output /out/asleep.jsonl --record /out/asleep.itr -- sh -c {}",
            quoted(&format!("{}\n{nap}\n{}\n{nap}\n{}", program(1), program(2), program(3)))
        ),
    );
    spans(&mut script, "asleep");
    script.case("slept", "exec cat /sys/power/suspend_stats/success");
    let files = script.run(guest.vm().sleeps(true).timeout(Duration::from_secs(600)))?;
    checks.note(format!("this kernel offers: {}", files.text("states.stdout")?.trim().replace('\n', ", ")));
    checks.check("it has slept twice", {
        files.text("slept.stdout").and_then(|times| {
            ensure!(times.trim() == "2", "it has slept {} times", times.trim());
            Ok(())
        })
    });
    checks.check("the trace goes on afterwards", slept(&files));
    Ok(())
}

fn slept(files: &Files) -> Result<()> {
    files.expect_status("asleep", 0)?;
    Trace::parse(&files.text("asleep.jsonl")?)?.check_clean()?;
    let trace = Trace::parse(&files.text("asleep-spans.stdout")?)?;
    let truths =
        (1..=3).map(|n| Truth::parse(&files.text(&format!("asleep-{n}.truth"))?)).collect::<Result<Vec<_>>>()?;
    let (results, rest) = compare(&trace, &truths, Trust::Whole);
    results.into_iter().chain([rest]).collect()
}

/// How long, in minutes, unless the environment says otherwise: an hour takes one.
const SOAK_MINUTES: u64 = 60;
/// The variable that says otherwise.
const SOAK_VARIABLE: &str = "IOMMU_TRACE_SOAK_MINUTES";

fn soak(guest: &Guest, checks: &mut Checks) -> Result<()> {
    let minutes = match std::env::var(SOAK_VARIABLE) {
        Ok(text) => text.parse().with_context(|| format!("{SOAK_VARIABLE}={text} is no number of minutes"))?,
        Err(_) => SOAK_MINUTES,
    };
    let seconds = u32::try_from(minutes * 60)?;
    let watch =
        "for pid in $(pidof iommu-trace); do grep -h VmRSS /proc/$pid/status; done >> /out/soak.memory; sleep 5";
    let mut script = Script::new();
    script.case("soak", &shaken("soak", "--stacks --ownership refcounted", seconds, &[watch]));
    spans(&mut script, "soak");
    let files = script.run(guest.vm().timeout(Duration::from_secs(minutes * 60 * 3 + 300)))?;
    checks.check("what is told is what was done", told(&files, "soak"));
    let memory: Vec<u64> =
        files.text("soak.memory")?.lines().filter_map(|line| line.split_whitespace().nth(1)?.parse().ok()).collect();
    checks.check("its memory stays as it is", flat(&memory));
    let end: Value = Trace::parse(&files.text("soak.jsonl")?)?.end;
    checks.note(format!(
        "{minutes} minutes: {} records, {} faults; {} KiB after a quarter of it, {} KiB at the end",
        end["check"]["watched"]["records"],
        end["check"]["watched"]["faults"],
        memory.get(memory.len() / 4).copied().unwrap_or_default(),
        memory.last().copied().unwrap_or_default()
    ));
    Ok(())
}

/// From a quarter of the time on, what it takes grows by no more than a tenth.
fn flat(memory: &[u64]) -> Result<()> {
    ensure!(memory.len() >= 8, "its memory was looked at {} times", memory.len());
    let (early, late) = memory.split_at(memory.len() / 4);
    let (early, late) = (early.iter().max().context("no looks")?, late.iter().max().context("no looks")?);
    ensure!(late * 10 <= early * 11, "{early} KiB in the first quarter, {late} KiB later");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_to_say_why() {
        understood("0", "").unwrap();
        understood("2", "iommu-trace: error: cannot open x: Too many open files (os error 24)\n").unwrap();
        assert!(understood("2", "iommu-trace: error: it did not work\n").is_err());
        assert!(understood("2", "thread 'main' panicked at x\niommu-trace: error: os error 12\n").is_err());
        understood("139", "Segmentation fault\n").unwrap();
        assert!(understood("139", "iommu-trace: attached\n").is_err());
        assert!(understood("134", "memory allocation of 8 bytes failed").is_err());
        assert!(understood("101", "thread 'main' panicked at x").is_err());
    }

    #[test]
    fn memory_that_grows_is_told() {
        flat(&[50, 60, 61, 60, 61, 62, 60, 61]).unwrap();
        assert!(flat(&[50, 60, 61, 60, 61, 62, 60, 67]).is_err());
        assert!(flat(&[60]).is_err());
    }
}
