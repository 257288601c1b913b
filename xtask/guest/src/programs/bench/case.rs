//! What is measured, and what came out: the lines that go in and come out.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// When a tracer is attached.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ready {
    /// It starts its command then: the last words of its command line.
    Command,
    /// It says so on standard error.
    Says(String),
}

/// How a tracer is stopped.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// It ends with its command.
    Command,
    /// By SIGTERM.
    Terminate,
}

/// A tracer and a workload.
#[derive(Clone, Debug, Deserialize)]
pub struct Case {
    /// Its name.
    pub name: String,
    /// The tracer's command line; none for the workload alone. `{gate}` stands for the command that it starts.
    #[serde(default)]
    pub tool: Vec<String>,
    /// When it is attached.
    pub ready: Ready,
    /// How it is stopped.
    pub stop: Stop,
    /// Whether it gets a terminal.
    #[serde(default)]
    pub terminal: bool,
    /// The workload's command line; `{n}` stands for the number of operations.
    pub workload: Vec<String>,
    /// How many operations.
    pub n: u32,
    /// How many before it counts.
    pub warm_up: u32,
    /// How many more while the kernel measures the run time of each BPF program.
    #[serde(default)]
    pub n_statistics: u32,
    /// Lines of shell that are run before.
    #[serde(default)]
    pub before: Vec<String>,
    /// A line of shell that tells what the tracer has seen, run when it has ended.
    #[serde(default)]
    pub verify: String,
    /// Lines of shell that are run afterwards.
    #[serde(default)]
    pub after: Vec<String>,
}

/// Who ran for how long, nanoseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Window {
    /// The workload.
    pub workload: u64,
    /// The tracer's processes.
    pub tool: u64,
    /// Of the tracer, by the ticks that found it in user space and in the kernel: nanoseconds, but coarse.
    pub tool_user_ticks: u64,
    /// As above.
    pub tool_system_ticks: u64,
    /// Everybody else, the kernel's threads above all.
    pub others: u64,
    /// Who of them the most, and how much.
    pub busiest: String,
    /// From the workload's start to its end, by the clock.
    pub elapsed: u64,
}

/// What the kernel tells of a BPF program, or of all of a name.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Program {
    /// Runs.
    pub runs: u64,
    /// Their time, nanoseconds.
    pub time: u64,
}

/// A tracer's memory, KiB.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Memory {
    /// The most that was resident (`VmHWM`), of all its processes together.
    pub peak: u64,
    /// What is resident of its own, anonymous.
    pub anonymous: u64,
    /// What is resident of files, libraries and the kernel's rings.
    pub files: u64,
    /// The same for shared memory.
    pub shared: u64,
}

/// What came out.
#[derive(Debug, Default, Serialize)]
pub struct Outcome {
    pub name: String,
    pub n: u32,
    /// What went wrong.
    pub error: Option<String>,
    /// From the tracer's start until it is attached, nanoseconds by the clock.
    pub attach: u64,
    /// The tracer's time on the CPU until then.
    pub attach_cpu: u64,
    /// Functions that are patched when it is attached.
    pub functions: u64,
    /// From asking it to stop until it has ended.
    pub end: u64,
    /// From then until no function is patched any more.
    pub detach: u64,
    /// With nothing to do.
    pub idle: Window,
    /// With a workload of no operations.
    pub empty: Window,
    /// With a workload of `n`.
    pub full: Window,
    /// BPF programs in a workload of `n_statistics`.
    pub programs: BTreeMap<String, Program>,
    pub memory: Memory,
    /// What the tracer has seen, by its own account.
    pub verified: String,
    /// The end of what it said.
    pub said: String,
    /// How it ended.
    pub status: String,
}

impl Outcome {
    /// Nothing yet.
    pub fn of(case: &Case) -> Self {
        Outcome { name: case.name.clone(), n: case.n, ..Outcome::default() }
    }
}
