//! Memory that only the start needs.

use std::{fs, ops::Range};

use super::attach::OBJECT;

/// Gives back to the system what is of no use any more once the probes are attached: what the kernel's types and the loader's work
/// have left free, and most of the program's own pages.
pub fn give_back() {
    // SAFETY: it only concerns what the allocator holds and nobody uses.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
    // A debugger's breakpoints are in such pages, and would be gone.
    if !cfg!(debug_assertions)
        && let Ok(maps) = fs::read_to_string("/proc/self/maps")
    {
        forget(&maps, give_back as fn() as usize, "r-xp");
        forget(&maps, OBJECT.as_ptr() as usize, "r--p");
    }
}

/// Lets go of the pages of the program's file that are mapped where `address` is. The file still has them: those that are used again are
/// mapped again.
fn forget(maps: &str, address: usize, protection: &str) {
    if let Some(range) = mapping(maps, address, protection) {
        // SAFETY: they are private pages of a file that nothing has written to: not even the loader, whose relocations are elsewhere.
        unsafe { libc::madvise(range.start as *mut libc::c_void, range.len(), libc::MADV_DONTNEED) };
    }
}

/// The mapping of a file around an address, in the words of `/proc/PID/maps`, if it is protected so.
fn mapping(maps: &str, address: usize, protection: &str) -> Option<Range<usize>> {
    let line = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let range = usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?;
        let is_protected_so = words.next()? == protection;
        // Offset, device, inode, which is 0 where there is no file.
        let is_of_a_file = words.nth(2)? != "0";
        (range.contains(&address) && is_protected_so && is_of_a_file).then_some(range)
    };
    maps.lines().find_map(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
7f2708dc2000-7f2709127000 r--p 00000000 00:02 1234                       /usr/bin/iommu-trace
7f2709127000-7f2709ae6000 r-xp 00365000 00:02 1234                       /usr/bin/iommu-trace
7f2709ae6000-7f2709b28000 r--p 00d24000 00:02 1234                       /usr/bin/iommu-trace
7f2709b28000-7f2709b2d000 rw-p 00d65000 00:02 1234                       /usr/bin/iommu-trace
7fff52920000-7fff52941000 r-xp 00000000 00:00 0                          [stack]
";

    #[test]
    fn the_mapping_around_an_address_is_found_if_it_is_as_it_must_be() {
        assert_eq!(mapping(MAPS, 0x7f27_0912_7000, "r-xp"), Some(0x7f27_0912_7000..0x7f27_09ae_6000));
        assert_eq!(mapping(MAPS, 0x7f27_0912_6fff, "r--p"), Some(0x7f27_08dc_2000..0x7f27_0912_7000));
        // Written to, of no file, not mapped, no map.
        assert_eq!(mapping(MAPS, 0x7f27_09b2_8000, "r--p"), None);
        assert_eq!(mapping(MAPS, 0x7fff_5292_0000, "r-xp"), None);
        assert_eq!(mapping(MAPS, 0x1000, "r-xp"), None);
        assert_eq!(mapping("-\n1-\nx-y r-xp", 0x1, "r-xp"), None);
    }

    #[test]
    fn what_was_given_back_is_there_again_when_it_is_needed() {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let (code, object) = (give_back as fn() as usize, OBJECT.as_ptr() as usize);
        assert!(mapping(&maps, code, "r-xp").is_some() && mapping(&maps, object, "r--p").is_some(), "{maps}");
        let before = OBJECT.to_vec();
        forget(&maps, code, "r-xp");
        forget(&maps, object, "r--p");
        assert_eq!(before, OBJECT);
    }
}
