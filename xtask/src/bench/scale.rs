//! `cargo xtask bench --scale`: how many CPUs that fault at once a recorder keeps up with, in the default ring.
//!
//! Guests with ever more emulated CPUs, each with a thread that raises page faults on a device of its own, reads and answers them as
//! fast as it can, while `record` runs beside them. On the host that emulates them, all CPUs share those that it has.

use std::{fmt::Write as _, time::Duration};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{KERNEL, document};
use crate::{arch::Arch, kernel, programs::Programs, progress::say, qemu::Iommu, vm::Vm};

/// How many CPUs.
const CPUS: [u32; 7] = [1, 2, 4, 8, 16, 32, 64];
/// Faults of each thread at the least, and of all together.
const EACH: u32 = 500;
const ALL: u32 = 8_000;
const LIMIT: Duration = Duration::from_secs(15 * 60);

/// What came of a guest.
struct Row {
    cpus: u32,
    /// CPUs that the kernel took.
    online: u32,
    made: u64,
    recorded: u64,
    seconds: f64,
    lost: u64,
    resident_kib: u64,
    bytes: u64,
}

/// Measures, and writes the table into docs/performance.md unless told not to. The exit status is 1 where something was lost.
pub fn main(no_docs: bool) -> Result<u8> {
    crate::vm::require_qemu()?;
    let image = kernel::find(KERNEL)?;
    let mut programs = Programs::build(Arch::Amd64, false)?;
    programs.add_optimised("iommu-trace")?;
    let mut rows = Vec::new();
    for cpus in CPUS {
        let faults = ALL.max(cpus * EACH);
        let vm = Vm::new(&image, &programs).iommu(Iommu::None).smp(cpus).memory("2G").timeout(LIMIT).command([
            "sh",
            "-c",
            &script(cpus, faults),
        ]);
        let outcome = vm.run().with_context(|| format!("{cpus} CPUs"))?;
        outcome.success().with_context(|| format!("{cpus} CPUs"))?;
        let row = row(cpus, u64::from(faults), &outcome.text()).with_context(|| format!("{cpus} CPUs"))?;
        say(&format!(
            "{:>2} CPUs ({} online): {} faults in {:.2} s, {} recorded, {} lost, {:.1} MiB resident\n",
            row.cpus,
            row.online,
            row.made,
            row.seconds,
            row.recorded,
            row.lost,
            row.resident_kib as f64 / 1024.0
        ));
        rows.push(row);
    }
    if !no_docs {
        document::write_scale(&table(&rows))?;
    }
    Ok(u8::from(rows.iter().any(|row| row.lost > 0 || row.recorded != row.made)))
}

/// The command's parent is the recorder.
fn script(cpus: u32, faults: u32) -> String {
    let load = format!("guest --truth /dev/null --summary iopf --faults {faults} --threads {cpus} --devices {cpus}");
    format!(
        "iommu-trace record -o /tmp/r.itr -- sh -c 'echo begin $(cat /proc/uptime); {load} >/dev/null; \
         echo end $(cat /proc/uptime); grep VmHWM /proc/$PPID/status' && echo bytes $(wc -c < /tmp/r.itr) && echo online $(nproc) && \
         iommu-trace stats --format json /tmp/r.itr | tr -d '\\n'"
    )
}

fn row(cpus: u32, made: u64, text: &str) -> Result<Row> {
    let of = |name: &str| {
        let mut lines = text.lines().filter_map(|line| line.trim().strip_prefix(name));
        lines.next().and_then(|rest| rest.split_whitespace().next()).with_context(|| format!("no {name} in {text}"))
    };
    let number = |name: &str| Ok::<u64, anyhow::Error>(of(name)?.parse()?);
    let json = text.lines().find(|line| line.starts_with('{')).context("no statistics")?;
    let stats: Value = serde_json::from_str(json).context("these are no statistics")?;
    let Some(recorded) = stats["events"]["fault"]["count"].as_u64() else { bail!("no faults in {stats}") };
    let lost = stats["lost"].as_array().into_iter().flatten().filter_map(|lost| lost["count"].as_u64()).sum();
    Ok(Row {
        cpus,
        online: number("online")? as u32,
        made,
        recorded,
        seconds: of("end")?.parse::<f64>()? - of("begin")?.parse::<f64>()?,
        lost,
        resident_kib: number("VmHWM:")?,
        bytes: number("bytes")?,
    })
}

fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| CPUs | faults | recorded | lost | seconds | faults a second | bytes a fault in the file | most resident, MiB |\n\
         |--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for row in rows {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {:.2} | {} | {:.0} | {:.1} |",
            row.online,
            document::whole(row.made as f64),
            document::whole(row.recorded as f64),
            document::whole(row.lost as f64),
            row.seconds,
            document::whole(row.made as f64 / row.seconds.max(0.01)),
            row.bytes as f64 / row.recorded.max(1) as f64,
            row.resident_kib as f64 / 1024.0
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_guest_says_becomes_a_row() {
        let text = "begin 10.50 3.00\nend 12.75 3.10\nVmHWM:\t   16384 kB\nbytes 64000\nonline 4\n\
            {\"events\":{\"fault\":{\"count\":2000}},\"lost\":[{\"count\":3}]}";
        let row = row(4, 2000, text).unwrap();
        assert_eq!((row.online, row.recorded, row.lost, row.resident_kib), (4, 2000, 3, 16384));
        assert_eq!(table(&[row]).lines().nth(2).unwrap(), "| 4 | 2,000 | 2,000 | 3 | 2.25 | 889 | 32 | 16.0 |");
    }
}
