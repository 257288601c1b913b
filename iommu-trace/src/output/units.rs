//! Numbers as people say them.

use std::fmt::{self, Display, Write as _};

/// A duration, as [`duration`] has it.
#[derive(Clone, Copy, Debug)]
pub struct Duration(pub u64);

impl Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The borders are where rounding would give `1000.0`.
        let (told, unit) = match self.0 {
            0..999_950 => (Decimal::of(self.0, 1_000, 1), "µs"),
            999_950..999_995_000 => (Decimal::of(self.0, 1_000_000, 2), "ms"),
            _ => (Decimal::of(self.0, 1_000_000_000, 3), "s"),
        };
        write!(f, "{told}{unit}")
    }
}

/// A number with some decimals, rounded to the nearest, of two that are as near to the even one.
struct Decimal {
    whole: u64,
    part: u64,
    decimals: usize,
}

impl Decimal {
    /// `value` in `unit`s, a power of ten with more zeroes than there are to be `decimals`.
    fn of(value: u64, unit: u64, decimals: usize) -> Self {
        let scale = 10u64.pow(decimals as u32);
        let step = unit / scale;
        let (steps, rest) = (value / step, value % step);
        let up = 2 * rest > step || (2 * rest == step && steps % 2 == 1);
        let steps = steps + u64::from(up);
        Decimal { whole: steps / scale, part: steps % scale, decimals }
    }
}

impl Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02$}", self.whole, self.part, self.decimals)
    }
}

/// A duration in the unit that suits it: `1.2µs`, `3.40ms`, `1.500s`.
#[must_use]
pub fn duration(ns: u64) -> String {
    Duration(ns).to_string()
}

/// A duration that may be far below a microsecond: `62ns`, then as [`duration`].
#[must_use]
pub fn nanoseconds(ns: u64) -> String {
    if ns < 1000 { format!("{ns}ns") } else { duration(ns) }
}

/// Several durations of one story, as `1.2/1.5/-/104.2µs`. They share the unit while all are short enough to be compared at a
/// glance.
#[derive(Clone, Copy, Debug)]
pub struct Durations<'a> {
    parts: &'a [Option<u64>],
    shared: bool,
}

impl<'a> Durations<'a> {
    /// `None` when there is none at all.
    #[must_use]
    pub fn of(parts: &'a [Option<u64>]) -> Option<Self> {
        let longest = parts.iter().flatten().max()?;
        Some(Durations { parts, shared: *longest < 9_999_950 })
    }
}

impl Display for Durations<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, part) in self.parts.iter().enumerate() {
            if at > 0 {
                f.write_char('/')?;
            }
            match *part {
                Some(ns) if self.shared => Decimal::of(ns, 1_000, 1).fmt(f)?,
                Some(ns) => Duration(ns).fmt(f)?,
                None => f.write_char('-')?,
            }
        }
        f.write_str(if self.shared { "µs" } else { "" })
    }
}

/// A size, as [`size`] has it.
#[derive(Clone, Copy, Debug)]
pub struct Size(pub u64);

impl Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, shift) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
            if self.0 != 0 && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}B", self.0)
    }
}

/// A size: in the largest binary unit that divides it, else in bytes.
#[must_use]
pub fn size(bytes: u64) -> String {
    Size(bytes).to_string()
}

/// A negative errno, as [`errno_name`] has it.
#[derive(Clone, Copy, Debug)]
pub struct Errno(pub i64);

impl Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = i32::try_from(-self.0).ok().and_then(|errno| {
            Some(match errno {
                libc::EPERM => "EPERM",
                libc::ENOENT => "ENOENT",
                libc::EINTR => "EINTR",
                libc::EIO => "EIO",
                libc::E2BIG => "E2BIG",
                libc::EAGAIN => "EAGAIN",
                libc::ENOMEM => "ENOMEM",
                libc::EACCES => "EACCES",
                libc::EFAULT => "EFAULT",
                libc::EBUSY => "EBUSY",
                libc::EEXIST => "EEXIST",
                libc::EXDEV => "EXDEV",
                libc::ENODEV => "ENODEV",
                libc::EINVAL => "EINVAL",
                libc::ENOSPC => "ENOSPC",
                libc::ERANGE => "ERANGE",
                libc::EMEDIUMTYPE => "EMEDIUMTYPE",
                libc::EOVERFLOW => "EOVERFLOW",
                libc::EOPNOTSUPP => "EOPNOTSUPP",
                libc::EADDRINUSE => "EADDRINUSE",
                libc::ETIMEDOUT => "ETIMEDOUT",
                libc::ECANCELED => "ECANCELED",
                libc::ENOTTY => "ENOTTY",
                524 => "ENOTSUPP",
                517 => "EPROBE_DEFER",
                _ => return None,
            })
        });
        match name {
            Some(name) => f.write_str(name),
            None => write!(f, "error {}", self.0),
        }
    }
}

/// The name of a negative errno as the IOMMU code returns them, or the number.
#[must_use]
pub fn errno_name(ret: i64) -> String {
    Errno(ret).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_take_the_unit_that_suits_them() {
        let told = [0, 49, 1250, 999_949, 999_950, 1_500_000, 999_994_999, 999_995_000, 61_000_000_000].map(duration);
        assert_eq!(told, ["0.0µs", "0.0µs", "1.2µs", "999.9µs", "1.00ms", "1.50ms", "999.99ms", "1.000s", "61.000s"]);
    }

    #[test]
    fn a_chain_shares_its_unit_while_it_is_short() {
        let told = |parts: &[Option<u64>]| Durations::of(parts).map(|told| told.to_string());
        assert_eq!(told(&[Some(1200), Some(1500), None, Some(104_200)]).as_deref(), Some("1.2/1.5/-/104.2µs"));
        assert_eq!(told(&[Some(1200), None, Some(2_000_000_000)]).as_deref(), Some("1.2µs/-/2.000s"));
        assert_eq!(told(&[None, None]), None);
    }

    #[test]
    fn sizes_keep_every_byte() {
        assert_eq!([0, 1, 4096, 4097, 2 << 20, 3 << 30].map(size), ["0B", "1B", "4KiB", "4097B", "2MiB", "3GiB"]);
    }

    #[test]
    fn errors_have_the_kernel_s_names() {
        assert_eq!(errno_name(-16), "EBUSY");
        assert_eq!(errno_name(-4095), "error -4095");
        assert_eq!(errno_name(i64::MIN + 1), format!("error {}", i64::MIN + 1));
    }
}
