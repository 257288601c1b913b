//! The offsets of every structure member that the BPF side reads, resolved once at start.

use iommu_trace_common::{ABSENT, Field};

use super::Types;

/// Fields that are read together with other members of their structure, which must lie at these distances: the layout
/// of [`iommu_trace_common::record::Request`] and of `PageResponse::answer`.
const PIECES: &[(Field, &[(&str, u32)])] = &[
    (
        Field::FaultType,
        &[
            ("fault.prm.flags", 8),
            ("fault.prm.pasid", 12),
            ("fault.prm.grpid", 16),
            ("fault.prm.perm", 20),
            ("fault.prm.addr", 24),
        ],
    ),
    (Field::ResponsePasid, &[("grpid", 4), ("code", 8)]),
];

/// Offsets by [`Field`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offsets([u32; Field::COUNT]);

impl Offsets {
    /// Looks every field up. What this kernel lacks is absent, never guessed.
    #[must_use]
    pub fn resolve(types: &Types) -> Offsets {
        let mut offsets = [ABSENT; Field::COUNT];
        for &field in Field::ALL {
            if let Some(offset) = types.offset(field.structure(), field.path()) {
                offsets[field as usize] = offset;
            }
        }
        // Some members are read in one piece with those after them. Where they do not lie so, none of them is read.
        for &(field, members) in PIECES {
            let start = offsets[field as usize];
            let whole = members.iter().all(|&(path, distance)| {
                types.offset(field.structure(), path).is_some_and(|offset| Some(offset) == start.checked_add(distance))
            });
            if !whole {
                offsets[field as usize] = ABSENT;
            }
        }
        Offsets(offsets)
    }

    /// One offset in bytes, `None` where this kernel lacks the member.
    #[must_use]
    pub fn get(&self, field: Field) -> Option<u32> {
        Some(self.0[field as usize]).filter(|&offset| offset != ABSENT)
    }

    /// The fields that this kernel lacks.
    pub fn absent(&self) -> impl Iterator<Item = Field> + '_ {
        Field::ALL.iter().copied().filter(|&field| self.get(field).is_none())
    }

    /// As the BPF side wants them.
    #[must_use]
    pub fn as_slice(&self) -> &[u32] {
        &self.0
    }
}
