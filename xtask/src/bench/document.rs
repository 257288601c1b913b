//! The marked part of `docs/performance.md`, made of the figures. Pure but for the file.

use std::{fmt::Write as _, fs, path::PathBuf};

use anyhow::{Context, Result};

use super::{
    aims,
    figures::Figures,
    modes::{BARE, FLOOR, MODES},
    plot,
    workloads::{WORKLOADS, Workload},
};
use crate::workspace;

const BEGIN: &str = "<!-- cargo xtask bench: begin -->\n";
const END: &str = "<!-- cargo xtask bench: end -->\n";

const SCALE_BEGIN: &str = "<!-- cargo xtask bench --scale: begin -->\n";
const SCALE_END: &str = "<!-- cargo xtask bench --scale: end -->\n";

const RING_BEGIN: &str = "<!-- cargo xtask bench --ring: begin -->\n";
const RING_END: &str = "<!-- cargo xtask bench --ring: end -->\n";

/// Writes the table of how it scales anew.
pub fn write_scale(table: &str) -> Result<()> {
    write_between(SCALE_BEGIN, SCALE_END, table)
}

/// Writes the tables of the ring anew.
pub fn write_ring(tables: &str) -> Result<()> {
    write_between(RING_BEGIN, RING_END, tables)
}

fn write_between(begin: &str, end: &str, new: &str) -> Result<()> {
    let path = path();
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let text = between(&text, begin, end, new)?;
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// A text with what is between two marks anew.
fn between(text: &str, begin: &str, end: &str, new: &str) -> Result<String> {
    let marks = || format!("docs/performance.md needs the lines {} and {}", begin.trim(), end.trim());
    let (before, rest) = text.split_once(begin).with_context(marks)?;
    let (_, after) = rest.split_once(end).with_context(marks)?;
    Ok(format!("{before}{begin}\n{new}\n{end}{after}"))
}

/// The document.
pub fn path() -> PathBuf {
    workspace::root().join("docs/performance.md")
}

/// Writes the marked part anew.
pub fn write(cells: &[Figures]) -> Result<()> {
    let path = path();
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    fs::write(&path, made(&text, cells)?).with_context(|| format!("cannot write {}", path.display()))
}

/// The document with its marked part anew.
pub fn made(text: &str, cells: &[Figures]) -> Result<String> {
    let parts: Vec<String> = WORKLOADS.iter().filter_map(|workload| part(workload, cells)).collect();
    between(text, BEGIN, END, &parts.join("\n"))
}

/// A workload's tables and its plot.
fn part(workload: &Workload, all: &[Figures]) -> Option<String> {
    let cells: Vec<&Figures> = all.iter().filter(|cell| cell.workload == workload.name).collect();
    let kernel = &cells.first()?.kernel;
    let mut text = format!(
        "### {}\n\nThe workload `{}`: {}; kernel {kernel}.\n\n",
        capital(workload.operation),
        workload.name,
        workload.about
    );
    if let Some(bare) = aims::find(all, workload.name, BARE) {
        let _ =
            writeln!(text, "Untraced, a {} takes {} instructions.\n", workload.operation, whole(bare.instructions()));
    }
    let _ = writeln!(
        text,
        "![Instructions that tracing adds to a {}]({})\n\nInstructions that are added to a {}:\n",
        workload.operation,
        plot::name(workload.name),
        workload.operation
    );
    text.push_str(
        "| mode | traced by | added | × floor | in the workload | of it in BPF | BPF runs | in the tracer | of it in user space | \
         kernel threads | aims |\n|---|---|--:|--:|--:|--:|--:|--:|--:|--:|---|\n",
    );
    for cell in cells.iter().filter(|cell| cell.mode != BARE && cell.error.is_none()) {
        let _ = writeln!(text, "{}", row(all, cell)?);
    }
    text.push_str(
        "\nThe rest of a run, in million instructions (as many as there are milliseconds on a CPU that does a thousand million a \
         second; waiting counts as if it were work):\n\n\
         | mode | functions | until attached | until ended | until detached | idle, a second | most resident, MiB | own, MiB | rings and files, MiB | \
         seen | lost |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for cell in cells.iter().filter(|cell| cell.mode != BARE && cell.error.is_none()) {
        let count = |count: Option<u64>| count.map_or_else(|| "–".to_owned(), |count| whole(count as f64));
        let files =
            if cell.files_kib == 0 { "–".to_owned() } else { format!("{:.1}", cell.files_kib as f64 / 1024.0) };
        let _ = writeln!(
            text,
            "| {} | {} | {:.0} | {:.0} | {:.0} | {:.1} | {:.1} | {:.1} | {} | {} | {} |",
            cell.mode,
            cell.functions,
            cell.attach_million,
            cell.end_million,
            cell.detach_million,
            cell.idle_instructions / 1e6,
            cell.resident_kib as f64 / 1024.0,
            cell.own_kib as f64 / 1024.0,
            files,
            count(cell.seen),
            count(cell.lost)
        );
    }
    let mut failed = cells.iter().filter(|cell| cell.error.is_some()).peekable();
    if failed.peek().is_some() {
        text.push_str("\nWhat could not be measured, in its own words:\n\n");
        for cell in failed {
            let why = cell.error.as_deref().unwrap_or_default();
            let _ = writeln!(text, "- {}: {}", about(&cell.mode), why.lines().next().unwrap_or_default());
        }
    }
    Some(text)
}

/// A mode's line of the first table.
fn row(all: &[Figures], cell: &Figures) -> Option<String> {
    let bare = aims::find(all, &cell.workload, BARE)?;
    let added = aims::added(all, cell)?;
    let floor = aims::find(all, &cell.workload, FLOOR).and_then(|floor| aims::added(all, floor));
    let ratio = floor.map_or_else(|| "–".to_owned(), |floor| format!("{:.2}", added / floor));
    let in_bpf = cell.bpf_instructions.map_or_else(|| "–".to_owned(), whole);
    let runs = cell.bpf_runs.map_or_else(|| "–".to_owned(), |runs| format!("{runs:.1}"));
    let user = cell.tool_user_share.map_or_else(|| "–".to_owned(), |share| format!("{:.0} %", share * 100.0));
    let aims: Vec<String> = aims::of(all, cell)
        .into_iter()
        .map(|aim| if aim.reached { aim.words } else { format!("**{}**", aim.words) })
        .collect();
    Some(format!(
        "| {} | {} | {} | {ratio} | {} | {in_bpf} | {runs} | {} | {user} | {} | {} |",
        cell.mode,
        about(&cell.mode),
        whole(added),
        whole(cell.workload_instructions - bare.workload_instructions),
        whole(cell.tool_instructions),
        whole(cell.other_instructions - bare.other_instructions),
        aims.join("; ")
    ))
}

fn about(mode: &str) -> &str {
    MODES.iter().find(|there| there.name == mode).map_or(mode, |mode| mode.about)
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// A number without places, its thousands apart.
pub fn whole(number: f64) -> String {
    let digits = format!("{:.0}", number.abs());
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if number.round() < 0.0 { format!("−{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_apart() {
        assert_eq!(whole(1_234_567.4), "1,234,567");
        assert_eq!(whole(999.6), "1,000");
        assert_eq!(whole(-1234.0), "−1,234");
        assert_eq!(whole(-0.2), "0");
    }

    #[test]
    fn only_the_marked_part_is_made_anew_and_failures_are_told() {
        let cell = |mode: &str, workload: f64, error: Option<&str>| Figures {
            workload: "fault".into(),
            mode: mode.into(),
            kernel: "7.3.4-1".into(),
            workload_instructions: workload,
            tool_instructions: 1000.0,
            tool_user_share: Some(0.25),
            error: error.map(str::to_owned),
            ..Figures::default()
        };
        let mut bare = cell(BARE, 11_000.0, None);
        bare.tool_instructions = 0.0;
        let cells = [bare, cell(FLOOR, 13_000.0, None), cell("bpftrace", 0.0, Some("no such function\nmore"))];
        let made = made(&format!("# Head\n{BEGIN}old\n{END}tail\n"), &cells).unwrap();
        assert!(made.starts_with("# Head\n") && made.ends_with("tail\n") && !made.contains("old"), "{made}");
        assert!(made.contains("| 3,000 | 1.00 | 2,000 | – | – | 1,000 | 25 % | 0 |"), "{made}");
        assert!(made.contains("- bpftrace printing the same fields: no such function\n"), "{made}");
        assert!(super::made("no marks", &[]).is_err());
    }
}
