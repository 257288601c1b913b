//! `check` and `handles`, from a source to their output, without a kernel.
#![allow(missing_docs, clippy::unwrap_used, reason = "this is a test")]

mod common;

use std::{fs, process::ExitCode, time::Duration};

use clap::Parser as _;
use common::scripted::{Scripted, Step};
use iommu_trace::{
    cli::{CheckArgs, Run, holdings},
    event::{Body, DeviceRef, DomainType, Event, HandleRef, Name, Phase, ProbeId, Ptr, SlotState, SlotWhat},
    model::testing::{BLOCKING, DEFAULT, Dev, Req, Script, bond, dev, group, hnd, kernel_6_12, kernel_7_3},
    output::{JSON_SCHEMA, Palette},
    probes::{ProbeStatus, Verdict},
    source::SourceInfo,
};
use serde_json::Value;

#[derive(clap::Parser)]
struct Arguments {
    #[command(flatten)]
    check: CheckArgs,
}

struct Ran {
    code: u8,
    text: String,
}

impl Ran {
    fn json(&self) -> Vec<Value> {
        self.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn end(&self) -> Value {
        let end = self.json().pop().unwrap();
        assert_eq!(end["event"], "end");
        end
    }
}

fn info() -> SourceInfo {
    SourceInfo { features: kernel_7_3(), started_ns: 1_000_000, epoch_offset_ns: 0, ..common::info() }
}

fn source(script: &Script, info: SourceInfo) -> Scripted {
    Scripted { info, ..Scripted::live(vec![Step::Events(script.events.clone())]) }
}

fn check_from(source: Scripted, arguments: &[&str]) -> Ran {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out");
    let mut all = vec!["check", "--output", path.to_str().unwrap()];
    if !arguments.contains(&"--") {
        all.extend(["--duration", "50ms"]);
    }
    all.extend(arguments);
    let check = Arguments::try_parse_from(all).unwrap_or_else(|error| panic!("{error}")).check;
    let options = check.consumer();
    let run = Run::new(&options).unwrap().judging(check.judging().unwrap());
    let code = run.consume(source.boxed()).unwrap_or_else(|error| panic!("{error:#}"));
    // ExitCode tells its number to nobody but the system.
    let code = (0..=255).find(|n| code == ExitCode::from(*n)).unwrap();
    Ran { code, text: fs::read_to_string(&path).unwrap() }
}

fn check(script: &Script, arguments: &[&str]) -> Ran {
    check_from(source(script, info()), arguments)
}

fn bound(n: u32) -> (Dev, Script) {
    let (device, mut script) = (dev(n), Script::new());
    script.by(10).bind(&device);
    (device, script)
}

/// An attach, a fault that is answered, a detach.
fn lawful() -> Script {
    let (device, mut script) = bound(1);
    let handle = hnd(1, &device);
    let req = Req::new(Some(7), 1, 0x1000);
    script.by(10).attach(&device, 7, &handle);
    script.by(20).fault(group(1), &device, &req, &handle);
    script.by(30).read(device.id, &req, 1).write(group(1), &device, &req, &handle, 0);
    script.by(10).detach(&device, 7, &handle).unbind(&device);
    script
}

/// A second attach to a slot that is not empty.
fn occupied() -> Script {
    let (device, mut script) = bound(1);
    let (first, second) = (hnd(1, &device), hnd(2, &device));
    script.by(10).attach(&device, 7, &first);
    script.by(11).core_attach(&device, 7, &second, 0);
    script
}

#[test]
fn a_clean_run_exits_with_the_command_s_status() {
    assert_eq!(check(&lawful(), &[]).code, 0);
    let ran = check(&lawful(), &["--settle", "10ms", "--", "sh", "-c", "exit 7"]);
    assert_eq!(ran.code, 7, "{}", ran.text);
    assert!(ran.text.ends_with("no violation\n"), "{}", ran.text);
    assert_eq!(check(&lawful(), &["--settle", "0", "--", "sh", "-c", "kill -KILL $$"]).code, 128 + 9);
}

#[test]
fn a_broken_rule_exits_with_3_or_what_was_asked_for_whatever_the_command_s_status() {
    let ran = check(&occupied(), &["--settle", "50ms", "--", "sh", "-c", "exit 7"]);
    assert_eq!(ran.code, 3, "{}", ran.text);
    assert!(ran.text.contains("VIOLATION slot-occupied (error)"), "{}", ran.text);
    assert!(ran.text.ends_with("1 violation\n"), "{}", ran.text);
    assert_eq!(check(&occupied(), &["--violations-exit", "9"]).code, 9);
}

#[test]
fn what_is_silenced_or_not_chosen_is_not_judged() {
    for arguments in
        [&["--silence", "slot-occupied,handle-reused"][..], &["--rules", "stale-lookup"], &["--rules", "sva-users"]]
    {
        let ran = check(&occupied(), arguments);
        assert_eq!(ran.code, 0, "{arguments:?}: {}", ran.text);
        assert!(!ran.text.contains("VIOLATION"), "{}", ran.text);
    }
    assert_eq!(check(&occupied(), &["--rules", "slot-occupied,sva-users"]).code, 3);
}

#[test]
fn an_unknown_rule_is_answered_with_all_there_are() {
    let error = Arguments::try_parse_from(["check", "--rules", "slot-ocupied"]).map(|_| ()).unwrap_err();
    let told = error.to_string();
    assert!(told.contains("there is no rule `slot-ocupied`; the rules are slot-occupied, "), "{told}");
    assert_eq!(error.exit_code(), 2);
    let check = Arguments::try_parse_from(["check", "--rules", "empty-slot", "--silence", "empty-slot"]).unwrap();
    assert!(check.check.judging().is_err());
}

/// A look-up while the attach that stores the handle early still runs.
fn early() -> Scripted {
    let (device, mut script) = bound(1);
    let handle = hnd(1, &device);
    let change = iommu_trace::model::testing::By::handle_change(&device, 7, &handle);
    script.by(10).change(ProbeId::AttachDevicePasid, change);
    script.by(20).fault(group(1), &device, &Req::new(Some(7), 1, 0x1000), &handle);
    script.by(10).ret(ProbeId::AttachDevicePasid, 0);
    source(&script, SourceInfo { features: kernel_6_12(), ..info() })
}

#[test]
fn a_warning_is_told_and_counted_and_fails_only_a_strict_run() {
    let ran = check_from(early(), &[]);
    assert_eq!(ran.code, 0, "{}", ran.text);
    assert!(ran.text.contains("VIOLATION visible-before-attach (warning)"), "{}", ran.text);
    assert!(ran.text.ends_with("no violation, 1 warning\n"), "{}", ran.text);
    assert_eq!(check_from(early(), &["--strict"]).code, 3);
}

#[test]
fn only_what_is_wrong_is_written() {
    let ran = check(&lawful(), &["--format", "json"]);
    let events: Vec<String> = ran.json().iter().map(|line| line["event"].as_str().unwrap().to_owned()).collect();
    assert_eq!(events, ["start", "end"]);
    let end = ran.end();
    assert_eq!(end["events"]["fault"], 1, "{end}");
    assert_eq!(end["check"]["watched"]["handles_attached"], 1, "{end}");
    assert_eq!(end["check"]["watched"]["handles_detached"], 1, "{end}");
    assert_eq!(end["check"]["watched"]["handles_left"], 0, "{end}");
    assert_eq!(end["mirror"]["lookup"]["count"], 1, "{end}");
    assert_eq!(
        (&end["mirror"]["compared"], &end["mirror"]["differed"]),
        (&Value::from(2), &Value::from(0)),
        "the detach looks up, too: {end}"
    );
}

#[test]
fn every_json_line_fits_the_schema() {
    let schema: Value = serde_json::from_str(JSON_SCHEMA).unwrap();
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    let mut lossy = occupied();
    lossy.by(10).event(ProbeId::DetachDevicePasid, Phase::Exit, Body::Lost { count: 3 });
    let device = dev(1);
    lossy.by(11).core_attach(&device, 7, &hnd(3, &device), 0);
    for script in [lawful(), occupied(), lossy] {
        for arguments in [&[][..], &["--ownership", "refcounted"], &["--no-stacks", "--time", "utc"]] {
            let ran = check(&script, &[&["--format", "json"], arguments].concat());
            for line in ran.json() {
                let errors: Vec<String> = validator.iter_errors(&line).map(|error| error.to_string()).collect();
                assert!(errors.is_empty(), "{line}\n{errors:#?}");
            }
        }
    }
}

#[test]
fn what_was_not_judged_is_told_with_its_reason() {
    let (device, mut script) = bound(1);
    script.by(10).attach(&device, 7, &hnd(1, &device));
    script.by(10).event(ProbeId::DetachDevicePasid, Phase::Exit, Body::Lost { count: 3 });
    script.by(11).core_attach(&device, 7, &hnd(2, &device), 0);
    let ran_with = |arguments: &[&str]| check_from(source(&script, SourceInfo { probes: vec![], ..info() }), arguments);
    let ran = ran_with(&["--format", "json"]);
    assert_eq!(ran.code, 0, "{}", ran.text);
    let end = ran.end();
    assert_eq!(end["lost"][0]["probe"], "iommu_detach_device_pasid");
    assert_eq!(end["check"]["unjudged"][0]["rule"], "slot-occupied", "{end}");
    assert_eq!(end["check"]["unjudged"][0]["reason"], "records of iommu_detach_device_pasid were lost", "{end}");
    let blind: Vec<&str> =
        end["check"]["blind"].as_array().unwrap().iter().map(|blind| blind["rule"].as_str().unwrap()).collect();
    assert_eq!(blind, ["use-after-free", "freed-while-attached"], "frees are not watched");
    assert_eq!(ran_with(&["--format", "json", "--track-frees"]).end()["check"]["blind"], Value::Array(vec![]));
}

fn probe(function: &str, verdict: Verdict) -> ProbeStatus {
    ProbeStatus {
        function: function.into(),
        kind: "-".into(),
        topic: "fault".into(),
        verdict,
        reason: Some("because".into()),
        cost: "much".into(),
        essential: false,
    }
}

#[test]
fn a_driver_that_is_not_at_work_hides_nothing_and_a_broken_probe_does() {
    let with = |probes| SourceInfo { probes, ..info() };
    let other = with(vec![probe("amd_iommu_page_response", Verdict::NotApplicable)]);
    let end = check_from(source(&lawful(), other), &["--format", "json", "--track-frees"]).end();
    assert_eq!(end["check"]["blind"], Value::Array(vec![]), "{end}");
    let broken = with(vec![probe("iopf_free_group", Verdict::Broken)]);
    let end = check_from(source(&lawful(), broken), &["--format", "json", "--track-frees"]).end();
    assert_eq!(end["check"]["broken"][0], "iopf_free_group (because): much", "{end}");
    let blind = end["check"]["blind"].as_array().unwrap();
    assert!(blind.iter().any(|blind| blind["rule"] == "group-leak"), "{end}");
    assert!(blind.iter().all(|blind| blind["reason"] == "iopf_free_group is not probed"), "{end}");
}

#[test]
fn the_first_proposal_is_counted_and_breaks_nothing() {
    let (device, mut script) = bound(1);
    let handle = hnd(1, &device);
    let req = Req::new(Some(7), 1, 0x1000);
    script.by(10).attach(&device, 7, &handle);
    script.by(20).report(&device, &req).lookup(&device, 7, &handle);
    script.by(10).detach(&device, 7, &handle);
    let ran = check(&script, &["--format", "json", "--ownership", "refcounted", "--rules", "sva-users"]);
    assert_eq!(ran.code, 0, "{}", ran.text);
    let end = ran.end();
    assert_eq!(end["check"]["refcounted"]["priv_unfreeable"], 1, "{end}");
    assert_eq!(end["check"]["refcounted"]["freed_while_referenced"], 1, "{end}");
    assert_eq!(check(&script, &["--format", "json"]).end()["check"]["refcounted"], Value::Null);
}

#[test]
fn a_violation_is_on_the_disk_before_the_run_ends() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out");
    let seen = std::thread::spawn({
        let path = path.clone();
        move || {
            let begin = std::time::Instant::now();
            while begin.elapsed() < Duration::from_secs(10) {
                let text = fs::read_to_string(&path).unwrap_or_default();
                if text.contains("VIOLATION slot-occupied") {
                    // The summary comes last.
                    return !text.contains("watched");
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            false
        }
    });
    let arguments = ["check", "--duration", "2s", "--output", path.to_str().unwrap()];
    let check = Arguments::try_parse_from(arguments).unwrap().check;
    let options = check.consumer();
    Run::new(&options).unwrap().judging(check.judging().unwrap()).consume(source(&occupied(), info()).boxed()).unwrap();
    assert!(seen.join().unwrap());
}

/// What a machine's speed decides is taken out.
fn steady(text: &str) -> String {
    let mut lines: Vec<&str> = text
        .lines()
        .map(|line| if line.starts_with("  mirror's own") { "  mirror's own (times)" } else { line })
        .collect();
    // The last line ends, too.
    lines.push("");
    lines.join("\n")
}

#[test]
fn a_run_with_a_violation_looks_like_this() {
    insta::assert_snapshot!(steady(&check(&occupied(), &[]).text));
}

#[test]
fn a_clean_run_looks_like_this() {
    insta::assert_snapshot!(steady(&check(&lawful(), &["--ownership", "refcounted", "--track-frees"]).text));
}

fn piece(
    what: SlotWhat,
    device: DeviceRef,
    pasid: u32,
    domain: Ptr,
    domain_type: DomainType,
    handle: HandleRef,
) -> Body {
    Body::Slot(Box::new(SlotState {
        what,
        device,
        handle,
        domain,
        domain_type,
        pasid,
        users: 2,
        ..SlotState::default()
    }))
}

/// Two groups: one of iommufd's with a RID, a PASID and a bond, one that nobody has claimed.
fn snapshot() -> Vec<Event> {
    let (device, other, none) = (dev(1), dev(2), HandleRef::default());
    let (rid, pasid, bond) = (hnd(1, &device), hnd(2, &device), bond(3, &device));
    let mut script = Script::new();
    let mut tell = |body| {
        script.by(1).event(ProbeId::GroupShowType, Phase::Enter, body);
    };
    let slot = |pasid, hnd: &iommu_trace::model::testing::Hnd| {
        let handle = hnd.handle;
        piece(SlotWhat::Entry, device.device, pasid, handle.domain, handle.domain_type, handle)
    };
    tell(piece(SlotWhat::Group, device.device, 0, rid.handle.domain, DomainType::UNMANAGED, none));
    tell(piece(SlotWhat::DefaultDomain, device.device, 0, DEFAULT, DomainType::DMA, none));
    tell(piece(SlotWhat::Member, device.device, 0, Ptr::NULL, DomainType::default(), none));
    tell(slot(0, &rid));
    tell(slot(9, &bond));
    tell(slot(7, &pasid));
    tell(piece(SlotWhat::Entry, device.device, 10, Ptr::NULL, DomainType::default(), none));
    tell(piece(SlotWhat::End, device.device, 0, Ptr::NULL, DomainType::default(), none));
    tell(piece(SlotWhat::Group, other.device, 0, BLOCKING, DomainType::BLOCKED, none));
    tell(piece(SlotWhat::Member, other.device, 0, Ptr::NULL, DomainType::default(), none));
    for n in 0..8 {
        let more = DeviceRef { name: Name::new(&format!("0000:02:00.{n}")), ptr: Ptr(0xd0f0_0000 + n), ..other.device };
        tell(piece(SlotWhat::Member, more, 0, Ptr::NULL, DomainType::default(), none));
    }
    script.events
}

fn held(events: Vec<Event>, probes: Vec<ProbeStatus>) -> anyhow::Result<iommu_trace::output::Holdings> {
    let info = SourceInfo { probes, ..info() };
    holdings(Scripted { info, ..Scripted::live(vec![Step::Events(events)]) }.boxed())
}

#[test]
fn handles_are_shown_as_a_tree_of_100_columns() {
    let text = held(snapshot(), vec![]).unwrap().text(Palette::plain());
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    insta::assert_snapshot!(text);
}

#[test]
fn handles_as_a_document() {
    insta::assert_snapshot!(held(snapshot(), vec![]).unwrap().json().unwrap());
}

#[test]
fn a_domain_that_the_rid_has_without_a_handle_is_in_no_slot_by_a_mirror_either() {
    let as_read = held(snapshot(), vec![]).unwrap();
    let mut pieces = snapshot();
    // A mirror knows who attached it, as a slot of its own; the kernel has it as the group's domain only.
    let mut more = pieces[0].clone();
    more.body = piece(SlotWhat::Entry, dev(2).device, 0, BLOCKING, DomainType::BLOCKED, HandleRef::default());
    let at = pieces.len() - 8;
    pieces.insert(at, more);
    assert_eq!(held(pieces, vec![]).unwrap().json().unwrap(), as_read.json().unwrap());
}

#[test]
fn a_machine_without_groups_is_told_of_plainly() {
    let text = held(vec![], vec![]).unwrap().text(Palette::plain());
    assert_eq!(text, "no groups: no device of this machine is behind an IOMMU that the kernel uses\n");
}

#[test]
fn handles_that_cannot_be_read_are_an_error_with_its_reason() {
    let error = held(vec![], vec![probe("iommu_group_show_type", Verdict::Broken)]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot read what is attached: iommu_group_show_type is not probed (because). `iommu-trace doctor` tells more"
    );
}
