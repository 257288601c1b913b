//! Names that somebody chose to do harm, through every command that puts something out: a terminal obeys none of them, a reader is not
//! misled about where one ends, and every format stays what it is.
#![allow(missing_docs, clippy::unwrap_used, reason = "this is a test")]

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Arc,
    time::Duration,
};

use clap::Parser as _;
use common::{
    recorded::{record, steps, workload},
    scripted::Scripted,
    serving::Serving,
};
use iommu_trace::{
    cli::{RecordArgs, Report},
    event::{Body, Comm, DmaFault, Name, Phase, ProbeId, SmmuFault, Text},
    model::{
        ModelOptions,
        span::Topic,
        testing::{Dev, Req, Script, bond, dev, group, hnd},
    },
    output::Palette,
    probes::{ProbeStatus, Verdict},
    recording::Recording,
    source::{Batch, Cost, Frame, Progress, Source, SourceInfo, Stacks},
    tui::{
        keys::{Key, on_key},
        state::{Ui, World, save::json, ui::View, update::update},
        view,
    },
};
use ratatui::{buffer::Buffer, layout::Rect};
use serde_json::Value;

/// What a name may be: a title set and the screen cleared, an element closed, the line turned round, a label ended, no text at all.
const HOSTILE: [&[u8]; 6] = [
    b"\x1b]0;own\x07\x1b[2J\r\n\x7f",
    b"</script><script>alert(1)<!--",
    "\u{202e}gnp\u{2066}\u{200b}\u{2028}\u{9b}31m".as_bytes(),
    b"\"} 1\n# HELP x\\'{{program}}",
    b"\xff\xfe\x80\xc3(\xed\xa0\x80",
    "e\u{301}\u{489}\u{feff}\u{e0041}".as_bytes(),
];

/// Pieces of them that must not come through anywhere, escaped or not in JSON.
const NEVER: [&[u8]; 6] =
    [b"\x1b]0;", b"\x1b[2J", b"</script><script>", "\u{202e}".as_bytes(), "\u{9b}".as_bytes(), "\u{2066}".as_bytes()];

fn name<const N: usize>(n: usize) -> Text<N> {
    let hostile = HOSTILE[n % HOSTILE.len()];
    let mut bytes = [0; N];
    let len = hostile.len().min(N - 1);
    bytes[..len].copy_from_slice(&hostile[..len]);
    Text(bytes)
}

fn text(n: usize) -> String {
    String::from_utf8_lossy(HOSTILE[n % HOSTILE.len()]).into_owned()
}

fn hostile_dev(n: u32) -> Dev {
    let mut device = dev(n);
    device.device.name = name(n as usize);
    device
}

/// Every device and every task has a hostile name; something of every kind happens to each.
fn script() -> Script {
    let mut script = Script { step: 1_000, ..Script::new() };
    for n in 1..=HOSTILE.len() as u32 {
        let device = hostile_dev(n);
        let handle = hnd(n * 10, &device);
        let request = Req::new(None, n, 0x1000 * u64::from(n));
        script.by(10).bind(&device).queue_add(&device, 0).attach(&device, 0, &handle).attach(
            &device,
            5,
            &hnd(n * 10 + 5, &device),
        );
        script.by(20).fault(group(n), &device, &request, &handle);
        script.by(30).read(device.id, &request, n).pass(1_000).write(group(n), &device, &request, &handle, 0);
        // Never answered, and attached where something is: both are violations, with the names in their words.
        script.by(21).fault(group(100 + n), &device, &Req::new(None, 100 + n, 0x5000), &handle);
        script.by(11).core_attach(&device, 5, &hnd(n * 10 + 7, &device), 0);
        script.by(41).sva(ProbeId::SvaBind, &device, None, 1, 0);
        script.by(41).sva_bound(&device, Some(&bond(n * 10 + 4, &device)), 1, 1, 0);
        let fault = DmaFault { source: 0x10, addr: 0xdead_0000, reason: 5, ..DmaFault::default() };
        script.by(9).event(ProbeId::DmarFault, Phase::Enter, Body::DmaFault(fault));
        let fault = SmmuFault { unit: name(n as usize), device: device.device, ..SmmuFault::default() };
        script.by(9).event(ProbeId::SmmuEvents, Phase::Enter, Body::SmmuFault(Box::new(fault)));
        script.by(10).detach(&device, 0, &handle);
        script.by(10).lost(ProbeId::Map, Phase::Exit, 3);
    }
    for (n, event) in script.events.iter_mut().enumerate() {
        event.task.comm = name::<{ size_of::<Comm>() }>(n);
        event.stack = Some(7);
    }
    script
}

/// A source whose machine, probes and stacks have such names, too.
struct Hostile(Scripted);

struct Frames;

impl Stacks for Frames {
    fn frames(&self, _: u32) -> Vec<Frame> {
        (0..HOSTILE.len()).map(|n| Frame { addr: n as u64, symbol: text(n) }).collect()
    }
}

impl Source for Hostile {
    fn info(&self) -> &SourceInfo {
        self.0.info()
    }

    fn poll(&mut self, timeout: Duration, batch: &mut Batch) -> anyhow::Result<Progress> {
        self.0.poll(timeout, batch)
    }

    fn stop(&mut self) -> anyhow::Result<()> {
        self.0.stop()
    }

    fn stacks(&self) -> Arc<dyn Stacks> {
        Arc::new(Frames)
    }

    fn cost(&self) -> Cost {
        self.0.cost()
    }
}

fn info() -> SourceInfo {
    let probe = |n: usize| ProbeStatus {
        function: text(n),
        kind: text(n + 1),
        topic: text(n + 2),
        verdict: [Verdict::Ok, Verdict::Broken, Verdict::Missing][n % 3],
        reason: Some(text(n + 3)),
        cost: text(n + 4),
        essential: false,
    };
    let known = common::recorded::info();
    SourceInfo {
        kernel: text(0),
        machine: text(1),
        host: text(2),
        probes: (0..HOSTILE.len()).map(probe).chain(known.probes.clone()).collect(),
        ..known
    }
}

fn source() -> Hostile {
    Hostile(Scripted { info: info(), ..Scripted::new(steps(&script().events, 50)) })
}

#[derive(clap::Parser)]
struct RecordArguments {
    #[command(flatten)]
    record: RecordArgs,
}

/// A recording of it all, on disk. Its header has the names as they are, for the file may be from anyone.
fn recording(dir: &Path) -> PathBuf {
    let path = dir.join("hostile.itr");
    let record = RecordArguments::try_parse_from(["record", "-o", path.to_str().unwrap()]).unwrap().record;
    record.record(Box::new(source())).unwrap();
    path
}

fn run(arguments: &[&str]) -> Output {
    let output =
        Command::new(env!("CARGO_BIN_EXE_iommu-trace")).args(arguments).env("COLUMNS", "100").output().unwrap();
    let status = output.status.code();
    assert!(matches!(status, Some(0 | 3)), "{arguments:?}: {status:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Nothing that a terminal obeys or hides, but for ends of lines.
fn tame(what: &str, text: &str) {
    for line in text.lines() {
        let wild = line.chars().find(|&c| {
            c.is_control()
                || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
                || matches!(c, '\u{300}'..='\u{36f}' | '\u{483}'..='\u{489}' | '\u{e0000}'..='\u{e007f}')
        });
        assert_eq!(wild, None, "{what}: {line:?}");
    }
    for never in &NEVER[3..] {
        assert!(!has(text.as_bytes(), never), "{what}");
    }
}

fn has(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// Of the names that were put in, this much is to be seen, so that the test looks at something.
fn shows(what: &str, text: &str) {
    assert!(text.contains("\\u{1b}") || text.contains("\\\\u{1b}"), "{what} shows no escaped name:\n{text}");
}

fn strings(what: &str, value: &Value) {
    match value {
        Value::String(text) => {
            assert!(!text.contains('\n'), "{what}: {text:?}");
            tame(what, text);
        }
        Value::Array(values) => values.iter().for_each(|value| strings(what, value)),
        Value::Object(members) => members.iter().for_each(|(key, value)| {
            tame(what, key);
            strings(what, value);
        }),
        _ => {}
    }
}

const ALL: &str = "attach,fault,sva,iommufd,dma,invalidate,reset";

#[test]
fn text_for_terminals_has_nothing_that_they_obey() {
    let dir = tempfile::tempdir().unwrap();
    let path = recording(dir.path());
    let path = path.to_str().unwrap();
    let copy = dir.path().join("copy.itr");
    let commands: [&[&str]; 7] = [
        &["trace", "--events", ALL, "--stages", "--stacks", "--from", path],
        &["check", "--from", path],
        &["check", "--ownership", "refcounted", "--strict", "--from", path],
        &["handles", "--from", path],
        &["stats", path],
        &["stats", path, path],
        &["record", "--from", path, "-o", copy.to_str().unwrap()],
    ];
    for arguments in commands {
        let output = run(arguments);
        let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        tame(arguments[0], &stdout);
        tame(arguments[0], &stderr);
        if !matches!(arguments[0], "stats" | "record") {
            shows(arguments[0], &(stdout + &stderr));
        }
    }
    // What was recorded again is as tame as what was recorded.
    tame("a copy", &String::from_utf8(run(&["trace", "--from", copy.to_str().unwrap()]).stdout).unwrap());
}

#[test]
fn every_line_of_json_is_json_and_its_strings_are_tame() {
    let dir = tempfile::tempdir().unwrap();
    let path = recording(dir.path());
    let path = path.to_str().unwrap();
    let lines: [&[&str]; 3] = [
        &["trace", "--events", ALL, "--stages", "--stacks", "--format", "json", "--from", path],
        &["check", "--format", "json", "--from", path],
        &["export", "--format", "json", "--stacks", path],
    ];
    for arguments in lines {
        let text = String::from_utf8(run(arguments).stdout).unwrap();
        assert!(text.lines().count() > 5, "{text}");
        for line in text.lines() {
            strings(arguments[0], &serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")));
        }
        shows(arguments[0], &text);
    }
    let documents: [&[&str]; 3] = [
        &["handles", "--json", "--from", path],
        &["stats", "--format", "json", path],
        &["stats", "--format", "json", path, path],
    ];
    for arguments in documents {
        let text = String::from_utf8(run(arguments).stdout).unwrap();
        strings(arguments[0], &serde_json::from_str(&text).unwrap());
    }
}

#[test]
fn a_page_has_the_elements_that_any_page_has_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let page = |path: &Path| {
        let out = dir.path().join("page.html");
        run(&["report", "-o", out.to_str().unwrap(), path.to_str().unwrap()]);
        fs::read_to_string(out).unwrap()
    };
    let (harmless, hostile) = (page(&record(dir.path(), "a.itr", &workload(5, 1))), page(&recording(dir.path())));
    for mark in ["<", "<script", "</script", "<!--"] {
        assert_eq!(hostile.matches(mark).count(), harmless.matches(mark).count(), "{mark}");
    }
    let (_, rest) = hostile.split_once("<script type=\"application/json\" id=\"data\">").unwrap();
    let data: Value = serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap();
    strings("report", &data);
    shows("report", &data.to_string());
}

#[test]
fn a_perfetto_trace_has_the_escaped_names_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = recording(dir.path());
    let out = dir.path().join("trace.pftrace");
    run(&["export", "--format", "perfetto", "-o", out.to_str().unwrap(), path.to_str().unwrap()]);
    let bytes = fs::read(out).unwrap();
    for never in [NEVER[0], NEVER[1], NEVER[3], NEVER[4], NEVER[5]] {
        assert!(!has(&bytes, never), "{}", never.escape_ascii());
    }
    assert!(has(&bytes, b"\\u{1b}]0;") && has(&bytes, b"\\xff\\xfe"));
}

#[test]
#[cfg(feature = "parquet")]
fn tables_have_the_escaped_names_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = recording(dir.path());
    let out = dir.path().join("tables");
    run(&["export", "--format", "parquet", "-o", out.to_str().unwrap(), path.to_str().unwrap()]);
    for table in fs::read_dir(out).unwrap() {
        let bytes = fs::read(table.unwrap().path()).unwrap();
        assert!(NEVER.iter().all(|never| !has(&bytes, never)));
    }
}

#[test]
fn every_line_of_the_metrics_is_a_sample_and_labels_end_where_they_should() {
    let dir = tempfile::tempdir().unwrap();
    let serving = Serving::start(Recording::open(&recording(dir.path())).unwrap(), &["--events", ALL]);
    for accept in ["", "Accept: application/openmetrics-text;version=1.0.0\r\n"] {
        let mut reply = serving.get_with("/metrics", accept);
        for _ in 0..200 {
            if reply.body.contains("source_up 0") {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
            reply = serving.get_with("/metrics", accept);
        }
        tame("metrics", &reply.body);
        shows("metrics", &reply.body);
        for line in reply.body.lines().filter(|line| !line.starts_with('#')) {
            sample(line).unwrap_or_else(|| panic!("{line:?} is no sample"));
        }
    }
    let violations = serving.get("/violations").body;
    let document: Value = serde_json::from_str(&violations).unwrap();
    assert!(document["errors"].as_u64().unwrap() > 0, "{violations}");
    strings("violations", &document);
    shows("violations", &violations);
    serving.stop().unwrap();
}

/// `name{label="value",…} number …`, by the rules of the text format: a quote within a value is escaped.
fn sample(line: &str) -> Option<()> {
    let word = |text: &str| text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    let mut rest = &line[word(line)..];
    if let Some(mut labels) = rest.strip_prefix('{') {
        loop {
            labels = labels[word(labels)..].strip_prefix("=\"")?;
            let mut escaped = false;
            let end = labels.find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            })?;
            labels = &labels[end + 1..];
            match labels.strip_prefix(',') {
                Some(more) => labels = more,
                None => break,
            }
        }
        rest = labels.strip_prefix('}')?;
    }
    let value = rest.strip_prefix(' ')?.split(' ').next()?;
    value.parse::<f64>().ok().map(drop)
}

#[test]
fn the_dashboard_draws_them_as_they_would_be_read() {
    let topics = vec![Topic::Attach, Topic::Fault, Topic::Sva, Topic::Iommufd, Topic::Dma, Topic::Invalidate];
    let dir = tempfile::tempdir().unwrap();
    let mut recording = Recording::open(&recording(dir.path())).unwrap();
    let mut world = World::new(Arc::new(recording.info().clone()), topics, ModelOptions::default());
    loop {
        let mut batch = Batch::default();
        let progress = recording.poll(Duration::ZERO, &mut batch).unwrap();
        world.apply(&batch.events);
        world.advance(batch.upto);
        if progress == Progress::End {
            break;
        }
    }
    world.learn_stacks(recording.stacks().as_ref());
    let mut seen = String::new();
    for view in View::ALL {
        for detail in [false, true] {
            let mut ui = Ui { view, ..Ui::default() };
            if detail {
                let enter = on_key(Key::Enter, ui.mode()).unwrap();
                update(&mut ui, &mut world, enter);
            }
            let area = Rect::new(0, 0, 200, 60);
            let mut buffer = Buffer::empty(area);
            view::draw(&mut buffer, area, &world, &ui);
            for cell in buffer.content() {
                tame("top", cell.symbol());
                assert!(!cell.symbol().contains('\n'));
                seen.push_str(cell.symbol());
            }
            if let Some(text) = view::detail_text(&world, &ui) {
                tame("a saved detail", &text);
            }
        }
    }
    shows("top", &seen);
    let saved = json(&world, &Ui::default()).unwrap();
    strings("a saved state", &serde_json::from_str(&saved).unwrap());
    shows("a saved state", &saved);
}

#[test]
fn doctor_tells_of_a_hostile_machine() {
    let dir = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("proc/sys/kernel/osrelease", "7.3\x1b[2J\u{202e}\n");
    write("proc/sys/kernel/unprivileged_bpf_disabled", "\x1b[2J\n");
    write("sys/class/iommu/\x1b[2Jdmar0\n\u{202e}/devices/a", "");
    write("sys/kernel/security/lockdown", "none [\x1b[2J]\n");
    let report = Report::collect(dir.path(), info().probes.iter().map(tamed).collect(), true);
    tame("doctor", &report.text(Palette::plain()));
    shows("doctor", &report.text(Palette::plain()));
    strings("doctor", &serde_json::to_value(&report).unwrap());
}

/// What the kernel's verifier said is made harmless where it is read; the rest of a verdict is ours.
fn tamed(probe: &ProbeStatus) -> ProbeStatus {
    ProbeStatus {
        function: "f".into(),
        kind: "k".into(),
        topic: "t".into(),
        reason: None,
        cost: "c".into(),
        ..probe.clone()
    }
}

#[test]
fn an_error_quotes_a_file_without_its_escapes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.itr");
    let document = "{\"tool\":\"x\",\"source\":{\"probes\":[{\"verdict\":\"\\u001b[2J\\u202e\"}]}}";
    fs::write(&path, iommu_trace::recording::testing::around_header(document.as_bytes())).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_iommu-trace")).args(["trace", "--from"]).arg(&path).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    tame("an error", &String::from_utf8(output.stderr).unwrap());
}

#[test]
fn the_names_are_as_hostile_as_they_should_be() {
    let raw = script().events.iter().map(|event| event.task.comm).collect::<Vec<_>>();
    assert!(raw.iter().any(|comm| comm.as_bytes().starts_with(b"\x1b]0;own")));
    assert!(HOSTILE.iter().all(|bytes| bytes.len() < size_of::<Name>() && !bytes.contains(&0)));
}
