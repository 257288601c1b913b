//! The binary form of the kernel's types, read where it lies: nothing is made of a type until somebody asks for it.
//!
//! The format is that of the kernel's Documentation/bpf/btf.rst and include/uapi/linux/btf.h. A module's types go on where
//! vmlinux's end: their ids and the offsets of their names count from there. A general parser makes an object of each of some hundred
//! thousand types, which took a quarter of a start and most of its memory.

use anyhow::{Context as _, bail, ensure};

const MAGIC: u16 = 0xeb9f;
/// The header's members up to the lengths of the strings.
const HEADER: usize = 24;
/// The same with the layout of kinds, which newer kernels tell of theirs.
const HEADER_WITH_LAYOUT: usize = 32;
/// Bytes of every type, before what its kind adds.
const TYPE: usize = 12;
/// No kernel has as many types, and none's names are as long: BTF from anywhere is untrusted.
const MAX_BYTES: usize = 256 << 20;

/// What a type is (`BTF_KIND_*`); those that nobody here asks for are in [`Kind::Other`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A pointer.
    Ptr,
    /// An array.
    Array,
    /// A structure.
    Struct,
    /// A union.
    Union,
    /// An enumeration.
    Enum,
    /// An enumeration of 64-bit values.
    Enum64,
    /// A structure that is only declared.
    Fwd,
    /// A typedef.
    Typedef,
    /// A qualifier.
    Volatile,
    /// A qualifier.
    Const,
    /// A qualifier.
    Restrict,
    /// A function.
    Func,
    /// A function's type.
    FuncProto,
    /// A tag on a type.
    TypeTag,
    /// Anything else.
    Other,
}

impl Kind {
    fn of(number: u32) -> Kind {
        match number {
            2 => Kind::Ptr,
            3 => Kind::Array,
            4 => Kind::Struct,
            5 => Kind::Union,
            6 => Kind::Enum,
            7 => Kind::Fwd,
            8 => Kind::Typedef,
            9 => Kind::Volatile,
            10 => Kind::Const,
            11 => Kind::Restrict,
            12 => Kind::Func,
            13 => Kind::FuncProto,
            18 => Kind::TypeTag,
            19 => Kind::Enum64,
            _ => Kind::Other,
        }
    }
}

/// Bytes that a kind adds to every type, and those for each of its elements.
fn added(kind: u32) -> Option<(usize, usize)> {
    Some(match kind {
        2 | 7..=12 | 16 | 18 => (0, 0),
        1 | 14 | 17 => (4, 0),
        3 => (12, 0),
        4 | 5 | 15 | 19 => (0, 12),
        6 | 13 => (0, 8),
        _ => return None,
    })
}

/// One file of types.
#[derive(Default)]
pub struct Btf {
    bytes: Vec<u8>,
    /// Where each type begins; the first has the id `first`.
    types: Vec<u32>,
    first: u32,
    /// Where the names begin and end; the first has the offset `first_name`.
    names: (usize, usize),
    first_name: u32,
    /// Hash and id of what has a name, in this order.
    by_name: Vec<(u32, u32)>,
}

/// A type, as it lies.
#[derive(Clone, Copy, Debug)]
pub struct Type<'a> {
    /// What it is.
    pub kind: Kind,
    /// Where its name is; 0 for none.
    pub name: u32,
    /// Bytes of a structure; the type that a pointer, typedef, qualifier or function leads to.
    pub word: u32,
    /// The kind's flag.
    flag: bool,
    /// What its kind adds.
    rest: &'a [u8],
}

/// A member of a structure, an enumerator, a parameter: what is told of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Element {
    /// Where its name is; 0 for none.
    pub name: u32,
    /// Its type, or an enumerator's value.
    pub word: u32,
    /// Where a member begins, in bits.
    pub bits: u32,
}

impl Type<'_> {
    /// Members of a structure or union.
    pub fn members(&self) -> impl Iterator<Item = Element> {
        let (is, flag) = (matches!(self.kind, Kind::Struct | Kind::Union), self.flag);
        self.elements::<12>(is, move |bytes| {
            let bits = word(bytes, 8).unwrap_or(0);
            // With the flag, a bit field's size is in the upper byte.
            if flag { bits & 0x00ff_ffff } else { bits }
        })
    }

    /// Enumerators of an enumeration of 32-bit values.
    pub fn enumerators(&self) -> impl Iterator<Item = Element> {
        self.elements::<8>(self.kind == Kind::Enum, |_| 0)
    }

    /// Parameters of a function's type.
    pub fn parameters(&self) -> impl Iterator<Item = Element> {
        self.elements::<8>(self.kind == Kind::FuncProto, |_| 0)
    }

    /// How many elements an array has.
    pub fn array_len(&self) -> Option<u32> {
        if self.kind == Kind::Array { word(self.rest, 8) } else { None }
    }

    fn elements<const SIZE: usize>(&self, is: bool, bits: impl Fn(&[u8]) -> u32) -> impl Iterator<Item = Element> {
        let rest = if is { self.rest } else { &[] };
        rest.chunks_exact(SIZE).map(move |bytes| Element {
            name: word(bytes, 0).unwrap_or(0),
            word: word(bytes, 4).unwrap_or(0),
            bits: bits(bytes),
        })
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_ne_bytes)
}

/// FNV-1a.
fn hash(name: &[u8]) -> u32 {
    name.iter().fold(0x811c_9dc5, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

impl Btf {
    /// Finds where the types lie; `base` is what they go on from, if they are a module's.
    pub fn parse(bytes: Vec<u8>, base: Option<&Btf>) -> anyhow::Result<Btf> {
        ensure!(bytes.len() <= MAX_BYTES, "{} bytes are too many to be types", bytes.len());
        let of = |at| word(&bytes, at).context("the header is cut");
        if bytes.get(..2) != Some(&MAGIC.to_ne_bytes()[..]) {
            bail!("it does not begin as BTF of this machine does");
        }
        let header = of(4)? as usize;
        ensure!(header >= HEADER, "a header of {header} bytes is too short");
        let section = |offset: usize, len: usize, what: &str| {
            let begin = header.saturating_add(offset);
            let end = begin.saturating_add(len);
            ensure!(end <= bytes.len(), "{what} end at {end} of {} bytes", bytes.len());
            Ok((begin, end))
        };
        let (mut at, end) = section(of(8)? as usize, of(12)? as usize, "the types")?;
        let names = section(of(16)? as usize, of(20)? as usize, "the names")?;
        let layout = if header >= HEADER_WITH_LAYOUT {
            section(of(24)? as usize, of(28)? as usize, "the kinds")?
        } else {
            (0, 0)
        };
        let layout = &bytes[layout.0..layout.1];
        let mut types = Vec::with_capacity((end - at) / 24);
        while at < end {
            types.push(at as u32);
            let info = word(&bytes, at + 4).context("a type is cut")?;
            let (kind, elements) = (info >> 24 & 0x7f, info as usize & 0x00ff_ffff);
            let told = || Some(layout.get(kind as usize * 4..)?.first_chunk::<2>()?.map(usize::from));
            let (each, element) = added(kind)
                .or_else(|| told().map(|[each, element]| (each, element)))
                .with_context(|| format!("type {} is of the unknown kind {kind}", types.len()))?;
            // What a function has for elements is its linkage.
            at += TYPE + each + element * elements;
        }
        ensure!(at == end, "the last type does not end where the types do");
        let btf = Btf {
            first: base.map_or(1, |base| base.first + base.types.len() as u32),
            first_name: base.map_or(0, |base| (base.names.1 - base.names.0) as u32),
            by_name: Vec::new(),
            bytes,
            types,
            names,
        };
        let mut by_name = Vec::with_capacity(btf.types.len());
        for (index, &at) in btf.types.iter().enumerate() {
            let name = word(&btf.bytes, at as usize).unwrap_or(0);
            let text = btf.name(name).or_else(|| base.and_then(|base| base.name(name))).unwrap_or_default();
            if !text.is_empty() {
                by_name.push((hash(text), btf.first + index as u32));
            }
        }
        by_name.sort_unstable();
        by_name.shrink_to_fit();
        Ok(Btf { by_name, ..btf })
    }

    /// The name at an offset that is among this file's.
    fn name(&self, offset: u32) -> Option<&[u8]> {
        let at = self.names.0.checked_add(offset.checked_sub(self.first_name)? as usize)?;
        let rest = self.bytes.get(at..self.names.1)?;
        rest.split(|&byte| byte == 0).next()
    }

    fn ty(&self, id: u32) -> Option<Type<'_>> {
        let index = id.checked_sub(self.first)? as usize;
        let at = *self.types.get(index)? as usize;
        let end = self.types.get(index + 1).map_or(self.bytes.len(), |&next| next as usize);
        let info = word(&self.bytes, at + 4)?;
        let (number, elements) = (info >> 24 & 0x7f, info as usize & 0x00ff_ffff);
        // The last type's end is not that of the bytes.
        let rest = added(number).map_or(0, |(each, element)| each + element * elements);
        Some(Type {
            kind: Kind::of(number),
            name: word(&self.bytes, at)?,
            word: word(&self.bytes, at + 8)?,
            flag: info >> 31 != 0,
            rest: self.bytes.get(at + TYPE..(at + TYPE + rest).min(end))?,
        })
    }
}

/// A file of types with what it goes on from.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The file.
    pub own: &'a Btf,
    /// vmlinux's types, where the file is a module's.
    pub base: Option<&'a Btf>,
}

impl<'a> View<'a> {
    /// A type by its id; `None` for `void`, too.
    pub fn ty(self, id: u32) -> Option<Type<'a>> {
        self.own.ty(id).or_else(|| self.base?.ty(id))
    }

    /// A name; empty for none, and for one that is no UTF-8.
    pub fn name(self, offset: u32) -> &'a str {
        let name = self.own.name(offset).or_else(|| self.base?.name(offset)).unwrap_or_default();
        std::str::from_utf8(name).unwrap_or_default()
    }

    /// The file's own types of this name, with their ids, in the order of these.
    pub fn named(self, name: &str) -> impl Iterator<Item = (u32, Type<'a>)> {
        let wanted = hash(name.as_bytes());
        let begin = self.own.by_name.partition_point(|&(hash, _)| hash < wanted);
        self.own.by_name[begin..]
            .iter()
            .take_while(move |&&(hash, _)| hash == wanted)
            .filter_map(move |&(_, id)| Some((id, self.own.ty(id)?)))
            .filter(move |(_, ty)| self.name(ty.name) == name)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bytes of types: `words` of them, and names each with its NUL.
    pub fn file(words: &[u32], names: &str) -> Vec<u8> {
        let types: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut bytes = MAGIC.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        for word in [HEADER, 0, types.len(), types.len(), names.len()] {
            bytes.extend((word as u32).to_ne_bytes());
        }
        [bytes, types, names.as_bytes().to_vec()].concat()
    }

    /// A type's word of its kind and number of elements.
    pub const fn info(kind: u32, elements: u32) -> u32 {
        kind << 24 | elements
    }

    /// `int`, `struct pair { int a; int b; }`, `typedef struct pair pair_t`, a function `swap(pair_t)`.
    fn vmlinux() -> Vec<u8> {
        let words: [&[u32]; 5] = [
            &[1, info(1, 0), 4, 32],
            &[5, info(4, 2), 8, 10, 1, 0, 12, 1, 32],
            &[14, info(8, 0), 2],
            &[0, info(13, 1), 0, 21, 3],
            &[26, info(12, 1), 4],
        ];
        file(&words.concat(), "\0int\0pair\0a\0b\0pair_t\0from\0swap\0")
    }

    #[test]
    fn what_is_asked_for_is_found_by_name_and_by_id() {
        let btf = Btf::parse(vmlinux(), None).unwrap();
        let view = View { own: &btf, base: None };
        let (id, pair) = view.named("pair").next().unwrap();
        assert_eq!((id, pair.kind, pair.word), (2, Kind::Struct, 8));
        let members: Vec<_> = pair.members().map(|member| (view.name(member.name), member.bits)).collect();
        assert_eq!(members, [("a", 0), ("b", 32)]);
        let (_, typedef) = view.named("pair_t").next().unwrap();
        assert_eq!((typedef.kind, view.ty(typedef.word).unwrap().kind), (Kind::Typedef, Kind::Struct));
        let proto = view.ty(4).unwrap();
        assert_eq!(proto.parameters().map(|p| (view.name(p.name), p.word)).collect::<Vec<_>>(), [("from", 3)]);
        assert!(proto.members().next().is_none() && proto.enumerators().next().is_none());
        assert!(view.named("nothing").next().is_none() && view.ty(0).is_none() && view.ty(6).is_none());
    }

    #[test]
    fn a_module_s_types_and_names_go_on_where_vmlinux_s_end() {
        let base = Btf::parse(vmlinux(), None).unwrap();
        let after = (base.names.1 - base.names.0) as u32;
        // `struct own { pair_t pair; }`, and another `struct pair`.
        let words = [after + 1, info(4, 1), 8, 5, 3, 0, 5, info(4, 0), 0];
        let own = Btf::parse(file(&words, "\0own\0"), Some(&base)).unwrap();
        let view = View { own: &own, base: Some(&base) };
        let (id, ty) = view.named("own").next().unwrap();
        let member = ty.members().next().unwrap();
        assert_eq!((id, view.name(member.name), view.ty(member.word).unwrap().kind), (6, "pair", Kind::Typedef));
        assert_eq!(view.named("pair").map(|(id, _)| id).collect::<Vec<_>>(), [7], "its own, by a name of vmlinux's");
    }

    #[test]
    fn kinds_to_come_are_passed_over_where_the_kernel_tells_how_long_they_are() {
        let types: Vec<u8> =
            [1u32, info(99, 2), 0, 7, 8, 9, 1, info(12, 0), 0].iter().flat_map(|w| w.to_ne_bytes()).collect();
        let names = b"\0new\0\0\0\0";
        let mut layout = vec![0; 400];
        // Four bytes, and four for each element.
        layout[99 * 4..99 * 4 + 2].copy_from_slice(&[4, 4]);
        let make = |header: usize| {
            let mut bytes = MAGIC.to_ne_bytes().to_vec();
            bytes.extend([1, 0]);
            let strings = types.len();
            for word in [header, 0, types.len(), strings, names.len(), strings + names.len(), layout.len()] {
                bytes.extend((word as u32).to_ne_bytes());
            }
            bytes.truncate(header);
            [bytes, types.clone(), names.to_vec(), layout.clone()].concat()
        };
        let btf = Btf::parse(make(HEADER_WITH_LAYOUT), None).unwrap();
        let kinds: Vec<Kind> = View { own: &btf, base: None }.named("new").map(|(_, ty)| ty.kind).collect();
        assert_eq!(kinds, [Kind::Other, Kind::Func]);
        let error = Btf::parse(make(HEADER), None).err().unwrap().to_string();
        assert!(error.contains("unknown kind 99"), "{error}");
    }

    #[test]
    fn what_is_cut_is_an_error() {
        let whole = vmlinux();
        for len in 0..whole.len() {
            assert!(Btf::parse(whole[..len].to_vec(), None).is_err(), "{len}");
        }
    }

    proptest! {
        #[test]
        fn any_types_are_read_or_refused(words in prop::collection::vec(prop_oneof![0u32..40, any::<u32>(), (0u32..20, 0u32..4).prop_map(|(kind, n)| info(kind, n))], 0..60)) {
            let Ok(btf) = Btf::parse(file(&words, "\0a\0bc\0"), None) else { return Ok(()) };
            let view = View { own: &btf, base: None };
            for id in 0..words.len() as u32 {
                let Some(ty) = view.ty(id) else { continue };
                let elements = ty.members().chain(ty.enumerators()).chain(ty.parameters());
                for element in elements {
                    let _ = (view.name(element.name), view.ty(element.word));
                }
                let _ = (ty.array_len(), view.named(view.name(ty.name)).count());
            }
        }
    }
}
