//! The exporter on a real kernel: its numbers beside what the guest programs wrote down, and what is left of its
//! privileges.

use anyhow::{Context, Result, ensure};

use super::{
    Checks, Guest, GuestTest,
    session::{Files, Script},
};
use crate::qemu::Iommu;

/// The table.
pub const TESTS: &[GuestTest] = &[GuestTest {
    name: "serve-built-7.3",
    about: "serve counts what happened, has no privileges left, and ends on SIGTERM",
    kernel: "built-7.3",
    iommu: Iommu::None,
    tracer: true,
    run,
}];

/// Page faults that the workload makes.
const FAULTS: u32 = 60;

/// Waits until the exporter answers.
const UNTIL_IT_ANSWERS: &str = "n=0; until wget -q -O - http://127.0.0.1:9798/healthz; do
    n=$((n + 1)); [ $n -gt 90 ] && exit 1; sleep 1; done";

fn run(guest: &Guest, checks: &mut Checks) -> Result<()> {
    let mut script = Script::new();
    script.case("loopback", "ip link set lo up");
    // In this shell, so that it can be waited for.
    script.case(
        "serve",
        &format!(
            "iommu-trace serve & pid=$!
             {UNTIL_IT_ANSWERS}
             cat /proc/$pid/task/*/status > tasks
             guest iopf --faults {FAULTS} --pasid 2 --truth truth
             sleep 2
             wget -q -O metrics http://127.0.0.1:9798/metrics
             wget -q -O violations http://127.0.0.1:9798/violations
             kill -HUP $pid; sleep 1
             wget -q -O after-hup http://127.0.0.1:9798/healthz
             kill -TERM $pid; wait $pid"
        ),
    );
    let files = script.run(guest.vm())?;
    checks.check("it ends with 0 on SIGTERM", files.expect_status("serve", 0));
    checks.check("no thread has a privilege", privileges(&files));
    checks.check("its numbers are the workload's", numbers(&files));
    checks.check(
        "it survives SIGHUP",
        files.text("after-hup").and_then(|text| {
            ensure!(text == "ok\n", "{text}");
            Ok(())
        }),
    );
    Ok(())
}

/// Capabilities belong to threads: each is looked at.
fn privileges(files: &Files) -> Result<()> {
    let tasks = files.text("tasks")?;
    let values = |field: &str| -> Vec<String> {
        tasks.lines().filter_map(|line| line.strip_prefix(field)).map(|value| value.trim().to_owned()).collect()
    };
    let names = values("Name:");
    ensure!(names.len() >= 3, "it has the threads {names:?} only");
    for field in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        let sets = values(field);
        let empty = sets.len() == names.len() && sets.iter().all(|set| set.bytes().all(|b| b == b'0'));
        ensure!(empty, "{field} {sets:?} of the threads {names:?}");
    }
    let flags = values("NoNewPrivs:");
    ensure!(flags.len() == names.len() && flags.iter().all(|flag| flag == "1"), "NoNewPrivs {flags:?} of {names:?}");
    Ok(())
}

fn numbers(files: &Files) -> Result<()> {
    let (metrics, truth) = (files.text("metrics")?, files.text("truth")?);
    let faults = truth.lines().filter(|line| line.contains("\"truth\":\"fault\"")).count() as u64;
    ensure!(faults >= u64::from(FAULTS), "the workload made {faults} faults");
    let told = sum(&metrics, "iommu_trace_faults_total");
    ensure!(told == faults, "{told} faults are counted, and there were {faults}");
    let looked_up = sum(&metrics, "iommu_trace_fault_lookup_seconds_count");
    ensure!(looked_up > 0 && looked_up <= faults, "{looked_up} of {faults} faults were looked up");
    for zero in ["iommu_trace_lost_total", "iommu_trace_violations_total", "iommu_trace_faults_outstanding"] {
        let value = sum(&metrics, zero);
        ensure!(value == 0, "{zero} is {value}; /violations: {}", files.text("violations")?);
    }
    ensure!(metrics.contains("iommu_trace_source_up 1\n"), "the source is not up");
    let differs = value(&metrics, "iommu_trace_mirror_lookups_total{result=\"different\"}")?;
    ensure!(differs == 0, "the mirror found another device {differs} times");
    Ok(())
}

/// The sum over all series of a name.
fn sum(metrics: &str, name: &str) -> u64 {
    let fits = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
    metrics.lines().filter(fits).filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
}

/// One series.
fn value(metrics: &str, series: &str) -> Result<u64> {
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)).with_context(|| format!("no {series}"))?;
    line.trim().parse().with_context(|| format!("{series} is {line}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_of_one_name_are_added_up() {
        let text = "a_total{x=\"1\"} 2\na_total{x=\"2\"} 3\na_totals 7\nb 1\n";
        assert_eq!(sum(text, "a_total"), 5);
        assert_eq!(value(text, "a_total{x=\"2\"}").ok(), Some(3));
        assert!(value(text, "c").is_err());
    }
}
