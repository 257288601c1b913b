//! The kernel's symbol table, `/proc/kallsyms`.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
};

use anyhow::Context as _;

const KALLSYMS: &str = "/proc/kallsyms";

/// Where a symbol of the running kernel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// There.
    At(u64),
    /// The kernel has it, or may have it, and does not show where (`kernel.kptr_restrict`, `CAP_SYSLOG`).
    Hidden,
    /// The kernel has no such symbol.
    Absent,
}

/// Function symbols by address, to name the frames of kernel stacks.
#[derive(Clone, Debug, Default)]
pub struct Symbols {
    /// Sorted by address: where each name is in `names`.
    table: Vec<(u64, Place)>,
    /// All names, one after the other: a hundred thousand texts of their own would take twice the memory.
    names: String,
}

/// Where a name begins and ends.
type Place = (u32, u32);

impl Symbols {
    /// Opens the running kernel's table. Whether it shows addresses is decided now, by who opens it (`kallsyms_open()`), and
    /// not when it is read.
    pub fn open() -> anyhow::Result<File> {
        File::open(KALLSYMS).with_context(|| format!("cannot open {KALLSYMS}"))
    }

    /// Reads the running kernel's symbols from its open table; empty where addresses are hidden from who opened it
    /// (`kptr_restrict`).
    pub fn read(table: File) -> anyhow::Result<Symbols> {
        Symbols::parse(table).with_context(|| format!("cannot read {KALLSYMS}"))
    }

    /// The address of one symbol of the running kernel.
    #[must_use]
    pub fn address(name: &str) -> Address {
        let [address] = Symbols::addresses([name]);
        address
    }

    /// The addresses of some symbols of the running kernel, read in one go.
    #[must_use]
    pub fn addresses<const N: usize>(names: [&str; N]) -> [Address; N] {
        File::open(KALLSYMS).and_then(|table| find(table, names)).unwrap_or([Address::Hidden; N])
    }

    /// The one copy that the compiler has left of a function of the running kernel, with its result or arguments changed
    /// (`NAME.isra.0`); `None` where the function itself is there, where there are several or none, and where addresses are
    /// hidden from this user.
    #[must_use]
    pub fn copy_of(name: &str) -> Option<String> {
        find_copy(File::open(KALLSYMS).ok()?, name)
    }

    /// Reads a symbol table in the format of `/proc/kallsyms`. Lines that make no sense are passed over.
    pub fn parse(reader: impl Read) -> std::io::Result<Symbols> {
        let (mut table, mut names) = (Vec::new(), String::new());
        let mut lines = BufReader::with_capacity(1 << 16, reader);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line)? > 0 {
            if let Some(symbol) = parse_line(&line)
                && symbol.is_text
                && symbol.addr != 0
            {
                let begin = names.len();
                names.push_str(symbol.name);
                if let Some(module) = symbol.module {
                    names.extend([" ", module]);
                }
                // No kernel has four gigabytes of names.
                let (Ok(begin), Ok(end)) = (u32::try_from(begin), u32::try_from(names.len())) else { break };
                table.push((symbol.addr, (begin, end)));
            }
            line.clear();
        }
        table.sort_by_key(|&(addr, _)| addr);
        Ok(Symbols { table, names })
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// An address as the kernel prints it (`name+0x12` or `name+0x12 [module]`), or the bare address when no symbol is near.
    #[must_use]
    pub fn name(&self, addr: u64) -> String {
        /// No function is longer: beyond it an address belongs to nothing we know.
        const FAR: u64 = 1 << 20;
        let after = self.table.partition_point(|&(start, _)| start <= addr);
        match after.checked_sub(1).map(|index| self.table[index]) {
            Some((start, (begin, end))) if addr - start < FAR => {
                let (name, offset) = (&self.names[begin as usize..end as usize], addr - start);
                match name.split_once(' ') {
                    Some((name, module)) => format!("{name}+{offset:#x} {module}"),
                    None => format!("{name}+{offset:#x}"),
                }
            }
            _ => format!("{addr:#x}"),
        }
    }
}

pub(super) fn find<const N: usize>(table: impl Read, names: [&str; N]) -> std::io::Result<[Address; N]> {
    let mut found = [Address::Absent; N];
    let mut lines = BufReader::with_capacity(1 << 16, table);
    let mut line = Vec::new();
    while found.contains(&Address::Absent) && lines.read_until(b'\n', &mut line)? > 0 {
        if let Some(symbol) = parse_line(&line)
            && let Some(at) = names.iter().position(|name| *name == symbol.name)
            && found[at] == Address::Absent
        {
            found[at] = if symbol.addr == 0 { Address::Hidden } else { Address::At(symbol.addr) };
        }
        line.clear();
    }
    Ok(found)
}

pub(super) fn find_copy(table: impl Read, name: &str) -> Option<String> {
    let mut lines = BufReader::with_capacity(1 << 16, table);
    let mut line = Vec::new();
    let mut copies = Vec::new();
    while lines.read_until(b'\n', &mut line).ok()? > 0 {
        if let Some(symbol) = parse_line(&line)
            && symbol.is_text
            && symbol.addr != 0
            && let Some(rest) = symbol.name.strip_prefix(name)
        {
            if rest.is_empty() {
                return None;
            }
            // Its seldom half (`.cold`) is no function of its own.
            if rest.strip_prefix(".isra.").is_some_and(|number| number.bytes().all(|digit| digit.is_ascii_digit())) {
                copies.push(symbol.name.to_owned());
            }
        }
        line.clear();
    }
    if copies.len() == 1 { copies.pop() } else { None }
}

struct Line<'a> {
    addr: u64,
    is_text: bool,
    name: &'a str,
    /// `[module]`, of what is in one.
    module: Option<&'a str>,
}

/// A name with anything in it that is not to be printed is none of the kernel's.
fn parse_line(line: &[u8]) -> Option<Line<'_>> {
    if !line.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace()) {
        return None;
    }
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split_ascii_whitespace();
    let addr = u64::from_str_radix(words.next()?, 16).ok()?;
    let kind = words.next()?;
    let name = words.next()?;
    Some(Line { addr, is_text: matches!(kind, "t" | "T" | "w" | "W"), name, module: words.next() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
ffffffff81000000 T _stext
ffffffff81000100 t iommu_map
ffffffff81000180 d some_data
ffffffffc0200000 t iommufd_device_bind\t[iommufd]
nonsense
ffffffff81000190 t \x1b[2Jcleared
0000000000000000 T hidden
";

    #[test]
    fn an_address_is_named_after_the_function_before_it() {
        let symbols = Symbols::parse(TABLE.as_bytes()).unwrap();
        assert_eq!(symbols.len(), 3);
        assert_eq!(symbols.name(0xffff_ffff_8100_0110), "iommu_map+0x10");
        assert_eq!(symbols.name(0xffff_ffff_8100_0190), "iommu_map+0x90");
        assert_eq!(symbols.name(0xffff_ffff_c020_0004), "iommufd_device_bind+0x4 [iommufd]");
    }

    #[test]
    fn one_symbol_is_found_unless_its_address_is_hidden() {
        let map = Address::At(0xffff_ffff_8100_0100);
        assert_eq!(find(TABLE.as_bytes(), ["iommu_map"]).unwrap(), [map]);
        // In the order of the question, not of the table.
        let three = find(TABLE.as_bytes(), ["hidden", "iommu", "iommu_map"]).unwrap();
        assert_eq!(three, [Address::Hidden, Address::Absent, map]);
    }

    #[test]
    fn a_copy_is_found_where_it_is_the_only_one_and_stands_for_the_function() {
        let table = "ff00 t wait.isra.0\nff08 t wait.isra.0.cold\nff10 t wait_on\nff20 t other\nff30 t other.isra.0\nff40 t two.isra.0\nff50 t two.isra.1\n\
                     ff60 t part.part.0\n0000 t hidden.isra.0\n";
        let copy = |name| find_copy(table.as_bytes(), name);
        assert_eq!(copy("wait").as_deref(), Some("wait.isra.0"));
        assert_eq!([copy("wait_on"), copy("other"), copy("two"), copy("part"), copy("hidden")], [const { None }; 5]);
    }

    #[test]
    fn an_address_far_from_any_function_stays_a_number() {
        let symbols = Symbols::parse(TABLE.as_bytes()).unwrap();
        assert_eq!(symbols.name(0x1000), "0x1000");
        assert_eq!(symbols.name(0xffff_ffff_9000_0000), "0xffffffff90000000");
    }
}
