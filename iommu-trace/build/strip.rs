//! Leaves the debug information of the BPF programs out of what goes into the binary: it is five sixths of the object, and the loader
//! would read it all at each start. The types that the kernel is given (`.BTF`, `.BTF.ext`) stay.

/// Bytes of an ELF header and of a section's header, for 64 bits.
const HEADER: usize = 64;
const SECTION: usize = 64;
/// Where things are in the header: the offset of the section headers, how many there are, which has their names.
const SECTIONS_AT: usize = 40;
const SECTIONS: usize = 60;
const NAMES: usize = 62;
/// A section's type for one that has no bytes in the file.
const NOBITS: u32 = 8;

/// The object without its debug sections. They keep their numbers, which others refer to, and are empty.
pub fn without_debug(elf: &[u8]) -> Option<Vec<u8>> {
    let table = usize::try_from(long(elf, SECTIONS_AT)?).ok()?;
    let count = usize::from(short(elf, SECTIONS)?);
    let header = |index: usize| elf.get(table + index * SECTION..table + (index + 1) * SECTION);
    let offset =
        |section: &[u8]| Some((usize::try_from(long(section, 24)?).ok()?, usize::try_from(long(section, 32)?).ok()?));
    let (names, _) = offset(header(usize::from(short(elf, NAMES)?))?)?;

    let mut out = elf.get(..HEADER)?.to_vec();
    let mut headers = Vec::with_capacity(count * SECTION);
    for index in 0..count {
        let section = header(index)?;
        let name = elf.get(names + usize::try_from(word(section, 0)?).ok()?..)?;
        let mut new = section.to_vec();
        if name.starts_with(b".debug") || name.starts_with(b".rel.debug") {
            new[4..].fill(0);
        } else if word(section, 4)? != NOBITS {
            let (at, len) = offset(section)?;
            let align = usize::try_from(long(section, 48)?).ok()?.max(1);
            out.resize(out.len().next_multiple_of(align), 0);
            new[24..32].copy_from_slice(&(out.len() as u64).to_le_bytes());
            out.extend_from_slice(elf.get(at..at + len)?);
        }
        headers.extend_from_slice(&new);
    }
    out.resize(out.len().next_multiple_of(8), 0);
    let at = (out.len() as u64).to_le_bytes();
    out[SECTIONS_AT..SECTIONS_AT + 8].copy_from_slice(&at);
    out.extend_from_slice(&headers);
    Some(out)
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_le_bytes)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
}
