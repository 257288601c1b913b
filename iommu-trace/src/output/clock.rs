//! How an event's time is told.

use std::{
    fmt::{self, Write as _},
    time::{Duration, SystemTime},
};

use crate::source::SourceInfo;

/// What the time column counts from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum TimeForm {
    /// Seconds since the trace began.
    #[default]
    Relative,
    /// Seconds of `CLOCK_MONOTONIC`, as in the kernel's log.
    Monotonic,
    /// Time of day, UTC.
    Utc,
}

/// Tells times in one form.
#[derive(Clone, Debug)]
pub struct Clock {
    /// The form.
    pub form: TimeForm,
    started_ns: u64,
    epoch_offset_ns: i64,
}

impl Clock {
    /// A clock for the events of one source.
    #[must_use]
    pub fn new(form: TimeForm, info: &SourceInfo) -> Self {
        Clock { form, started_ns: info.started_ns, epoch_offset_ns: info.epoch_offset_ns }
    }

    /// The time of `ts` for people: seconds with six decimals, or the time of day.
    #[must_use]
    pub fn text(&self, ts: u64) -> String {
        let mut text = String::new();
        self.put(ts, &mut text);
        text
    }

    /// Appends the same.
    pub fn put(&self, ts: u64, text: &mut String) {
        // Writing to a String does not fail.
        let _ = match self.form {
            TimeForm::Relative => {
                // What began before the trace has a negative time.
                let sign = if ts < self.started_ns { "-" } else { "" };
                write!(text, "{sign}{}", Seconds(ts.abs_diff(self.started_ns)))
            }
            TimeForm::Monotonic => write!(text, "{}", Seconds(ts)),
            TimeForm::Utc => {
                let rfc3339 = humantime::format_rfc3339_micros(self.wall(ts)).to_string();
                text.write_str(rfc3339.split_once('T').map_or(&*rfc3339, |(_, time)| time))
            }
        };
    }

    /// The day of `ts`, where the form does not hold it.
    #[must_use]
    pub fn date(&self, ts: u64) -> Option<String> {
        (self.form == TimeForm::Utc).then(|| {
            let rfc3339 = humantime::format_rfc3339_micros(self.wall(ts)).to_string();
            rfc3339.split_once('T').map_or(rfc3339.clone(), |(date, _)| date.to_owned())
        })
    }

    /// RFC 3339 with nanoseconds, for programs, when UTC is asked for.
    #[must_use]
    pub fn rfc3339(&self, ts: u64) -> Option<String> {
        (self.form == TimeForm::Utc).then(|| humantime::format_rfc3339_nanos(self.wall(ts)).to_string())
    }

    fn wall(&self, ts: u64) -> SystemTime {
        /// The last second that RFC 3339 can tell: the end of the year 9999.
        const LAST: u64 = 253_402_300_799;
        let since_epoch = Duration::from_nanos(ts.saturating_add_signed(self.epoch_offset_ns));
        SystemTime::UNIX_EPOCH + since_epoch.min(Duration::from_secs(LAST))
    }
}

/// Nanoseconds as seconds with six decimals.
struct Seconds(u64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000_000, self.0 % 1_000_000_000 / 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock(form: TimeForm) -> Clock {
        let info = SourceInfo {
            started_ns: 5_000_000_000,
            epoch_offset_ns: 1_767_225_600_000_000_000,
            ..SourceInfo::default()
        };
        Clock::new(form, &info)
    }

    #[test]
    fn relative_time_counts_from_the_start_and_may_be_negative() {
        assert_eq!(clock(TimeForm::Relative).text(6_000_001_999), "1.000001");
        assert_eq!(clock(TimeForm::Relative).text(4_500_000_000), "-0.500000");
    }

    #[test]
    fn monotonic_time_is_the_event_s_own() {
        assert_eq!(clock(TimeForm::Monotonic).text(6_000_001_999), "6.000001");
        assert_eq!(clock(TimeForm::Monotonic).rfc3339(6_000_001_999), None);
    }

    #[test]
    fn utc_has_the_day_apart_for_people_and_all_of_it_for_programs() {
        let clock = clock(TimeForm::Utc);
        assert_eq!(clock.text(6_000_001_999), "00:00:06.000001Z");
        assert_eq!(clock.date(6_000_001_999).as_deref(), Some("2026-01-01"));
        assert_eq!(clock.rfc3339(6_000_001_999).as_deref(), Some("2026-01-01T00:00:06.000001999Z"));
    }

    #[test]
    fn absurd_times_do_not_panic() {
        let clock = clock(TimeForm::Utc);
        assert!(clock.text(u64::MAX).ends_with('Z'));
        let info = SourceInfo { epoch_offset_ns: i64::MIN, ..SourceInfo::default() };
        assert_eq!(Clock::new(TimeForm::Utc, &info).text(0), "00:00:00.000000Z");
    }
}
