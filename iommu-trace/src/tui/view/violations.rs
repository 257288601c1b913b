//! Rules that were broken.

use ratatui::{buffer::Buffer, layout::Rect};

use super::{
    Scene, nothing,
    table::{self, Cells, Column, Table, left, right},
    text::{count, device, pasid, since},
};
use crate::{model::Severity, tui::state::rows::Row};

const COLUMNS: &[Column] = &[
    left("RULE", 22, 0),
    left("SEVERITY", 8, 3),
    right("COUNT", 6, 1),
    right("FIRST", 10, 4),
    right("LAST", 10, 2),
    left("DEVICE", 14, 1),
    right("PASID", 7, 3),
    left("MESSAGE", 20, 5),
];

const SORTED: [usize; 3] = [4, 2, 0];

pub(super) fn draw(buffer: &mut Buffer, area: Rect, scene: &Scene<'_>) -> usize {
    if scene.rows.is_empty() {
        let judged = scene.world.model.judgements();
        let unsure: u64 = judged.unjudged.values().sum();
        let why = match (scene.ui.filter.is_empty(), unsure) {
            (false, _) => "No violation matches the filter.".to_owned(),
            (true, 0) => "No rule was broken.".to_owned(),
            (true, unsure) => format!(
                "No rule was broken for certain. {unsure} times something looked like it and could not be judged: its \
                 beginning was not seen, or records were lost."
            ),
        };
        nothing(buffer, area, scene.theme, &why);
        return 1;
    }
    let list = scene.ui.list();
    let sort = SORTED.get(list.sort).map(|&column| (column, list.reverse));
    let table = Table { theme: scene.theme, columns: COLUMNS, sort, total: scene.rows.len(), selected: scene.selected };
    table::draw(buffer, area, &table, |at| {
        let Row::Breach(_, breach) = &scene.rows[at] else { return Cells::default() };
        let (violation, subject) = (&breach.first, &breach.first.subject);
        let style = if violation.severity == Severity::Error { scene.theme.bad() } else { scene.theme.warn() };
        Cells::plain([
            violation.rule.slug().to_owned(),
            violation.severity.name().to_owned(),
            count(breach.count),
            since(scene.world.began, violation.ts),
            since(scene.world.began, breach.last),
            device(subject.device),
            subject.pasid.map_or_else(String::new, pasid),
            violation.message.clone(),
        ])
        .with(0, style)
        .with(1, style)
    })
}
