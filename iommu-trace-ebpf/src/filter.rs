//! What nobody wants to see: page faults and look-ups of groups that the user has filtered out. Dropped before they take a place in
//! the ring, and as a whole, so that of a fault either all records are sent or none. What keeps the mirror is always sent.

use aya_ebpf::{macros::map, maps::LruHashMap};
use iommu_trace_common::{Field, MAX_FILTERED, filter};

use crate::{probe::Args, read::setting};

/// By group's number: not 0 where nothing of it is wanted. Numbers beyond are. A section of its own is a map of its own, at an address
/// that the programs know, where an array map is looked up.
#[unsafe(link_section = ".data.unwanted")]
static mut UNWANTED: [u8; MAX_FILTERED] = [0; MAX_FILTERED];

/// Not 0 once anything was put into a queue.
#[unsafe(link_section = ".data.any_told")]
static mut ANY_TOLD: u32 = 0;

/// A fault queue and a device, by iommufd's id, that a wanted fault was put into it for; with the id 0, the queue alone.
#[repr(C)]
#[derive(Clone, Copy)]
struct Told {
    queue: u64,
    device_id: u64,
}

/// What user space is told of is only known by queue and device id.
#[map]
static TOLD: LruHashMap<Told, u8> = LruHashMap::with_max_entries(4096, 0);

/// Whether nothing of the group with this number is wanted.
#[inline(always)]
pub fn is_unwanted(number: impl FnOnce() -> i32) -> bool {
    if setting!(filter) == filter::NONE {
        return false;
    }
    let number = number() as u32 as usize;
    // SAFETY: within the value, of which bytes are read and written whole.
    number < MAX_FILTERED && unsafe { group(number).read_volatile() } != 0
}

/// Where a group is in the value.
#[inline(always)]
fn group(number: usize) -> *mut u8 {
    (&raw mut UNWANTED).cast::<u8>().wrapping_add(within(number))
}

/// A number that is within the value, in a form that the verifier follows: the compiler may compare one copy of it and use another.
#[inline(always)]
fn within(number: usize) -> usize {
    core::hint::black_box(number) & (MAX_FILTERED - 1)
}

/// Whether nothing of a device's group is wanted.
#[inline(always)]
pub fn is_unwanted_device(ctx: &impl Args, dev: impl FnOnce() -> u64) -> bool {
    is_unwanted(|| match ctx.member::<u64>(dev(), Field::DeviceIommuGroup) {
        // It has left its group: who knows.
        0 => -1,
        group => ctx.member(group, Field::GroupId),
    })
}

/// A device joins or leaves a group: where devices are filtered by name, what was known of the group is over, and user space
/// looks at each of its events.
#[inline(always)]
pub fn changed(number: i32) {
    let number = number as u32 as usize;
    if setting!(filter) == filter::BY_DEVICE && number < MAX_FILTERED {
        // SAFETY: as above.
        unsafe { group(number).write_volatile(0) };
    }
}

/// A wanted fault is put into a queue, for a device with this id.
#[inline(always)]
pub fn will_be_told(queue: u64, device_id: impl FnOnce() -> u32) {
    if setting!(filter) == filter::NONE || queue == 0 {
        return;
    }
    // SAFETY: a word is written whole.
    unsafe { (&raw mut ANY_TOLD).write_volatile(1) };
    for device_id in [0, device_id() as u64] {
        let _ = TOLD.insert(&Told { queue, device_id }, &1, 0);
    }
}

/// Whether nothing wanted was ever put into a queue, for a device with this id or (0) for any.
#[inline(always)]
pub fn is_not_told(queue: impl FnOnce() -> u64, device_id: u32) -> bool {
    if setting!(filter) == filter::NONE {
        return false;
    }
    // SAFETY: as above. To look into the table costs more than all the rest of a program that then does nothing.
    let any = unsafe { (&raw const ANY_TOLD).read_volatile() };
    any == 0 || TOLD.get_ptr(&Told { queue: queue(), device_id: device_id as u64 }).is_none()
}
