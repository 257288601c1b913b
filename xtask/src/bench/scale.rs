//! `cargo xtask bench --scale`: how many threads that fault at once a recorder keeps up with, in rings of several sizes.
//!
//! Each thread raises page faults on a device of its own, reads and answers them as fast as it can, while `record` runs beside them.
//! There are guests of two CPUs with ever more threads, and guests with a CPU for each thread; on the host that emulates them, they
//! share those that it has. Where there are more threads than CPUs, or more CPUs than the host has, one may be put aside in the midst of
//! a record, and nothing behind it can be read until it runs again: that is what the ring's size is for.

use std::{fmt::Write as _, time::Duration};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::document;
use crate::{
    arch::Arch,
    kernel,
    programs::Programs,
    progress::say,
    qemu::Iommu,
    vm::{Outcome, Unlucky, Vm},
};

/// A guest, and how many threads fault in it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Load {
    cpus: u32,
    threads: u32,
    /// Of all threads together, each time.
    faults: u32,
}

/// Faults on two CPUs.
const FAULTS: u32 = 16_000;
/// Faults on more, which are emulated and wait for each other most of the time: some 14 MB of records.
const FEWER: u32 = 8_000;

/// Each is a row of the table.
const LOADS: [Load; 8] = [
    Load { cpus: 2, threads: 1, faults: FAULTS },
    Load { cpus: 2, threads: 8, faults: FAULTS },
    Load { cpus: 2, threads: 16, faults: FAULTS },
    Load { cpus: 2, threads: 64, faults: FAULTS },
    Load { cpus: 8, threads: 8, faults: FEWER },
    Load { cpus: 16, threads: 16, faults: FEWER },
    Load { cpus: 32, threads: 32, faults: FEWER },
    Load { cpus: 64, threads: 64, faults: FEWER },
];
/// The kernel of all of them, so that rows differ in nothing else: everything else here is measured on one that takes two CPUs.
const KERNEL: &str = "built-7.3-cpus";
/// Sizes of the ring: half of what is taken when nobody says anything, that, and twice as much.
const SIZES: usize = 3;
/// Which of them nobody has asked for.
const DEFAULT: usize = 1;
/// How often each is tried.
const TRIES: u32 = 3;
/// How often a guest that had bad luck is tried again.
const MORE_TRIES: u32 = 3;
/// For all sizes and tries of a load.
const LIMIT: Duration = Duration::from_secs(60 * 60);

/// What came of a size of the ring, of all tries.
#[derive(Clone, Debug, Default, PartialEq)]
struct Cell {
    made: u64,
    recorded: u64,
    seconds: f64,
    lost: u64,
    /// The most that was resident in any of them.
    resident_kib: u64,
    bytes: u64,
}

/// Measures, and writes the table into docs/performance.md unless told not to. The exit status is 1 where something was lost in the
/// ring that is taken when nobody says anything.
pub fn main(no_docs: bool) -> Result<u8> {
    crate::vm::require_qemu()?;
    let image = kernel::find(KERNEL)?;
    let mut programs = Programs::build(Arch::Amd64, false)?;
    programs.add_optimised("iommu-trace")?;
    let mut rows = Vec::new();
    for load in LOADS {
        let vm = Vm::new(&image, &programs)
            .iommu(Iommu::None)
            .smp(load.cpus)
            .memory(memory(load.cpus))
            .timeout(LIMIT)
            .script(script(load));
        let told = || format!("{} threads on {} CPUs", load.threads, load.cpus);
        let outcome = lucky(&vm).with_context(told)?;
        let cells = cells(load, &outcome.text()).with_context(told)?;
        let lost: Vec<String> =
            sizes(load.cpus).iter().zip(&cells).map(|(size, cell)| format!("{size}M {} lost", cell.lost)).collect();
        say(&format!("{:>2} CPUs, {:>2} threads: {}\n", load.cpus, load.threads, lost.join(", ")));
        rows.push((load, cells));
    }
    if no_docs {
        say(&table(&rows));
    } else {
        document::write_scale(&table(&rows))?;
    }
    Ok(u8::from(
        rows.iter().any(|(_, cells)| cells[DEFAULT].lost > 0 || cells[DEFAULT].recorded != cells[DEFAULT].made),
    ))
}

/// Runs a guest that has no bad luck. Of 64 emulated CPUs one may come by a function that ftrace is patching, and miss that it was.
fn lucky(vm: &Vm) -> Result<Outcome> {
    let mut tries = 0;
    loop {
        let outcome = vm.run()?;
        match outcome.success() {
            Ok(_) => return Ok(outcome),
            Err(error) if error.is::<Unlucky>() && tries < MORE_TRIES => {
                say(&format!(
                    "had no luck, and is tried once more: {}\n",
                    error.to_string().lines().next().unwrap_or_default()
                ));
                tries += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

/// The sizes in MiB. The default is that of `iommu_trace::source::live::default_ring`, which nobody asks for here, so that it is what it
/// is.
fn sizes(cpus: u32) -> [u32; SIZES] {
    let default = cpus.next_power_of_two().clamp(4, 32);
    [default / 2, default, 2 * default]
}

/// The initramfs and its copy, the recorder and its file; and what the kernel keeps for each CPU.
fn memory(cpus: u32) -> &'static str {
    if cpus > 8 { "4G" } else { "2G" }
}

/// The command's parent is the recorder.
fn script(Load { cpus, threads, faults }: Load) -> String {
    let load =
        format!("guest --truth /dev/null --summary iopf --faults {faults} --threads {threads} --devices {threads}");
    let [half, _, double] = sizes(cpus);
    format!(
        "set -e; at=0; for size in '--buffer-size {half}M' '' '--buffer-size {double}M'; do for try in $(seq {TRIES}); do \
         iommu-trace record $size -o /tmp/r.itr -- \
         sh -c 'echo begin $(cat /proc/uptime); {load} >/dev/null; echo end $(cat /proc/uptime); grep VmHWM /proc/$PPID/status'; \
         echo bytes $(wc -c < /tmp/r.itr); iommu-trace stats --format json /tmp/r.itr | tr -d '\\n'; echo; echo size $at; done; \
         at=$((at+1)); done"
    )
}

/// What the guest says becomes a cell for each size, in their order.
fn cells(load: Load, text: &str) -> Result<Vec<Cell>> {
    let mut cells = vec![Cell::default(); SIZES];
    let mut of_this = Vec::new();
    for line in text.lines() {
        let Some(size) = line.strip_prefix("size ") else {
            of_this.push(line);
            continue;
        };
        let cell = size.trim().parse().ok().and_then(|at: usize| cells.get_mut(at));
        add(cell.with_context(|| format!("{line:?}"))?, load, &std::mem::take(&mut of_this))?;
    }
    if cells.iter().any(|cell| cell.made != u64::from(TRIES * load.faults)) {
        bail!("not every size was tried {TRIES} times: {text}");
    }
    Ok(cells)
}

fn add(cell: &mut Cell, load: Load, lines: &[&str]) -> Result<()> {
    let of = |name: &str| {
        let rest = lines.iter().find_map(|line| line.trim().strip_prefix(name));
        rest.and_then(|rest| rest.split_whitespace().next()).with_context(|| format!("no {name} in {lines:?}"))
    };
    let json = lines.iter().find(|line| line.starts_with('{')).context("no statistics")?;
    let stats: Value = serde_json::from_str(json).context("these are no statistics")?;
    let recorded = stats["events"]["fault"]["count"].as_u64().with_context(|| format!("no faults in {stats}"))?;
    let lost: u64 = stats["lost"].as_array().into_iter().flatten().filter_map(|lost| lost["count"].as_u64()).sum();
    cell.made += u64::from(load.faults);
    cell.recorded += recorded;
    cell.lost += lost;
    cell.seconds += of("end")?.parse::<f64>()? - of("begin")?.parse::<f64>()?;
    cell.resident_kib = cell.resident_kib.max(of("VmHWM:")?.parse()?);
    cell.bytes += of("bytes")?.parse::<u64>()?;
    Ok(())
}

fn table(rows: &[(Load, Vec<Cell>)]) -> String {
    let mut text = format!(
        "Of {TRIES} × {} faults, {} where there are more than two CPUs. Rates, bytes and memory are those with the ring that \
         is taken when nobody says anything:\n\n| CPUs | threads | ring, MiB | records lost with half of it | with it | with twice as much | \
         faults a second | bytes a fault in the file | most resident, MiB |\n|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
        document::whole(f64::from(FAULTS)),
        document::whole(f64::from(FEWER)),
    );
    for (load, cells) in rows {
        let lost: Vec<String> = cells.iter().map(|cell| document::whole(cell.lost as f64)).collect();
        let cell = &cells[DEFAULT];
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {:.0} | {:.1} |",
            load.cpus,
            load.threads,
            sizes(load.cpus)[DEFAULT],
            lost.join(" | "),
            document::whole(cell.made as f64 / cell.seconds.max(0.01)),
            cell.bytes as f64 / cell.recorded.max(1) as f64,
            cell.resident_kib as f64 / 1024.0
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_has_no_more_cpus_than_its_kernel_takes() {
        let fragment = include_str!("../../kernel-cpus.config");
        let most = fragment.lines().find_map(|line| line.strip_prefix("CONFIG_NR_CPUS=")).unwrap();
        let most: u32 = most.parse().unwrap();
        assert!(LOADS.iter().all(|load| load.cpus <= most && load.threads >= 1));
        assert!(LOADS.iter().any(|load| load.cpus == most));
    }

    #[test]
    fn what_the_guest_says_becomes_a_row() {
        let mut text = String::new();
        for size in 0..SIZES {
            for _ in 0..TRIES {
                let lost = if size == 0 { "[{\"count\":3}]" } else { "[]" };
                let _ = writeln!(
                    text,
                    "begin 10.50 3.00\nend 12.50 3.10\nVmHWM:\t   16384 kB\nbytes 64000\n\
                     {{\"events\":{{\"fault\":{{\"count\":16000}}}},\"lost\":{lost}}}\nsize {size}"
                );
            }
        }
        let load = Load { cpus: 2, threads: 4, faults: 16_000 };
        let cells = cells(load, &text).unwrap();
        assert_eq!((cells[0].lost, cells[1].lost, cells[1].recorded), (9, 0, 48_000));
        let rows = [
            (Load { cpus: 2, threads: 4, faults: 16_000 }, cells.clone()),
            (Load { cpus: 64, threads: 64, faults: 8_000 }, cells),
        ];
        let table = table(&rows);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines[lines.len() - 2], "| 2 | 4 | 4 | 9 | 0 | 0 | 8,000 | 4 | 16.0 |");
        assert_eq!(lines[lines.len() - 1], "| 64 | 64 | 32 | 9 | 0 | 0 | 8,000 | 4 | 16.0 |");
        // Head, rule and rows have as many columns.
        let columns = |line: &str| line.matches('|').count();
        assert!(lines[2..].iter().all(|line| columns(line) == columns(lines[2])), "{table}");
        assert!(super::cells(load, "").is_err());
    }
}
