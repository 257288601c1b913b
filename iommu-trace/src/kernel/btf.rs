//! Questions to the kernel's own type information.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, bail};
use btf_rs::{Btf, BtfType, Struct, Type};

/// The module that may come and go while it is traced.
pub const MODULE: &str = "iommufd";
/// All modules whose functions and types are of interest when they are not built in.
const MODULES: [&str; 5] = ["iommufd", "virtio", "virtio_ring", "virtio_iommu", "arm_smmu_v3"];
/// How deep anonymous structures may nest: BTF from anywhere is untrusted, and a loop in it must end.
const MAX_DEPTH: u32 = 16;

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
        if !path.exists() {
            bail!(
                "this kernel shows no type information: {} does not exist. iommu-trace reads every structure through \
                 it. Boot a kernel built with CONFIG_DEBUG_INFO_BTF=y (all Debian, Fedora, Ubuntu and SUSE kernels \
                 since 2021 are), and see that sysfs is mounted on /sys",
                path.display()
            );
        }
        let vmlinux =
            Btf::from_file(&path).with_context(|| format!("cannot read the kernel's types from {}", path.display()))?;
        let mut types = Types { vmlinux, modules: BTreeMap::new() };
        types.reload(dir)?;
        Ok(types)
    }

    /// From the bytes of vmlinux's BTF, and of a module's by its name.
    pub fn from_bytes(vmlinux: &[u8], modules: &[(&'static str, &[u8])]) -> anyhow::Result<Types> {
        let vmlinux = Btf::from_bytes(vmlinux).context("cannot read the kernel's types")?;
        let mut types = Types { vmlinux, modules: BTreeMap::new() };
        for &(module, bytes) in modules {
            let split = Btf::from_split_bytes(bytes, &types.vmlinux)
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
            let types = Btf::from_split_bytes(&bytes, &self.vmlinux)
                .with_context(|| format!("cannot read the types of module {module} from {}", path.display()))?;
            self.modules.insert(module, types);
        }
        Ok(())
    }

    /// Whether vmlinux has this function.
    #[must_use]
    pub fn vmlinux_has_function(&self, name: &str) -> bool {
        function(&self.vmlinux, name).is_some()
    }

    /// Whether vmlinux has this tracepoint (`btf_trace_NAME` is the type of its probe functions).
    #[must_use]
    pub fn has_tracepoint(&self, name: &str) -> bool {
        self.vmlinux
            .resolve_types_by_name(&format!("btf_trace_{name}"))
            .is_ok_and(|types| types.iter().any(|ty| matches!(ty, Type::Typedef(_))))
    }

    /// vmlinux's type ids of these functions, and of the probe functions of these tracepoints: the few that the BPF loader
    /// asks for by name. What vmlinux lacks is left out.
    #[must_use]
    pub fn attach_targets(&self, functions: &[&str], tracepoints: &[&str]) -> Vec<AttachTarget> {
        let find = |name: String, wanted: fn(&Type) -> bool| {
            let ids = self.vmlinux.resolve_ids_by_name(&name).ok()?;
            let id = ids.into_iter().find(|&id| self.vmlinux.resolve_type_by_id(id).is_ok_and(|ty| wanted(&ty)))?;
            Some((id, name))
        };
        let functions = functions.iter().filter_map(|name| {
            let (id, name) = find((*name).to_owned(), |ty| matches!(ty, Type::Func(_)))?;
            Some(AttachTarget { id, name, kind: TargetKind::Function })
        });
        let tracepoints = tracepoints.iter().filter_map(|name| {
            let (id, name) = find(format!("btf_trace_{name}"), |ty| matches!(ty, Type::Typedef(_)))?;
            Some(AttachTarget { id, name, kind: TargetKind::Tracepoint })
        });
        functions.chain(tracepoints).collect()
    }

    /// Which loaded module has this function.
    #[must_use]
    pub fn module_of_function(&self, name: &str) -> Option<&str> {
        self.modules.iter().find(|(_, btf)| function(btf, name).is_some()).map(|(module, _)| *module)
    }

    /// The prototype of a function.
    #[must_use]
    pub fn prototype(&self, name: &str) -> Option<Prototype> {
        self.all().find_map(|btf| as_prototype(btf, btf.resolve_chained_type(&function(btf, name)?).ok()?))
    }

    /// The prototype of a tracepoint, without the first argument, which every probe function is given for itself.
    #[must_use]
    pub fn tracepoint_prototype(&self, name: &str) -> Option<Prototype> {
        let btf = &self.vmlinux;
        let types = btf.resolve_types_by_name(&format!("btf_trace_{name}")).ok()?;
        let Type::Ptr(pointer) = types.into_iter().find_map(|ty| match ty {
            Type::Typedef(typedef) => btf.resolve_chained_type(&typedef).ok(),
            _ => None,
        })?
        else {
            return None;
        };
        let mut prototype = as_prototype(btf, btf.resolve_chained_type(&pointer).ok()?)?;
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
        self.all()
            .find_map(|btf| {
                btf.resolve_types_by_name(enumeration).ok()?.into_iter().find_map(|ty| match ty {
                    Type::Enum(e) => Some(
                        e.members.iter().filter_map(|m| Some((btf.resolve_name(m).ok()?, m.val()))).collect::<Vec<_>>(),
                    ),
                    _ => None,
                })
            })
            .unwrap_or_default()
    }

    /// The byte offset of a member, `path` having dots between nested members; `None` when this kernel lacks it.
    /// Members of anonymous structures and unions count as the structure's own, as in C. Of several structures of one name,
    /// which C allows in different files, `NAME with MEMBER` is the one that has the member.
    #[must_use]
    pub fn offset(&self, structure: &str, path: &str) -> Option<u32> {
        let (name, with) = structure.split_once(" with ").map_or((structure, None), |(name, with)| (name, Some(with)));
        self.all().find_map(|btf| {
            btf.resolve_types_by_name(name)
                .ok()?
                .into_iter()
                .filter_map(as_struct)
                .filter(|ty| with.is_none_or(|with| member(btf, ty, with, 0).is_some()))
                .find_map(|ty| offset_in(btf, &ty, path))
        })
    }

    /// Bytes of a structure.
    #[must_use]
    pub fn size(&self, structure: &str) -> Option<u32> {
        self.all().find_map(|btf| {
            let ty = btf.resolve_types_by_name(structure).ok()?.into_iter().find_map(as_struct)?;
            u32::try_from(ty.size()).ok()
        })
    }

    /// How many elements an array member has.
    #[must_use]
    pub fn array_len(&self, structure: &str, name: &str) -> Option<usize> {
        self.all().find_map(|btf| {
            let ty = btf.resolve_types_by_name(structure).ok()?.into_iter().find_map(as_struct)?;
            match stripped(btf, member(btf, &ty, name, 0)?.1)? {
                Type::Array(array) => Some(array.len()),
                _ => None,
            }
        })
    }

    fn all(&self) -> impl Iterator<Item = &Btf> {
        std::iter::once(&self.vmlinux).chain(self.modules.values())
    }
}

fn function(btf: &Btf, name: &str) -> Option<btf_rs::Func> {
    btf.resolve_types_by_name(name).ok()?.into_iter().find_map(|ty| match ty {
        Type::Func(function) => Some(function),
        _ => None,
    })
}

fn as_prototype(btf: &Btf, ty: Type) -> Option<Prototype> {
    let Type::FuncProto(proto) = ty else { return None };
    let parameters = proto
        .parameters
        .iter()
        .map(|p| (spell(btf, btf.resolve_chained_type(p).ok(), 0), btf.resolve_name(p).unwrap_or_default()))
        .collect();
    Some(Prototype { returns: spell(btf, btf.resolve_type_by_id(proto.return_type_id()).ok(), 0), parameters })
}

fn as_struct(ty: Type) -> Option<Struct> {
    match ty {
        Type::Struct(ty) | Type::Union(ty) => Some(ty),
        _ => None,
    }
}

fn offset_in(btf: &Btf, structure: &Struct, path: &str) -> Option<u32> {
    let mut bits = 0u32;
    let mut ty = structure.clone();
    let mut names = path.split('.').peekable();
    while let Some(name) = names.next() {
        let (offset, member) = member(btf, &ty, name, 0)?;
        bits = bits.checked_add(offset)?;
        if names.peek().is_some() {
            ty = as_struct(stripped(btf, member)?)?;
        }
    }
    bits.is_multiple_of(8).then_some(bits / 8)
}

/// Finds a member by name: its offset in bits and its type, looking into anonymous members.
fn member(btf: &Btf, structure: &Struct, name: &str, depth: u32) -> Option<(u32, Type)> {
    if depth > MAX_DEPTH {
        return None;
    }
    structure.members.iter().find_map(|m| {
        let ty = || btf.resolve_chained_type(m).ok();
        match btf.resolve_name(m).unwrap_or_default() {
            found if found == name => Some((m.bit_offset(), ty()?)),
            anonymous if anonymous.is_empty() => {
                let inner = as_struct(stripped(btf, ty()?)?)?;
                let (offset, ty) = member(btf, &inner, name, depth + 1)?;
                Some((m.bit_offset().checked_add(offset)?, ty))
            }
            _ => None,
        }
    })
}

/// A type without its typedefs and qualifiers.
fn stripped(btf: &Btf, mut ty: Type) -> Option<Type> {
    for _ in 0..MAX_DEPTH {
        ty = match &ty {
            Type::Typedef(t) => btf.resolve_chained_type(t).ok()?,
            Type::Volatile(t) | Type::Const(t) | Type::Restrict(t) => btf.resolve_chained_type(t).ok()?,
            _ => return Some(ty),
        };
    }
    None
}

/// A type as C spells it, near enough to compare.
fn spell(btf: &Btf, ty: Option<Type>, depth: u32) -> String {
    let Some(ty) = ty.filter(|_| depth <= MAX_DEPTH) else { return "void".into() };
    let name = || ty.as_btf_type().and_then(|ty| btf.resolve_name(ty).ok()).unwrap_or_default();
    let inner = |ty: &dyn BtfType| spell(btf, btf.resolve_chained_type(ty).ok(), depth + 1);
    match &ty {
        Type::Void => "void".into(),
        Type::Ptr(p) => format!("{} *", inner(p)).replace("* *", "**"),
        Type::Const(c) => format!("const {}", inner(c)),
        Type::Volatile(v) => format!("volatile {}", inner(v)),
        Type::Restrict(r) => inner(r),
        Type::TypeTag(t) => inner(t),
        Type::Struct(_) | Type::Fwd(_) => format!("struct {}", name()),
        Type::Union(_) => format!("union {}", name()),
        Type::Enum(_) | Type::Enum64(_) => format!("enum {}", name()),
        Type::FuncProto(_) => "function".into(),
        _ => name(),
    }
}
