//! Questions to the kernel's own type information.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, bail};

use super::btf_format::{Btf, Kind, Type, View};

/// The module that may come and go while it is traced.
pub const MODULE: &str = "iommufd";
/// All modules whose functions and types are of interest when they are not built in.
const MODULES: [&str; 5] = ["iommufd", "virtio", "virtio_ring", "virtio_iommu", "arm_smmu_v3"];
/// How many types may lead from one to the next: BTF from anywhere is untrusted, and a loop in it must end.
const MAX_DEPTH: u32 = 16;
/// How many structures are looked into for one member: anonymous ones may hold each other, and each several of the others.
const MAX_LOOKED: u32 = 1024;

/// The types of vmlinux and of the modules we know.
pub struct Types {
    vmlinux: Btf,
    modules: BTreeMap<&'static str, Btf>,
}

/// A type of vmlinux that a program attaches by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachTarget {
    /// Its id.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: TargetKind,
}

/// What a program attaches to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetKind {
    /// A function: `BTF_KIND_FUNC`.
    Function,
    /// A tracepoint: the `BTF_KIND_TYPEDEF` of its probe functions.
    Tracepoint,
}

/// A function's type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prototype {
    /// What it returns, `void` for nothing.
    pub returns: String,
    /// Type and name of each parameter.
    pub parameters: Vec<(String, String)>,
}

impl Types {
    /// Loads the BTF of the running kernel (or of a copy of its `/sys/kernel/btf`).
    pub fn load(dir: &Path) -> anyhow::Result<Types> {
        let path = dir.join("vmlinux");
        let wrong = || format!("cannot read the kernel's types from {}", path.display());
        let bytes = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => bail!(
                "this kernel shows no type information: {} does not exist. iommu-trace reads every structure through \
                 it. Boot a kernel built with CONFIG_DEBUG_INFO_BTF=y (all Debian, Fedora, Ubuntu and SUSE kernels \
                 since 2021 are), and see that sysfs is mounted on /sys",
                path.display()
            ),
            read => read.with_context(wrong)?,
        };
        let vmlinux = Btf::parse(bytes, None).with_context(wrong)?;
        let mut types = Types { vmlinux, modules: BTreeMap::new() };
        types.reload(dir)?;
        Ok(types)
    }

    /// From the bytes of vmlinux's BTF, and of a module's by its name.
    pub fn from_bytes(vmlinux: &[u8], modules: &[(&'static str, &[u8])]) -> anyhow::Result<Types> {
        let vmlinux = Btf::parse(vmlinux.to_vec(), None).context("cannot read the kernel's types")?;
        let mut types = Types { vmlinux, modules: BTreeMap::new() };
        for &(module, bytes) in modules {
            let split = Btf::parse(bytes.to_vec(), Some(&types.vmlinux))
                .with_context(|| format!("cannot read the types of module {module}"))?;
            types.modules.insert(module, split);
        }
        Ok(types)
    }

    /// Reads the modules' types again: one has come or gone.
    pub fn reload(&mut self, dir: &Path) -> anyhow::Result<()> {
        self.modules.clear();
        for module in MODULES {
            let path = dir.join(module);
            let Ok(bytes) = std::fs::read(&path) else { continue };
            let types = Btf::parse(bytes, Some(&self.vmlinux))
                .with_context(|| format!("cannot read the types of module {module} from {}", path.display()))?;
            self.modules.insert(module, types);
        }
        Ok(())
    }

    /// Whether vmlinux has this function.
    #[must_use]
    pub fn vmlinux_has_function(&self, name: &str) -> bool {
        function(self.vmlinux(), name).is_some()
    }

    /// Whether vmlinux has this tracepoint (`btf_trace_NAME` is the type of its probe functions).
    #[must_use]
    pub fn has_tracepoint(&self, name: &str) -> bool {
        self.vmlinux().named(&format!("btf_trace_{name}")).any(|(_, ty)| ty.kind == Kind::Typedef)
    }

    /// vmlinux's type ids of these functions, and of the probe functions of these tracepoints: the few that the BPF loader
    /// asks for by name. What vmlinux lacks is left out.
    #[must_use]
    pub fn attach_targets(&self, functions: &[&str], tracepoints: &[&str]) -> Vec<AttachTarget> {
        let find = |name: String, wanted: Kind, kind: TargetKind| {
            let (id, _) = self.vmlinux().named(&name).find(|(_, ty)| ty.kind == wanted)?;
            Some(AttachTarget { id, name, kind })
        };
        let functions = functions.iter().filter_map(|name| find((*name).to_owned(), Kind::Func, TargetKind::Function));
        let tracepoints = tracepoints
            .iter()
            .filter_map(|name| find(format!("btf_trace_{name}"), Kind::Typedef, TargetKind::Tracepoint));
        functions.chain(tracepoints).collect()
    }

    /// Which loaded module has this function.
    #[must_use]
    pub fn module_of_function(&self, name: &str) -> Option<&str> {
        self.modules().find(|(_, view)| function(*view, name).is_some()).map(|(module, _)| module)
    }

    /// The prototype of a function.
    #[must_use]
    pub fn prototype(&self, name: &str) -> Option<Prototype> {
        self.all().find_map(|view| as_prototype(view, view.ty(function(view, name)?.word)?))
    }

    /// The prototype of a tracepoint, without the first argument, which every probe function is given for itself.
    #[must_use]
    pub fn tracepoint_prototype(&self, name: &str) -> Option<Prototype> {
        let view = self.vmlinux();
        let (_, typedef) = view.named(&format!("btf_trace_{name}")).find(|(_, ty)| ty.kind == Kind::Typedef)?;
        let pointer = view.ty(typedef.word).filter(|ty| ty.kind == Kind::Ptr)?;
        let mut prototype = as_prototype(view, view.ty(pointer.word)?)?;
        prototype.parameters.drain(..1.min(prototype.parameters.len()));
        Some(prototype)
    }

    /// The value of an enumerator.
    #[must_use]
    pub fn enumerator(&self, enumeration: &str, name: &str) -> Option<u32> {
        self.enumeration(enumeration).into_iter().find(|(enumerator, _)| enumerator == name).map(|(_, value)| value)
    }

    /// All enumerators of an enumeration; none when this kernel does not have it.
    #[must_use]
    pub fn enumeration(&self, enumeration: &str) -> Vec<(String, u32)> {
        let found = self.all().find_map(|view| {
            let (_, ty) = view.named(enumeration).find(|(_, ty)| ty.kind == Kind::Enum)?;
            Some(ty.enumerators().map(|e| (view.name(e.name).to_owned(), e.word)).collect())
        });
        found.unwrap_or_default()
    }

    /// The byte offset of a member, `path` having dots between nested members; `None` when this kernel lacks it.
    /// Members of anonymous structures and unions count as the structure's own, as in C. Of several structures of one name,
    /// which C allows in different files, `NAME with MEMBER` is the one that has the member.
    #[must_use]
    pub fn offset(&self, structure: &str, path: &str) -> Option<u32> {
        let (name, with) = structure.split_once(" with ").map_or((structure, None), |(name, with)| (name, Some(with)));
        self.all().find_map(|view| {
            structures(view, name)
                .filter(|ty| with.is_none_or(|with| member(view, ty, with, &mut 0).is_some()))
                .find_map(|ty| offset_in(view, ty, path))
        })
    }

    /// Bytes of a structure.
    #[must_use]
    pub fn size(&self, structure: &str) -> Option<u32> {
        self.all().find_map(|view| structures(view, structure).next()).map(|ty| ty.word)
    }

    /// How many elements an array member has.
    #[must_use]
    pub fn array_len(&self, structure: &str, name: &str) -> Option<usize> {
        self.all().find_map(|view| {
            let (_, ty) = member(view, &structures(view, structure).next()?, name, &mut 0)?;
            stripped(view, ty)?.array_len().map(|len| len as usize)
        })
    }

    fn vmlinux(&self) -> View<'_> {
        View { own: &self.vmlinux, base: None }
    }

    fn modules(&self) -> impl Iterator<Item = (&str, View<'_>)> {
        let view = |own| View { own, base: Some(&self.vmlinux) };
        self.modules.iter().map(move |(module, own)| (*module, view(own)))
    }

    fn all(&self) -> impl Iterator<Item = View<'_>> {
        std::iter::once(self.vmlinux()).chain(self.modules().map(|(_, view)| view))
    }
}

fn function<'a>(view: View<'a>, name: &str) -> Option<Type<'a>> {
    view.named(name).map(|(_, ty)| ty).find(|ty| ty.kind == Kind::Func)
}

fn structures<'a>(view: View<'a>, name: &str) -> impl Iterator<Item = Type<'a>> {
    view.named(name).map(|(_, ty)| ty).filter(is_structure)
}

fn is_structure(ty: &Type<'_>) -> bool {
    matches!(ty.kind, Kind::Struct | Kind::Union)
}

fn as_prototype(view: View<'_>, ty: Type<'_>) -> Option<Prototype> {
    if ty.kind != Kind::FuncProto {
        return None;
    }
    let parameters = ty.parameters().map(|p| (spell(view, p.word, 0), view.name(p.name).to_owned())).collect();
    Some(Prototype { returns: spell(view, ty.word, 0), parameters })
}

fn offset_in(view: View<'_>, structure: Type<'_>, path: &str) -> Option<u32> {
    let mut bits = 0u32;
    let mut ty = structure;
    let mut names = path.split('.').peekable();
    while let Some(name) = names.next() {
        let (offset, member) = member(view, &ty, name, &mut 0)?;
        bits = bits.checked_add(offset)?;
        if names.peek().is_some() {
            ty = stripped(view, member).filter(is_structure)?;
        }
    }
    bits.is_multiple_of(8).then_some(bits / 8)
}

/// Finds a member by name: its offset in bits and the id of its type, looking into anonymous members.
fn member(view: View<'_>, structure: &Type<'_>, name: &str, looked: &mut u32) -> Option<(u32, u32)> {
    if *looked == MAX_LOOKED {
        return None;
    }
    *looked += 1;
    structure.members().find_map(|m| match view.name(m.name) {
        found if found == name => Some((m.bits, m.word)),
        "" => {
            let inner = stripped(view, m.word).filter(is_structure)?;
            let (offset, ty) = member(view, &inner, name, looked)?;
            Some((m.bits.checked_add(offset)?, ty))
        }
        _ => None,
    })
}

/// A type without its typedefs and qualifiers.
fn stripped(view: View<'_>, mut id: u32) -> Option<Type<'_>> {
    for _ in 0..MAX_DEPTH {
        let ty = view.ty(id)?;
        match ty.kind {
            Kind::Typedef | Kind::Volatile | Kind::Const | Kind::Restrict => id = ty.word,
            _ => return Some(ty),
        }
    }
    None
}

/// A type as C spells it, near enough to compare.
fn spell(view: View<'_>, id: u32, depth: u32) -> String {
    let Some(ty) = view.ty(id).filter(|_| depth <= MAX_DEPTH) else { return "void".into() };
    let (name, inner) = (|| view.name(ty.name), || spell(view, ty.word, depth + 1));
    match ty.kind {
        Kind::Ptr => format!("{} *", inner()).replace("* *", "**"),
        Kind::Const => format!("const {}", inner()),
        Kind::Volatile => format!("volatile {}", inner()),
        Kind::Restrict | Kind::TypeTag => inner(),
        Kind::Struct | Kind::Fwd => format!("struct {}", name()),
        Kind::Union => format!("union {}", name()),
        Kind::Enum | Kind::Enum64 => format!("enum {}", name()),
        Kind::FuncProto => "function".into(),
        _ => name().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::btf_format::tests::{file, info},
        *,
    };

    #[test]
    fn structures_that_hold_each_other_many_times_end_a_search() {
        // `struct s { struct s; struct s; … int a; }`, of which no compiler would make anything.
        let mut words = vec![1, info(4, 21), 8];
        words.extend([0, 1, 0].repeat(20));
        words.extend([3, 2, 64, 5, info(1, 0), 4, 32]);
        let types = Types::from_bytes(&file(&words, "\0s\0a\0int\0"), &[]).unwrap();
        let began = std::time::Instant::now();
        assert_eq!(types.offset("s", "nothing"), None);
        assert!(began.elapsed() < std::time::Duration::from_secs(5));
        let types = Types::from_bytes(&file(&[1, info(4, 1), 8, 3, 2, 64, 5, info(1, 0), 4, 32], "\0s\0a\0int\0"), &[]);
        assert_eq!(types.unwrap().offset("s", "a"), Some(8));
    }
}
