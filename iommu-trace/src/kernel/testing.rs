//! For fuzzers and tests: what reads the kernel's texts and types, given any bytes.

use iommu_trace_common::{Field, ProbeId};

use super::{Offsets, Symbols, Types, privileges::Privileges, symbols};

/// A text of procfs or sysfs through everything that reads one.
pub fn texts(bytes: &[u8]) {
    let Ok(symbols) = Symbols::parse(bytes) else { return };
    for addr in [0, 1, 0xffff_ffff_8100_0000, u64::MAX] {
        let _ = symbols.name(addr);
    }
    let _ = symbols::find(bytes, ["kprobe_ftrace_handler"]);
    let _ = symbols::find_copy(bytes, "iommu_map");
    let text = String::from_utf8_lossy(bytes);
    let _ = Privileges::parse(&text).and_then(Privileges::complaint);
    let _ = crate::cli::parent_in(&text);
}

/// Asks of types all that is ever asked.
pub fn types(vmlinux: &[u8], module: &[u8]) {
    let Ok(types) = Types::from_bytes(vmlinux, &[]) else { return };
    ask(&types);
    if let Ok(types) = Types::from_bytes(vmlinux, &[(super::MODULE, module)]) {
        ask(&types);
    }
}

fn ask(types: &Types) {
    let _ = Offsets::resolve(types);
    for field in Field::ALL {
        let _ = types.array_len(field.structure(), field.path());
        let _ = types.size(field.structure());
    }
    let functions: Vec<&str> = ProbeId::ALL.iter().map(|probe| probe.function()).collect();
    for function in &functions {
        let _ = types.prototype(function);
        let _ = types.tracepoint_prototype(function);
        let _ = types.module_of_function(function);
    }
    let _ = types.attach_targets(&functions, &functions);
    for enumeration in ["iommu_domain_cookie_type", "iommufd_object_type", "iommu_fault_type"] {
        let _ = types.enumeration(enumeration);
    }
}
