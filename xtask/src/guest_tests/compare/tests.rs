//! A small trace and its truth, as they came from a guest: one device attached by RID and PASID 1, four faults answered
//! and one left unread, and what becomes of the comparison when either is changed.

use super::*;

const TRACE: &str = include_str!("fixtures/trace.jsonl");
const TRUTH: &str = include_str!("fixtures/truth.jsonl");

/// All that differs, as one text; empty when nothing does.
fn differences(trace: &str, truth: &str, trust: Trust) -> String {
    let trace = Trace::parse(trace).unwrap();
    let truth = Truth::parse(truth).unwrap();
    let (results, rest) = compare(&trace, &[truth], trust);
    let errors: Vec<String> =
        results.into_iter().chain([rest]).filter_map(|r| r.err().map(|e| e.to_string())).collect();
    errors.join("\n")
}

/// The fixture with the lines of the trace changed that hold all of `words`.
fn changed(words: &[&str], change: impl Fn(&str) -> String) -> String {
    let mut hits = 0;
    let lines: Vec<String> = TRACE
        .lines()
        .map(|line| {
            let frame = line.contains("\"event\":\"start\"") || line.contains("\"event\":\"end\"");
            if !frame && words.iter().all(|w| line.contains(w)) {
                hits += 1;
                change(line)
            } else {
                line.to_owned()
            }
        })
        .filter(|line| !line.is_empty())
        .collect();
    assert!(hits > 0, "no line has {words:?}");
    lines.join("\n") + "\n"
}

#[track_caller]
fn differs(trace: &str, message: &str) {
    let text = differences(trace, TRUTH, Trust::Whole);
    assert!(text.contains(message), "{message:?} is not in: {text}");
}

#[test]
fn a_true_trace_does_not_differ() {
    assert_eq!(differences(TRACE, TRUTH, Trust::Whole), "");
    assert_eq!(differences(TRACE, TRUTH, Trust::Lossy), "");
}

#[test]
fn a_missing_event_is_told_with_its_truth() {
    for (words, message) in [
        (&["\"fault\"", "0x10002000"][..], "the trace has no such fault"),
        (&["iommu_replace_group_handle"][..], "the trace has no replace within this call"),
        (&["\"iommufd_bind\""][..], "the trace has no iommufd_bind"),
        (&["\"device_remove\""][..], "the trace has no device_remove"),
        (&["\"iopf_enable\""][..], "the trace has no iopf_enable"),
        (&["\"fault_queue_destroy\""][..], "the trace has no fault_queue_destroy of object 2"),
    ] {
        let trace = changed(words, |_| String::new());
        differs(&trace, message);
        differs(&trace, "truth: {");
    }
}

#[test]
fn an_event_that_comes_twice_is_told() {
    differs(&changed(&["\"fault\"", "0x10002000"], |l| format!("{l}\n{l}")), "the trace has 2 times such fault");
    differs(&changed(&["iommu_attach_device_pasid"], |l| format!("{l}\n{l}")), "2 times attach within this call");
}

#[test]
fn an_event_that_nothing_explains_is_told() {
    let elsewhere = |l: &str| format!("{l}\n{}", l.replace("\"tid\":57", "\"tid\":99"));
    differs(&changed(&["\"fault\"", "0x10002000"], elsewhere), "nothing in the truth explains this event");
    // The core's own switches are explained by the call that they are in, and by no other.
    let early = |l: &str| l.replace("\"ts\":10508809293", "\"ts\":10498899999");
    differs(&changed(&["\"ts\":10508809293"], early), "nothing in the truth explains this event");
}

#[test]
fn an_event_of_no_program_is_told() {
    let stranger = |l: &str| l.replace("\"pid\":56", "\"pid\":1").replace("\"ts\":10671331972", "\"ts\":5");
    differs(&changed(&["\"ts\":10671331972"], stranger), "nothing that ran explains this event");
}

#[test]
fn fields_are_compared() {
    for (words, from, to, message) in [
        (&["\"fault\"", "0x10001000"][..], "\"device_id\":4", "\"device_id\":5", "device_id: expected 4, got 5"),
        (&["\"fault\"", "0x10001000"], "\"cookie\":1", "\"cookie\":2", "cookie: expected 1, got 2"),
        (&["\"fault\"", "0x10001000"], "\"perm\":3", "\"perm\":1", "perm: expected 3, got 1"),
        (&["\"fault\"", "0x10001000"], "\"lookups\":1", "\"lookups\":2", "lookups: expected 1, got 2"),
        (
            &["\"fault\"", "0x10004000"],
            "\"automatic\"",
            "\"user\"",
            "answered_by: expected \"automatic\", got \"user\"",
        ),
        (&["\"fault\"", "0x10004000"], "\"invalid\"", "\"none\"", "response: expected \"invalid\", got \"none\""),
        (&["iommu_attach_device_pasid"], "mock0", "mock1", "the trace has no attach within this call"),
        (&["iommu_attach_device_pasid"], "\"ret\":0", "\"ret\":-22", "ret: expected 0, got -22"),
        (&["iommu_attach_device_pasid"], "\"group\":4", "\"group\":5", "group: expected 4, got 5"),
        (&["iommu_attach_device_pasid"], "\"iommufd\"", "\"sva\"", "owner: expected \"iommufd\", got \"sva\""),
    ] {
        differs(&changed(words, |l| l.replace(from, to)), message);
    }
}

#[test]
fn the_differences_of_one_event_are_told_together() {
    let trace =
        changed(&["0x10001000"], |l| l.replace("\"perm\":3", "\"perm\":1").replace("\"cookie\":1", "\"cookie\":2"));
    let text = differences(&trace, TRUTH, Trust::Whole);
    assert!(text.starts_with("trace and truth differ in 1 places\n  perm: "), "{text}");
    assert_eq!(text.matches("truth: {").count(), 1, "{text}");
}

#[test]
fn stages_are_in_order_and_within_their_calls() {
    let swap = |l: &str| l.replace("\"lookup_ns\":95076", "\"lookup_ns\":205076");
    differs(&changed(&["\"fault\"", "0x10001000"], swap), "device_id_ns: before the stage that precedes it");
    let late = |l: &str| l.replace("\"response_ns\":547921", "\"response_ns\":5479210");
    differs(&changed(&["\"fault\"", "0x10001000"], late), "response_ns: 10614060877 is not within the call");
    let unread = |l: &str| l.replace("\"delivered_ns\":383499", "\"delivered_ns\":null");
    differs(&changed(&["\"fault\"", "0x10001000"], unread), "delivered_ns: expected a time, got null");
}

#[test]
fn handles_follow_each_other_in_their_slot() {
    let other = |l: &str| l.replace("0xff11000000b07890", "0xff11000000000001");
    differs(&changed(&["iommu_replace_group_handle"], other), "old_handle: expected \"0xff11000000b07890\"");
    let other = |l: &str| l.replace("0xff11000000b079f0", "0xff11000000000001");
    differs(&changed(&["\"fault\"", "0x10001000"], other), "handle: not the one in the slot at that time");
    differs(&changed(&["iommu_detach_device_pasid"], other), "handle: expected \"0xff11000000b079f0\"");
}

#[test]
fn where_records_were_lost_only_what_is_whole_is_compared() {
    let lossy = |trace: &str| differences(trace, TRUTH, Trust::Lossy);
    assert_eq!(lossy(&changed(&["\"fault\"", "0x10001000"], |_| String::new())), "");
    let half = |l: &str| {
        l.replace("\"response\":\"invalid\"", "\"response\":\"none\"")
            .replace("\"freed_ns\":557440", "\"freed_ns\":null")
    };
    assert_eq!(lossy(&changed(&["\"fault\"", "0x10001000"], half)), "");
    let wrong = |l: &str| l.replace("\"response\":\"invalid\"", "\"response\":\"success\"");
    assert!(lossy(&changed(&["\"fault\"", "0x10001000"], wrong)).contains("response: expected"));
    let invented = |l: &str| l.replace("0x10001000", "0x66601000");
    assert!(lossy(&changed(&["\"fault\"", "0x10001000"], invented)).contains("nothing in the truth explains"));
}

#[test]
fn many_differences_are_counted_and_some_are_shown() {
    let text = differences(&changed(&["\"domain_free\""], |_| String::new()), TRUTH, Trust::Whole);
    assert!(text.contains("the trace has no domain_free"), "{text}");
    let mut many = Differences::default();
    for n in 0..20 {
        many.add(&format!("difference {n}"), None, None);
        many.add("of the same", Some(&Truth::parse(TRUTH).unwrap().lines[0]), None);
    }
    let text = many.into_result().unwrap_err().to_string();
    assert!(text.starts_with("trace and truth differ in 40 places"), "{text}");
    assert!(text.ends_with("… and 34 more"), "{text}");
}

/// Two devices of one group: the first is attached, and detached and unbound while the second stays.
mod siblings {
    use super::*;

    const TRUTH: &str = r#"{"truth":"start","program":"vfio","pid":7,"ts":10,"tid":7}
{"truth":"attach","via":"vfio","device":"a","group":3,"device_id":2,"pasid":0,"core":true,"ret":0,"ts0":100,"ts1":200,"tid":7}
{"truth":"detach","via":"vfio","device":"a","group":3,"device_id":2,"pasid":0,"core":false,"ret":0,"ts0":300,"ts1":310,"tid":7}
{"truth":"unbind","via":"vfio","device":"a","group":3,"device_id":2,"ret":0,"ts0":400,"ts1":500,"tid":7}
{"truth":"detach","via":"vfio","device":"b","group":3,"device_id":4,"pasid":0,"core":true,"ret":0,"ts0":600,"ts1":700,"tid":7}
{"truth":"end","status":0,"ts":900,"tid":7}
"#;
    const START: &str = r#"{"ts":1,"event":"start","topics":["attach"],"probes":[]}"#;
    const END: &str = r#"{"event":"end","ts":999,"events":{},"violations":{},"lost":[]}"#;

    fn change(event: &str, ts: u64, device: &str, id: u32) -> String {
        format!(
            r#"{{"ts":{ts},"event":"{event}","group":3,"device":"{device}","pasid":0,"domain":"0xd","old_domain":null,"handle":"0xa","old_handle":null,"ret":0,"duration_ns":9,"owner":"iommufd","device_id":{id},"pid":7,"tid":7}}"#
        )
    }

    fn told(violations: &[&str]) -> String {
        let mut lines = vec![
            START.to_owned(),
            change("attach", 110, "a", 2),
            r#"{"ts":410,"event":"iommufd_unbind","group":3,"device":"a","device_id":2,"ret":0,"duration_ns":9,"pid":7,"tid":7}"#.to_owned(),
            change("detach", 610, "b", 4),
        ];
        lines.extend(violations.iter().map(|handle| {
            format!(
                r#"{{"ts":405,"event":"violation","rule":"device-id-dangling","subject":{{"handle":"{handle}","device_id":2}},"pid":7,"tid":7}}"#
            )
        }));
        lines.push(END.to_owned());
        differences(&(lines.join("\n") + "\n"), TRUTH, Trust::Whole)
    }

    #[test]
    fn the_unbind_of_the_device_that_the_handle_names_is_one_violation() {
        assert_eq!(told(&["0xa"]), "");
        assert!(told(&[]).contains("the trace has no violation within this call"));
        assert!(told(&["0xa", "0xa"]).contains("the trace has 2 times violation"));
        assert!(told(&["0xb"]).contains("subject: expected this device"));
    }

    /// A thread waits for its turn in a call that began before the other's, and gets the group that the other frees.
    #[test]
    fn the_order_in_a_slot_is_that_of_the_cores_functions() {
        let truth = TRUTH
            .lines()
            .map(|line| match line {
                line if line.contains("\"unbind\"") || line.contains("\"core\":false") => String::new(),
                line if line.contains("\"detach\"") => line.replace("\"b\"", "\"a\"").replace(":4,", ":2,") + "\n",
                line if line.contains("\"end\"") => {
                    let next = r#"{"truth":"attach","via":"vfio","device":"c","group":3,"device_id":5,"pasid":0,"core":true,"ret":0,"ts0":550,"ts1":800,"tid":8}"#;
                    format!("{next}\n{line}\n")
                }
                line => format!("{line}\n"),
            })
            .collect::<String>();
        let next = change("attach", 720, "c", 5).replace("\"tid\":7", "\"tid\":8");
        let lines =
            [START.to_owned(), change("attach", 110, "a", 2), change("detach", 610, "a", 2), next, END.to_owned()];
        assert_eq!(differences(&(lines.join("\n") + "\n"), &truth, Trust::Whole), "");
    }

    #[test]
    fn any_other_violation_is_a_false_alarm() {
        let alarm = |l: &str| {
            format!("{l}\n{}", r#"{"ts":10612000000,"event":"violation","rule":"group-leak","pid":56,"tid":56}"#)
        };
        differs(&changed(&["iommu_detach_device_pasid"], alarm), "nothing in the truth explains this event");
    }
}

mod dma {
    use super::*;

    const START: &str = r#"{"ts":1,"event":"start","topics":["attach","dma"],"probes":[]}"#;
    const END: &str = r#"{"event":"end","ts":9000,"events":{},"violations":{},"lost":[]}"#;
    const TRUTH: &str = r#"{"truth":"start","program":"p","pid":7,"ts":10,"tid":7}
{"truth":"dma_fault","device":"0000:00:02.0","group":1,"iova":"0xbad000","write":true,"length":64,"ret":0,"ts0":100,"ts1":200,"tid":7}
{"truth":"map","ioas_id":1,"iova":"0x10000","length":12288,"ret":0,"ts0":300,"ts1":400,"tid":7}
{"truth":"end","status":0,"ts":500,"tid":7}
"#;
    const FAULT: &str = r#"{"ts":700,"event":"dma_fault","iommu":"dmar0","group":1,"device":"0000:00:02.0","source_id":"00:02.0","addr":"0xbad000","access":"write","reason":5,"pasid":null,"function":"dmar_fault","cpu":0,"pid":0,"tid":0,"comm":"swapper/0"}"#;

    fn map(at: u64, addr: &str, size: u64, domain: &str) -> String {
        format!(
            r#"{{"ts":{at},"event":"map","domain":"{domain}","addr":"{addr}","size":{size},"ret":0,"duration_ns":1,"function":"iommu_map","cpu":0,"pid":7,"tid":7,"comm":"guest"}}"#
        )
    }

    fn told(lines: &[String]) -> String {
        let trace = format!("{START}\n{}\n{END}\n", lines.join("\n"));
        differences(&trace, TRUTH, Trust::Whole)
    }

    #[test]
    fn an_interrupt_after_the_program_still_belongs_to_it() {
        assert_eq!(told(&[map(310, "0x10000", 12288, "0x1"), FAULT.to_owned()]), "");
    }

    #[test]
    fn transfers_to_one_address_have_a_fault_each() {
        let second = r#"{"truth":"dma_fault","device":"0000:00:02.0","group":1,"iova":"0xbad000","write":true,"length":64,"ret":0,"ts0":450,"ts1":460,"tid":7}"#;
        let truth = TRUTH.replace("{\"truth\":\"map\"", &format!("{second}\n{{\"truth\":\"map\""));
        let told = |times: &[u64]| {
            let faults = times.iter().map(|at| FAULT.replace("\"ts\":700", &format!("\"ts\":{at}")) + "\n");
            let faults = faults.collect::<String>();
            differences(
                &format!("{START}\n{faults}{}\n{END}\n", map(310, "0x10000", 12288, "0x1")),
                &truth,
                Trust::Whole,
            )
        };
        assert_eq!(told(&[250, 700]), "");
        assert!(told(&[250]).contains("the trace has no dma_fault at this address"));
        assert!(told(&[700]).contains("the trace has no dma_fault at this address"));
    }

    #[test]
    fn one_transfer_may_be_many_faults_of_virtio_iommu_smmuv3_and_amd_vi() {
        let of = |function: &str, iommu: &str, addr: &str| {
            let fault =
                FAULT.replace("dmar_fault", function).replace("dmar0", iommu).replace("\"reason\":5", "\"reason\":2");
            fault.replace("0xbad000", addr).replace("\"write\"", "\"unknown\"")
        };
        let map = || map(310, "0x10000", 12288, "0x1");
        let virtio = |addr: &str| of("viommu_event_handler", "virtio0", addr);
        assert_eq!(told(&[map(), virtio("0xbad000"), virtio("0xbad03c")]), "");
        let text = told(&[map(), virtio("0xbad000"), virtio("0xbad040")]);
        assert!(text.contains("nothing in the truth explains this event"), "{text}");
        let smmu = |iommu: &str, source: &str, reason: &str| {
            let fault = FAULT.replace("dmar_fault", "arm_smmu_evtq_thread").replace("dmar0", iommu);
            let fault = fault.replace("0xbad000", "0xbad004").replace("\"00:02.0\"", &format!("\"{source}\""));
            fault.replace("\"reason\":5", &format!("\"reason\":{reason}"))
        };
        let unit = "smmu3.0x0000000009050000";
        assert_eq!(told(&[map(), smmu(unit, "0x10", "16")]), "");
        let text = told(&[map(), smmu(unit, "0x18", "16")]);
        assert!(text.contains("source_id: expected \"0x10\", got \"0x18\""), "{text}");
        assert!(told(&[map(), smmu(unit, "0x10", "19")]).contains("reason: expected 16"));
        let amd = |addr: &str| of("iommu_poll_events", "ivhd0", addr);
        assert_eq!(told(&[map(), amd("0x0"), amd("0x0")]), "");
        let text = told(&[map(), amd("0x0").replace("ivhd0", "ivhd1")]);
        assert!(text.contains("iommu: expected \"ivhd0\""), "{text}");
    }

    #[test]
    fn the_pieces_of_a_mapping_add_up_for_each_page_table() {
        let pieces = |last: u64| {
            told(&[
                FAULT.to_owned(),
                map(310, "0x10000", 4096, "0x1"),
                map(320, "0x11000", 8192, "0x1"),
                map(330, "0x10000", last, "0x2"),
            ])
        };
        assert_eq!(pieces(12288), "");
        assert!(pieces(4096).contains("domain \"0x2\": expected 12288 bytes in all, got 4096"));
    }

    #[test]
    fn a_fault_of_another_kind_is_told() {
        let text = told(&[map(310, "0x10000", 12288, "0x1"), FAULT.replace("\"write\"", "\"read\"")]);
        assert!(text.contains("access: expected \"write\", got \"read\""), "{text}");
        let text = told(&[map(310, "0x10000", 12288, "0x1"), FAULT.replace("0xbad000", "0xbae000")]);
        assert!(text.contains("the trace has no dma_fault at this address"), "{text}");
    }
}
