//! Groups, their slots and what sits in them.

use ratatui::{buffer::Buffer, layout::Rect};

use super::{
    Scene, nothing,
    table::{self, Cells, Column, Table, left, right},
    text::{NONE, address, ago, count, device, group, pasid},
};
use crate::tui::state::{
    lives::Life,
    rows::{GroupRow, Row},
};

const COLUMNS: &[Column] = &[
    left("GRP", 4, 0),
    left("DEVICE", 14, 1),
    right("PASID", 7, 0),
    left("OWNER", 8, 2),
    left("TYPE", 10, 3),
    right("ID", 5, 5),
    left("HANDLE", 16, 6),
    right("AGE", 7, 2),
    right("FAULTS", 7, 1),
    right("LAST", 5, 4),
    left("STATE", 10, 3),
];

/// The place of each sort in the columns.
const SORTED: [usize; 4] = [0, 8, 7, 9];

pub(super) fn draw(buffer: &mut Buffer, area: Rect, scene: &Scene<'_>) -> usize {
    if scene.rows.is_empty() {
        let why = if scene.ui.filter.is_empty() {
            "Nothing is attached, and no group is known: no device of this machine is behind an IOMMU that the kernel uses."
        } else {
            "Nothing matches the filter."
        };
        nothing(buffer, area, scene.theme, why);
        return 1;
    }
    let list = scene.ui.list();
    let sort = SORTED.get(list.sort).map(|&column| (column, list.reverse));
    let table = Table { theme: scene.theme, columns: COLUMNS, sort, total: scene.rows.len(), selected: scene.selected };
    table::draw(buffer, area, &table, |at| cells(scene, at))
}

fn cells(scene: &Scene<'_>, at: usize) -> Cells {
    let theme = scene.theme;
    match &scene.rows[at] {
        Row::Group(row) => Cells::whole(group_line(row), theme.strong()),
        Row::Changing(change) => {
            let since = scene.world.now.saturating_sub(change.ts);
            let text = [
                group(change.group),
                device(change.device),
                pasid(change.pasid),
                change.task.comm.to_string(),
                String::new(),
                String::new(),
                address(change.handle),
                ago(since),
                String::new(),
                String::new(),
                format!("{}ing", change.what.trim_end_matches('e')),
            ];
            Cells::plain(text).styled(theme.warn())
        }
        Row::Life(life) => life_cells(scene, life),
        _ => Cells::default(),
    }
}

fn group_line(row: &GroupRow) -> String {
    let mut names: Vec<String> = row.devices.iter().take(4).map(|name| device(Some(*name))).collect();
    if row.devices.len() > names.len() {
        names.push(format!("and {} more", row.devices.len() - names.len()));
    }
    let claimed = if row.domain.is_null() || row.default_domain.is_null() {
        ""
    } else if row.domain == row.default_domain {
        "  in its default domain"
    } else {
        "  claimed"
    };
    format!("{:<4} {}{claimed}", group(row.group), names.join(" "))
}

fn life_cells(scene: &Scene<'_>, life: &Life) -> Cells {
    let (theme, at) = (scene.theme, scene.world.at(scene.ui));
    let gone = life.gone.filter(|gone| gone.ts <= at);
    let state = match gone {
        Some(gone) => format!("gone {}", ago(at.saturating_sub(gone.ts))),
        None if life.users.is_some_and(|users| users > 1) => format!("{} users", life.users.unwrap_or(0)),
        None if life.handle.is_none() => "no handle".to_owned(),
        None => "live".to_owned(),
    };
    let text = [
        if scene.ui.list().sort == 0 { String::new() } else { group(life.place.0) },
        device(life.device),
        pasid(life.place.1),
        life.owner.name().to_owned(),
        life.domain_type.to_string(),
        life.device_id.map_or_else(|| NONE.to_owned(), |id| id.to_string()),
        address(life.handle),
        life.age(at).map_or_else(|| "before".to_owned(), ago),
        count(life.faults),
        life.last_fault.filter(|&ts| ts <= at).map_or_else(|| NONE.to_owned(), |ts| ago(at - ts)),
        state,
    ];
    let cells = Cells::plain(text);
    match gone {
        Some(_) => cells.styled(theme.dim()),
        None => cells.with(10, theme.good()),
    }
}
