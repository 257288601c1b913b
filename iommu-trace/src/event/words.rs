//! Addresses and names, as the kernel has them.

use std::fmt;

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
        if let Some(len) = bytes.iter().position(|&b| b == 0) {
            bytes[len..].fill(0);
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

/// Safe to print anywhere: control characters and bytes that are no UTF-8 are escaped.
impl<const N: usize> fmt::Display for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;
        let mut safe = String::with_capacity(N);
        for chunk in self.as_bytes().utf8_chunks() {
            for c in chunk.valid().chars() {
                if c.is_control() {
                    safe.extend(c.escape_default());
                } else {
                    safe.push(c);
                }
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
