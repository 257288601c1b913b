//! The snapshot at every step of the VFIO programs: `handles` shows what the program knows that it has done so far.
//!
//! Two snapshots a step: one of the kernel, taken while the program has stopped, and the mirror's, from a recording of the
//! whole run, at the time of the stop.

use std::{collections::BTreeMap, fmt, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{
    Checks, Guest, GuestTest,
    session::{Files, Script},
    truth::{Fact, Line, Truth, Via, View},
};
use crate::qemu::Iommu;

const ABOUT: &str = "at every step of the VFIO programs the snapshot is what the program has done";

/// The table.
pub const TESTS: &[GuestTest] = &[
    GuestTest {
        name: "steps-built-7.3",
        about: ABOUT,
        kernel: "built-7.3",
        iommu: Iommu::Intel,
        tracer: true,
        run: |guest, checks| run(guest, checks, &[IOMMUFD, SIBLINGS], &[3, 6]),
    },
    GuestTest {
        name: "long-steps-built-7.3",
        about: ABOUT,
        kernel: "built-7.3",
        iommu: Iommu::Intel,
        tracer: true,
        run: |guest, checks| run(guest, checks, ALL, EVERYWHERE),
    },
    GuestTest {
        name: "long-steps-built-7.3-amd",
        about: ABOUT,
        kernel: "built-7.3",
        iommu: Iommu::Amd,
        tracer: true,
        run: |guest, checks| run(guest, checks, &[IOMMUFD_AMD, CONTAINER, SIBLINGS], EVERYWHERE),
    },
    GuestTest {
        name: "long-steps-built-6.12",
        about: ABOUT,
        kernel: "built-6.12",
        iommu: Iommu::Intel,
        tracer: true,
        run: |guest, checks| run(guest, checks, ALL, EVERYWHERE),
    },
    GuestTest {
        name: "long-steps-stock-7.3",
        about: ABOUT,
        kernel: "stock-7.3",
        iommu: Iommu::Intel,
        tracer: true,
        run: |guest, checks| run(guest, checks, &[CONTAINER], EVERYWHERE),
    },
];

/// A program, and how many steps it has at least.
type Program = (&'static str, &'static str, usize);

const IOMMUFD: Program = ("iommufd", "vfio", 14);
/// AMD-Vi's driver of 7.3 takes a page table with a fault queue for a device without page requests.
const IOMMUFD_AMD: Program = ("iommufd", "vfio --no-failures", 12);
const CONTAINER: Program = ("container", "vfio --container", 7);
const SIBLINGS: Program = ("siblings", "vfio --siblings", 12);
const ALL: &[Program] = &[IOMMUFD, CONTAINER, SIBLINGS];

/// The kernel itself is looked at after every step: each time, that takes about as long as all of a program.
const EVERYWHERE: &[usize] = &[];

/// Far more than it takes.
const LIMIT: Duration = Duration::from_secs(600);

fn run(guest: &Guest, checks: &mut Checks, programs: &[Program], live: &[usize]) -> Result<()> {
    let mut script = Script::new();
    let is_live = |step: usize| live.is_empty() || live.contains(&step);
    let pattern = match live {
        [] => "*".to_owned(),
        some => some.iter().map(ToString::to_string).collect::<Vec<_>>().join("|"),
    };
    for (name, arguments, _) in programs {
        script.case(
            name,
            &format!(
                "exec iommu-trace record -o /out/{name}.itr -- guest {arguments} --truth /out/{name}.truth \
                 --at-step 'case $STEP in {pattern}) exec iommu-trace handles --json > /out/{name}-live-$STEP.json; esac'"
            ),
        );
        // Times of the ground truth are the kernel's; a recording is asked for a time since its beginning.
        script.case(
            &format!("{name}-replayed"),
            &format!(
                "begin=$(iommu-trace trace --from /out/{name}.itr --format json | head -n 1 | \
                 sed 's/^{{\"ts\":\\([0-9]*\\).*/\\1/')
                 sed -n 's/^{{\"truth\":\"step\",\"step\":\\([0-9]*\\),.*\"ts\":\\([0-9]*\\),\"n\".*/\\1 \\2/p' /out/{name}.truth |
                 while read step ts; do
                     iommu-trace handles --json --from /out/{name}.itr --at $((ts - begin))ns \
                         > /out/{name}-replayed-$step.json || exit 1
                 done"
            ),
        );
    }
    let files = script.run(guest.vm().timeout(LIMIT))?;
    for (name, _, least) in programs {
        for case in [(*name).to_owned(), format!("{name}-replayed")] {
            checks.check(format!("{case}: exit status"), files.expect_status(&case, 0));
        }
        let steps = match steps(&files, name) {
            Ok(steps) if steps.len() >= *least => steps,
            Ok(steps) => bail!("{name} has {} steps, and should have {least}", steps.len()),
            Err(error) => return Err(error.context(format!("the ground truth of {name}"))),
        };
        for kind in ["live", "replayed"] {
            let mut before: Option<(usize, (Snapshot, Step))> = None;
            for (number, step) in steps.iter().enumerate().filter(|&(number, _)| kind != "live" || is_live(number)) {
                // Of what went in between, an address may have been given out again.
                before = before.filter(|(earlier, _)| *earlier + 1 == number);
                let file = format!("{name}-{kind}-{number}.json");
                let result = files.text(&file).and_then(|text| {
                    let seen = Snapshot::parse(&text)?;
                    seen.check(step)?;
                    seen.check_since(step, before.as_ref().map(|(_, of)| of))?;
                    before = Some((number, (seen, step.clone())));
                    Ok(())
                });
                checks.check(format!("{name}, {kind}: after {}", step.after), result);
            }
        }
        checks.note(format!("{name}: {} steps", steps.len()));
    }
    Ok(())
}

/// How a group is by what the program did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct State {
    /// The devices that are bound to iommufd: while there is one, nobody's DMA passes.
    bound: Vec<String>,
    /// Whether a container holds it.
    container: bool,
    /// The devices that are attached.
    attached: Vec<String>,
    /// Whom the handle in the slot is for.
    holder: Option<Holder>,
    /// Counts attachments, so that two are told apart.
    generation: u32,
}

/// The device that a handle is for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Holder {
    device: String,
    device_id: u32,
    /// The page table.
    hwpt_id: u32,
    /// Whether it has left iommufd meanwhile. The handle then names what is gone.
    gone: bool,
}

/// What a program has done up to a step.
#[derive(Clone, Debug)]
struct Step {
    after: String,
    groups: Vec<View>,
    states: BTreeMap<u32, State>,
}

fn steps(files: &Files, name: &str) -> Result<Vec<Step>> {
    replay(&Truth::parse(&files.text(&format!("{name}.truth"))?)?.lines)
}

/// Follows the ground truth from line to line.
fn replay(lines: &[Line]) -> Result<Vec<Step>> {
    let mut states: BTreeMap<u32, State> = BTreeMap::new();
    let mut steps = Vec::new();
    for line in lines {
        if line.fact.call().is_some_and(|call| call.ret < 0) {
            continue;
        }
        if let Fact::Step(step) = &line.fact {
            steps.push(Step { after: step.after.clone(), groups: step.groups.clone(), states: states.clone() });
            continue;
        }
        let Some(group) = line.fact.group() else { continue };
        let state = states.entry(group).or_default();
        match &line.fact {
            Fact::Bind(bind) => state.bound.extend(bind.device.clone()),
            Fact::Unbind(bind) => {
                let device = bind.device.as_deref().unwrap_or_default();
                state.bound.retain(|bound| bound != device);
                if let Some(holder) = state.holder.as_mut().filter(|holder| holder.device == device) {
                    holder.gone = true;
                }
            }
            Fact::Attach(slot) | Fact::Replace(slot) if slot.via == Via::VfioContainer => {
                state.container = true;
                state.generation += 1;
            }
            Fact::Detach(slot) if slot.via == Via::VfioContainer => state.container = false,
            Fact::Attach(slot) | Fact::Replace(slot) => {
                let device = slot.device.clone().context("an attach without a device")?;
                if !state.attached.contains(&device) {
                    state.attached.push(device.clone());
                }
                if slot.core {
                    state.generation += 1;
                    state.holder = Some(Holder {
                        device,
                        device_id: slot.device_id.context("an attach without a device id")?,
                        hwpt_id: slot.hwpt_id.context("an attach without a page table")?,
                        gone: false,
                    });
                }
            }
            Fact::Detach(slot) => {
                state.attached.retain(|attached| Some(attached) != slot.device.as_ref());
                if state.attached.is_empty() {
                    state.holder = None;
                }
            }
            _ => {}
        }
    }
    Ok(steps)
}

/// Where a group's DMA goes.
#[derive(Debug, PartialEq, Eq)]
enum Current {
    Default,
    Blocked,
    Attached,
}

impl State {
    fn current(&self) -> Current {
        match self {
            Self { container: true, .. } | Self { holder: Some(_), .. } => Current::Attached,
            Self { bound, .. } if !bound.is_empty() => Current::Blocked,
            _ => Current::Default,
        }
    }
}

/// `handles --json`, by group.
struct Snapshot(BTreeMap<u32, Value>);

impl Snapshot {
    fn parse(text: &str) -> Result<Self> {
        let snapshot: Value = serde_json::from_str(text).with_context(|| format!("the snapshot is no JSON: {text}"))?;
        ensure!(snapshot["lost"] == 0, "pieces of the snapshot are lost: {text}");
        let groups = snapshot["groups"].as_array().context("the snapshot has no groups")?;
        let numbered = |group: &Value| -> Result<(u32, Value)> {
            ensure!(group["complete"] == true, "a group was not read whole: {group}");
            Ok((group["group"].as_u64().context("a group without a number")? as u32, group.clone()))
        };
        Ok(Self(groups.iter().map(numbered).collect::<Result<_>>()?))
    }

    /// Each group of sysfs, and no other, with its devices, domains and slots.
    fn check(&self, step: &Step) -> Result<()> {
        let (here, there): (Vec<u32>, Vec<u32>) =
            (self.0.keys().copied().collect(), step.groups.iter().map(|view| view.group).collect());
        ensure!(here == there, "the snapshot has groups {here:?}, sysfs has {there:?}");
        let nothing = State::default();
        for view in &step.groups {
            let group = &self.0[&view.group];
            let state = step.states.get(&view.group).unwrap_or(&nothing);
            check_group(group, view, state).with_context(|| format!("group {}, {state:?}: {group}", view.group))?;
        }
        Ok(())
    }

    /// What has not changed since the step before is the same; what has is another.
    fn check_since(&self, step: &Step, before: Option<&(Self, Step)>) -> Result<()> {
        let Some((seen, earlier)) = before else { return Ok(()) };
        for (number, state) in &step.states {
            let (Some(was), Some(group), Some(old)) =
                (earlier.states.get(number), self.0.get(number), seen.0.get(number))
            else {
                continue;
            };
            if state.current() != Current::Attached || was.current() != Current::Attached {
                continue;
            }
            let same = was.generation == state.generation;
            let (new, old) = (
                [&group["domain"]["domain"], &group["slots"][0]["handle"]],
                [&old["domain"]["domain"], &old["slots"][0]["handle"]],
            );
            ensure!(!same || new == old, "nothing has changed, and domain and handle are {new:?} after {old:?}");
            let moved = state.holder.as_ref().map(|h| h.hwpt_id) != was.holder.as_ref().map(|h| h.hwpt_id);
            ensure!(same || !moved || new[0] != old[0], "another page table, and the same domain {}", new[0]);
            ensure!(same || state.container || new[1] != old[1], "a replace, and the same handle {}", new[1]);
        }
        Ok(())
    }
}

fn check_group(group: &Value, view: &View, state: &State) -> Result<()> {
    let mut devices: Vec<&str> = group["devices"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    devices.sort_unstable();
    ensure!(devices == view.devices, "devices {devices:?}, not {:?}", view.devices);
    let (default, current) = (&group["default_domain"], &group["domain"]);
    let kind = view.default_domain.to_lowercase();
    ensure!(default["domain_type"] == kind.as_str(), "the default domain is no {kind}");
    let seen = match &current["domain_type"] {
        _ if current == default => Current::Default,
        kind if kind == "blocked" => Current::Blocked,
        kind if kind == "unmanaged" => Current::Attached,
        kind => bail!("the current domain is of type {kind}"),
    };
    ensure!(seen == state.current(), "the current domain is {seen:?}, not {:?}", state.current());
    let slots = group["slots"].as_array().context("no slots")?;
    let Some(holder) = &state.holder else {
        ensure!(slots.is_empty(), "a slot is held, and nothing is attached with a handle");
        return Ok(());
    };
    let [slot] = slots.as_slice() else { bail!("{} slots, not one", slots.len()) };
    // Where the handle names a device that is gone, its memory may say anything, also to who asks whose the handle is.
    let owner = if holder.gone { slot["owner"].clone() } else { "iommufd".into() };
    let expected = [
        ("pasid", Value::from(0)),
        ("owner", owner),
        ("domain", current["domain"].clone()),
        ("domain_type", "unmanaged".into()),
    ];
    for (field, value) in expected {
        ensure!(slot[field] == value, "{field} is {}, not {value}", slot[field]);
    }
    ensure!(slot["handle"].is_string(), "no handle");
    let named = (slot["device"].as_str(), slot["device_id"].as_u64());
    ensure!(
        holder.gone || named == (Some(holder.device.as_str()), Some(u64::from(holder.device_id))),
        "the handle is for {named:?}, not for {holder}"
    );
    Ok(())
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (device id {})", self.device, self.device_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRUTH: &str = r#"{"truth":"start","schema":1,"program":"vfio","pid":1,"kernel":"7.3","ts":1,"n":0,"tid":1}
{"truth":"bind","via":"vfio","device":"a","group":3,"device_id":1,"ret":0,"ts0":1,"ts1":2,"n":1,"tid":1}
{"truth":"step","step":0,"after":"the bind","groups":[{"group":3,"devices":["a"],"default_domain":"DMA-FQ"}],"ts":3,"n":2,"tid":1}
{"truth":"attach","via":"vfio","device":"a","group":3,"device_id":1,"pasid":0,"hwpt_id":5,"core":true,"implicit":false,"ret":0,"ts0":3,"ts1":4,"n":3,"tid":1}
{"truth":"step","step":1,"after":"the attach","groups":[{"group":3,"devices":["a"],"default_domain":"DMA-FQ"}],"ts":5,"n":4,"tid":1}
{"truth":"replace","via":"vfio","device":"a","group":3,"device_id":1,"pasid":0,"hwpt_id":6,"core":true,"implicit":false,"ret":0,"ts0":5,"ts1":6,"n":5,"tid":1}
{"truth":"step","step":2,"after":"the replace","groups":[{"group":3,"devices":["a"],"default_domain":"DMA-FQ"}],"ts":7,"n":6,"tid":1}
{"truth":"end","status":0,"counts":{},"ts":9,"n":7,"tid":1}"#;

    fn snapshot(domain: &str, kind: &str, slots: &str) -> Snapshot {
        let default = r#"{"domain":"0x10","domain_type":"dma-fq"}"#;
        Snapshot::parse(&format!(
            r#"{{"lost":0,"groups":[{{"group":3,"devices":["a"],"complete":true,"default_domain":{default},
                "domain":{{"domain":"{domain}","domain_type":"{kind}"}},"slots":[{slots}]}}]}}"#
        ))
        .unwrap()
    }

    fn slot(domain: &str, handle: &str, device_id: u32) -> String {
        format!(
            r#"{{"pasid":0,"domain":"{domain}","domain_type":"unmanaged","handle":"{handle}","owner":"iommufd",
                "device":"a","device_id":{device_id},"users":null}}"#
        )
    }

    #[test]
    fn a_snapshot_must_be_what_was_done_until_then() {
        let steps = replay(&Truth::parse(TRUTH).unwrap().lines).unwrap();
        let [bind, attach, replace] = steps.as_slice() else { panic!("{steps:?}") };
        let bound = snapshot("0x20", "blocked", "");
        let attached = snapshot("0x30", "unmanaged", &slot("0x30", "0x31", 1));
        bound.check(bind).unwrap();
        attached.check(attach).unwrap();
        let wrong = |snapshot: &Snapshot, step: &Step| format!("{:#}", snapshot.check(step).unwrap_err());
        assert!(wrong(&bound, attach).contains("Blocked, not Attached"), "{}", wrong(&bound, attach));
        assert!(wrong(&attached, bind).contains("Attached, not Blocked"));
        assert!(wrong(&snapshot("0x10", "dma-fq", ""), bind).contains("Default, not Blocked"));
        assert!(wrong(&snapshot("0x30", "unmanaged", ""), attach).contains("0 slots"));
        assert!(wrong(&snapshot("0x30", "unmanaged", &slot("0x30", "0x31", 2)), attach).contains("device id 1"));
        assert!(wrong(&snapshot("0x30", "unmanaged", &slot("0x40", "0x31", 1)), attach).contains("domain is"));
        // A replace brings another handle and another domain.
        let before = (attached, attach.clone());
        let moved = snapshot("0x40", "unmanaged", &slot("0x40", "0x41", 1));
        moved.check_since(replace, Some(&before)).unwrap();
        assert!(moved.check_since(attach, Some(&before)).is_err(), "nothing was done between the two");
        let stays = snapshot("0x30", "unmanaged", &slot("0x30", "0x31", 1));
        assert!(stays.check_since(replace, Some(&before)).is_err());
    }
}
