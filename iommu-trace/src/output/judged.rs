//! What `check` came to: what was watched, what was judged, what could not be and why.

use std::fmt::{self, Write as _};

use serde::Serialize;

use super::{Palette, latencies::Percentiles, palette::Painted, units::nanoseconds};
use crate::{
    model::{Features, RuleId},
    source::StepWaits,
};

/// The mirror's own answers to what the kernel looks up for each fault, timed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Mirrored {
    /// How long the mirror took, one clock reading included; `None` when it was never asked.
    pub lookup: Option<Percentiles>,
    /// Look-ups of which both the kernel and the mirror told a device id.
    pub compared: u64,
    /// Those of them where the two ids were not the same.
    pub differed: u64,
}

/// What a run of `check` came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Judged {
    /// Who owns a handle by the rules judged: `caller-owned` or `refcounted`.
    pub ownership: &'static str,
    /// The rules that were judged.
    pub rules: Vec<RuleId>,
    /// Violations that are errors.
    pub errors: u64,
    /// Violations that are warnings.
    pub warnings: u64,
    /// What was watched.
    pub watched: Watched,
    /// How this kernel treats handles, and what of it is probed.
    pub features: Features,
    /// What the kernel was made to wait, where that was asked for.
    pub stretched: Vec<StepWaits>,
    /// What looked like a violation and could not be judged.
    pub unjudged: Vec<Unjudged>,
    /// Rules that could not be judged at all.
    pub blind: Vec<Blind>,
    /// Probes that could not be attached.
    pub broken: Vec<String>,
    /// Functions that this kernel does not have.
    pub absent: Vec<String>,
    /// Returns whose entry was not seen.
    pub unmatched_returns: u64,
    /// Responses, deliveries and frees of faults whose report was not seen.
    pub unmatched_faults: u64,
    /// Things that were forgotten because a table was full.
    pub forgotten: u64,
    /// What the first proposal would have made of it, where that was asked for.
    pub refcounted: Option<Refcounted>,
}

/// What was watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Watched {
    /// Records read from the kernel.
    pub records: u64,
    /// IOMMU groups known at the end.
    pub groups: u64,
    /// Handles that were attached when it began.
    pub handles_found: u64,
    /// Handles attached since, by attach or replace.
    pub handles_attached: u64,
    /// Handles that left their slot, by detach or replace.
    pub handles_detached: u64,
    /// Handles that are attached at the end.
    pub handles_left: u64,
    /// Look-ups.
    pub lookups: u64,
    /// Page faults.
    pub faults: u64,
}

/// Judgements that were not passed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unjudged {
    /// The rule.
    pub rule: RuleId,
    /// Why.
    pub reason: String,
    /// How many.
    pub count: u64,
}

/// A rule that could not be judged at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Blind {
    /// The rule.
    pub rule: RuleId,
    /// Why.
    pub reason: String,
}

/// By the first proposal: a reference count in the handle, and a private pointer of the caller's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Refcounted {
    /// Private pointers that nobody could have freed.
    pub priv_unfreeable: u64,
    /// Handles that their caller freed while they were referenced.
    pub freed_while_referenced: u64,
}

/// Columns for what follows a name.
const WIDTH: usize = 86;

/// Words after a name, in as many lines as they need.
pub(super) fn list(text: &mut String, name: &str, words: &[String]) -> fmt::Result {
    let mut at = 0;
    for (index, word) in words.iter().enumerate() {
        let width = word.chars().count();
        if index == 0 {
            write!(text, "  {name:<9} {word}")?;
        } else if at + 2 + width > WIDTH {
            write!(text, ",\n            {word}")?;
            at = 0;
        } else {
            write!(text, ", {word}")?;
            at += 2;
        }
        at += width;
    }
    if !words.is_empty() {
        writeln!(text)?;
    }
    Ok(())
}

impl Mirrored {
    pub(super) fn write_text(&self, text: &mut String) -> fmt::Result {
        let Some(latency) = &self.lookup else { return Ok(()) };
        writeln!(
            text,
            "  {:<15} {:>7} {:>10} {:>10} {:>10} {:>10}",
            "mirror's own",
            latency.count,
            nanoseconds(latency.p50_ns),
            nanoseconds(latency.p90_ns),
            nanoseconds(latency.p99_ns),
            nanoseconds(latency.max_ns)
        )?;
        let told = match (self.compared, self.differed) {
            (0, _) => "no device id to compare: no handle of iommufd was looked up".to_owned(),
            (compared, 0) => format!("agreed with the kernel on the device id, {compared} times of {compared}"),
            (compared, differed) => {
                format!("another device id than the kernel, {differed} times of {compared}")
            }
        };
        writeln!(text, "  mirror    {told}")
    }
}

impl Judged {
    pub(super) fn write_text(&self, palette: Palette, text: &mut String) -> fmt::Result {
        let watched = &self.watched;
        let counts = [
            (watched.records, "record", "records"),
            (watched.groups, "group", "groups"),
            (watched.handles_found, "handle found", "handles found"),
            (watched.handles_attached, "attached", "attached"),
            (watched.handles_detached, "detached", "detached"),
            (watched.handles_left, "left", "left"),
            (watched.lookups, "look-up", "look-ups"),
            (watched.faults, "fault", "faults"),
        ];
        list(
            text,
            "watched",
            &counts.map(|(count, one, many)| format!("{count} {}", if count == 1 { one } else { many })),
        )?;
        let (has, lacks) = self.features();
        list(text, "kernel", &has)?;
        list(text, "without", &lacks)?;
        list(text, "absent", &self.absent)?;
        for broken in &self.broken {
            writeln!(text, "  {:<9} {}", "broken", Painted(palette.warn, broken))?;
        }
        for step in &self.stretched {
            let told = match (step.waits, step.waited_ns) {
                (Some(waits), Some(ns)) => {
                    let times = if waits == 1 { "once".to_owned() } else { format!("{waits} times") };
                    format!("{}, {times}, {} in all", nanoseconds(step.wait_ns), nanoseconds(ns))
                }
                _ => format!("{} each time", nanoseconds(step.wait_ns)),
            };
            writeln!(text, "  {:<9} {}: {told}", "stretched", step.step)?;
        }
        let rules = format!("{} judged, {}", self.rules.len(), self.ownership);
        writeln!(text, "  {:<9} {rules}", "rules")?;
        self.write_unjudged(palette, text)?;
        if let Some(counts) = &self.refcounted {
            writeln!(
                text,
                "  {:<9} with a reference count: {} private pointers with nobody to free them, {} handles freed while referenced",
                "ownership", counts.priv_unfreeable, counts.freed_while_referenced
            )?;
        }
        Ok(())
    }

    fn write_unjudged(&self, palette: Palette, text: &mut String) -> fmt::Result {
        // Rules that share their reason share a line.
        let mut reasons: Vec<&str> = Vec::new();
        for blind in &self.blind {
            if !reasons.contains(&blind.reason.as_str()) {
                reasons.push(&blind.reason);
            }
        }
        for reason in reasons {
            let of = self.blind.iter().filter(|blind| blind.reason == reason);
            let rules: Vec<&str> = of.map(|blind| blind.rule.slug()).collect();
            writeln!(text, "  {:<9} {}: {reason}", "unjudged", rules.join(", "))?;
        }
        for unjudged in &self.unjudged {
            let told = format!("{} {}: {}", unjudged.rule.slug(), unjudged.count, unjudged.reason);
            writeln!(text, "  {:<9} {}", "unjudged", Painted(palette.warn, told))?;
        }
        let unseen = [
            (self.unmatched_returns, "returns without their entry"),
            (self.unmatched_faults, "ends of faults without their report"),
            (self.forgotten, "things forgotten, a table being full"),
        ];
        let unseen: Vec<String> =
            unseen.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
        list(text, "unseen", &unseen)
    }

    /// What the last line says.
    pub(super) fn verdict(&self) -> String {
        let some = |count: u64, what: &str| match count {
            1 => format!("1 {what}"),
            count => format!("{count} {what}s"),
        };
        match (self.errors, self.warnings) {
            (0, 0) => "no violation".to_owned(),
            (0, warnings) => format!("no violation, {}", some(warnings, "warning")),
            (errors, 0) => some(errors, "violation"),
            (errors, warnings) => format!("{}, {}", some(errors, "violation"), some(warnings, "warning")),
        }
    }

    /// The features by name: those that are there, and those that are not.
    fn features(&self) -> (Vec<String>, Vec<String>) {
        let Ok(serde_json::Value::Object(features)) = serde_json::to_value(&self.features) else {
            return (Vec::new(), Vec::new());
        };
        let of = |there: bool| {
            features.iter().filter(|(_, value)| value.as_bool() == Some(there)).map(|(name, _)| name.clone()).collect()
        };
        (of(true), of(false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_counts_errors_as_violations_and_warnings_apart() {
        let of = |errors, warnings| Judged { errors, warnings, ..Judged::default() }.verdict();
        assert_eq!(of(0, 0), "no violation");
        assert_eq!(of(0, 2), "no violation, 2 warnings");
        assert_eq!(of(1, 0), "1 violation");
        assert_eq!(of(3, 1), "3 violations, 1 warning");
    }
}
