//! Small charts in text: sparklines, bars, heat maps.

use ratatui::{buffer::Buffer, layout::Rect, style::Style};

use super::theme::Theme;

/// A sparkline: the greatest value is full height; no data is blank, and zero is not.
#[must_use]
pub fn sparkline(values: &[Option<u64>], theme: Theme) -> String {
    let most = values.iter().flatten().copied().max().unwrap_or(0).max(1);
    values
        .iter()
        .map(|value| match value {
            None => theme.unknown(),
            Some(0) => theme.level(0),
            // Whatever is more than nothing is seen.
            Some(value) => theme.level((u128::from(*value) * 8).div_ceil(u128::from(most)).clamp(1, 8) as u8),
        })
        .collect()
}

/// A bar of `value` of `most` in `width` columns; more than nothing is at least one.
#[must_use]
pub fn bar(value: u64, most: u64, width: u16, theme: Theme) -> String {
    if value == 0 || most == 0 {
        return String::new();
    }
    let length = (u128::from(value) * u128::from(width)).div_ceil(u128::from(most)).min(u128::from(width)) as usize;
    theme.sign("█", "#").repeat(length.max(1))
}

/// A heat map: `cell(column, row)` tells how much is there; row 0 is at the bottom.
pub fn heat_map(
    buffer: &mut Buffer,
    area: Rect,
    theme: Theme,
    style: Style,
    mut cell: impl FnMut(u16, u16) -> Option<u64>,
) {
    let values: Vec<Vec<Option<u64>>> =
        (0..area.width).map(|x| (0..area.height).map(|y| cell(x, y)).collect()).collect();
    let most = values.iter().flatten().flatten().copied().max().unwrap_or(0).max(1);
    for (x, column) in (area.x..).zip(&values) {
        for (y, value) in (0..area.height).zip(column) {
            let sign = match value {
                None => theme.unknown(),
                Some(0) => theme.heat(0),
                // By the root, so that the few are seen beside the many.
                Some(value) => theme.heat(((*value as f64 / most as f64).sqrt() * 4.0).ceil().clamp(1.0, 4.0) as u8),
            };
            let style = if *value == Some(0) { theme.dim() } else { style };
            if let Some(cell) = buffer.cell_mut((x, area.bottom() - 1 - y)) {
                cell.set_char(sign).set_style(style);
            }
        }
    }
}

/// Marks on a line of time from `from` to `to`: later ones overwrite earlier ones.
#[must_use]
pub fn timeline(from: u64, to: u64, width: u16, marks: &[(u64, char)], between: char) -> String {
    let span = u128::from(to.saturating_sub(from).max(1));
    let mut line = vec![between; usize::from(width)];
    for &(ts, sign) in marks {
        let at = u128::from(ts.saturating_sub(from)) * u128::from(width.saturating_sub(1)) / span;
        if let Some(place) = usize::try_from(at).ok().and_then(|at| line.get_mut(at)) {
            *place = sign;
        }
    }
    line.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Theme = Theme { ascii: true, colour: false };

    #[test]
    fn no_data_is_blank_and_zero_is_not() {
        assert_eq!(sparkline(&[None, Some(0), Some(1), Some(1000)], PLAIN), " _.#");
        assert_eq!(sparkline(&[Some(u64::MAX), Some(0)], PLAIN), "#_");
    }

    #[test]
    fn a_bar_shows_whatever_is_more_than_nothing() {
        assert_eq!(bar(0, 10, 8, PLAIN), "");
        assert_eq!(bar(1, 1_000_000, 8, PLAIN), "#");
        assert_eq!(bar(u64::MAX, u64::MAX, 8, PLAIN), "########");
    }

    #[test]
    fn marks_are_where_their_time_is() {
        assert_eq!(timeline(100, 200, 11, &[(100, 'A'), (150, '.'), (200, 'D'), (900, 'x')], '-'), "A----.----D");
        assert_eq!(timeline(5, 5, 0, &[(5, 'A')], '-'), "");
    }
}
