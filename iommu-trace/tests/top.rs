//! The dashboard without a terminal: every view as text, keys and what they change, and that nothing makes it panic.
#![allow(missing_docs, clippy::unwrap_used, reason = "this is a test")]

mod common;

use std::{fs, path::Path, sync::Arc};

use iommu_trace::{
    event::{Body, DmaFault, DmaOp, Event, Invalidate, Phase, ProbeId},
    model::{
        ModelOptions,
        span::Topic,
        testing::{Req, Script, bond, dev, dev_in, domain, group, hnd, kernel_7_3},
    },
    source::{Cost, ProgramCost, SourceInfo},
    tui::{
        keys::{self, Key, on_key},
        state::{
            Own, Ui, World,
            items::Item,
            rows::{Row, rows},
            save::json,
            ui::{Mode, Order, Time, View},
            update::{happened, update},
        },
        view,
    },
};
use proptest::prelude::*;
use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::{Color, Modifier},
};

const SECOND: u64 = 1_000_000_000;
const START: u64 = 93 * SECOND;

fn world(events: &[Event]) -> World {
    let info = SourceInfo { started_ns: START, features: kernel_7_3(), ..common::info() };
    let topics = vec![Topic::Attach, Topic::Fault, Topic::Sva, Topic::Iommufd, Topic::Dma, Topic::Invalidate];
    let mut world = World::new(Arc::new(info), topics, ModelOptions::default());
    world.apply(events);
    world
}

fn script() -> Script {
    Script { now: START, step: 1_700, ..Script::default() }
}

fn answered(script: &mut Script, n: u32, device: u32, handle: u32, code: u32) {
    let (device, request) = (dev(device), Req::new(None, n, u64::from(n) << 12));
    let handle = hnd(handle, &device);
    script.by(20 + n % 3).fault(group(n), &device, &request, &handle);
    script.pass(u64::from(n % 7) * 9_000);
    script.by(30).read(device.id, &request, n).pass(40_000).write(group(n), &device, &request, &handle, code);
}

/// A bit of everything: two groups, a bond, faults that are over and one that is not, a broken rule, mappings, a loss.
fn few() -> World {
    let mut script = script();
    let (first, second) = (dev(1), dev_in(2, 2));
    script
        .by(7)
        .snapshot_begin(&second, domain(40))
        .snapshot_entry(&second, 5, &hnd(40, &second))
        .snapshot_end(&second);
    script.pass(SECOND / 5);
    script.by(7).bind(&first).attach(&first, 0, &hnd(1, &first));
    script.by(7).sva(ProbeId::SvaBind, &first, None, 9, 0).sva_bound(&first, Some(&bond(9, &first)), 9, 1, 0);
    script.pass(SECOND);
    for n in 0..12 {
        answered(&mut script, n, 1, 1, u32::from(n == 7));
        script.pass(SECOND / 4);
    }
    script.by(7).replace(&first, 0, &hnd(1, &first), &hnd(2, &first));
    let waits = Req::new(None, 99, 0x7f12_dead_b000);
    script.by(21).fault(group(99), &first, &waits, &hnd(2, &first));
    script.pass(SECOND / 2);
    // No kernel does this: an attach succeeds on a slot that holds another handle.
    script.by(8).core_attach(&first, 0, &hnd(3, &first), 0);
    for n in 0..5 {
        let map = DmaOp { domain: domain(1), iova: n << 12, size: 0x1000 << n, ret: 0, duration: 900 + n * 700 };
        script.by(7).event(ProbeId::Map, Phase::Exit, Body::Dma(map));
        script.by(7).event(ProbeId::Unmap, Phase::Exit, Body::Dma(DmaOp { ret: map.size as i64, ..map }));
    }
    let invalidate = Invalidate { count: 2, duration: 41_000, ..Invalidate::default() };
    script.by(7).event(ProbeId::QiSubmitSync, Phase::Exit, Body::Invalidate(invalidate));
    let fault = DmaFault { source: 0x10, addr: 0xdead_0000, reason: 5, ..DmaFault::default() };
    script.by(9).event(ProbeId::DmarFault, Phase::Enter, Body::DmaFault(fault));
    script.by(7).lost(ProbeId::Map, Phase::Exit, 3);
    let mut world = world(&script.events);
    world.advance(script.now + SECOND);
    world.own = Some(Own { cpu: 0.034, memory: 21 << 20 });
    world.bpf_cpu = Some(0.0012);
    let program = |program: &str, runs, run_ns| ProgramCost { program: program.into(), runs, run_ns };
    world.cost = Some(Cost {
        programs: vec![
            program("attach_group_handle_enter", 12, 14_000),
            program("report_device_fault_enter", 130, 99_000),
        ],
    });
    world
}

fn many() -> World {
    let mut script = script();
    for n in 1..=300 {
        let device = dev(n);
        script.by(7).attach(&device, 0, &hnd(n, &device));
        for pasid in 1..4 {
            script.by(7).attach(&device, pasid, &hnd(n * 10 + 10_000 + pasid, &device));
        }
    }
    for n in 0..3000 {
        answered(&mut script, n, n % 300 + 1, n % 300 + 1, 0);
        script.pass(u64::from(n % 11) * 1_000_000);
    }
    for n in 0..200 {
        let device = dev(n % 300 + 1);
        script.by(21).fault(group(9000 + n), &device, &Req::new(None, n, 0x1000), &hnd(n % 300 + 1, &device));
        let map = DmaOp { domain: domain(n), iova: 0, size: 0x1000, ret: -12, duration: 900 };
        script.by(7).event(ProbeId::Map, Phase::Exit, Body::Dma(map));
    }
    let mut world = world(&script.events);
    world.advance(script.now);
    world
}

fn picture(world: &World, ui: &Ui, width: u16, height: u16) -> Buffer {
    let area = Rect::new(0, 0, width, height);
    let mut buffer = Buffer::empty(area);
    view::draw(&mut buffer, area, world, ui);
    buffer
}

fn text(buffer: &Buffer) -> String {
    let row = |y| {
        let cells = (0..buffer.area.width).map(|x| buffer.cell((x, y)).unwrap().symbol());
        cells.collect::<String>().trim_end().to_owned() + "\n"
    };
    (0..buffer.area.height).map(row).collect()
}

fn shown(world: &World, ui: &Ui, width: u16, height: u16) -> String {
    text(&picture(world, ui, width, height))
}

fn at(view: View) -> Ui {
    Ui { view, ..Ui::default() }
}

fn press(ui: &mut Ui, world: &mut World, keys: &str) {
    for c in keys.chars() {
        let key = match c {
            '\n' => Key::Enter,
            '\x1b' => Key::Esc,
            '\t' => Key::Tab,
            '\x08' => Key::Backspace,
            '↓' => Key::Down,
            '↑' => Key::Up,
            '←' => Key::Left,
            '→' => Key::Right,
            c => Key::Char(c),
        };
        if let Some(action) = on_key(key, ui.mode()) {
            update(ui, world, action);
        }
    }
}

#[test]
fn every_view_with_nothing_few_and_many_rows() {
    for (fill, world) in [("none", world(&[])), ("few", few()), ("many", many())] {
        for view in View::ALL {
            let pictures =
                [(80, 24), (120, 40), (200, 60)].map(|(w, h)| format!("{w}x{h}\n{}", shown(&world, &at(view), w, h)));
            insta::assert_snapshot!(format!("top_{}_{fill}", view.title()), pictures.concat());
        }
    }
}

#[test]
fn the_smallest_sizes() {
    let world = few();
    let pictures: String = View::ALL
        .iter()
        .flat_map(|&view| {
            [(20, 5), (40, 10)].map(|(w, h)| format!("{view:?} {w}x{h}\n{}", shown(&world, &at(view), w, h)))
        })
        .collect();
    insta::assert_snapshot!(pictures);
    for view in View::ALL {
        for width in 0..24 {
            for height in 0..9 {
                let _ = picture(&world, &at(view), width, height);
            }
        }
    }
}

#[test]
fn enter_shows_one_thing_whole() {
    let mut world = few();
    for (name, keys) in [
        ("group", "2\n"),
        ("life", "2↓\n"),
        ("fault_waiting", "3\n"),
        ("fault_over", "3↓\n"),
        ("stage", "4\n"),
        ("domain", "5\n"),
        ("violation", "6\n"),
        ("probe", "7\n"),
    ] {
        let mut ui = Ui::default();
        press(&mut ui, &mut world, keys);
        assert_eq!(ui.mode(), Mode::Detail, "{name}");
        insta::assert_snapshot!(format!("top_detail_{name}"), shown(&world, &ui, 100, 40));
        press(&mut ui, &mut world, "\x1b");
        assert_eq!(ui.mode(), Mode::Browse, "{name}");
    }
}

#[test]
fn the_help_has_every_key() {
    let (mut world, mut ui) = (few(), Ui::default());
    press(&mut ui, &mut world, "?");
    let help = shown(&world, &ui, 140, 60);
    for binding in keys::KEYS.iter().filter(|binding| binding.modes != [Mode::Help]) {
        assert!(help.contains(&keys::names(binding)), "{:?}\n{help}", binding.keys);
    }
}

#[test]
fn the_guide_has_the_table_of_keys() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/guide.md");
    let guide = fs::read_to_string(&path).unwrap();
    let (head, rest) = guide.split_once("<!-- keys -->\n").unwrap();
    let (there, tail) = rest.split_once("<!-- end of keys -->\n").unwrap();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let new = format!("{head}<!-- keys -->\n{}<!-- end of keys -->\n{tail}", keys::markdown());
        fs::write(&path, new).unwrap();
        return;
    }
    assert_eq!(there, keys::markdown(), "out of step: UPDATE_DOCS=1 cargo test --test top");
}

#[test]
fn paused_nothing_moves_and_nothing_that_happens_meanwhile_is_lost() {
    let mut script = script();
    let device = dev(1);
    script.by(7).attach(&device, 0, &hnd(1, &device));
    answered(&mut script, 1, 1, 1, 0);
    script.pass(2 * SECOND);
    let mut world = world(&script.events);
    // Something may still happen at the very time that is known of.
    world.advance(script.now - 1);
    let mut ui = at(View::Faults);
    press(&mut ui, &mut world, " ");
    let before = shown(&world, &ui, 100, 12);
    script.events.clear();
    answered(&mut script, 2, 1, 1, 0);
    answered(&mut script, 3, 1, 1, 1);
    world.apply(&script.events);
    world.advance(script.now + SECOND);
    // But for the header, which says how far behind it is, and the rate beside it.
    let rows = |text: &str| text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(rows(&shown(&world, &ui, 100, 12)), rows(&before));
    assert!(shown(&world, &ui, 100, 12).contains("PAUSED"));
    press(&mut ui, &mut world, " ");
    let after = shown(&world, &ui, 100, 12);
    assert!(after.contains("0x2000") && after.contains("0x3000") && after.contains("LIVE"), "{after}");
}

#[test]
fn a_step_back_shows_what_was_attached_and_outstanding_then() {
    let mut script = script();
    let device = dev(1);
    script.by(7).attach(&device, 0, &hnd(1, &device));
    script.pass(SECOND);
    let request = Req::new(None, 1, 0xabc_d000);
    script.by(20).fault(group(1), &device, &request, &hnd(1, &device));
    script.pass(SECOND);
    script.by(30).read(device.id, &request, 1).write(group(1), &device, &request, &hnd(1, &device), 0);
    script.pass(SECOND);
    script.by(7).detach(&device, 0, &hnd(1, &device));
    script.pass(20 * SECOND);
    let mut world = world(&script.events);
    world.advance(script.now);
    let then = |seconds: f64, view| Ui { time: Time::At(START + (seconds * 1e9) as u64), ..at(view) };
    assert!(shown(&world, &then(1.5, View::Faults), 120, 12).contains("waits for"));
    assert!(shown(&world, &then(2.5, View::Faults), 120, 12).contains("success"));
    assert!(shown(&world, &then(0.5, View::Faults), 120, 12).contains("No page fault"));
    assert!(shown(&world, &then(0.5, View::Handles), 120, 12).contains(" live"));
    assert!(shown(&world, &then(4.0, View::Handles), 120, 12).contains("gone"));
    let now = shown(&world, &at(View::Handles), 120, 12);
    assert!(!now.contains("gone") && !now.contains("iommufd"), "it has faded:\n{now}");
    let mut ui = at(View::Faults);
    press(&mut ui, &mut world, "←");
    assert_eq!(ui.time, Time::At(world.now - SECOND / 4));
    press(&mut ui, &mut world, "→");
    assert_eq!(ui.time, Time::Live);
}

#[test]
fn the_first_violation_stops_the_time_when_that_is_asked_for() {
    let mut world = few();
    let mut ui = Ui::default();
    happened(&mut ui, &world);
    assert_eq!(ui.time, Time::Live);
    press(&mut ui, &mut world, "f");
    assert_eq!(ui.time, Time::At(world.first_breach.unwrap()));
    press(&mut ui, &mut world, "l");
    happened(&mut ui, &world);
    assert_eq!(ui.time, Time::Live, "it stops once");
}

#[test]
fn the_filter_works_while_it_is_typed_and_can_be_taken_back() {
    let mut world = many();
    let mut ui = at(View::Handles);
    let count = |world: &World, ui: &Ui| rows(world, ui).iter().filter(|row| matches!(row, Row::Life(_))).count();
    assert_eq!(count(&world, &ui), 1200);
    press(&mut ui, &mut world, "/pasid:2");
    assert_eq!(count(&world, &ui), 300);
    press(&mut ui, &mut world, " group:17");
    assert_eq!(count(&world, &ui), 1);
    press(&mut ui, &mut world, "\n");
    assert_eq!((count(&world, &ui), ui.mode()), (1, Mode::Browse));
    press(&mut ui, &mut world, "/x\x1b");
    assert_eq!((ui.filter.text(), ui.mode()), ("pasid:2 group:17", Mode::Browse));
    press(&mut ui, &mut world, "\x1b");
    assert_eq!(count(&world, &ui), 1200);
    press(&mut ui, &mut world, "/nothing is called so");
    assert!(shown(&world, &ui, 80, 24).contains("Nothing matches the filter"));
}

#[test]
fn what_is_selected_stays_selected_while_rows_come() {
    let mut script = script();
    let device = dev(1);
    script.by(7).attach(&device, 0, &hnd(1, &device));
    for n in 1..4 {
        answered(&mut script, n, 1, 1, 0);
    }
    let mut world = world(&script.events);
    let mut ui = at(View::Faults);
    press(&mut ui, &mut world, "↓");
    let chosen = ui.list().selected;
    assert!(matches!(chosen, Some(Item::Fault(_, _, 0x2000))), "{chosen:?}");
    script.events.clear();
    answered(&mut script, 5, 1, 1, 0);
    world.apply(&script.events);
    press(&mut ui, &mut world, "↓");
    assert!(matches!(ui.list().selected, Some(Item::Fault(_, _, 0x1000))), "{:?}", ui.list().selected);
}

#[test]
fn rows_are_sorted_as_asked() {
    let mut world = many();
    let mut ui = at(View::Handles);
    press(&mut ui, &mut world, "s");
    let faults = |world: &World, ui: &Ui| -> Vec<u64> {
        let of = |row: &Row<'_>| if let Row::Life(life) = row { Some(life.faults) } else { None };
        rows(world, ui).iter().filter_map(of).collect()
    };
    let sorted = faults(&world, &ui);
    assert!(sorted.is_sorted_by(|a, b| a >= b) && sorted[0] > 0, "{sorted:?}");
    press(&mut ui, &mut world, "r");
    assert!(faults(&world, &ui).is_sorted());
}

#[test]
fn what_is_open_is_copied_as_plain_text() {
    let (mut world, mut ui) = (few(), Ui::default());
    press(&mut ui, &mut world, "6\ny");
    let Some(Order::Copy(text)) = ui.orders.first() else { panic!("{:?}", ui.orders) };
    assert!(text.starts_with("error slot-occupied\n") && text.contains("Evidence"), "{text}");
    assert!(!text.contains('\x1b'));
}

#[test]
fn a_saved_state_has_what_is_shown() {
    let world = few();
    let saved: serde_json::Value = serde_json::from_str(&json(&world, &Ui::default()).unwrap()).unwrap();
    assert_eq!(saved["counts"]["fault"], 12);
    assert_eq!(saved["lost"]["iommu_map"], 3);
    assert_eq!(saved["violations"][0]["rule"], "slot-occupied");
    let faults = saved["faults"].as_array().unwrap();
    assert_eq!((faults.len(), faults.iter().filter(|fault| fault["outstanding"] == true).count()), (13, 1));
    let live: Vec<_> =
        saved["attachments"].as_array().unwrap().iter().filter(|held| held["gone_ts"].is_null()).collect();
    assert!(live.iter().any(|held| held["pasid"] == 5 && held["since_ts"].is_null()), "the snapshot's: {live:?}");
    assert!(live.iter().any(|held| held["owner"] == "iommufd" && held["device_id"] == 2), "{live:?}");
}

#[test]
fn without_colour_nothing_is_coloured_and_in_ascii_nothing_else_is_drawn() {
    let world = few();
    for view in View::ALL {
        let buffer = picture(&world, &Ui { colour: false, ascii: true, ..at(view) }, 120, 40);
        for cell in &buffer.content {
            assert!(matches!(cell.fg, Color::Reset) && matches!(cell.bg, Color::Reset), "{view:?}");
        }
        // µ and … are letters of units and sentences.
        let drawn = text(&buffer).replace(['µ', '…'], "");
        assert!(drawn.is_ascii(), "{view:?}: {drawn}");
        let coloured = picture(&world, &at(view), 120, 40);
        // A light terminal is as good: neither white, nor black, nor yellow, and no background.
        for cell in &coloured.content {
            assert!(
                matches!(cell.fg, Color::Reset | Color::Red | Color::Green | Color::Magenta | Color::Cyan),
                "{view:?}: {:?}",
                cell.fg
            );
            assert_eq!(cell.bg, Color::Reset);
        }
        assert!(
            buffer.content.iter().any(|cell| cell.modifier.contains(Modifier::REVERSED)),
            "the tab shows which view"
        );
    }
}

#[test]
fn what_is_not_traced_is_not_said_to_be_none() {
    let mut world = world(&[]);
    world.topics = vec![Topic::Attach];
    assert!(shown(&world, &at(View::Faults), 80, 24).contains("not traced"));
    assert!(shown(&world, &at(View::Dma), 80, 24).contains("not traced"));
    let overview = shown(&world, &at(View::Overview), 80, 40);
    assert!(
        overview.contains("\nattach") && !overview.contains("\nmap ") && !overview.contains("\nsva_bind"),
        "{overview}"
    );
}

fn key() -> impl Strategy<Value = Key> {
    prop_oneof![
        6 => any::<char>().prop_map(Key::Char),
        20 => prop::sample::select("1234567\t ?/srplfdyw<>+-[]{}E gGjk".chars().collect::<Vec<_>>()).prop_map(Key::Char),
        8 => prop::sample::select(vec![
            Key::Enter, Key::Esc, Key::Tab, Key::BackTab, Key::Backspace, Key::Up, Key::Down, Key::Left, Key::Right,
            Key::PageUp, Key::PageDown, Key::Home, Key::End, Key::Ctrl('u'), Key::Ctrl('l'),
        ]),
    ]
}

/// Any event, at any time: a recording is from anyone.
fn event() -> impl Strategy<Value = (u8, u32, u64)> {
    (any::<u8>(), 0..6_u32, prop_oneof![4 => 0..SECOND, 1 => any::<u64>()])
}

fn write(script: &mut Script, (what, n, pass): (u8, u32, u64)) {
    script.now = script.now.saturating_add(pass).min(u64::MAX - 10_000_000);
    let device = dev_in(n, n / 2);
    let (handle, request) = (hnd(n, &device), Req::new((n > 3).then_some(n), n, u64::from(n) << 12));
    let mut by = script.by(n);
    match what % 12 {
        0 => by.attach(&device, n % 3, &handle),
        1 => by.detach(&device, n % 3, &handle),
        2 => by.fault(group(n), &device, &request, &handle),
        3 => by.read(device.id, &request, n),
        4 => by.write(group(n), &device, &request, &handle, u32::from(what) / 80),
        5 => by.replace(&device, 0, &handle, &hnd(n + 1, &device)),
        6 => by.event(ProbeId::Map, Phase::Exit, Body::Dma(DmaOp { size: pass, duration: pass, ..DmaOp::default() })),
        7 => by.lost(ProbeId::GroupFree, Phase::Enter, pass),
        8 => by.domain_free(domain(n)),
        9 => by.snapshot_begin(&device, domain(n)).snapshot_entry(&device, n, &handle).snapshot_end(&device),
        10 => by.sva_bound(&device, Some(&bond(n, &device)), n, n, 0),
        _ => by.event(ProbeId::DmarFault, Phase::Enter, Body::DmaFault(DmaFault { addr: pass, ..DmaFault::default() })),
    };
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn no_key_size_or_event_makes_it_panic(
        steps in prop::collection::vec((prop::option::of(event()), key(), 0..140_u16, 0..45_u16), 1..60),
        ascii in any::<bool>(),
    ) {
        let mut world = world(&[]);
        let mut ui = Ui { ascii, ..Ui::default() };
        let mut script = script();
        for (event, key, width, height) in steps {
            if let Some(event) = event {
                write(&mut script, event);
                world.apply(&script.events);
                script.events.clear();
                world.advance(script.now);
            }
            happened(&mut ui, &world);
            if let Some(action) = on_key(key, ui.mode()) {
                update(&mut ui, &mut world, action);
            }
            ui.orders.clear();
            let area = Rect::new(0, 0, width, height);
            let mut buffer = Buffer::empty(area);
            ui.page = view::draw(&mut buffer, area, &world, &ui);
        }
        prop_assert!(json(&world, &ui).is_ok());
    }
}
