//! Leaves the debug information of the BPF programs out of what goes into the binary: it is five sixths of the object, and the loader
//! would read it all at each start. The types that the kernel is given (`.BTF`, `.BTF.ext`) stay.

use object::{
    build::elf::{Builder, SectionData},
    elf::SHT_STRTAB,
};

/// The object without its debug sections.
pub fn without_debug(elf: &[u8]) -> Result<Vec<u8>, object::build::Error> {
    let mut builder = Builder::read(elf)?;
    for section in &mut builder.sections {
        let name = section.name.as_slice();
        section.delete |= name.starts_with(b".debug") || name.starts_with(b".rel.debug");
    }
    // What referred to them.
    builder.delete_orphans();
    // LLVM keeps the sections' names among the symbols'.
    let names = builder.sections.add();
    (names.name, names.sh_type, names.data) = (".shstrtab".into(), SHT_STRTAB, SectionData::SectionString);
    let mut stripped = Vec::new();
    builder.write(&mut stripped)?;
    Ok(stripped)
}
