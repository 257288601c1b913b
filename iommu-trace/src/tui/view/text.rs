//! Numbers, times and names in few columns.

use crate::{
    event::{Name, Ptr},
    output::duration,
};

/// Where nothing is known.
pub const NONE: &str = "-";

/// A duration, or that it is not known.
#[must_use]
pub fn maybe(ns: Option<u64>) -> String {
    ns.map_or_else(|| NONE.to_owned(), duration)
}

/// How long ago, in at most five columns: `3s`, `12m`, `5h`.
#[must_use]
pub fn ago(ns: u64) -> String {
    match ns / 1_000_000_000 {
        0 => format!("{}ms", ns / 1_000_000),
        seconds @ 1..=99 => format!("{seconds}s"),
        seconds @ 100..=5999 => format!("{}m", seconds / 60),
        seconds @ 6000..=359_999 => format!("{}h", seconds / 3600),
        seconds @ 360_000..=86_399_999 => format!("{}d", seconds / 86_400),
        seconds => format!("{}y", seconds / 31_557_600),
    }
}

/// A count in at most five columns: `950`, `12.3k`, `4.5M`.
#[must_use]
pub fn count(n: u64) -> String {
    let scaled = |unit: f64, sign: char| {
        let value = n as f64 / unit;
        if value < 99.95 { format!("{value:.1}{sign}") } else { format!("{value:.0}{sign}") }
    };
    match n {
        0..=9_999 => n.to_string(),
        10_000..=999_499 => scaled(1e3, 'k'),
        999_500..=999_499_999 => scaled(1e6, 'M'),
        999_500_000..=999_499_999_999 => scaled(1e9, 'G'),
        _ => scaled(1e12, 'T'),
    }
}

/// A rate a second: `0`, `0.4`, `12`, `3.4k`.
#[must_use]
pub fn rate(amount: u64, seconds: f64) -> String {
    if seconds <= 0.0 {
        return NONE.to_owned();
    }
    let rate = amount as f64 / seconds;
    if amount == 0 {
        "0".to_owned()
    } else if rate < 9.95 {
        format!("{rate:.1}")
    } else {
        count(rate.round() as u64)
    }
}

/// Bytes, roughly: `512B`, `4.0K`, `12M`.
#[must_use]
pub fn bytes(n: u64) -> String {
    let mut value = n as f64;
    let mut unit = "B";
    for next in ["K", "M", "G", "T", "P", "E"] {
        if value < 1000.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "B" || value >= 99.95 { format!("{value:.0}{unit}") } else { format!("{value:.1}{unit}") }
}

/// Seconds since the trace began, of a time.
#[must_use]
pub fn since(began: u64, ts: u64) -> String {
    let sign = if ts < began { "-" } else { "" };
    let ns = ts.abs_diff(began);
    format!("{sign}{}.{:03}", ns / 1_000_000_000, ns % 1_000_000_000 / 1_000_000)
}

/// A PASID as people say it: 0 is the RID.
#[must_use]
pub fn pasid(pasid: u32) -> String {
    if pasid == 0 { "rid".to_owned() } else { pasid.to_string() }
}

/// A group's number.
#[must_use]
pub fn group(group: Option<u32>) -> String {
    group.map_or_else(|| NONE.to_owned(), |group| group.to_string())
}

/// A device's name.
#[must_use]
pub fn device(device: Option<Name>) -> String {
    device.filter(|name| !name.is_empty()).map_or_else(|| NONE.to_owned(), |name| name.to_string())
}

/// A kernel address without its prefix.
#[must_use]
pub fn address(ptr: Option<Ptr>) -> String {
    ptr.filter(|ptr| !ptr.is_null()).map_or_else(|| NONE.to_owned(), |ptr| format!("{:x}", ptr.0))
}

/// Permissions of a fault: `r`, `w`, `x`, `p` for privileged.
#[must_use]
pub fn permissions(perm: u32) -> String {
    let letters: String = [(1, 'r'), (2, 'w'), (4, 'x'), (8, 'p')]
        .into_iter()
        .filter(|(bit, _)| perm & bit != 0)
        .map(|(_, c)| c)
        .collect();
    if letters.is_empty() { NONE.to_owned() } else { letters }
}

/// A text in lines of at most this many columns, cut between words where that is possible.
#[must_use]
pub fn wrapped(text: &str, width: usize) -> Vec<String> {
    let width = width.max(8);
    let rest = text.trim_start_matches(' ');
    // What is set in stays so.
    let mut lines = vec![" ".repeat((text.len() - rest.len()).min(width / 2))];
    let inset = lines.concat().len();
    for word in rest.split(' ') {
        let mut word: Vec<char> = word.chars().collect();
        while let Some(line) = lines.last_mut() {
            let used = line.chars().count();
            let begun = used > inset;
            if used + word.len() + usize::from(begun) <= width {
                if begun {
                    line.push(' ');
                }
                line.extend(word);
                break;
            }
            if word.len() > width - inset {
                let room = width.saturating_sub(used + usize::from(begun));
                if begun && room > 0 {
                    line.push(' ');
                }
                line.extend(word.drain(..room));
            }
            lines.push(" ".repeat(inset));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_fits_its_column() {
        for n in [0, 9_999, 10_000, 99_949, 999_499, 999_500, 1_000_000, 999_499_999, 999_500_000, 99_949_999_999] {
            assert!(count(n).len() <= 5, "{}", count(n));
            assert!(bytes(n).len() <= 5, "{}", bytes(n));
            assert!(ago(n * 1_000_000).len() <= 5, "{}", ago(n * 1_000_000));
        }
        assert_eq!(
            [count(12_345), count(4_500_000), bytes(4096), ago(5_400_000_000_000)],
            ["12.3k", "4.5M", "4.0K", "90m"]
        );
    }

    #[test]
    fn a_rate_of_nothing_is_zero_and_of_no_time_unknown() {
        assert_eq!([rate(0, 2.0), rate(1, 2.0), rate(24, 2.0), rate(5, 0.0)], ["0", "0.5", "12", "-"]);
    }

    #[test]
    fn lines_are_cut_between_words_and_a_long_word_where_it_must() {
        assert_eq!(wrapped("one two three", 8), ["one two", "three"]);
        assert_eq!(wrapped("abcdefghijklmnopqrst", 8), ["abcdefgh", "ijklmnop", "qrst"]);
        assert_eq!(wrapped("a bcdefghijklm", 8), ["a bcdefg", "hijklm"]);
        assert_eq!(wrapped("  one two three", 9), ["  one two", "  three"]);
        assert_eq!(wrapped("", 0), [""]);
        assert_eq!(wrapped("            far", 8), ["    far"]);
    }

    #[test]
    fn times_before_the_trace_are_negative() {
        assert_eq!([since(5_000_000_000, 6_250_000_000), since(5_000_000_000, 4_999_000_000)], ["1.250", "-0.001"]);
    }
}
