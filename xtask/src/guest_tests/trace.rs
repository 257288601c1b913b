//! What iommu-trace wrote: JSON lines, read back and checked for what every trace must be.

use std::{collections::BTreeMap, fs};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::{Map, Value};

use crate::workspace;

/// One event.
#[derive(Clone, Debug)]
pub struct Span {
    /// When it began.
    pub ts: u64,
    /// Its name.
    pub event: String,
    /// The process it began in.
    pub pid: u32,
    /// The thread it began in.
    pub tid: u32,
    /// All its fields.
    fields: Map<String, Value>,
    /// The line as it is in the file.
    pub raw: String,
}

impl Span {
    /// A field; `null` also where there is none.
    pub fn get(&self, field: &str) -> &Value {
        self.fields.get(field).unwrap_or(&Value::Null)
    }

    /// A field that is a number.
    pub fn number(&self, field: &str) -> Option<u64> {
        self.get(field).as_u64()
    }

    /// A field that is a string.
    pub fn text(&self, field: &str) -> Option<&str> {
        self.get(field).as_str()
    }

    /// When it ended; when it began where it has no duration.
    pub fn end(&self) -> u64 {
        self.ts + self.number("duration_ns").unwrap_or_default()
    }
}

/// A whole trace.
#[derive(Clone, Debug)]
pub struct Trace {
    /// The first line.
    pub start: Value,
    /// What is between.
    pub spans: Vec<Span>,
    /// The last line.
    pub end: Value,
}

impl Trace {
    /// Reads a whole file.
    pub fn parse(text: &str) -> Result<Self> {
        ensure!(text.ends_with('\n'), "the trace does not end with a whole line");
        let mut lines = Vec::new();
        for (number, raw) in text.lines().enumerate() {
            let value: Value =
                serde_json::from_str(raw).with_context(|| format!("trace, line {}: {raw}", number + 1))?;
            lines.push((value, raw));
        }
        ensure!(lines.len() >= 2, "the trace has {} lines, and needs a start and an end", lines.len());
        let (end, _) = lines.pop().context("the trace is empty")?;
        let (start, _) = lines.remove(0);
        ensure!(start["event"] == "start", "the first line is no start: {start}");
        ensure!(end["event"] == "end", "the last line is no end: {end}");
        let spans = lines.into_iter().map(|(value, raw)| span(value, raw)).collect::<Result<_>>()?;
        Ok(Self { start, spans, end })
    }

    /// Whether a topic was traced.
    pub fn has_topic(&self, topic: &str) -> bool {
        self.start["topics"].as_array().is_some_and(|topics| topics.iter().any(|t| t == topic))
    }

    /// Whether a probe is attached, as the start tells; true where it tells nothing of it.
    pub fn has_probe(&self, function: &str) -> bool {
        let mut probes = self.start["probes"].as_array().into_iter().flatten();
        probes.all(|probe| probe["function"] != function || probe["verdict"] == "ok")
    }

    /// Checks that start and end agree with what is between, and that every probe that this kernel has is attached.
    pub fn check_frame(&self) -> Result<()> {
        let mut counts: BTreeMap<&str, BTreeMap<&str, u64>> = BTreeMap::new();
        for span in &self.spans {
            let (field, name) = match span.text("rule") {
                Some(rule) if span.event == "violation" => ("violations", rule),
                _ => ("events", span.event.as_str()),
            };
            *counts.entry(field).or_default().entry(name).or_default() += 1;
        }
        for field in ["events", "violations"] {
            let told = &self.end[field];
            let counted = serde_json::to_value(counts.remove(field).unwrap_or_default())?;
            ensure!(*told == counted, "{field}: the end counts {told} where the lines are {counted}");
        }
        self.check_probes()
    }

    /// Checks that every probe that this kernel has is attached.
    pub fn check_probes(&self) -> Result<()> {
        let broken: Vec<&Value> = self.start["probes"]
            .as_array()
            .context("the start tells no probes")?
            .iter()
            .filter(|probe| probe["verdict"] == "broken")
            .collect();
        ensure!(broken.is_empty(), "broken probes: {broken:?}");
        Ok(())
    }

    /// Checks that nothing was lost.
    pub fn check_lossless(&self) -> Result<()> {
        ensure!(self.lost() == 0, "{} records were lost: {}", self.lost(), self.end["lost"]);
        Ok(())
    }

    /// Checks that nothing was lost, and that no rule was found broken.
    pub fn check_clean(&self) -> Result<()> {
        self.check_lossless()?;
        self.check_lawful()
    }

    /// Checks that no rule was found broken.
    pub fn check_lawful(&self) -> Result<()> {
        match self.spans.iter().find(|span| span.event == "violation") {
            Some(violation) => bail!("a violation on a healthy kernel: {}", violation.raw),
            None => Ok(()),
        }
    }

    /// Whose records may be missed though there is room: the kernel does not run a program within itself, and memory is freed in
    /// interrupts, too. It is told as lost, but in millions of frees that one is hardly one of ours.
    pub const MISSED: &str = "kfree";

    /// Records lost, but for frees.
    pub fn lost(&self) -> u64 {
        let lost = self.end["lost"].as_array().into_iter().flatten();
        lost.filter(|lost| lost["probe"] != Self::MISSED).filter_map(|lost| lost["count"].as_u64()).sum()
    }
}

fn span(value: Value, raw: &str) -> Result<Span> {
    let Value::Object(fields) = value else { bail!("no object: {raw}") };
    let number = |name: &str| {
        fields.get(name).and_then(Value::as_u64).with_context(|| format!("no {name} that is a number: {raw}"))
    };
    let (ts, pid, tid) = (number("ts")?, number("pid")? as u32, number("tid")? as u32);
    let event = fields.get("event").and_then(Value::as_str).with_context(|| format!("no event: {raw}"))?.to_owned();
    Ok(Span { ts, event, pid, tid, fields, raw: raw.to_owned() })
}

/// `docs/events.schema.json`.
pub struct Schema(jsonschema::Validator);

impl Schema {
    /// Reads it.
    pub fn load() -> Result<Self> {
        let path = workspace::root().join("docs/events.schema.json");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let schema: Value = serde_json::from_str(&text).with_context(|| format!("{} is no JSON", path.display()))?;
        let validator = jsonschema::validator_for(&schema).map_err(|error| anyhow!("{}: {error}", path.display()))?;
        Ok(Self(validator))
    }

    /// Checks every line.
    pub fn check(&self, text: &str) -> Result<()> {
        for (number, raw) in text.lines().enumerate() {
            let value: Value = serde_json::from_str(raw).with_context(|| format!("line {}: {raw}", number + 1))?;
            if let Err(error) = self.0.validate(&value) {
                bail!("line {} is not what docs/events.schema.json allows: {error}\n  {raw}", number + 1);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: &str = r#"{"ts":1,"event":"start","topics":["attach"],"probes":[{"function":"f","verdict":"ok"}]}"#;
    const FREE: &str =
        r#"{"ts":5,"event":"domain_free","domain":"0x1","domain_type":"dma","cpu":0,"pid":7,"tid":8,"comm":"x"}"#;
    const END: &str = r#"{"event":"end","ts":9,"events":{"domain_free":1},"violations":{},"lost":[]}"#;

    fn trace(lines: &[&str]) -> Result<Trace> {
        Trace::parse(&(lines.join("\n") + "\n"))
    }

    #[test]
    fn a_trace_is_read_whole() {
        let trace = trace(&[START, FREE, END]).unwrap();
        assert_eq!((trace.spans[0].ts, trace.spans[0].pid, trace.spans[0].tid), (5, 7, 8));
        assert!(trace.has_topic("attach") && !trace.has_topic("dma"));
        assert!(trace.has_probe("f"));
        trace.check_frame().unwrap();
        trace.check_lossless().unwrap();
    }

    #[test]
    fn an_end_that_counts_otherwise_is_a_fault() {
        let error = trace(&[START, END]).unwrap().check_frame().unwrap_err().to_string();
        assert!(error.contains("counts"), "{error}");
    }

    #[test]
    fn losses_are_added_up() {
        let end = r#"{"event":"end","ts":9,"events":{},"lost":[{"probe":"a","count":2},{"probe":"b","count":3}]}"#;
        let trace = trace(&[START, end]).unwrap();
        assert_eq!(trace.lost(), 5);
        assert!(trace.check_lossless().is_err());
    }

    #[test]
    fn a_trace_without_an_end_is_refused() {
        assert!(trace(&[START, FREE]).is_err());
        assert!(Trace::parse(&[START, END].join("\n")).is_err(), "the last line is cut");
    }

    #[test]
    fn the_schema_is_strict() {
        let schema = Schema::load().unwrap();
        schema.check(FREE).unwrap();
        let error = schema.check(&FREE.replace("domain_type", "type")).unwrap_err().to_string();
        assert!(error.contains("line 1"), "{error}");
    }
}
