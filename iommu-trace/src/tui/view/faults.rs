//! Page faults: those that wait for their answer on top, the others newest first.

use ratatui::{buffer::Buffer, layout::Rect, style::Style};

use super::{
    Scene, nothing,
    table::{self, Cells, Column, Table, left, right},
    text::{NONE, device, maybe, pasid, permissions, since},
};
use crate::{
    model::span::Topic,
    output::duration,
    tui::state::rows::{FaultRow, Row},
};

const COLUMNS: &[Column] = &[
    right("TIME", 9, 4),
    left("DEVICE", 14, 0),
    right("PASID", 7, 2),
    left("ADDRESS", 14, 1),
    left("PERM", 4, 5),
    right("LOOK-UP", 8, 2),
    right("HANDLER", 8, 6),
    right("READ", 8, 7),
    right("ANSWER", 8, 3),
    left("RESPONSE", 14, 1),
];

const SORTED: [usize; 4] = [0, 1, 5, 8];

pub(super) fn draw(buffer: &mut Buffer, area: Rect, scene: &Scene<'_>) -> usize {
    if scene.rows.is_empty() {
        let why = if !scene.world.traces(Topic::Fault) {
            "Faults are not traced: start with --events fault among the others."
        } else if !scene.ui.filter.is_empty() {
            "No fault matches the filter."
        } else {
            "No page fault was reported. They come from devices with PRI, from iommufd's test device, and from drivers \
             that report them to the core."
        };
        nothing(buffer, area, scene.theme, why);
        return 1;
    }
    let list = scene.ui.list();
    let sort = SORTED.get(list.sort).map(|&column| (column, list.reverse));
    let table = Table { theme: scene.theme, columns: COLUMNS, sort, total: scene.rows.len(), selected: scene.selected };
    table::draw(buffer, area, &table, |at| match &scene.rows[at] {
        Row::Fault(row) => cells(scene, row),
        _ => Cells::default(),
    })
}

fn cells(scene: &Scene<'_>, row: &FaultRow<'_>) -> Cells {
    let Some(fault) = row.fault() else { return Cells::default() };
    let (at, theme) = (scene.world.at(scene.ui), scene.theme);
    let stage = |ns: Option<u64>| maybe(row.stage(at, ns));
    let answered = row.stage(at, fault.response_ns);
    let (told, style) = match (answered, fault.response.0) {
        (Some(_), Some(code)) => {
            let by = fault.answered_by.map_or("", |by| match by {
                crate::model::span::Answerer::User => "",
                crate::model::span::Answerer::Automatic => " by detach",
                crate::model::span::Answerer::QueueDestroy => " by queue destroy",
                crate::model::span::Answerer::QueueRemove => " by queue removal",
                crate::model::span::Answerer::Report => " by core",
                crate::model::span::Answerer::Handler => " by handler",
            });
            let good = code == crate::event::ResponseCode::Success;
            (format!("{code}{by}"), if good { theme.good() } else { theme.warn() })
        }
        _ if row.is_open() && !fault.last => ("partial".to_owned(), Style::new()),
        _ if row.is_open() => {
            let age = duration(at.saturating_sub(row.span().ts));
            (format!("waits for {age}"), theme.warn())
        }
        _ if !fault.last => ("partial".to_owned(), Style::new()),
        _ => ("none".to_owned(), theme.bad()),
    };
    let text = [
        since(scene.world.began, row.span().ts),
        device(Some(fault.device)),
        fault.pasid.map_or_else(|| pasid(0), pasid),
        format!("{:#x}", fault.addr),
        permissions(fault.perm),
        stage(fault.lookup_ns),
        stage(fault.handler_ns),
        stage(fault.delivered_ns),
        answered.map_or_else(|| NONE.to_owned(), duration),
        told,
    ];
    Cells::plain(text).with(9, style)
}
