//! The kernel's user-space ABI as plain data, written from its headers.
//!
//! Every struct cites its header and its C name, and its size is asserted against the C one. Nothing
//! here does I/O.

pub mod iommufd;
pub mod iommufd_test;
pub mod vfio;

use std::ffi::c_ulong;

/// `_IO(';', nr)` of `include/uapi/asm-generic/ioctl.h`: iommufd and VFIO share the type `';'`.
pub const fn io(nr: u8) -> c_ulong {
    ((b';' as c_ulong) << 8) | nr as c_ulong
}

/// An ioctl argument that knows its own request number.
///
/// # Safety
///
/// `REQUEST` must be a request for which the kernel reads and writes at most `size_of::<Self>()` bytes
/// at the argument, and every bit pattern it may write must be a valid `Self`. Pointers inside the
/// argument are the business of whoever fills it in.
pub unsafe trait Command {
    /// The request number.
    const REQUEST: c_ulong;
    /// The request's name in the header.
    const NAME: &'static str;
}

/// `size_of` as the `u32` that the ABI's size fields want.
pub const fn size_u32<T>() -> u32 {
    size_of::<T>() as u32
}

/// Implements [`Command`] for ABI structs made of integers only, with their C size asserted.
macro_rules! commands {
    ($($ty:ty = $nr:expr, $name:literal, $size:literal bytes;)*) => {$(
        const _: () = assert!(size_of::<$ty>() == $size);
        // SAFETY: the struct is the C struct of that request (size asserted above), made of integers
        // only, so that any bit pattern is valid.
        unsafe impl $crate::abi::Command for $ty {
            const REQUEST: std::ffi::c_ulong = $crate::abi::io($nr);
            const NAME: &'static str = $name;
        }
    )*};
}
pub(crate) use commands;
