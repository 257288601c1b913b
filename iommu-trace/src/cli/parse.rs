//! Values of options: durations, sizes, numbers. The messages say what would be right.

use std::time::Duration;

use crate::source::live::{MAX_RING, MIN_RING};

/// `500ms`, `2s`, `1m30s`; a bare number is seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let parsed = match text.parse::<u64>() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => humantime::parse_duration(text).ok(),
    };
    parsed.ok_or_else(|| "not a duration such as 500ms, 2s or 1m30s".to_owned())
}

/// A size that a ring may have: `4096`, `512K`, `8M`, `1GiB`; binary units.
pub fn size(text: &str) -> Result<u32, String> {
    let size = bytes(text)?.and_then(|size| u32::try_from(size).ok());
    size.filter(|size| (MIN_RING..=MAX_RING).contains(size)).ok_or_else(|| "not between 4K and 1G".to_owned())
}

/// A size that a file may have: from `64K` on (the header alone takes some); binary units.
pub fn file_size(text: &str) -> Result<u64, String> {
    bytes(text)?.filter(|&size| size >= 64 << 10).ok_or_else(|| "not at least 64K".to_owned())
}

/// A moment of a recording: `1.5s`, `2m` or a bare number of seconds after its beginning, or a time of day in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// After the beginning.
    After(Duration),
    /// Nanoseconds since the Unix epoch.
    Wall(u64),
}

/// A moment of a recording.
pub fn moment(text: &str) -> Result<Moment, String> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map(Moment::After).map_err(|error| error.to_string());
    }
    if let Ok(after) = humantime::parse_duration(text) {
        return Ok(Moment::After(after));
    }
    let since_epoch =
        humantime::parse_rfc3339_weak(text).ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    since_epoch.and_then(|since| u64::try_from(since.as_nanos()).ok()).map(Moment::Wall).ok_or_else(|| {
        "neither a duration since the beginning (1.5s) nor a time in UTC (2026-01-31T12:00:00.5Z)".to_owned()
    })
}

impl Moment {
    /// On the clock of events that began at `started_ns` and are `epoch_offset_ns` before the Unix epoch's.
    #[must_use]
    pub fn ts(self, started_ns: u64, epoch_offset_ns: i64) -> u64 {
        match self {
            Moment::After(after) => started_ns.saturating_add(u64::try_from(after.as_nanos()).unwrap_or(u64::MAX)),
            Moment::Wall(at) => u64::try_from(i128::from(at) - i128::from(epoch_offset_ns)).unwrap_or(0),
        }
    }
}

/// A number of bytes with a binary unit; `None` when it is too large for any.
fn bytes(text: &str) -> Result<Option<u64>, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return Err("not a size such as 4096, 512K or 8M".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "not a size such as 4096, 512K or 8M".to_owned())?;
    Ok(number.checked_mul(1 << shift))
}

/// A decimal number, or a hexadecimal one with `0x`.
pub fn number(text: &str) -> Result<u32, String> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => text.parse(),
    }
    .map_err(|_| "not a number (decimal, or hexadecimal with 0x)".to_owned())
}

/// A PASID; `rid` is 0, as the kernel has it.
pub fn pasid(text: &str) -> Result<u32, String> {
    if text.eq_ignore_ascii_case("rid") {
        return Ok(0);
    }
    number(text).map_err(|_| "not a PASID: a number, or `rid` for requests without one".to_owned())
}

/// A process to filter by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PidArg {
    /// This one.
    Pid(u32),
    /// The command after `--`, and its descendants.
    Command,
}

/// A process id, or `command`.
pub fn pid(text: &str) -> Result<PidArg, String> {
    if text == "command" {
        return Ok(PidArg::Command);
    }
    text.parse()
        .map(PidArg::Pid)
        .map_err(|_| "not a process id, nor `command` for the command after -- and its descendants".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2"), Ok(Duration::from_secs(2)));
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("20us"), Ok(Duration::from_micros(20)));
        for wrong in ["", "-1s", "1 parsec", "s", "1.5s.", "99999999999999999999s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(size("512K"), Ok(512 << 10));
        assert_eq!(size("8MiB"), Ok(8 << 20));
        for wrong in ["", "0", "M", "8X", "-8M", "1.5M", "4095", "2G", "99999999999G", "18446744073709551615K"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_of_files() {
        assert_eq!(file_size("100M"), Ok(100 << 20));
        assert_eq!(file_size("8GiB"), Ok(8 << 30));
        for wrong in ["", "1", "63K", "1X", "18446744073709551615K"] {
            assert!(file_size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn moments() {
        assert_eq!(moment("1.5").map(|at| at.ts(10, 0)), Ok(1_500_000_010));
        assert_eq!(moment("2m").map(|at| at.ts(0, 0)), Ok(120_000_000_000));
        assert_eq!(moment("1970-01-01T00:00:01.5Z").map(|at| at.ts(7, -500_000_000)), Ok(2_000_000_000));
        assert_eq!(moment("1970-01-01 00:00:01").map(|at| at.ts(7, i64::MAX)), Ok(0));
        for wrong in ["", "noon", "-1", "1e400"] {
            assert!(moment(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn pasids_and_pids() {
        assert_eq!(pasid("rid"), Ok(0));
        assert_eq!(pasid("0x12"), Ok(18));
        assert!(pasid("all").is_err());
        assert_eq!(pid("command"), Ok(PidArg::Command));
        assert_eq!(pid("12"), Ok(PidArg::Pid(12)));
        assert!(pid("qemu").is_err());
    }
}
