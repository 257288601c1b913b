//! The ways to trace that are compared: one table.

use super::workloads::Workload;

/// The workload alone.
pub const BARE: &str = "bare";
/// What is compared with.
pub const FLOOR: &str = "floor";
/// bpftrace printing.
pub const PRINTING: &str = "bpftrace";
/// bpftrace aggregating.
pub const AGGREGATING: &str = "bpftrace-sum";
/// The least of bpftrace.
pub const TWO: &str = "bpftrace-two";

/// Attached, and everything is filtered out in BPF.
pub const FILTERED: &str = "filtered";

/// Where the guest has the tools that come from Debian.
pub const TOOLS: &str = "/tools";
/// What a tracer writes.
pub const OUTPUT: &str = "/tmp/output";

/// Whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Nobody's: no tracer.
    Nobody,
    /// iommu-trace's.
    Ours,
    /// Written for this.
    Floor,
    /// What people would use instead.
    Others,
}

/// A way to trace.
#[derive(Debug)]
pub struct Mode {
    /// Its name.
    pub name: &'static str,
    /// Whose it is.
    pub whose: Whose,
    /// What it is.
    pub about: &'static str,
    /// Whether it does so much for each operation that fewer are enough.
    heavy: bool,
    how: How,
}

/// How it is started, and what it has seen.
#[derive(Clone, Copy, Debug)]
enum How {
    Nothing,
    /// A command of iommu-trace, with `{events}` for what the workload needs; how its account is read.
    Ours(&'static str, Account),
    /// A command of iommu-trace for map and unmap only.
    Summed(&'static str, Account),
    /// On a terminal.
    Terminal(&'static str),
    /// Without a command of its own.
    Server(&'static str, &'static str),
    Floor,
    FloorSum,
    Bpftrace(usize),
    TraceCmd,
}

/// Where a tracer's own account of what it saw and lost is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Account {
    /// It gives none.
    None,
    /// JSON lines in the output: events by name, and the `end` line.
    JsonLines,
    /// Text for people, in the output.
    Text,
    /// A recording, told by `stats`.
    Recording,
    /// `stats` as JSON.
    Stats,
    /// The summary of `check`.
    Check,
    /// Words on standard error.
    Floor,
    /// Lines in the output, among them "Lost N events".
    Lines,
    /// What trace-cmd says of each CPU's buffer.
    Buffers,
}

/// What is run for a mode and a workload.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// The command line; `{gate}` stands for the command that it starts.
    pub tool: Vec<String>,
    /// Words on standard error that say that it is attached, where it starts no command.
    pub says: Option<&'static str>,
    /// Whether it ends by itself when its command does.
    pub ends: bool,
    /// Whether it gets a terminal.
    pub terminal: bool,
    /// How often the workload does its thing.
    pub n: u32,
    /// What is run before.
    pub before: Vec<String>,
    /// What tells what it has seen.
    pub verify: String,
    /// What is run afterwards.
    pub after: Vec<String>,
    /// How that is read.
    pub account: Account,
    /// Whether it needs Debian's tools in the guest.
    pub tools: bool,
}

/// The kinds of scripts of bpftrace.
pub const SCRIPTS: [&str; 3] = ["print", "sum", "two"];

const fn mode(name: &'static str, whose: Whose, heavy: bool, how: How, about: &'static str) -> Mode {
    Mode { name, whose, about, heavy, how }
}

/// All of them, in the order of the table.
pub const MODES: &[Mode] = &[
    mode(BARE, Whose::Nobody, false, How::Nothing, "the workload alone"),
    mode(FLOOR, Whose::Floor, false, How::Floor, "the smallest ring-buffer tracer of the same stages"),
    mode("floor-sum", Whose::Floor, false, How::FloorSum, "the smallest tracer that counts calls and bytes"),
    mode("record", Whose::Ours, false, How::Ours("record -o {output} {events}", Account::Recording), "`record`"),
    mode(
        "record-no-rules",
        Whose::Ours,
        false,
        How::Ours("record --no-rules -o {output} {events}", Account::Recording),
        "`record --no-rules`: judged later, if at all",
    ),
    mode(
        "record-stacks",
        Whose::Ours,
        true,
        How::Ours("record --stacks -o {output} {events}", Account::Recording),
        "`record --stacks`",
    ),
    mode(
        "trace",
        Whose::Ours,
        false,
        How::Ours("trace --output {output} {events}", Account::Text),
        "`trace` to a file",
    ),
    mode(
        "trace-json",
        Whose::Ours,
        false,
        How::Ours("trace --format json --output {output} {events}", Account::JsonLines),
        "`trace --format json` to a file",
    ),
    mode(
        "trace-none",
        Whose::Ours,
        false,
        How::Ours("trace --pid 1 --output {output} {events}", Account::None),
        "`trace --pid 1`: attached, and nothing passes the filter",
    ),
    mode(
        FILTERED,
        Whose::Ours,
        false,
        How::Ours("trace --group 9999 --output {output} {events}", Account::None),
        "`trace --group 9999`: nothing passes the filter, and BPF knows",
    ),
    mode(
        "check",
        Whose::Ours,
        false,
        How::Ours("check --settle 0 --output {output} {events}", Account::Check),
        "`check`",
    ),
    mode(
        "check-stacks",
        Whose::Ours,
        true,
        How::Ours("check --stacks --settle 0 --output {output} {events}", Account::Check),
        "`check --stacks`",
    ),
    mode("stats", Whose::Ours, false, How::Ours("stats --format json --output {output}", Account::Stats), "`stats`"),
    mode("serve", Whose::Ours, false, How::Server("serve", "listening"), "`serve`, not asked for anything"),
    mode("top", Whose::Ours, false, How::Terminal("top"), "`top` on a terminal of 120×40"),
    mode(
        "trace-sums",
        Whose::Ours,
        false,
        How::Summed("trace --sums --format json --output {output}", Account::JsonLines),
        "`trace --sums`: counted in the kernel, told each second",
    ),
    mode(
        "trace-default",
        Whose::Ours,
        false,
        How::Summed("trace --format json --output {output}", Account::None),
        "`trace` as it is: map and unmap are not asked for",
    ),
    mode(PRINTING, Whose::Others, true, How::Bpftrace(0), "bpftrace printing the same fields"),
    mode(AGGREGATING, Whose::Others, false, How::Bpftrace(1), "bpftrace counting and with histograms"),
    mode(TWO, Whose::Others, false, How::Bpftrace(2), "bpftrace with a time between two functions"),
    mode("trace-cmd", Whose::Others, false, How::TraceCmd, "trace-cmd recording the nearest events"),
];

impl Mode {
    /// What is run with this workload; `None` where the two do not go together.
    #[must_use]
    pub fn recipe(&self, workload: &Workload) -> Option<Recipe> {
        let map = workload.name == "map";
        // The rules have no use for mappings.
        if map && self.name.starts_with("check") {
            return None;
        }
        let n = if self.heavy { workload.seldom } else { workload.often };
        let mut recipe = Recipe {
            tool: Vec::new(),
            says: None,
            ends: true,
            terminal: false,
            n,
            before: vec![format!("rm -f {OUTPUT}*")],
            verify: String::new(),
            after: Vec::new(),
            account: Account::None,
            tools: false,
        };
        let words = |line: &str| -> Vec<String> {
            let events = if map { "--events dma" } else { "" };
            let line = line.replace("{output}", OUTPUT).replace("{events}", events);
            line.split_whitespace().map(str::to_owned).collect()
        };
        let ours = |line: &str| words(&format!("iommu-trace {line}"));
        let with_gate = |mut tool: Vec<String>| {
            tool.extend(["--".to_owned(), "{gate}".to_owned()]);
            tool
        };
        let foreign = |program: &str| {
            words(&format!(
                "{TOOLS}/usr/lib64/ld-linux-x86-64.so.2 --library-path {TOOLS}/usr/lib/x86_64-linux-gnu \
                 {TOOLS}/usr/bin/{program}"
            ))
        };
        match self.how {
            How::Nothing => {}
            How::Ours(line, account) => {
                recipe.tool = with_gate(ours(line));
                recipe.account = account;
            }
            How::Summed(line, account) => {
                if !map {
                    return None;
                }
                recipe.tool = with_gate(ours(line));
                recipe.account = account;
            }
            How::Terminal(line) => {
                recipe.tool = with_gate(ours(line));
                recipe.terminal = true;
                recipe.ends = false;
            }
            How::Server(line, says) => {
                recipe.tool = ours(line);
                recipe.says = Some(says);
                recipe.ends = false;
            }
            How::Floor => {
                recipe.tool = with_gate(words(&format!("floor {} -o {{output}}", workload.name)));
                recipe.account = Account::Floor;
            }
            How::FloorSum => {
                if !map {
                    return None;
                }
                recipe.tool = with_gate(words("floor sum -o {output}"));
                recipe.account = Account::Floor;
            }
            How::Bpftrace(which) => {
                let script = SCRIPTS[which];
                if script == "two" && workload.name != "fault" {
                    return None;
                }
                // As large a buffer as ours: with its own 64 pages it loses a third of a storm of faults.
                recipe.tool = words("env BPFTRACE_PERF_RB_PAGES=4096");
                recipe.tool.extend(foreign("bpftrace"));
                // Its output is buffered whole, which is the cheapest it can do.
                recipe.tool.extend(words("-B full -o {output} -c"));
                recipe.tool.extend(["'{gate}'".to_owned(), format!("/scripts/{}-{script}.bt", workload.name)]);
                recipe.account = Account::Lines;
                recipe.tools = true;
            }
            How::TraceCmd => {
                recipe.tool = foreign("trace-cmd");
                recipe.tool.extend(words("record -o {output}"));
                if workload.tracepoints.is_empty() {
                    recipe.tool.extend(words("-e faults"));
                    let events = format!("/scripts/{}.events", workload.name);
                    recipe.before.push(format!(
                        "while read line; do echo \"$line\" >> /sys/kernel/tracing/dynamic_events; done < {events}"
                    ));
                    recipe.after.push("echo > /sys/kernel/tracing/dynamic_events".to_owned());
                } else {
                    recipe.tool.extend(words(workload.tracepoints));
                }
                recipe.tool.push("{gate}".to_owned());
                recipe.account = Account::Buffers;
                recipe.tools = true;
            }
        }
        recipe.verify = match recipe.account {
            Account::None | Account::Floor => String::new(),
            Account::Buffers => format!("{} report -i {OUTPUT} | grep -c ':  *'", foreign("trace-cmd").join(" ")),
            Account::JsonLines => format!(
                "grep -cE '\"event\":\"(fault|attach|replace|detach|map|unmap)\"' {OUTPUT}; grep '\"event\":\"sum\"' {OUTPUT}; \
                 tail -n 1 {OUTPUT}"
            ),
            Account::Text => {
                format!("grep -cE ' (fault|attach|replace|detach|map|unmap) ' {OUTPUT}; tail -n 40 {OUTPUT}")
            }
            Account::Recording => format!("iommu-trace stats --format json {OUTPUT}; ls -l {OUTPUT}"),
            Account::Stats | Account::Check => format!("cat {OUTPUT}"),
            Account::Lines => format!("wc -l < {OUTPUT}; grep ^Lost {OUTPUT} || true"),
        };
        Some(recipe)
    }
}
