//! What is attached at one moment, as a tree for people or one JSON document.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
};

use serde::Serialize;

use super::{Palette, palette::Painted};
use crate::{
    event::{Body, DomainType, Event, Name, Ptr, SlotWhat},
    model::{Attachment, Mirror, Model, span::Owner},
    source::SourceInfo,
};

/// Version of the JSON document: grows when a field changes its meaning or goes away, not when one is added.
const SCHEMA: u32 = 1;

/// Everything that is attached.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Holdings {
    /// Version of this document's form.
    pub schema: u32,
    /// When it was read, `CLOCK_MONOTONIC`, nanoseconds.
    pub ts: u64,
    /// `uname -r`.
    pub kernel: String,
    /// `uname -m`.
    pub machine: String,
    /// The machine's name.
    pub host: String,
    /// Pieces that were lost.
    pub lost: u64,
    /// Groups by number.
    pub groups: Vec<HeldGroup>,
    /// Groups that were not asked for.
    #[serde(skip)]
    pub left_out: usize,
}

/// A group and what it holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct HeldGroup {
    /// Its number.
    pub group: Option<u32>,
    /// Its devices.
    pub devices: Vec<Name>,
    /// The domain that DMA goes through while nobody has claimed the group.
    pub default_domain: Option<Domain>,
    /// The domain of requests by RID now.
    pub domain: Option<Domain>,
    /// Whether all of it was read.
    pub complete: bool,
    /// What is in its `pasid_array`, by PASID.
    pub slots: Vec<HeldSlot>,
}

/// A domain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Domain {
    /// Its address.
    pub domain: Ptr,
    /// Its type.
    pub domain_type: DomainType,
}

/// A slot that is not empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HeldSlot {
    /// 0 is the RID.
    pub pasid: u32,
    /// Its domain; `None` when the slot is reserved and empty, as while an attach runs.
    pub domain: Option<Ptr>,
    /// The domain's type.
    pub domain_type: Option<DomainType>,
    /// The handle, `None` for a domain that was attached without one.
    pub handle: Option<Ptr>,
    /// Who attached it.
    pub owner: Owner,
    /// The device that the handle is for.
    pub device: Option<Name>,
    /// iommufd's object id of it.
    pub device_id: Option<u32>,
    /// Users of an SVA bond.
    pub users: Option<u32>,
}

/// What the mirror made of the same pieces.
pub struct Seen<'a> {
    mirror: &'a Mirror,
}

impl<'a> Seen<'a> {
    /// What this model has seen.
    #[must_use]
    pub fn of(model: &'a Model) -> Self {
        Seen { mirror: model.mirror() }
    }

    fn attachment(&self, group: Ptr, pasid: u32) -> Option<&'a Attachment> {
        self.mirror.slot(group, pasid)?.attachment()
    }

    fn name(&self, device: Ptr) -> Option<Name> {
        self.mirror.device(device).map(|device| device.name)
    }
}

impl Holdings {
    /// Puts the pieces of a snapshot together.
    #[must_use]
    pub fn collect(info: &SourceInfo, events: &[Event], seen: &Seen<'_>) -> Self {
        let mut groups: BTreeMap<(Option<u32>, Ptr), HeldGroup> = BTreeMap::new();
        let mut lost = 0;
        for event in events {
            let state = match &event.body {
                Body::Slot(state) => state,
                Body::Lost { count } => {
                    lost += count;
                    continue;
                }
                _ => continue,
            };
            let ptr = state.device.group;
            let group = groups.entry((state.device.group_id, ptr)).or_default();
            group.group = state.device.group_id;
            let domain = state.domain.some().map(|domain| Domain { domain, domain_type: state.domain_type });
            match state.what {
                SlotWhat::Group => group.domain = domain,
                SlotWhat::DefaultDomain => group.default_domain = domain,
                SlotWhat::Member => group.devices.push(state.device.name),
                // Without a handle, the kernel keeps the RID's domain as the group's own, and in no slot.
                SlotWhat::Entry if state.pasid == 0 && state.handle.ptr.is_null() && domain.is_some() => {}
                SlotWhat::Entry => {
                    let held = seen.attachment(ptr, state.pasid);
                    let owner = held.map_or(Owner::Kernel, |held| held.owner);
                    let device = seen.name(state.handle.device).or(Some(state.device.name));
                    group.slots.push(HeldSlot {
                        pasid: state.pasid,
                        domain: domain.map(|domain| domain.domain),
                        domain_type: domain.map(|domain| domain.domain_type),
                        handle: state.handle.ptr.some(),
                        owner,
                        device: device.filter(|name| !name.is_empty() && !state.handle.ptr.is_null()),
                        device_id: state.handle.device_id,
                        users: (owner == Owner::Sva).then_some(state.users),
                    });
                }
                SlotWhat::End => group.complete = state.pasid == 0,
            }
        }
        let mut groups: Vec<HeldGroup> = groups.into_values().collect();
        for group in &mut groups {
            group.slots.sort_by_key(|slot| slot.pasid);
        }
        Holdings {
            schema: SCHEMA,
            ts: events.last().map_or(info.started_ns, |event| event.ts),
            kernel: info.kernel.clone(),
            machine: info.machine.clone(),
            host: info.host.clone(),
            lost,
            groups,
            left_out: 0,
        }
    }

    /// One JSON document.
    pub fn json(&self) -> serde_json::Result<String> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        Ok(text)
    }

    /// A tree that fits 100 columns.
    #[must_use]
    pub fn text(&self, palette: Palette) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write_text(palette, &mut text);
        text
    }

    fn write_text(&self, palette: Palette, text: &mut String) -> fmt::Result {
        let left_out = match self.left_out {
            0 => String::new(),
            1 => " (1 more not asked for)".to_owned(),
            more => format!(" ({more} more not asked for)"),
        };
        if self.groups.is_empty() {
            return match self.left_out {
                0 => writeln!(text, "no groups: no device of this machine is behind an IOMMU that the kernel uses"),
                _ => writeln!(text, "no groups of those asked for{left_out}"),
            };
        }
        let slots = || self.groups.iter().flat_map(|group| &group.slots);
        let title = format!(
            "Linux {} {}: {}{left_out}, {}, {}, {}",
            self.kernel,
            self.machine,
            some(self.groups.len(), "group"),
            some(self.groups.iter().map(|group| group.devices.len()).sum(), "device"),
            some(slots().count(), "slot"),
            some(slots().filter(|slot| slot.handle.is_some()).count(), "handle"),
        );
        writeln!(text, "{}", Painted(palette.strong, title))?;
        self.groups.iter().try_for_each(|group| group.write_text(palette, text))
    }
}

fn some(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// Columns that devices may fill.
const WIDTH: usize = 84;

impl HeldGroup {
    fn write_text(&self, palette: Palette, text: &mut String) -> fmt::Result {
        let number = self.group.map_or_else(|| "of unknown number".to_owned(), |group| group.to_string());
        writeln!(text, "{}", Painted(palette.strong, format!("group {number}")))?;
        let branch = |text: &mut String, name: &str, told: &str| writeln!(text, "├─ {name:<9} {told}");
        let mut line = String::new();
        let mut name = "devices";
        for device in &self.devices {
            let device = device.to_string();
            if !line.is_empty() && line.len() + 1 + device.len() > WIDTH {
                branch(text, name, &line)?;
                line.clear();
                name = "";
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(&device);
        }
        branch(text, name, if line.is_empty() && !name.is_empty() { "none" } else { &line })?;
        branch(text, "default", &domain(self.default_domain))?;
        let current = match self.domain {
            Some(current) if self.default_domain == Some(current) => "the default".to_owned(),
            current => domain(current),
        };
        branch(text, "current", &current)?;
        if !self.complete {
            let told = Painted(palette.bad, "not all of it could be read").to_string();
            branch(text, "cut", &told)?;
        }
        if self.slots.is_empty() {
            return writeln!(text, "└─ {:<9} none: no PASID and no handle is attached", "slots");
        }
        writeln!(text, "└─ {:<9} {}", "slots", self.slots.len())?;
        let heads = HEADS;
        let heads = row(heads[0], heads[1], heads[2], heads[3], heads[4], heads[5], heads[6], heads[7]);
        writeln!(text, "{}", Painted(palette.dim, heads))?;
        self.slots.iter().try_for_each(|slot| writeln!(text, "{}", slot.row()))
    }
}

const HEADS: [&str; 8] = ["PASID", "DOMAIN IS", "DOMAIN", "HANDLE", "OWNER", "ID", "USERS", "DEVICE"];

#[expect(clippy::too_many_arguments, reason = "one for each column")]
fn row(
    pasid: &str,
    kind: &str,
    domain: &str,
    handle: &str,
    owner: &str,
    id: &str,
    users: &str,
    device: &str,
) -> String {
    format!("   {pasid:>7} {kind:<9} {domain:<16} {handle:<16} {owner:<7} {id:>5} {users:>5} {device}")
        .trim_end()
        .to_owned()
}

fn domain(domain: Option<Domain>) -> String {
    domain.map_or_else(
        || "none".to_owned(),
        |domain| format!("{:<9} {:x}", domain.domain_type.to_string(), domain.domain.0),
    )
}

impl HeldSlot {
    fn row(&self) -> String {
        let ptr = |ptr: Option<Ptr>| ptr.map_or_else(|| "-".to_owned(), |ptr| format!("{:x}", ptr.0));
        let number = |number: Option<u32>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        row(
            &if self.pasid == 0 { "rid".to_owned() } else { self.pasid.to_string() },
            &self.domain_type.map_or_else(|| "reserved".to_owned(), |kind| kind.to_string()),
            &ptr(self.domain),
            &ptr(self.handle),
            self.owner.name(),
            &number(self.device_id),
            &number(self.users),
            &self.device.map_or_else(|| "-".to_owned(), |device| device.to_string()),
        )
    }
}
