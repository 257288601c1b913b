//! Numbers as people say them.

/// A duration in the unit that suits it: `1.2µs`, `3.40ms`, `1.500s`.
#[must_use]
pub fn duration(ns: u64) -> String {
    // The borders are where rounding would give `1000.0`.
    match ns {
        0..999_950 => format!("{:.1}µs", ns as f64 / 1e3),
        999_950..999_995_000 => format!("{:.2}ms", ns as f64 / 1e6),
        _ => format!("{:.3}s", ns as f64 / 1e9),
    }
}

/// A duration that may be far below a microsecond: `62ns`, then as [`duration`].
#[must_use]
pub fn nanoseconds(ns: u64) -> String {
    if ns < 1000 { format!("{ns}ns") } else { duration(ns) }
}

/// Several durations of one story, as `1.2/1.5/-/104.2µs`; `None` when there is none at all. They share the unit while
/// all are short enough to be compared at a glance.
#[must_use]
pub fn durations(parts: &[Option<u64>]) -> Option<String> {
    let longest = parts.iter().flatten().max()?;
    let shared = *longest < 9_999_950;
    let told: Vec<String> = parts
        .iter()
        .map(|part| match part {
            Some(ns) if shared => format!("{:.1}", *ns as f64 / 1e3),
            Some(ns) => duration(*ns),
            None => "-".to_owned(),
        })
        .collect();
    Some(format!("{}{}", told.join("/"), if shared { "µs" } else { "" }))
}

/// A size: in the largest binary unit that divides it, else in bytes.
#[must_use]
pub fn size(bytes: u64) -> String {
    for (unit, shift) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes != 0 && bytes.trailing_zeros() >= shift {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    format!("{bytes}B")
}

/// The name of a negative errno as the IOMMU code returns them, or the number.
#[must_use]
pub fn errno_name(ret: i64) -> String {
    let name = i32::try_from(-ret).ok().and_then(|errno| {
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
    name.map_or_else(|| format!("error {ret}"), str::to_owned)
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
        assert_eq!(durations(&[Some(1200), Some(1500), None, Some(104_200)]).as_deref(), Some("1.2/1.5/-/104.2µs"));
        assert_eq!(durations(&[Some(1200), None, Some(2_000_000_000)]).as_deref(), Some("1.2µs/-/2.000s"));
        assert_eq!(durations(&[None, None]), None);
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
