//! Stages of faults: figures, a histogram and a heat map over time, of one device or of all.

use ratatui::{buffer::Buffer, layout::Rect, style::Style};

use super::{
    Scene,
    chart::{bar, heat_map},
    nothing,
    table::{self, Cells, Column, Table, left, right},
    text::{NONE, count, maybe},
};
use crate::{
    model::Measure,
    output::{duration, nanoseconds},
    tui::state::{
        bins::{BINS, Bins, STAGES, least},
        series,
    },
};

const COLUMNS: &[Column] = &[
    left("STAGE", 10, 0),
    right("COUNT", 6, 1),
    right("P50", 8, 0),
    right("P90", 8, 4),
    right("P99", 8, 0),
    right("MAX", 8, 3),
    right("ALL P50", 9, 5),
    right("ALL P99", 9, 5),
    left("", 1, 0),
];

pub(super) fn draw(buffer: &mut Buffer, area: Rect, scene: &Scene<'_>) -> usize {
    let Scene { world, ui, theme, .. } = scene;
    let (theme, window) = (*theme, world.window(ui));
    let whose = ui.device.map_or_else(|| "all devices".to_owned(), |name| name.to_string());
    let title = format!("report to … of {whose}, last {}; whole run on the right (d: next device)", ui.span().name);
    buffer.set_stringn(area.x, area.y, title, usize::from(area.width), theme.dim());
    let stages = world.latencies(window, ui.device);
    let overall = world.model.latencies().overall();
    let rows = STAGES.len() as u16 + 1;
    let wanted = Rect { y: area.y + 1, height: area.height.saturating_sub(1).min(rows + 1), ..area };
    // One more line: the mirror's own look-up beside the kernel's. It cannot be selected.
    let table = Table { theme, columns: COLUMNS, sort: None, total: usize::from(rows), selected: scene.selected };
    table::draw(buffer, wanted, &table, |at| {
        let all = |measure: Measure, tell: fn(u64) -> String, share: f64| {
            overall.get(measure).map_or_else(|| NONE.to_owned(), |histogram| tell(histogram.value_at_quantile(share)))
        };
        match STAGES.get(at) {
            Some(&measure) => {
                let bins = &stages.0[at];
                let q = |share| maybe(bins.quantile(share));
                Cells::plain([
                    if measure == Measure::Interrupt { "from irq" } else { measure.name() }.to_owned(),
                    count(bins.count()),
                    q(0.5),
                    q(0.9),
                    q(0.99),
                    maybe(bins.max()),
                    all(measure, duration, 0.5),
                    all(measure, duration, 0.99),
                    String::new(),
                ])
            }
            None => Cells::plain([
                "mirror".to_owned(),
                count(overall.get(Measure::Mirror).map_or(0, hdrhistogram::Histogram::len)),
                NONE.to_owned(),
                NONE.to_owned(),
                NONE.to_owned(),
                NONE.to_owned(),
                all(Measure::Mirror, nanoseconds, 0.5),
                all(Measure::Mirror, nanoseconds, 0.99),
                String::new(),
            ])
            .styled(theme.dim()),
        }
    });
    let rest = Rect { y: wanted.bottom(), height: area.bottom().saturating_sub(wanted.bottom()), ..area };
    if rest.height < 2 {
        return STAGES.len();
    }
    let stage = scene.selected.unwrap_or(0).min(STAGES.len() - 1);
    let bins = &stages.0[stage];
    let Some((low, high)) = bins.ends() else {
        nothing(buffer, rest, theme, &format!("No {} was measured in this window.", STAGES[stage].name()));
        return STAGES.len();
    };
    // A little room around what was seen, so that it is seen where it lies.
    let ends = (low.saturating_sub(2), (high + 2).min(BINS as u8 - 1));
    maps(buffer, rest, scene, window, stage, bins, ends);
    STAGES.len()
}

/// The histogram on the left, the heat map over time on the right, with one scale between them.
fn maps(
    buffer: &mut Buffer,
    area: Rect,
    scene: &Scene<'_>,
    window: series::Window,
    stage: usize,
    bins: &Bins,
    (low, high): (u8, u8),
) {
    let theme = scene.theme;
    let title = format!("{}: how many took how long, and when (time to the right)", STAGES[stage].name());
    buffer.set_stringn(area.x, area.y, title, usize::from(area.width), theme.strong());
    let area = Rect { y: area.y + 1, height: area.height - 1, ..area };
    // Whole rows of bins, the scale from the shortest to the longest that was seen.
    let span = u16::from(high - low) + 1;
    let bins_a_row = span.div_ceil(area.height.max(1)).max(1);
    let rows = span.div_ceil(bins_a_row);
    let row_of = |bin: u8| u16::from(bin.saturating_sub(low)) / bins_a_row;
    let mut counts = vec![0_u64; usize::from(rows)];
    for (bin, n) in bins.iter() {
        if let Some(row) = counts.get_mut(usize::from(row_of(bin))) {
            *row += u64::from(n);
        }
    }
    let most = counts.iter().copied().max().unwrap_or(0);
    let label = 16.min(area.width);
    let bars = area.width.saturating_sub(label) / 3;
    for (row, &n) in counts.iter().enumerate() {
        let Some(y) = area.bottom().checked_sub(1 + row as u16).filter(|y| *y >= area.y) else { break };
        let bin = (u16::from(low) + row as u16 * bins_a_row).min(BINS as u16 - 1) as u8;
        let text = format!("{:>9} {:>5} ", duration(least(bin)), count(n));
        buffer.set_stringn(area.x, y, text, usize::from(label), if n == 0 { theme.dim() } else { Style::new() });
        buffer.set_stringn(area.x + label, y, bar(n, most, bars, theme), usize::from(bars), theme.chart());
    }
    let map = Rect {
        x: area.x + label + bars + 1,
        y: area.bottom().saturating_sub(rows.min(area.height)),
        width: area.width.saturating_sub(label + bars + 1),
        height: rows.min(area.height),
    };
    if map.is_empty() {
        return;
    }
    let Some(history) = scene.world.stage_series(scene.ui.device) else { return };
    let columns = series::columns(history, window, usize::from(map.width), |sum: &mut Bins, stages| {
        sum.add(&stages.0[stage]);
    });
    let heat: Vec<Option<Vec<u64>>> = columns
        .into_iter()
        .map(|column| {
            column.map(|column| {
                let mut rows = vec![0_u64; usize::from(rows)];
                for (bin, n) in column.iter() {
                    if let Some(row) = rows.get_mut(usize::from(row_of(bin))) {
                        *row += u64::from(n);
                    }
                }
                rows
            })
        })
        .collect();
    heat_map(buffer, map, theme, theme.chart(), |x, y| {
        heat.get(usize::from(x))?.as_ref().and_then(|rows| rows.get(usize::from(y)).copied())
    });
}
