//! What a cell comes to, of what the guest told. Pure.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    modes::{Account, Mode},
    workloads::Workload,
};

/// Nanoseconds of a tick: `CONFIG_HZ` of the kernel is 250.
const TICK_NS: u64 = 4_000_000;
/// So few ticks say nothing.
const FEW_TICKS: u64 = 15;

/// What is wanted of a cell; instructions are those of one operation.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Figures {
    /// The workload.
    pub workload: String,
    /// The way to trace.
    pub mode: String,
    /// The kernel's version.
    pub kernel: String,
    /// How many operations it was measured with.
    pub operations: u64,
    /// Why there are no figures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// By the workload's process: its own, and what it does for the tracer (BPF programs, the ways there and back, wake-ups).
    pub workload_instructions: f64,
    /// By the tracer's processes.
    pub tool_instructions: f64,
    /// How much of the latter is in user space, by the ticks that found it there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_user_share: Option<f64>,
    /// How many ticks that rests on.
    pub ticks: u64,
    /// By everybody else: the kernel's own threads.
    pub other_instructions: f64,
    /// Runs of BPF programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bpf_runs: Option<f64>,
    /// Their instructions, as the kernel measures its run times: with some of the measuring itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bpf_instructions: Option<f64>,
    /// An idle tracer's instructions a second.
    pub idle_instructions: f64,
    /// Millions of instructions from its start until it is attached; waiting counts as if it were some.
    pub attach_million: f64,
    /// Functions that are patched then.
    pub functions: u64,
    /// The same from being asked to end until it has.
    pub end_million: f64,
    /// And from then until no function is patched.
    pub detach_million: f64,
    /// The most memory that was resident, KiB.
    pub resident_kib: u64,
    /// Its own memory in the end, KiB: without files, libraries, and rings shared with the kernel.
    pub own_kib: u64,
    /// The latter in the end, KiB.
    pub files_kib: u64,
    /// What it says to have seen, in all its run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seen: Option<u64>,
    /// What it says to have lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost: Option<u64>,
    /// What it said.
    #[serde(skip)]
    pub said: String,
}

/// What the guest told of a cell.
#[derive(Debug)]
pub struct Seen<'a> {
    /// Where the tracer's own account is.
    pub account: Account,
    /// Its outcome.
    pub outcome: &'a Value,
    /// How often the workload did its thing while BPF programs were timed.
    pub statistics: u32,
}

impl Figures {
    /// What was told.
    #[must_use]
    pub fn of(workload: &Workload, mode: &Mode, kernel: &str, seen: &Seen<'_>) -> Figures {
        let told = seen.outcome;
        let each = u64::from(workload.each);
        let operations = number(told, &["n"]) * each;
        let of = |name: &str| {
            let full = number(told, &["full", name]) as f64;
            (full - number(told, &["empty", name]) as f64) / operations.max(1) as f64
        };
        let [user, system] = ["tool_user_ticks", "tool_system_ticks"].map(|name| number(told, &["full", name]));
        let ticks = (user + system) / TICK_NS;
        let million = |name: &str| number(told, &[name]) as f64 / 1e6;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let said = format!("{}busiest besides: {}", text(&told["said"]), text(&told["full"]["busiest"]));
        let (counted, lost) = account(seen.account, told["verified"].as_str().unwrap_or_default(), &said);
        let error = told["error"].as_str().map(str::to_owned);
        let mut figures = Figures {
            workload: workload.name.to_owned(),
            mode: mode.name.to_owned(),
            kernel: kernel.to_owned(),
            operations,
            error,
            workload_instructions: of("workload"),
            tool_instructions: of("tool"),
            tool_user_share: (ticks >= FEW_TICKS).then(|| user as f64 / (user + system) as f64),
            ticks,
            other_instructions: of("others"),
            bpf_runs: None,
            bpf_instructions: None,
            idle_instructions: number(told, &["idle", "tool"]) as f64 / 1.5,
            attach_million: million("attach"),
            functions: number(told, &["functions"]),
            end_million: million("end"),
            detach_million: million("detach"),
            resident_kib: number(told, &["memory", "peak"]),
            own_kib: number(told, &["memory", "anonymous"]),
            files_kib: number(told, &["memory", "files"]) + number(told, &["memory", "shared"]),
            seen: counted,
            lost,
            said,
        };
        if let Some(programs) = told["programs"].as_object().filter(|programs| !programs.is_empty()) {
            let operations = f64::from(seen.statistics * workload.each).max(1.0);
            let sum = |what: &str| programs.values().filter_map(|program| program[what].as_u64()).sum::<u64>();
            figures.bpf_runs = Some(sum("runs") as f64 / operations);
            figures.bpf_instructions = Some(sum("time") as f64 / operations);
        }
        figures
    }

    /// As it is kept: no more digits than mean something.
    pub fn round(&mut self) {
        let places = |value: &mut f64, factor: f64| *value = (*value * factor).round() / factor;
        for value in [
            &mut self.workload_instructions,
            &mut self.tool_instructions,
            &mut self.other_instructions,
            &mut self.idle_instructions,
        ] {
            places(value, 1.0);
        }
        for value in [&mut self.attach_million, &mut self.end_million, &mut self.detach_million] {
            places(value, 10.0);
        }
        for value in [&mut self.tool_user_share, &mut self.bpf_runs].into_iter().flatten() {
            places(value, 100.0);
        }
        if let Some(value) = &mut self.bpf_instructions {
            places(value, 1.0);
        }
    }

    /// All that an operation takes.
    #[must_use]
    pub fn instructions(&self) -> f64 {
        self.workload_instructions + self.tool_instructions + self.other_instructions
    }

    /// In one line.
    #[must_use]
    pub fn line(&self) -> String {
        if let Some(error) = &self.error {
            return format!("FAILED: {}", error.lines().next().unwrap_or_default());
        }
        let share = self.tool_user_share.map_or_else(String::new, |share| format!(" ({:.0} % user)", share * 100.0));
        let bpf = match (self.bpf_runs, self.bpf_instructions) {
            (Some(runs), Some(instructions)) => format!(", BPF {runs:.1} runs of {instructions:.0} in all"),
            _ => String::new(),
        };
        let count = |count: Option<u64>| count.map_or_else(|| "?".to_owned(), |count| count.to_string());
        format!(
            "{:.0} = workload {:.0} + tool {:.0}{share} + others {:.0}{bpf}; seen {}, lost {}; attach {:.0} M, end {:.0} M, \
             detach {:.0} M; resident {:.1} MiB",
            self.instructions(),
            self.workload_instructions,
            self.tool_instructions,
            self.other_instructions,
            count(self.seen),
            count(self.lost),
            self.attach_million,
            self.end_million,
            self.detach_million,
            self.resident_kib as f64 / 1024.0,
        )
    }
}

fn number(value: &Value, path: &[&str]) -> u64 {
    path.iter().fold(value, |value, name| &value[*name]).as_u64().unwrap_or(0)
}

/// What a tracer says to have seen and lost.
fn account(account: Account, verified: &str, said: &str) -> (Option<u64>, Option<u64>) {
    let first = || verified.lines().next().and_then(|line| line.trim().parse::<u64>().ok());
    match account {
        Account::None => (None, None),
        Account::JsonLines => {
            let lines = verified.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let (mut seen, mut lost) = (first().unwrap_or(0), None);
            for line in lines {
                if line["event"] == "sum" && matches!(line["of"].as_str(), Some("map" | "unmap")) {
                    seen += line["calls"].as_u64().unwrap_or(0);
                }
                if line["event"] == "end" {
                    lost = Some(losses(&line));
                }
            }
            (Some(seen), lost)
        }
        Account::Text => (first(), Some(words(verified, "lost").unwrap_or(0))),
        Account::Recording | Account::Stats => {
            let text: String = verified.lines().take_while(|line| !line.starts_with('-')).collect();
            let stats: Value = serde_json::from_str(&text).unwrap_or_default();
            let events = stats["events"].as_object();
            let seen = events.map(|events| {
                let wanted = |name: &str| matches!(name, "fault" | "attach" | "replace" | "detach" | "map" | "unmap");
                events.iter().filter(|(name, _)| wanted(name)).filter_map(|(_, event)| event["count"].as_u64()).sum()
            });
            (seen, events.map(|_| losses(&stats)))
        }
        Account::Check => (None, Some(words(verified, "lost").unwrap_or(0))),
        Account::Floor => {
            let of = |name: &str| said.split_whitespace().find_map(|word| word.strip_prefix(name)?.parse().ok());
            (of("records="), of("lost="))
        }
        Account::Lines => {
            let lines = verified.lines().chain(said.lines());
            let lost = lines.filter_map(|line| line.strip_prefix("Lost ")?.split(' ').next()?.parse::<u64>().ok());
            (first(), Some(lost.sum()))
        }
        Account::Buffers => {
            let of = |name: &str| {
                let numbers =
                    said.lines().filter_map(|line| line.trim().strip_prefix(name)?.trim().parse::<u64>().ok());
                Some(numbers.sum())
            };
            (first(), of("overrun:"))
        }
    }
}

/// The losses of a summary.
fn losses(summary: &Value) -> u64 {
    summary["lost"].as_array().map_or(0, |lost| lost.iter().filter_map(|lost| lost["count"].as_u64()).sum())
}

/// The number that follows a word at the beginning of a line.
fn words(text: &str, word: &str) -> Option<u64> {
    text.lines().find_map(|line| line.trim().strip_prefix(word)?.split_whitespace().next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::bench::{modes::MODES, workloads::WORKLOADS};

    #[test]
    fn what_a_workload_of_nothing_takes_is_no_operations_cost() {
        let workload = WORKLOADS.iter().find(|workload| workload.name == "map").unwrap();
        let mode = MODES.iter().find(|mode| mode.name == "trace-json").unwrap();
        let outcome = json!({
            "name": "trace-json", "n": 100, "error": null, "attach": 1_500_000_000_u64,
            "empty": { "workload": 5_000, "tool": 1_000, "others": 500 },
            "full": {
                "workload": 405_000, "tool": 101_000, "others": 2_500,
                "tool_user_ticks": 60_000_000, "tool_system_ticks": 20_000_000,
            },
            "programs": { "map_exit": { "runs": 20, "time": 4_000 }, "unmap_exit": { "runs": 20, "time": 2_000 } },
        });
        let seen = Seen { account: Account::None, outcome: &outcome, statistics: 10 };
        let figures = Figures::of(workload, mode, "7.3.4-1", &seen);
        // An operation is a map or an unmap: two each time.
        assert_eq!(figures.operations, 200);
        let shown = |figure: f64| format!("{figure:.3}");
        let each = [figures.workload_instructions, figures.tool_instructions].map(shown);
        assert_eq!(each, ["2000.000", "500.000"]);
        assert_eq!(shown(figures.other_instructions), "10.000");
        assert_eq!((figures.bpf_runs, figures.bpf_instructions), (Some(2.0), Some(300.0)));
        assert_eq!((figures.tool_user_share, figures.ticks), (Some(0.75), 20));
        assert_eq!((figures.attach_million, figures.error), (1500.0, None));
    }

    #[test]
    fn a_share_that_rests_on_few_ticks_is_not_told() {
        let outcome = json!({ "n": 1, "full": { "tool_user_ticks": 8_000_000, "tool_system_ticks": 4_000_000 } });
        let seen = Seen { account: Account::None, outcome: &outcome, statistics: 1 };
        assert_eq!(Figures::of(&WORKLOADS[0], &MODES[0], "", &seen).tool_user_share, None);
    }

    #[test]
    fn each_tracers_own_account_is_read() {
        let lines = "31\n{\"event\":\"sum\",\"of\":\"map\",\"calls\":7}\n{\"event\":\"end\",\"lost\":[{\"count\":4}]}";
        assert_eq!(account(Account::JsonLines, lines, ""), (Some(38), Some(4)));
        let stats = "{\n \"events\": {\"fault\": {\"count\": 9, \"rate\": 1.5}, \"lost\": {\"count\": 1}},\n \"lost\": []\n}\n-rw-r--r--";
        assert_eq!(account(Account::Recording, stats, ""), (Some(9), Some(0)));
        assert_eq!(account(Account::Floor, "", "floor: records=70 lost=2 calls=0"), (Some(70), Some(2)));
        assert_eq!(account(Account::Lines, "6158\nLost 3642 events", ""), (Some(6158), Some(3642)));
        assert_eq!(account(Account::Buffers, "50", "CPU: 0\nentries: 0\noverrun: 3\n"), (Some(50), Some(3)));
        assert_eq!(account(Account::Text, "12\n  lost      5 records", ""), (Some(12), Some(5)));
    }
}
