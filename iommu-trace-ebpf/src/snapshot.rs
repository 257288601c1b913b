//! The snapshot: what was attached before tracing began.
//!
//! Reading `/sys/kernel/iommu_groups/N/type` runs `iommu_group_show_type()` with the group's address, and from there
//! everything hangs: the group's devices, its domains and its `pasid_array`. User space reads each group's file once,
//! after every probe is attached, with [`SNAPSHOT`] set meanwhile.
//!
//! The functions here take numbers, not pointers to the stack: since 7.x the verifier follows such pointers through every
//! call, and that was half the time of loading all programs together.

use aya_ebpf::{
    helpers::generated::bpf_loop,
    macros::map,
    maps::{Array, LruHashMap},
};
use iommu_trace_common::{Field, MAX_MEMBERS, Phase, ProbeId, owner, record::Slot, slot};

use crate::{
    free::watch,
    out::{diagnose, emit_plain, lost, set, thread},
    probe::{Args, on_enter_either},
    read::{self, offset, ptr, setting},
};

/// Not 0 while user space takes the snapshot.
#[map]
static SNAPSHOT: Array<u32> = Array::with_max_entries(1, 0);

/// An xarray's entry for a slot that is reserved or holds `NULL` (`XA_ZERO_ENTRY`).
const XA_ZERO: u64 = (257 << 2) | 2;
/// Tag of a handle in a tagged `pasid_array` (`IOMMU_PASID_ARRAY_HANDLE`).
const TAG_HANDLE: u64 = 1;
/// PASIDs have 20 bits.
const PASID_LIMIT: u64 = 1 << 20;
/// Levels of an xarray that 20 bits need, with 4 bits a level.
const MAX_LEVELS: u32 = 5;
/// Steps of a walk through a whole `pasid_array`: every PASID, and the inner nodes' empty slots.
const MAX_STEPS: u32 = 1 << 21;

/// Where a walk through a group is.
#[repr(C)]
#[derive(Clone, Copy)]
struct Walk {
    group: u64,
    /// A member of the group, for its name.
    dev: u64,
    /// The list node (members) or the root entry (slots).
    at: u64,
    /// The list's head (members) or the next PASID (slots).
    next: u64,
    /// Not 0 when something could not be followed.
    truncated: u64,
}

/// The walks that run, by thread.
#[map]
static WALKS: LruHashMap<u64, Walk> = LruHashMap::with_max_entries(64, 0);

#[inline(always)]
fn current() -> Option<&'static mut Walk> {
    // SAFETY: a thread's walk is touched by that thread alone.
    WALKS.get_ptr_mut(&thread()).map(|walk| unsafe { &mut *walk })
}

/// Tells one piece. `pasid_what` has the PASID in its upper half.
#[inline(never)]
fn piece(pasid_what: u64, group: u64, dev: u64, domain: u64, handle: u64) -> u64 {
    watch(handle);
    emit_plain(ProbeId::GroupShowType, Phase::Enter, |record: *mut Slot| {
        // SAFETY: the places are this record's.
        unsafe {
            let behind = read::handle_into(&raw mut (*record).handle, handle, 0);
            read::member_into(&raw mut (*record).device, if behind != 0 { behind } else { dev }, group);
        }
        let domain = if domain != 0 { domain } else { ptr(handle, Field::HandleDomain) };
        let domain_owner = read::domain_owner(domain);
        let bond = if domain_owner == owner::SVA { handle } else { 0 };
        set!(record, {
            domain: domain,
            pasid: (pasid_what >> 32) as u32,
            what: pasid_what as u32,
            domain_owner: domain_owner,
            pad: 0,
        });
        // SAFETY: the places are this record's.
        unsafe {
            read::copy(&raw mut (*record).domain_type, domain, Field::DomainType);
            read::copy(&raw mut (*record).users, bond, Field::SvaUsers);
        }
    });
    0
}

// static ssize_t iommu_group_show_type(struct iommu_group *group, char *buf)
#[inline(always)]
fn show_type(ctx: &impl Args) {
    if SNAPSHOT.get(0).is_none_or(|&on| on == 0) {
        return;
    }
    let group = ctx.arg(0);
    let Some(list) = offset(Field::GroupDevices) else { return };
    let empty = Walk { group, dev: 0, at: 0, next: group + list, truncated: 0 };
    if WALKS.insert(&thread(), &empty, 0).is_err() {
        lost(ProbeId::GroupShowType, Phase::Enter);
        return;
    }
    piece(u64::from(slot::GROUP), group, 0, ptr(group, Field::GroupDomain), 0);
    piece(u64::from(slot::DEFAULT_DOMAIN), group, 0, ptr(group, Field::GroupDefaultDomain), 0);
    let Some(walk) = current() else { return };
    walk.at = read::at(walk.next).unwrap_or(0);
    // SAFETY: the callback has the form that the helper calls.
    let turns = unsafe { bpf_loop(MAX_MEMBERS, member as *mut _, core::ptr::null_mut(), 0) };
    walk.truncated |= (turns < 0 || turns >= i64::from(MAX_MEMBERS)) as u64;
    if let (Some(array), Some(head)) = (offset(Field::GroupPasidArray), offset(Field::XarrayHead)) {
        walk.at = read::at(group + array + head).unwrap_or(0);
        walk.next = 0;
        // SAFETY: as above.
        let turns = unsafe { bpf_loop(MAX_STEPS, step as *mut _, core::ptr::null_mut(), 0) };
        walk.truncated |= (turns < 0 || turns >= i64::from(MAX_STEPS)) as u64;
    }
    if walk.truncated != 0 {
        diagnose!(ctx, "a group could not be followed to its end");
    }
    piece(walk.truncated << 32 | u64::from(slot::END), group, 0, 0, 0);
    let _ = WALKS.remove(&thread());
}
on_enter_either!(group_show_type_enter, group_show_type_kprobe, show_type);

/// Tells one member of the group's list.
unsafe extern "C" fn member(_index: u32, _ctx: *mut core::ffi::c_void) -> i64 {
    let Some(walk) = current() else { return 1 };
    if walk.at == walk.next || walk.at == 0 {
        return 1;
    }
    let node = walk.at - offset(Field::GroupDeviceList).unwrap_or(0);
    walk.dev = ptr(node, Field::GroupDeviceDev);
    piece(u64::from(slot::MEMBER), walk.group, walk.dev, 0, 0);
    // `struct list_head` begins with `next`.
    walk.at = read::at(walk.at).unwrap_or(0);
    0
}

#[inline(always)]
fn is_node(entry: u64) -> bool {
    entry & 3 == 2 && entry > 4096
}

/// Looks at the slot for one PASID, and goes on to the next that may be occupied.
unsafe extern "C" fn step(_index: u32, _ctx: *mut core::ffi::c_void) -> i64 {
    let Some(walk) = current() else { return 1 };
    let pasid = walk.next;
    if pasid >= PASID_LIMIT {
        return 1;
    }
    let chunk = setting!(xa_chunk_shift) & 7;
    let mask = (1u64 << chunk) - 1;
    let mut entry = walk.at;
    let mut shift = 0;
    // Without nodes, the root is the entry of index 0.
    if !is_node(entry) && pasid > 0 {
        return 1;
    }
    for level in 0..MAX_LEVELS {
        if !is_node(entry) {
            break;
        }
        let node = entry - 2;
        shift = u32::from(read::get::<u8>(node, Field::XaNodeShift).unwrap_or(0)) & 31;
        if level == 0 && pasid >> shift > mask {
            return 1;
        }
        let index = (pasid >> shift) & mask;
        entry = offset(Field::XaNodeSlots).and_then(|slots| read::at(node + slots + index * 8)).unwrap_or(0);
        if entry == 0 {
            break;
        }
    }
    walk.next = ((pasid >> shift) + 1) << shift;
    if entry == 0 {
        return 0;
    }
    if is_node(entry) {
        walk.truncated = 1;
        return 0;
    }
    let (domain, handle) = if entry == XA_ZERO {
        (0, 0)
    } else if setting!(tagged_slots) == 0 {
        (0, entry)
    } else if entry & 3 == TAG_HANDLE {
        (0, entry & !3)
    } else {
        (entry & !3, 0)
    };
    piece(pasid << 32 | u64::from(slot::ENTRY), walk.group, walk.dev, domain, handle);
    0
}
