//! Of which groups page faults are wanted: those of the others are left out by the BPF programs.

use std::{fmt, path::PathBuf};

use anyhow::Context as _;
use aya::{Ebpf, Pod, maps::Array};
use globset::GlobSet;
use iommu_trace_common::{MAX_FILTERED, filter};

use crate::kernel::{group_devices, iommu_groups};

/// Groups whose page faults are wanted.
#[derive(Clone, Default)]
pub enum Groups {
    /// All.
    #[default]
    All,
    /// Those with these numbers.
    Numbers(Vec<u32>),
    /// Those that have a device of such a name, and those that are not there yet.
    Devices(GlobSet),
}

impl fmt::Debug for Groups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Groups::All => f.write_str("All"),
            Groups::Numbers(numbers) => f.debug_tuple("Numbers").field(numbers).finish(),
            Groups::Devices(globs) => f.debug_tuple("Devices").field(&globs.len()).finish(),
        }
    }
}

/// The section of the BPF object, and with it the map, that tells the programs.
const UNWANTED: &str = ".data.unwanted";

#[repr(transparent)]
#[derive(Clone, Copy)]
struct Unwanted([u8; MAX_FILTERED]);
// SAFETY: bytes.
unsafe impl Pod for Unwanted {}

impl Groups {
    /// As the BPF programs are told.
    pub(super) fn setting(&self) -> u32 {
        match self {
            Groups::All => filter::NONE,
            Groups::Numbers(_) => filter::BY_NUMBER,
            Groups::Devices(_) => filter::BY_DEVICE,
        }
    }

    /// Has the BPF programs leave out what is not wanted. They are attached: what changes meanwhile, they see.
    pub(super) fn leave_out(&self, ebpf: &mut Ebpf) -> anyhow::Result<()> {
        if let Groups::All = self {
            return Ok(());
        }
        let map = ebpf.map_mut(UNWANTED).with_context(|| format!("the BPF object has no section {UNWANTED}"))?;
        let mut map: Array<_, Unwanted> =
            Array::try_from(map).with_context(|| format!("the section {UNWANTED} is not what it should be"))?;
        loop {
            let there = present();
            map.set(0, *self.unwanted(&there), 0).context("cannot tell the BPF programs which groups are wanted")?;
            // What a program had noted between the look and the word would be forgotten.
            if present() == there {
                return Ok(());
            }
        }
    }

    /// The unwanted ones, of those that are there now with their devices.
    fn unwanted(&self, there: &[(usize, Vec<String>)]) -> Box<Unwanted> {
        let mut unwanted = Box::new(Unwanted([0; MAX_FILTERED]));
        match self {
            Groups::All => {}
            Groups::Numbers(numbers) => {
                for (number, group) in unwanted.0.iter_mut().enumerate() {
                    *group = u8::from(!numbers.contains(&(number as u32)));
                }
            }
            Groups::Devices(globs) => {
                for (number, devices) in there {
                    let is_wanted = devices.is_empty() || devices.iter().any(|name| globs.is_match(name));
                    if let Some(group) = unwanted.0.get_mut(*number) {
                        *group = u8::from(!is_wanted);
                    }
                }
            }
        }
        unwanted
    }
}

/// The groups that are there, by number, with the names of their devices.
fn present() -> Vec<(usize, Vec<String>)> {
    let numbered = |path: PathBuf| Some((path.file_name()?.to_str()?.parse().ok()?, group_devices(&path)));
    iommu_groups().into_iter().filter_map(numbered).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use globset::{Glob, GlobSetBuilder};

    fn unwanted(groups: &Groups, of: impl IntoIterator<Item = usize>) -> Vec<u8> {
        let there = [(0, vec!["0000:00:01.0"]), (1, vec!["0000:00:02.0", "0000:00:03.0"]), (2, vec![])];
        let there =
            there.map(|(number, names): (usize, Vec<&str>)| (number, names.into_iter().map(Into::into).collect()));
        let all = groups.unwanted(&there);
        of.into_iter().map(|number| all.0[number]).collect()
    }

    #[test]
    fn by_number_every_other_group_is_left_out_even_one_that_is_not_there_yet() {
        assert_eq!(unwanted(&Groups::Numbers(vec![1, 7]), [0, 1, 2, 7, 8]), [1, 0, 1, 0, 1]);
    }

    #[test]
    fn by_device_only_what_is_known_to_have_none_of_them_is_left_out() {
        let globs = GlobSetBuilder::new().add(Glob::new("*:03.0").unwrap()).build().unwrap();
        assert_eq!(unwanted(&Groups::Devices(globs), [0, 1, 2, 3]), [1, 0, 0, 0]);
    }
}
