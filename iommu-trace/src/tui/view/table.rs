//! A list of rows in columns: what does not fit is left out by rank, never cut in the middle of the screen.

use ratatui::{buffer::Buffer, layout::Rect, style::Style};

use super::theme::Theme;

/// A column.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Its head.
    pub title: &'static str,
    /// Its width; the last column takes what is left.
    pub width: u16,
    /// Numbers stand on the right.
    pub right: bool,
    /// What must go first when there is too little room; 0 stays.
    pub rank: u8,
}

/// A column of text.
#[must_use]
pub const fn left(title: &'static str, width: u16, rank: u8) -> Column {
    Column { title, width, right: false, rank }
}

/// A column of numbers.
#[must_use]
pub const fn right(title: &'static str, width: u16, rank: u8) -> Column {
    Column { title, width, right: true, rank }
}

/// A row's cells, with the style of each, and the style of the whole.
#[derive(Clone, Debug, Default)]
pub struct Cells {
    /// One for each column.
    pub each: Vec<(String, Style)>,
    /// On top of the cells' own.
    pub style: Style,
    /// One line across all columns instead, when there is one.
    pub whole: Option<String>,
}

impl Cells {
    /// Cells without a style of their own.
    pub fn plain<const N: usize>(cells: [String; N]) -> Self {
        Cells { each: cells.into_iter().map(|text| (text, Style::new())).collect(), ..Cells::default() }
    }

    /// A line across all columns.
    #[must_use]
    pub fn whole(text: String, style: Style) -> Self {
        Cells { each: Vec::new(), style, whole: Some(text) }
    }

    /// Gives one cell a style.
    #[must_use]
    pub fn with(mut self, column: usize, style: Style) -> Self {
        if let Some(cell) = self.each.get_mut(column) {
            cell.1 = style;
        }
        self
    }

    /// Gives the row a style.
    #[must_use]
    pub fn styled(mut self, style: Style) -> Self {
        self.style = style;
        self
    }
}

/// Which columns fit, and how wide each is.
fn fit(columns: &[Column], width: u16) -> Vec<(usize, u16)> {
    let mut shown: Vec<usize> = (0..columns.len()).collect();
    let needs =
        |shown: &[usize]| -> u16 { shown.iter().map(|&at| columns[at].width + 1).sum::<u16>().saturating_sub(1) };
    while needs(&shown) > width {
        let worst = shown.iter().copied().max_by_key(|&at| (columns[at].rank, at)).filter(|&at| columns[at].rank > 0);
        let Some(worst) = worst else { break };
        shown.retain(|&at| at != worst);
    }
    let left = width.saturating_sub(needs(&shown));
    let last = shown.last().copied();
    shown
        .into_iter()
        .map(|at| {
            let more = if Some(at) == last && !columns[at].right { left } else { 0 };
            (at, columns[at].width + more)
        })
        .collect()
}

/// A table to be drawn.
pub struct Table<'a> {
    /// How things look.
    pub theme: Theme,
    /// Its columns.
    pub columns: &'a [Column],
    /// The column it is sorted by, and whether the other way round.
    pub sort: Option<(usize, bool)>,
    /// Its rows.
    pub total: usize,
    /// The selected one.
    pub selected: Option<usize>,
}

/// Draws a table: heads, then as many rows as fit around the selected one. Returns how many rows fit.
pub fn draw(buffer: &mut Buffer, area: Rect, table: &Table<'_>, mut row: impl FnMut(usize) -> Cells) -> usize {
    let &Table { theme, columns, sort, total, selected } = table;
    if area.height == 0 || area.width == 0 {
        return 0;
    }
    let places = fit(columns, area.width);
    let head = Rect { height: 1, ..area };
    line(buffer, head, &places, columns, |at| (columns[at].title.to_owned(), theme.strong()));
    if let Some((at, reverse)) = sort {
        mark_sort(
            buffer,
            head,
            &places,
            at,
            theme.sign(if reverse { "▲" } else { "▼" }, if reverse { "^" } else { "v" }),
        );
    }
    let page = usize::from(area.height - 1);
    let first = first_row(total, selected, page);
    for (offset, index) in (first..total).take(page).enumerate() {
        let place = Rect { y: area.y + 1 + offset as u16, height: 1, ..area };
        let cells = row(index);
        match &cells.whole {
            Some(text) => {
                buffer.set_stringn(place.x, place.y, text, usize::from(place.width), cells.style);
            }
            None => line(buffer, place, &places, columns, |at| {
                let (text, style) = cells.each.get(at).cloned().unwrap_or_default();
                (text, cells.style.patch(style))
            }),
        }
        if selected == Some(index) {
            buffer.set_style(place, theme.selected());
        }
    }
    page
}

/// The first row that is shown, so that the selected one is: the view moves by whole pages, and does not swim.
fn first_row(total: usize, selected: Option<usize>, page: usize) -> usize {
    let selected = selected.unwrap_or(0);
    if page == 0 || selected < page {
        return 0;
    }
    // Half a page before it, unless it is near the end.
    (selected - page / 2).min(total.saturating_sub(page))
}

fn line(
    buffer: &mut Buffer,
    area: Rect,
    places: &[(usize, u16)],
    columns: &[Column],
    mut cell: impl FnMut(usize) -> (String, Style),
) {
    let mut x = area.x;
    for &(at, width) in places {
        let room = width.min(area.right().saturating_sub(x));
        if room == 0 {
            break;
        }
        let (text, style) = cell(at);
        let taken = unicode_width::UnicodeWidthStr::width(text.as_str()) as u16;
        let from = if columns[at].right { x + room.saturating_sub(taken) } else { x };
        buffer.set_stringn(from, area.y, &text, usize::from(room), style);
        x = x.saturating_add(width + 1);
    }
}

fn mark_sort(buffer: &mut Buffer, area: Rect, places: &[(usize, u16)], column: usize, sign: &str) {
    let mut x = area.x;
    for &(at, width) in places {
        if at == column && x > area.x && x <= area.right() {
            buffer.set_stringn(x - 1, area.y, sign, 1, Style::new());
        }
        x = x.saturating_add(width + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_important_column_goes_first_and_the_last_takes_the_rest() {
        let columns = [left("A", 4, 0), right("B", 4, 2), left("C", 4, 1)];
        assert_eq!(fit(&columns, 20), [(0, 4), (1, 4), (2, 10)]);
        assert_eq!(fit(&columns, 10), [(0, 4), (2, 5)]);
        assert_eq!(fit(&columns, 5), [(0, 5)]);
        assert_eq!(fit(&columns, 1), [(0, 4)]);
    }

    #[test]
    fn the_selected_row_is_always_shown() {
        for total in [1, 5, 100] {
            for page in [1, 3, 10] {
                for selected in 0..total {
                    let first = first_row(total, Some(selected), page);
                    assert!(first <= selected && selected < first + page, "{selected} of {total} by {page}");
                }
            }
        }
        assert_eq!(first_row(100, Some(99), 10), 90);
    }
}
