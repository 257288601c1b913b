//! Drawing a state into a buffer: no I/O, one file a view. Any size is drawn, down to nothing.

mod chart;
mod detail;
mod dma;
mod faults;
mod handles;
mod help;
mod latency;
mod overview;
mod probes;
mod table;
pub mod text;
mod theme;
mod violations;

use ratatui::{buffer::Buffer, layout::Rect, style::Style, text::Line};

use super::{
    keys,
    state::{
        Ui, World,
        rows::{Row, rows, selected},
        ui::{Mode, Time, View},
    },
};

pub use theme::Theme;

/// What a view needs to draw itself.
struct Scene<'a> {
    world: &'a World,
    ui: &'a Ui,
    rows: &'a [Row<'a>],
    selected: Option<usize>,
    theme: Theme,
}

/// Draws everything. Returns how many rows of the list fitted.
pub fn draw(buffer: &mut Buffer, area: Rect, world: &World, ui: &Ui) -> usize {
    let theme = Theme { ascii: ui.ascii, colour: ui.colour };
    let area = area.intersection(buffer.area);
    if area.is_empty() {
        return 1;
    }
    buffer.set_style(area, Style::reset());
    let row = |y: u16| Rect { y: area.y + y, height: 1, ..area };
    header(buffer, row(0), world, ui, theme);
    if area.height == 1 {
        return 1;
    }
    footer(buffer, row(area.height - 1), ui, theme);
    let mut top = 1;
    if area.height >= 8 {
        tabs(buffer, row(1), ui, theme);
        top = 2;
    }
    if area.height >= 6
        && let Some((text, style)) = banner(world, ui, theme)
    {
        buffer.set_stringn(area.x, area.y + top, text, usize::from(area.width), style);
        top += 1;
    }
    let content = Rect { y: area.y + top, height: area.height - top - 1, ..area };
    if content.is_empty() {
        return 1;
    }
    if let Some(line) = ui.help {
        return scrolled(buffer, content, &help::lines(theme), line);
    }
    if let Some((item, line)) = ui.detail {
        return scrolled(buffer, content, &detail::lines(world, ui, theme, item, content.width), line);
    }
    let rows = rows(world, ui);
    let selected = selected(&rows, ui);
    let scene = Scene { world, ui, rows: &rows, selected, theme };
    match ui.view {
        View::Overview => overview::draw(buffer, content, &scene),
        View::Handles => handles::draw(buffer, content, &scene),
        View::Faults => faults::draw(buffer, content, &scene),
        View::Latency => latency::draw(buffer, content, &scene),
        View::Dma => dma::draw(buffer, content, &scene),
        View::Violations => violations::draw(buffer, content, &scene),
        View::Probes => probes::draw(buffer, content, &scene),
    }
    .max(1)
}

/// What is open, or selected, as plain text.
#[must_use]
pub fn detail_text(world: &World, ui: &Ui) -> Option<String> {
    let theme = Theme { ascii: ui.ascii, colour: false };
    let item = if let Some((item, _)) = ui.detail {
        item
    } else {
        let rows = rows(world, ui);
        selected(&rows, ui).and_then(|at| rows.get(at)).map(Row::item)?
    };
    let lines = detail::lines(world, ui, theme, item, 100);
    let text: Vec<String> = lines.iter().map(|line| line.to_string().trim_end().to_owned()).collect();
    Some(text.join("\n") + "\n")
}

/// Lines from `from` on, as many as fit; the last page is the last place. Returns how many fit.
fn scrolled(buffer: &mut Buffer, area: Rect, lines: &[Line<'_>], from: usize) -> usize {
    let page = usize::from(area.height);
    let from = from.min(lines.len().saturating_sub(page));
    for (y, line) in (area.y..area.bottom()).zip(&lines[from..]) {
        buffer.set_line(area.x, y, line, area.width);
    }
    page
}

fn header(buffer: &mut Buffer, area: Rect, world: &World, ui: &Ui, theme: Theme) {
    let at = text::since(world.began, world.at(ui));
    let (state, style) = match (ui.time, world.played) {
        (Time::At(ts), _) => {
            let behind = text::ago(world.now.saturating_sub(ts));
            (format!("{} PAUSED at {at}s, {behind} behind", theme.sign("‖", "=")), theme.warn())
        }
        (Time::Live, Some(played)) => {
            let how = if world.ended.is_some() {
                "END".to_owned()
            } else if played.paused {
                "HELD".to_owned()
            } else {
                format!("PLAY {}x", played.speed)
            };
            let of = played.to.map_or_else(String::new, |to| format!(" of {}s", text::since(world.began, to)));
            (format!("{} {how} {at}s{of}", theme.sign("▶", ">")), theme.good())
        }
        (Time::Live, None) if world.ended.is_some() => (format!("ENDED at {at}s"), theme.warn()),
        (Time::Live, None) => (format!("{} LIVE {at}s", theme.sign("●", "*")), theme.good()),
    };
    let mut line = Line::default();
    line.push_span(ratatui::text::Span::styled(state, style));
    let mut push = |text: String, style: Style| {
        line.push_span("  ");
        line.push_span(ratatui::text::Span::styled(text, style));
    };
    let broken = world.breaches.errors + world.breaches.warnings;
    if broken > 0 {
        push(format!("{broken} broken"), if world.breaches.errors > 0 { theme.bad() } else { theme.warn() });
    }
    let lost = world.lost();
    push(format!("lost {}", text::count(lost)), if lost > 0 { theme.bad() } else { Style::new() });
    let lately = world.lately(world.window(ui));
    let rate = text::rate(u64::from(world.sum(lately).events), lately.seconds());
    push(format!("{rate} events/s"), Style::new());
    push(format!("window {}", ui.span().name), Style::new());
    if ui.freeze {
        push(if ui.frozen.is_some() { "frozen".into() } else { "freeze armed".into() }, theme.warn());
    }
    if let Some(command) = &world.command {
        push(command.clone(), Style::new());
    }
    if !world.info.stretched.is_empty() {
        push("stretched".into(), theme.warn());
    }
    push(format!("Linux {} {}", world.info.kernel, world.info.host), theme.dim());
    buffer.set_line(area.x, area.y, &line, area.width);
}

fn tabs(buffer: &mut Buffer, area: Rect, ui: &Ui, theme: Theme) {
    // Narrow, the numbers alone, but for the one that is shown.
    let full: usize = View::ALL.iter().map(|view| view.title().len() + 4).sum();
    let mut x = area.x;
    for (number, view) in (1..).zip(View::ALL) {
        let shown = view == ui.view;
        let title = if shown || full <= usize::from(area.width) { view.title() } else { "" };
        let text = format!(" {number} {title}").trim_end().to_owned() + " ";
        let style = if shown { theme.selected() } else { Style::new() };
        let room = usize::from(area.right().saturating_sub(x));
        x = buffer.set_stringn(x, area.y, text, room, style).0;
    }
}

/// The one line that must not be overlooked.
fn banner(world: &World, ui: &Ui, theme: Theme) -> Option<(String, Style)> {
    let at = world.at(ui);
    let seen = world.breaches.list().iter().filter(|breach| breach.first.ts <= at);
    if let Some(last) = seen.max_by_key(|breach| breach.last) {
        let style = if world.breaches.errors > 0 { theme.bad() } else { theme.warn() };
        let (errors, warnings) = (world.breaches.errors, world.breaches.warnings);
        let of = |count: u64, one: &str, many: &str| format!("{count} {}", if count == 1 { one } else { many });
        let text = format!(
            "{} {}, {}; last {}: {}",
            theme.sign("▲", "!"),
            of(errors, "violation", "violations"),
            of(warnings, "warning", "warnings"),
            last.first.rule.slug(),
            last.first.message
        );
        return Some((text, style));
    }
    let lost = world.lost();
    if lost > 0 {
        return Some((
            format!(
                "{lost} records lost: what depends on them is uncertain; ask for fewer --events, or a larger --buffer-size"
            ),
            theme.bad(),
        ));
    }
    world.ended.as_ref().map(|why| (format!("no more events: {why}"), theme.warn()))
}

fn footer(buffer: &mut Buffer, area: Rect, ui: &Ui, theme: Theme) {
    let width = usize::from(area.width);
    if ui.typing.is_some() {
        let cursor = theme.sign("▏", "_");
        let (x, _) =
            buffer.set_stringn(area.x, area.y, format!("/{}{cursor}", ui.filter.text()), width, theme.strong());
        keys_line(buffer, Rect { x: x + 2, width: area.right().saturating_sub(x + 2), ..area }, Mode::Typing, theme);
        return;
    }
    if let Some(note) = &ui.note {
        buffer.set_stringn(area.x, area.y, note, width, theme.strong());
        return;
    }
    let mut x = area.x;
    if !ui.filter.is_empty() {
        x = buffer.set_stringn(x, area.y, format!("/{} ", ui.filter.text()), width, theme.warn()).0;
    }
    keys_line(buffer, Rect { x, width: area.right().saturating_sub(x), ..area }, ui.mode(), theme);
}

fn keys_line(buffer: &mut Buffer, area: Rect, mode: Mode, theme: Theme) {
    let mut x = area.x;
    for (key, word) in keys::footer(mode) {
        let needs = (key.chars().count() + word.chars().count() + 1) as u16;
        if x.saturating_add(needs) > area.right() {
            break;
        }
        x = buffer.set_stringn(x, area.y, &key, usize::from(area.right() - x), theme.strong()).0;
        x = buffer.set_stringn(x, area.y, format!(" {word}  "), usize::from(area.right() - x), Style::new()).0;
    }
}

/// Says why there is nothing to see: no data is not zero.
fn nothing(buffer: &mut Buffer, area: Rect, theme: Theme, why: &str) {
    let width = usize::from(area.width).max(1);
    let mut y = area.y;
    let mut line = String::new();
    for word in why.split(' ').chain([""]) {
        let full = !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width;
        if full || word.is_empty() {
            if y >= area.bottom() {
                return;
            }
            buffer.set_stringn(area.x, y, &line, width, theme.dim());
            y += 1;
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
}
