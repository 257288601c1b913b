//! Mappings by domain, invalidations by IOMMU, and faults that nothing recovers from.

use ratatui::{buffer::Buffer, layout::Rect};

use super::{
    Scene, nothing,
    table::{self, Cells, Column, Table, left, right},
    text::{NONE, address, bytes, count, device, maybe, pasid, rate, since},
};
use crate::{
    model::span::{SpanKind, Topic},
    tui::state::{dma::Row as DmaRow, rows::Row},
};

const COLUMNS: &[Column] = &[
    left("WHAT", 12, 0),
    left("DOMAIN/IOMMU", 16, 0),
    right("MAP/S", 7, 0),
    right("UNMAP/S", 7, 2),
    right("SIZE/S", 7, 3),
    right("CALLS", 6, 4),
    right("MEAN", 7, 6),
    right("MAP P99", 9, 5),
    right("UNM P99", 9, 6),
    right("FAILED", 6, 3),
    left("", 1, 0),
];

const SORTED: [Option<usize>; 4] = [None, Some(5), Some(6), Some(7)];

pub(super) fn draw(buffer: &mut Buffer, area: Rect, scene: &Scene<'_>) -> usize {
    let mut area = area;
    if !(scene.world.traces(Topic::Dma) || scene.world.traces(Topic::Invalidate)) {
        let why = "map, unmap and invalidation are not traced, for they are many: start with --dma";
        buffer.set_stringn(area.x, area.y, why, usize::from(area.width), scene.theme.warn());
        area = Rect { y: area.y + 1, height: area.height - 1, ..area };
    }
    if area.height == 0 {
        return 1;
    }
    if scene.rows.is_empty() {
        let why = if scene.ui.filter.is_empty() {
            "No mapping, invalidation or unrecoverable fault was seen."
        } else {
            "Nothing matches the filter."
        };
        nothing(buffer, area, scene.theme, why);
        return 1;
    }
    let list = scene.ui.list();
    let sort = SORTED.get(list.sort).copied().flatten().map(|column| (column, list.reverse));
    let table = Table { theme: scene.theme, columns: COLUMNS, sort, total: scene.rows.len(), selected: scene.selected };
    table::draw(buffer, area, &table, |at| cells(scene, at))
}

fn cells(scene: &Scene<'_>, at: usize) -> Cells {
    match &scene.rows[at] {
        Row::Domain(domain, row) => {
            let name = if domain.is_null() { "others".to_owned() } else { address(Some(*domain)) };
            calls(scene, "domain".into(), name, row, true)
        }
        Row::Invalidation(iommu, kind, row) => calls(scene, format!("inv {kind}"), address(Some(*iommu)), row, false),
        Row::DmaFault(told) => {
            let SpanKind::DmaFault(fault) = &told.span.kind else { return Cells::default() };
            let who =
                fault.device.map_or_else(|| fault.source_id.clone().unwrap_or_default(), |name| device(Some(name)));
            let text = format!(
                "DMA fault    {} {who} {} {} {:#x} reason {} {}",
                since(scene.world.began, told.span.ts),
                fault.pasid.map_or_else(|| pasid(0), pasid),
                fault.access,
                fault.addr,
                fault.reason.map_or_else(|| NONE.to_owned(), |reason| format!("{reason:#04x}")),
                fault.iommu.as_deref().unwrap_or_default()
            );
            Cells::whole(text, scene.theme.bad())
        }
        _ => Cells::default(),
    }
}

fn calls(scene: &Scene<'_>, what: String, name: String, row: &DmaRow, is_domain: bool) -> Cells {
    let ((first, second, amount), seconds) = row.recent(scene.world.window(scene.ui));
    let calls = row.maps.calls + row.unmaps.calls;
    let failed = row.maps.failed + row.unmaps.failed;
    let mean = row.maps.amount.saturating_add(row.unmaps.amount).checked_div(calls);
    let size = |n: u64| if is_domain { bytes(n) } else { count(n) };
    let text = [
        what,
        name,
        rate(first.into(), seconds),
        if is_domain { rate(second.into(), seconds) } else { String::new() },
        if seconds > 0.0 { size((amount as f64 / seconds) as u64) } else { NONE.to_owned() },
        count(calls),
        mean.map_or_else(|| NONE.to_owned(), size),
        maybe(row.maps.took.quantile(0.99)),
        if is_domain { maybe(row.unmaps.took.quantile(0.99)) } else { String::new() },
        count(failed),
        String::new(),
    ];
    let drawn = Cells::plain(text);
    if failed > 0 { drawn.with(9, scene.theme.bad()) } else { drawn }
}
