//! The types in a kernel image: out of a bzImage, an arm64 Image, a vmlinux or a file of BTF.

use std::{
    io::Write,
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context, Result, bail};

use crate::command;

const ELF: &[u8] = b"\x7fELF";
/// Little-endian BTF.
const BTF: &[u8] = &[0x9f, 0xeb];
/// Where a bzImage says that it is one (Documentation/arch/x86/boot.rst).
const HEADER: (usize, &[u8]) = (0x202, b"HdrS");

/// Where an arm64 Image says that it is one (Documentation/arch/arm64/booting.rst). It is the kernel as it lies in memory.
const ARM64: (usize, &[u8]) = (0x38, b"ARMd");
/// How BTF begins in memory: magic, version 1, no flags, a header of 24 bytes, types right behind it.
const BTF_HEADER: &[u8] = &[0x9f, 0xeb, 1, 0, 24, 0, 0, 0, 0, 0, 0, 0];

/// Compressed kernels by their first bytes, and the program that unpacks each.
const PACKERS: &[(&[u8], &str, &[&str])] = &[
    (b"\x1f\x8b", "gzip", &["-dc"]),
    (b"\xfd7zXZ\0", "xz", &["-dc", "--single-stream"]),
    (b"\x28\xb5\x2f\xfd", "zstd", &["-dc"]),
    (b"\x02\x21\x4c\x18", "lz4", &["-dc"]),
];

/// The BTF in an image.
pub fn types(image: &[u8]) -> Result<Vec<u8>> {
    if image.starts_with(BTF) {
        return Ok(image.to_vec());
    }
    if image.starts_with(ELF) {
        return section(image, ".BTF");
    }
    if image.get(ARM64.0..).is_some_and(|rest| rest.starts_with(ARM64.1)) {
        return bare(image).context("no types lie in it: was it built with CONFIG_DEBUG_INFO_BTF?");
    }
    section(&unpack(payload(image)?)?, ".BTF")
}

/// The largest BTF that lies somewhere in memory, as no section table tells where.
fn bare(memory: &[u8]) -> Option<Vec<u8>> {
    let whole = |at: usize| {
        let types = memory.get(at..)?;
        // Strings come last, from `str_off` on.
        let end = number(types, 16, 4)?.checked_add(number(types, 20, 4)?)?.checked_add(24)?;
        types.get(..end)
    };
    let begins = memory.windows(BTF_HEADER.len()).enumerate().filter(|(_, bytes)| *bytes == BTF_HEADER);
    begins.filter_map(|(at, _)| whole(at)).max_by_key(|types| types.len()).map(<[u8]>::to_vec)
}

/// The compressed kernel in a bzImage.
fn payload(image: &[u8]) -> Result<&[u8]> {
    let part = || {
        if !image.get(HEADER.0..)?.starts_with(HEADER.1) {
            return None;
        }
        // No sectors means four.
        let sectors = usize::from(*image.get(0x1f1)?);
        let setup = (if sectors == 0 { 4 } else { sectors } + 1) * 512;
        let offset = setup.checked_add(number(image, 0x248, 4)?)?;
        image.get(offset..)?.get(..number(image, 0x24c, 4)?)
    };
    part().context("it is neither a bzImage nor an arm64 Image nor an ELF file nor BTF")
}

fn unpack(payload: &[u8]) -> Result<Vec<u8>> {
    let Some((_, program, args)) = PACKERS.iter().find(|(magic, ..)| payload.starts_with(magic)) else {
        bail!(
            "the kernel is compressed in a way unknown here: it begins with {:02x?}",
            &payload[..payload.len().min(6)]
        );
    };
    let mut unpacker = Command::new(program);
    unpacker.args(*args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = unpacker.spawn().map_err(|error| command::cannot_start(&unpacker, &error))?;
    let mut input = child.stdin.take().context("a pipe is missing")?;
    let output = thread::scope(|scope| {
        // What follows the compressed kernel, its size, is not read.
        scope.spawn(move || input.write_all(payload));
        child.wait_with_output()
    })
    .with_context(|| format!("cannot run {program}"))?;
    // The unpacker complains about what follows; whether the kernel is whole is seen from its sections.
    if !output.stdout.starts_with(ELF) {
        bail!("{program} made no kernel of what is in the image ({})", output.status);
    }
    Ok(output.stdout)
}

/// A section of a 64-bit little-endian ELF file.
pub fn section(elf: &[u8], name: &str) -> Result<Vec<u8>> {
    let find = || {
        let (table, size) = (number(elf, 0x28, 8)?, number(elf, 0x3a, 2)?);
        let (count, names) = (number(elf, 0x3c, 2)?, number(elf, 0x3e, 2)?);
        let at = |index: usize| table.checked_add(index.checked_mul(size)?);
        let content = |header: usize| {
            let (offset, size) =
                (number(elf, header.checked_add(0x18)?, 8)?, number(elf, header.checked_add(0x20)?, 8)?);
            elf.get(offset..)?.get(..size)
        };
        let strings = content(at(names)?)?;
        (0..count).find_map(|index| {
            let header = at(index)?;
            let text = strings.get(number(elf, header, 4)?..)?.split(|byte| *byte == 0).next()?;
            if text == name.as_bytes() { content(header).map(<[u8]>::to_vec) } else { None }
        })
    };
    if !elf.starts_with(ELF) {
        bail!("it is no ELF file");
    }
    find().with_context(|| format!("it has no section {name}: was it built with CONFIG_DEBUG_INFO_BTF?"))
}

/// A little-endian number of some bytes.
fn number(bytes: &[u8], at: usize, len: usize) -> Option<usize> {
    let bytes = bytes.get(at..at.checked_add(len)?)?;
    usize::try_from(bytes.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF file with one section of this name and content.
    fn elf(name: &str, content: &[u8]) -> Vec<u8> {
        let strings = format!("\0{name}\0");
        let mut file = vec![0; 64];
        file[..4].copy_from_slice(ELF);
        let strings_at = file.len() as u64;
        file.extend_from_slice(strings.as_bytes());
        let content_at = file.len() as u64;
        file.extend_from_slice(content);
        let table = file.len() as u64;
        for (name, at, size) in [(0u32, strings_at, strings.len()), (1, content_at, content.len())] {
            let mut header = [0; 64];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[0x18..0x20].copy_from_slice(&at.to_le_bytes());
            header[0x20..0x28].copy_from_slice(&(size as u64).to_le_bytes());
            file.extend_from_slice(&header);
        }
        file[0x28..0x30].copy_from_slice(&table.to_le_bytes());
        for (at, value) in [(0x3a, 64u16), (0x3c, 2), (0x3e, 0)] {
            file[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        file
    }

    #[test]
    fn types_are_found_bare_and_in_an_elf_file() {
        let btf = [0x9f, 0xeb, 1, 0, 7];
        assert_eq!(types(&btf).unwrap(), btf);
        assert_eq!(types(&elf(".BTF", &btf)).unwrap(), btf);
        let error = types(&elf(".text", &btf)).unwrap_err().to_string();
        assert!(error.contains("CONFIG_DEBUG_INFO_BTF"), "{error}");
    }

    #[test]
    fn types_are_found_in_a_bzimage() {
        let btf = [0x9f, 0xeb, 1, 0, 7];
        let mut gzip = Command::new("gzip");
        let mut child = gzip.arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(&elf(".BTF", &btf)).unwrap();
        let packed = child.wait_with_output().unwrap().stdout;
        let mut image = vec![0; 1024];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x248..0x24c].copy_from_slice(&16u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&(packed.len() as u32).to_le_bytes());
        image.extend([0; 16]);
        image.extend(packed);
        assert_eq!(types(&image).unwrap(), btf);
    }

    #[test]
    fn types_are_found_in_an_arm64_image() {
        let mut btf = BTF_HEADER.to_vec();
        for word in [8u32, 8, 4] {
            btf.extend(word.to_le_bytes());
        }
        btf.extend([7; 12]);
        let mut image = vec![0; 100];
        image[0x38..0x3c].copy_from_slice(b"ARMd");
        assert!(types(&image).is_err());
        // What only looks so, and would reach beyond the end.
        image.extend(BTF_HEADER);
        image.extend([0xff; 12]);
        image.extend(&btf);
        image.extend([0; 50]);
        assert_eq!(types(&image).unwrap(), btf);
    }

    #[test]
    fn anything_else_is_refused_and_not_read_beyond_its_end() {
        let whole = elf(".BTF", &[1, 2, 3]);
        // The last header's last three words are not read.
        for len in 0..whole.len() - 24 {
            assert!(types(&whole[..len]).is_err(), "{len}");
        }
        assert!(types(&[0; 4096]).is_err());
    }
}
