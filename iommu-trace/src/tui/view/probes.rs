//! Probes: what became of each, what it gave, lost and cost; and what the tool itself takes.

use ratatui::{buffer::Buffer, layout::Rect, style::Style};

use super::{
    Scene, nothing,
    table::{self, Cells, Column, Table, left, right},
    text::{NONE, bytes, count},
};
use crate::{
    output::{duration, nanoseconds},
    probes::Verdict,
    tui::state::rows::Row,
};

const COLUMNS: &[Column] = &[
    left("PROBE", 30, 0),
    left("KIND", 12, 5),
    left("TOPIC", 10, 4),
    left("VERDICT", 14, 1),
    right("EVENTS", 6, 0),
    right("LOST", 5, 1),
    right("RUNS", 6, 3),
    right("RUN TIME", 9, 2),
    right("A RUN", 8, 4),
    left("", 1, 0),
];

const SORTED: [usize; 4] = [0, 4, 7, 5];

pub(super) fn draw(buffer: &mut Buffer, area: Rect, scene: &Scene<'_>) -> usize {
    let Scene { world, theme, .. } = scene;
    let cost = match (&world.cost, world.bpf_cpu) {
        (_, Some(share)) => format!("BPF programs {:.2}% of a CPU", share * 100.0),
        (Some(_), None) => {
            "BPF programs: no times, the kernel keeps no statistics (kernel.bpf_stats_enabled)".to_owned()
        }
        (None, None) => "BPF programs: not known".to_owned(),
    };
    let own = world.own.map_or_else(
        || "tool: not known".to_owned(),
        |own| format!("tool {:.1}% of a CPU, {} of memory", own.cpu * 100.0, bytes(own.memory)),
    );
    let first = format!("{own}; {cost}; {} events", count(world.model.counts().events));
    buffer.set_stringn(area.x, area.y, first, usize::from(area.width), theme.strong());
    let area = Rect { y: area.y + 1, height: area.height - 1, ..area };
    if area.height == 0 {
        return 1;
    }
    if scene.rows.is_empty() {
        let why = if scene.ui.filter.is_empty() { "The source has no probes." } else { "No probe matches the filter." };
        nothing(buffer, area, *theme, why);
        return 1;
    }
    let list = scene.ui.list();
    let sort = SORTED.get(list.sort).map(|&column| (column, list.reverse));
    let table = Table { theme: *theme, columns: COLUMNS, sort, total: scene.rows.len(), selected: scene.selected };
    table::draw(buffer, area, &table, |at| {
        let Row::Probe(row) = &scene.rows[at] else { return Cells::default() };
        let style = match row.status.verdict {
            Verdict::Ok => theme.good(),
            Verdict::Broken => theme.bad(),
            Verdict::Missing | Verdict::Waiting | Verdict::NotApplicable => theme.dim(),
        };
        // A kernel without statistics counts no runs: that is no zero.
        let cost = row.cost.as_ref().filter(|cost| cost.runs > 0);
        let counted = world.bpf_cpu.is_some() && row.cost.is_some();
        let no = if counted { "0" } else { NONE };
        let seen = row.status.verdict == Verdict::Ok;
        Cells::plain([
            row.status.function.clone(),
            row.status.kind.clone(),
            row.status.topic.clone(),
            row.status.verdict.name().to_owned(),
            if seen { count(row.events) } else { NONE.to_owned() },
            if seen { count(row.lost) } else { NONE.to_owned() },
            cost.map_or_else(|| no.to_owned(), |cost| count(cost.runs)),
            cost.map_or_else(|| no.to_owned(), |cost| duration(cost.run_ns)),
            cost.map_or_else(|| NONE.to_owned(), |cost| nanoseconds(cost.run_ns / cost.runs.max(1))),
            String::new(),
        ])
        .with(3, style)
        .with(5, if row.lost > 0 { theme.bad() } else { Style::new() })
    })
}
