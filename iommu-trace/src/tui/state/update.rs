//! What an action changes. Pure: what must be done outside is left as an [`Order`].

use super::{
    Ui, World,
    filter::Filter,
    items::Item,
    rows::{Row, rows, selected},
    series::BUCKET_NS,
    ui::{Order, Time},
};
use crate::tui::keys::Action;

/// How far a recording leaps.
const SEEK_NS: u64 = 10_000_000_000;

/// Does what was asked for.
pub fn update(ui: &mut Ui, world: &mut World, action: Action) {
    ui.note = None;
    match action {
        Action::Quit => ui.orders.push(Order::Quit),
        Action::Suspend => ui.orders.push(Order::Suspend),
        Action::Redraw => ui.orders.push(Order::Redraw),
        Action::Go(view) => go(ui, view),
        Action::Turn(by) => go(ui, ui.view.step(by.into())),
        Action::Move(by) => scroll(ui, world, by.into()),
        Action::Page(by) => scroll(ui, world, by as isize * (ui.page.max(2) - 1) as isize),
        Action::First => scroll(ui, world, -(isize::MAX / 2)),
        Action::Last => scroll(ui, world, isize::MAX / 2),
        Action::Open => open(ui, world),
        Action::Close => {
            if ui.detail.take().is_none() {
                ui.filter = Filter::default();
            }
        }
        Action::Help => ui.help = if ui.help.is_some() { None } else { Some(0) },
        Action::Filter => ui.typing = Some(ui.filter.text().to_owned()),
        Action::Type(c) => ui.filter = Filter::new(&format!("{}{c}", ui.filter.text())),
        Action::Erase => {
            let mut text = ui.filter.text().to_owned();
            text.pop();
            ui.filter = Filter::new(&text);
        }
        Action::Clear => ui.filter = Filter::default(),
        Action::Accept => ui.typing = None,
        Action::Cancel => ui.filter = Filter::new(&ui.typing.take().unwrap_or_default()),
        Action::Sort => {
            let sorts = ui.view.sorts().len();
            let list = ui.list_mut();
            list.sort = if sorts == 0 { 0 } else { (list.sort + 1) % sorts };
        }
        Action::Reverse => ui.list_mut().reverse = !ui.list().reverse,
        Action::Pause => pause(ui, world),
        Action::Step(by) => step(ui, world, i64::from(by) * BUCKET_NS as i64),
        Action::Leap(by) => step(ui, world, i64::from(by) * (ui.span().buckets() * BUCKET_NS / 2) as i64),
        Action::Live => go_live(ui, world),
        Action::Window(by) => ui.widen(by.into()),
        Action::Freeze => freeze(ui, world),
        Action::Device => next_device(ui, world),
        Action::Copy => copy(ui, world),
        Action::Save => ui.orders.push(Order::Save),
        Action::Speed(by) => match world.played {
            Some(played) => {
                let factor = if by < 0 { 0.5 } else { 2.0 };
                ui.orders.push(Order::Speed((played.speed * factor).clamp(1.0 / 64.0, 1024.0)));
            }
            None => ui.note = Some("what happens live has its own speed".to_owned()),
        },
        Action::Seek(by) => seek(ui, world, world.now.saturating_add_signed(i64::from(by) * SEEK_NS as i64)),
        Action::SeekEnd => seek(ui, world, u64::MAX),
    }
}

/// What follows from new events.
pub fn happened(ui: &mut Ui, world: &World) {
    if let Some(ts) = world.first_breach.filter(|_| ui.freeze && ui.frozen.is_none()) {
        ui.frozen = Some(ts);
        ui.time = Time::At(ts);
        ui.note = Some("stopped at the first violation: l goes on".to_owned());
    }
}

fn go(ui: &mut Ui, view: super::ui::View) {
    ui.help = None;
    ui.detail = None;
    ui.view = view;
}

fn scroll(ui: &mut Ui, world: &World, by: isize) {
    // Where the last line is, is known when they are drawn.
    if let Some(line) = ui.help.as_mut().or(ui.detail.as_mut().map(|(_, line)| line)) {
        *line = line.saturating_add_signed(by).min(1 << 16);
        return;
    }
    let (item, place) = {
        let rows = rows(world, ui);
        let Some(at) = selected(&rows, ui) else { return };
        let place = at.saturating_add_signed(by).min(rows.len() - 1);
        (rows.get(place).map(Row::item), place)
    };
    let list = ui.list_mut();
    (list.selected, list.place) = (item, place);
}

fn open(ui: &mut Ui, world: &mut World) {
    let item = {
        let rows = rows(world, ui);
        selected(&rows, ui).and_then(|at| rows.get(at).map(|row| (at, row.item())))
    };
    let Some((place, item)) = item else { return };
    let list = ui.list_mut();
    (list.selected, list.place) = (Some(item), place);
    ui.detail = Some((item, 0));
    for id in stacks_of(world, item) {
        world.want_stack(id);
    }
}

/// The stacks that a detail shows.
fn stacks_of(world: &World, item: Item) -> Vec<u32> {
    match item {
        Item::Life(id) => world.lives.get(id).map_or_else(Vec::new, |life| {
            [life.born, life.gone].into_iter().flatten().filter_map(|moment| moment.stack).collect()
        }),
        Item::Fault(ts, tid, _) => {
            let over = world.logs.faults.iter().find(|told| told.span.ts == ts && told.span.tid == tid);
            let stack = over.and_then(|told| told.span.stack);
            let under_way = || {
                world.model.faults_under_way().find(|span| span.ts == ts && span.tid == tid).and_then(|span| span.stack)
            };
            stack.or_else(under_way).into_iter().collect()
        }
        _ => Vec::new(),
    }
}

fn pause(ui: &mut Ui, world: &World) {
    match (ui.time, world.played) {
        (Time::At(_), _) => go_live(ui, world),
        // A recording that stands still is paused as a whole.
        (Time::Live, Some(played)) if world.ended.is_none() => ui.orders.push(Order::Hold(!played.paused)),
        (Time::Live, _) => ui.time = Time::At(world.now),
    }
}

fn go_live(ui: &mut Ui, world: &World) {
    ui.time = Time::Live;
    if world.played.is_some_and(|played| played.paused) {
        ui.orders.push(Order::Hold(false));
    }
}

fn step(ui: &mut Ui, world: &World, by: i64) {
    let at = world.at(ui).saturating_add_signed(by);
    ui.time = if at >= world.now { Time::Live } else { Time::At(at.max(world.began)) };
}

fn freeze(ui: &mut Ui, world: &World) {
    ui.freeze = !ui.freeze;
    ui.frozen = None;
    ui.note = Some(if ui.freeze { "the first violation stops the time" } else { "no violation stops the time" }.into());
    happened(ui, world);
}

fn next_device(ui: &mut Ui, world: &World) {
    let mut names = world.devices.iter().map(|(name, _)| *name);
    ui.device = match ui.device {
        None => names.next(),
        Some(shown) => names.skip_while(|name| *name != shown).nth(1),
    };
}

fn copy(ui: &mut Ui, world: &World) {
    let text = crate::tui::view::detail_text(world, ui);
    match text {
        Some(text) => {
            ui.note = Some(format!("handed {} lines to the terminal's clipboard", text.lines().count()));
            ui.orders.push(Order::Copy(text));
        }
        None => ui.note = Some("there is nothing to copy: select a row".to_owned()),
    }
}

fn seek(ui: &mut Ui, world: &World, to: u64) {
    match world.played {
        Some(played) => {
            ui.time = Time::Live;
            ui.orders.push(Order::Seek(to.max(played.from)));
        }
        None => ui.note = Some("only a recording can be played from another time on".to_owned()),
    }
}
