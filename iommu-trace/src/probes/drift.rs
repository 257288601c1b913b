//! Whether a kernel's functions are still what the probes were written against. Pure.

use std::fmt;

use iommu_trace_common::Field;

use super::{CATALOGUE, Probe, Reach};
use crate::kernel::{Offsets, Prototype, Types};

/// How a kernel's function stands to the prototype that its probe was written against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Drift {
    /// It is the same.
    Same,
    /// It is another: one line for each difference.
    Differs(Vec<String>),
    /// The kernel's types do not have it: it is not in this kernel, or was inlined.
    Missing,
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Drift::Same => f.write_str("same"),
            Drift::Differs(how) => write!(f, "differs: {}", how.join("; ")),
            Drift::Missing => f.write_str("missing"),
        }
    }
}

/// All of a kernel against the catalogue.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// Each probe.
    pub probes: Vec<(&'static Probe, Drift)>,
    /// The structure members that the probes read and this kernel lacks.
    pub absent: Vec<Field>,
}

impl Comparison {
    /// Compares.
    #[must_use]
    pub fn of(types: &Types) -> Comparison {
        let probes = CATALOGUE.iter().map(|probe| (probe, drift(probe, types))).collect();
        Comparison { probes, absent: Offsets::resolve(types).absent().collect() }
    }
}

fn drift(probe: &Probe, types: &Types) -> Drift {
    let function = probe.id.function();
    let there = match probe.reach {
        Reach::Vmlinux | Reach::Either | Reach::Copied | Reach::Iommufd => types.prototype(function),
        Reach::Tracepoint | Reach::RawTracepoint => types.tracepoint_prototype(function),
    };
    match there {
        Some(there) => compare(&parse(probe.prototype), &there),
        None => Drift::Missing,
    }
}

/// Reads a C prototype as the catalogue has them: `int f(struct a *b, u32 c)`, or `(int a)` for a tracepoint.
fn parse(text: &str) -> Prototype {
    let (head, rest) = text.split_once('(').unwrap_or((text, ""));
    let parameters = rest.trim_end().trim_end_matches(')').split(',').map(str::trim);
    Prototype {
        returns: declared(head).0,
        parameters: parameters.filter(|text| !text.is_empty() && *text != "void").map(declared).collect(),
    }
}

/// Type and name of a declaration.
fn declared(text: &str) -> (String, String) {
    let text = text.trim();
    let at = text.rfind(|c: char| !(c.is_alphanumeric() || c == '_')).map_or(0, |at| at + 1);
    let (ty, name) = text.split_at(at);
    (if ty.is_empty() { "void".to_owned() } else { ty.trim().to_owned() }, name.to_owned())
}

fn compare(written: &Prototype, there: &Prototype) -> Drift {
    let mut how = Vec::new();
    if !same(&written.returns, &there.returns) {
        how.push(format!("returns {}, not {}", there.returns, written.returns));
    }
    let (want, have) = (written.parameters.len(), there.parameters.len());
    if want == have {
        for (number, (written, there)) in written.parameters.iter().zip(&there.parameters).enumerate() {
            if !same(&written.0, &there.0) {
                how.push(format!("argument {} is {}, not {}", number + 1, spelled(there), spelled(written)));
            }
        }
    } else {
        let all: Vec<String> = there.parameters.iter().map(spelled).collect();
        how.push(format!("arguments {have}, not {want}: {}", all.join(", ")));
    }
    if how.is_empty() { Drift::Same } else { Drift::Differs(how) }
}

fn spelled((ty, name): &(String, String)) -> String {
    let space = if ty.ends_with('*') || name.is_empty() { "" } else { " " };
    format!("{ty}{space}{name}")
}

/// Whether two spellings mean one type. C's own types are written in several ways, and BTF has one for each.
fn same(a: &str, b: &str) -> bool {
    normal(a) == normal(b)
}

fn normal(ty: &str) -> Vec<String> {
    let words: Vec<String> =
        ty.replace('*', " * ").split_whitespace().filter(|word| *word != "int").map(str::to_owned).collect();
    match words.as_slice() {
        // `int` itself, and `unsigned` and `long unsigned` as BTF turns them around.
        [] => vec!["int".to_owned()],
        [a, b] if a == "unsigned" && b == "long" => vec!["long".to_owned(), "unsigned".to_owned()],
        _ => words,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there(returns: &str, parameters: &[(&str, &str)]) -> Prototype {
        let parameters = parameters.iter().map(|(ty, name)| ((*ty).to_owned(), (*name).to_owned())).collect();
        Prototype { returns: returns.to_owned(), parameters }
    }

    #[test]
    fn a_prototype_is_the_same_however_it_is_spelled() {
        let written = parse("int f(struct device *dev, unsigned int a, unsigned long b, const char *c, enum x d)");
        let btf = there(
            "int",
            &[
                ("struct device *", "d"),
                ("unsigned int", "a"),
                ("long unsigned int", "b"),
                ("const char *", "buf"),
                ("enum x", "d"),
            ],
        );
        assert_eq!(compare(&written, &btf), Drift::Same);
        assert_eq!(compare(&parse("void f(void)"), &there("void", &[])), Drift::Same);
        assert_eq!(compare(&parse("struct a *f(u32 *id)"), &there("struct a *", &[("u32 *", "id")])), Drift::Same);
        assert_eq!(
            compare(
                &parse("(int group_id, struct device *dev)"),
                &there("void", &[("int", ""), ("struct device *", "")])
            ),
            Drift::Same
        );
    }

    #[test]
    fn an_argument_less_and_another_type_are_told() {
        let written = parse("int iommufd_device_attach(struct iommufd_device *idev, ioasid_t pasid, u32 *pt_id)");
        let older = there("int", &[("struct iommufd_device *", "idev"), ("u32 *", "pt_id")]);
        let Drift::Differs(how) = compare(&written, &older) else { panic!("the same?") };
        assert_eq!(how, ["arguments 2, not 3: struct iommufd_device *idev, u32 *pt_id"]);
        let void = there("void", &[("struct device *", "dev"), ("struct iommu_fault_event *", "evt")]);
        let Drift::Differs(how) = compare(&parse("int f(struct device *dev, struct iopf_fault *evt)"), &void) else {
            panic!("the same?")
        };
        assert_eq!(
            how,
            ["returns void, not int", "argument 2 is struct iommu_fault_event *evt, not struct iopf_fault *evt"]
        );
    }

    #[test]
    fn every_prototype_of_the_catalogue_names_its_function_and_its_arguments() {
        for probe in CATALOGUE {
            let prototype = parse(probe.prototype);
            assert!(!prototype.parameters.is_empty(), "{}", probe.prototype);
            for (ty, name) in &prototype.parameters {
                assert!(!ty.is_empty() && !name.is_empty(), "{}", probe.prototype);
            }
            if matches!(probe.reach, Reach::Vmlinux | Reach::Either) {
                let head = probe.prototype.split('(').next().unwrap_or_default();
                assert_eq!(declared(head).1, probe.id.function(), "{}", probe.prototype);
            }
        }
    }

    #[test]
    fn a_small_kernel_is_compared_by_its_types() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("vmlinux"), small_btf()).unwrap();
        let types = Types::load(dir.path()).unwrap();
        let comparison = Comparison::of(&types);
        let of = |function: &str| {
            comparison.probes.iter().find(|(probe, _)| probe.id.function() == function).map(|(_, drift)| drift).unwrap()
        };
        assert_eq!(*of("iopf_free_group"), Drift::Same);
        assert_eq!(*of("iommu_domain_free"), Drift::Differs(vec!["returns int, not void".into()]));
        assert_eq!(*of("iommu_map"), Drift::Missing);
        assert_eq!(comparison.absent.len(), Field::COUNT, "it has no structure's members");
    }

    /// `void iopf_free_group(struct iopf_group *group)` and `int iommu_domain_free(struct iommu_domain *domain)`, in the
    /// format of Documentation/bpf/btf.rst.
    fn small_btf() -> Vec<u8> {
        let (mut types, mut strings) = (Vec::<u32>::new(), vec![0u8]);
        let mut name = |text: &str| {
            let at = strings.len() as u32;
            strings.extend_from_slice(text.as_bytes());
            strings.push(0);
            at
        };
        let (int, fwd, ptr, func, proto) = (1 << 24, 7 << 24, 2 << 24, 12 << 24, 13 << 24 | 1);
        types.extend([name("int"), int, 4, 1 << 24 | 32]); // 1
        types.extend([name("iopf_group"), fwd, 0]); // 2
        types.extend([0, ptr, 2]); // 3
        types.extend([0, proto, 0, name("group"), 3]); // 4
        types.extend([name("iopf_free_group"), func, 4]); // 5
        types.extend([name("iommu_domain"), fwd, 0]); // 6
        types.extend([0, ptr, 6]); // 7
        types.extend([0, proto, 1, name("domain"), 7]); // 8
        types.extend([name("iommu_domain_free"), func, 8]); // 9
        let types: Vec<u8> = types.iter().flat_map(|word| word.to_le_bytes()).collect();
        let mut bytes = vec![0x9f, 0xeb, 1, 0];
        for word in [24, 0, types.len() as u32, types.len() as u32, strings.len() as u32] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend(types);
        bytes.extend(strings);
        bytes
    }
}
