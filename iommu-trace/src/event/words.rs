//! Addresses and names, as the kernel has them.

use std::{borrow::Cow, fmt};

use iommu_trace_common::{COMM_LEN, NAME_LEN};
use serde::{Serialize, Serializer};

/// A kernel address. Zero is `NULL`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ptr(pub u64);

impl Ptr {
    /// `NULL`.
    pub const NULL: Ptr = Ptr(0);

    /// Whether it is `NULL`.
    #[must_use]
    pub fn is_null(self) -> bool {
        self.0 == 0
    }

    /// `None` for `NULL`.
    #[must_use]
    pub fn some(self) -> Option<Ptr> {
        (self.0 != 0).then_some(self)
    }
}

impl fmt::Display for Ptr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl Serialize for Ptr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A short kernel string (`dev_name()`, `comm`) in a fixed buffer, as the kernel had it: any bytes but NUL.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Text<const N: usize>(pub [u8; N]);

/// A device's name.
pub type Name = Text<NAME_LEN>;
/// A task's name.
pub type Comm = Text<COMM_LEN>;

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Text([0; N])
    }
}

impl<const N: usize> Text<N> {
    /// A kernel string: what follows its NUL is dropped, so that equal strings are equal values.
    #[must_use]
    pub fn from_kernel(mut bytes: [u8; N]) -> Self {
        // Every record has one or two of them, so eight bytes are looked at in one go.
        let (words, rest) = bytes.as_chunks_mut::<8>();
        let mut ended = false;
        for word in words {
            let value = u64::from_le_bytes(*word);
            let nuls = nul_marks(value);
            // All ones below the first mark's byte; without a mark, all ones.
            let before = ((nuls & nuls.wrapping_neg()) >> 7).wrapping_sub(1);
            *word = if ended { 0 } else { value & before }.to_le_bytes();
            ended |= nuls != 0;
        }
        for byte in rest {
            ended |= *byte == 0;
            *byte = if ended { 0 } else { *byte };
        }
        Text(bytes)
    }

    /// The first `N - 1` bytes of `text`.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let mut bytes = [0; N];
        let len = text.len().min(N - 1);
        bytes[..len].copy_from_slice(&text.as_bytes()[..len]);
        Text(bytes)
    }

    /// The bytes before the first NUL.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        let len = self.0.iter().position(|&b| b == 0).unwrap_or(N);
        &self.0[..len]
    }

    /// Whether there is no text.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.first().is_none_or(|&b| b == 0)
    }
}

/// A word whose lowest bit that is set is the uppermost of the first byte that is 0; 0 where no byte is. (Above that, bytes may be marked
/// that are 1.)
fn nul_marks(word: u64) -> u64 {
    const EACH: u64 = u64::from_ne_bytes([1; 8]);
    word.wrapping_sub(EACH) & !word & (EACH << 7)
}

/// Whether a character shows as itself, in its own place: no control character, nothing that turns the direction of what stands beside
/// it, nothing invisible, no line separator, no mark on the character before it.
#[must_use]
pub fn is_harmless(c: char) -> bool {
    // What Rust does not print in a debugging output, but for what it only quotes.
    c.is_ascii_graphic() || c == ' ' || (!c.is_ascii() && c.escape_debug().len() == 1)
}

/// A text with what a terminal would obey, and what would change how the rest of a line looks, escaped.
#[must_use]
pub fn harmless(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_harmless) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        push_harmless(&mut safe, c);
    }
    Cow::Owned(safe)
}

fn push_harmless(safe: &mut String, c: char) {
    if is_harmless(c) {
        safe.push(c);
    } else {
        safe.extend(c.escape_default());
    }
}

/// Safe to print anywhere: what [`is_harmless`] does not hold for, and bytes that are no UTF-8, are escaped.
impl<const N: usize> fmt::Display for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;
        let bytes = self.as_bytes();
        if bytes.iter().all(|&byte| byte.is_ascii_graphic() || byte == b' ')
            && let Ok(text) = str::from_utf8(bytes)
        {
            return f.pad(text);
        }
        let mut safe = String::with_capacity(N);
        for chunk in bytes.utf8_chunks() {
            for c in chunk.valid().chars() {
                push_harmless(&mut safe, c);
            }
            for byte in chunk.invalid() {
                write!(safe, "\\x{byte:02x}")?;
            }
        }
        f.pad(&safe)
    }
}

impl<const N: usize> fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl<const N: usize> Serialize for Text<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_follows_the_nul_is_dropped_and_nothing_else(bytes in prop::array::uniform21(prop_oneof![Just(0), 0..3u8, any::<u8>()])) {
            let len = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
            let mut kept = bytes;
            kept[len..].fill(0);
            let text = Text::from_kernel(bytes);
            prop_assert_eq!(text.0, kept);
            prop_assert_eq!(text.as_bytes(), &bytes[..len]);
        }
    }

    #[test]
    fn what_would_be_obeyed_or_would_hide_is_escaped_and_nothing_else() {
        for text in ["0000:00:02.0", "irq/24-mock", "naïve", "日本語", "a\"b\\c'd<e>&", "x y"] {
            assert_eq!(harmless(text), text);
        }
        for (text, safe) in [
            ("a\u{1b}[2Jb", "a\\u{1b}[2Jb"),
            ("a\r\nb\tc\u{7f}", "a\\r\\nb\\tc\\u{7f}"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("\u{202e}txt.exe\u{2066}", "\\u{202e}txt.exe\\u{2066}"),
            ("a\u{200b}b\u{2028}c\u{feff}", "a\\u{200b}b\\u{2028}c\\u{feff}"),
            ("e\u{301}\u{489}", "e\\u{301}\\u{489}"),
            ("\u{e0041}\u{ad}\u{a0}", "\\u{e0041}\\u{ad}\\u{a0}"),
        ] {
            assert_eq!(harmless(text), safe);
        }
        let mut bytes = [0; NAME_LEN];
        bytes[..5].copy_from_slice(b"a\xff\x1b\xc3(");
        assert_eq!(Text(bytes).to_string(), "a\\xff\\u{1b}\\xc3(");
    }
}
