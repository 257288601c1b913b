//! Numbers of as few bytes as they need (LEB128), and signed differences folded into them (zigzag).

/// Bytes that are put together where there is always room, and appended at once.
#[derive(Debug)]
pub struct Line {
    bytes: [u8; Line::ROOM],
    len: usize,
}

impl Default for Line {
    fn default() -> Self {
        Line { bytes: [0; Line::ROOM], len: 0 }
    }
}

impl Line {
    /// More than it ever takes; a power of two.
    const ROOM: usize = 1024;

    /// As [`put`].
    #[inline]
    pub fn put(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.push(value as u8);
    }

    /// As [`put_delta`].
    #[inline]
    pub fn put_delta(&mut self, old: u64, new: u64) {
        self.put(folded(old, new));
    }

    #[inline]
    fn push(&mut self, byte: u8) {
        self.bytes[self.len % Line::ROOM] = byte;
        self.len += 1;
    }

    /// Appends what it has, and begins anew.
    pub fn end(&mut self, out: &mut Vec<u8>) {
        debug_assert!(self.len <= Line::ROOM, "a line is too long");
        out.extend_from_slice(&self.bytes[..self.len.min(Line::ROOM)]);
        self.len = 0;
    }
}

/// The difference from `old` to `new`, with its sign in the lowest bit.
fn folded(old: u64, new: u64) -> u64 {
    let delta = new.wrapping_sub(old) as i64;
    ((delta << 1) ^ (delta >> 63)) as u64
}

/// Appends `value`, seven bits a byte, lowest first; the highest bit says that more follow.
pub fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends the difference from `old` to `new`, as small as it is near.
pub fn put_delta(out: &mut Vec<u8>, old: u64, new: u64) {
    put(out, folded(old, new));
}

/// Reads from the front of a slice.
#[derive(Clone, Debug)]
pub struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    /// Whether all was read.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A number; `None` when the bytes end within it or it has more than 64 bits.
    #[inline]
    pub fn number(&mut self) -> Option<u64> {
        let (&first, rest) = self.0.split_first()?;
        if first < 0x80 {
            self.0 = rest;
            return Some(u64::from(first));
        }
        self.long()
    }

    fn long(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for (at, &byte) in self.0.iter().enumerate().take(10) {
            let bits = u64::from(byte & 0x7f);
            if at == 9 && bits > 1 {
                return None;
            }
            value |= bits << (7 * at);
            if byte < 0x80 {
                self.0 = &self.0[at + 1..];
                return Some(value);
            }
        }
        None
    }

    /// A number of at most 32 bits.
    #[inline]
    pub fn small(&mut self) -> Option<u32> {
        u32::try_from(self.number()?).ok()
    }

    /// What is as far from `old` as the number says.
    #[inline]
    pub fn delta(&mut self, old: u64) -> Option<u64> {
        let folded = self.number()?;
        Some(old.wrapping_add((folded >> 1) ^ (folded & 1).wrapping_neg()))
    }

    /// The next `len` bytes.
    pub fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_number_and_difference_comes_back(old: u64, new: u64, shift in 0u32..64) {
            let mut out = Vec::new();
            put(&mut out, new >> shift);
            put_delta(&mut out, old, new);
            put_delta(&mut out, old, old.wrapping_add(new >> shift));
            let mut bytes = Bytes(&out);
            prop_assert_eq!(bytes.number(), Some(new >> shift));
            prop_assert_eq!(bytes.delta(old), Some(new));
            prop_assert_eq!(bytes.delta(old), Some(old.wrapping_add(new >> shift)));
            prop_assert!(bytes.is_empty());
        }

        #[test]
        fn any_bytes_are_read_without_harm(raw in prop::collection::vec(any::<u8>(), 0..32)) {
            let mut bytes = Bytes(&raw);
            while bytes.number().is_some() {}
            prop_assert!(bytes.0.len() <= raw.len());
        }
    }

    #[test]
    fn what_ends_early_or_is_too_long_is_no_number() {
        assert_eq!(Bytes(&[]).number(), None);
        assert_eq!(Bytes(&[0x80]).number(), None);
        assert_eq!(Bytes(&[0xff; 10]).number(), None);
        assert_eq!(Bytes(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]).number(), Some(u64::MAX));
        assert_eq!(Bytes(&[0x80; 11]).number(), None);
    }
}
