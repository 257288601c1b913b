//! The kernel's types as the BPF loader needs them: ids of some dozen functions.
//!
//! aya looks a function up by walking all types of vmlinux, once a program, and parses them all before; with a hundred
//! thousand types and near a hundred programs that was a third of the start. So it is given type information that has the
//! same ids and holds nothing else: anonymous forward declarations, and our functions at their places.

use anyhow::Context as _;
use aya::{Btf, Endianness};

use crate::kernel::{AttachTarget, TargetKind};

const MAGIC: u16 = 0xeb9f;
const HEADER_LEN: u32 = 24;
const KIND_FWD: u32 = 7;
const KIND_TYPEDEF: u32 = 8;
const KIND_FUNC: u32 = 12;

/// Type information with these targets at their ids.
pub fn as_btf(targets: &[AttachTarget]) -> anyhow::Result<Btf> {
    let bytes = encode(targets);
    Btf::parse(&bytes, Endianness::default()).context("cannot ready the kernel's types for the BPF loader")
}

/// In the format of the kernel's Documentation/bpf/btf.rst: a header, the types from id 1 on, the strings.
fn encode(targets: &[AttachTarget]) -> Vec<u8> {
    let count = targets.iter().map(|target| target.id).max().unwrap_or(0);
    let mut types = vec![[0u32, KIND_FWD << 24, 0]; count as usize];
    let mut strings = vec![0u8];
    for target in targets {
        let kind = match target.kind {
            TargetKind::Function => KIND_FUNC,
            TargetKind::Tracepoint => KIND_TYPEDEF,
        };
        if let Some(place) = (target.id as usize).checked_sub(1).and_then(|index| types.get_mut(index)) {
            *place = [strings.len() as u32, kind << 24, 0];
            strings.extend_from_slice(target.name.as_bytes());
            strings.push(0);
        }
    }
    let types_len = (types.len() * 12) as u32;
    let mut bytes = Vec::with_capacity((HEADER_LEN + types_len) as usize + strings.len());
    bytes.extend_from_slice(&MAGIC.to_ne_bytes());
    bytes.extend_from_slice(&[1, 0]);
    for word in [HEADER_LEN, 0, types_len, types_len, strings.len() as u32] {
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    for word in types.as_flattened() {
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    bytes.extend_from_slice(&strings);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use aya_obj::btf::BtfKind;

    #[test]
    fn the_loader_finds_each_target_at_the_kernels_id() {
        let target = |id, name: &str, kind| AttachTarget { id, name: name.into(), kind };
        let btf = as_btf(&[
            target(90_000, "iommu_attach_group", TargetKind::Function),
            target(17, "btf_trace_kfree", TargetKind::Tracepoint),
        ])
        .unwrap();
        assert_eq!(btf.id_by_type_name_kind("iommu_attach_group", BtfKind::Func).unwrap(), 90_000);
        assert_eq!(btf.id_by_type_name_kind("btf_trace_kfree", BtfKind::Typedef).unwrap(), 17);
        assert!(btf.id_by_type_name_kind("iommu_map", BtfKind::Func).is_err());
    }

    #[test]
    fn no_targets_are_no_trouble() {
        assert!(as_btf(&[]).is_ok());
    }
}
