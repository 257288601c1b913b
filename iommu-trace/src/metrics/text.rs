//! The two text forms, written by the official client library.
//!
//! The library has no way to set a histogram's exemplars but observing with it, so histograms with exemplars are kept
//! in its own type beside ours.

use std::{fmt, sync::Arc, time::SystemTime};

use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder, EncodeLabelKey, EncodeLabelSet, EncodeLabelValue, EncodeMetric as _, LabelSetEncoder,
        MetricEncoder, NoLabelSet, prometheus_text, text,
    },
    metrics::{MetricType, exemplar::HistogramWithExemplars},
    registry::{self, Registry},
};

use super::{Bounds, Family, Kind, Point, Snapshot, Unit, Value, histogram::seconds};
use crate::model::span::FaultSpan;

/// Which fault it was.
type Example = Vec<(&'static str, String)>;

/// Observations with an example for each bucket.
pub type Exemplars = HistogramWithExemplars<Example>;

/// Nothing was observed yet.
pub(super) fn exemplars(bounds: Bounds) -> Exemplars {
    HistogramWithExemplars::new(bounds.seconds())
}

/// Takes note of a fault that took `ns` to a stage which it reached at `when`.
pub(super) fn example(exemplars: &Exemplars, ns: u64, fault: &FaultSpan, when: SystemTime) {
    let pasid = fault.pasid.map_or_else(|| "rid".to_owned(), |pasid| pasid.to_string());
    let labels = vec![("pasid", pasid), ("addr", format!("{:#x}", fault.addr)), ("grpid", fault.grpid.to_string())];
    exemplars.observe(seconds(ns), Some(labels), Some(when));
}

/// The form of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// OpenMetrics 1.0, with exemplars.
    OpenMetrics,
    /// Prometheus' own text format 0.0.4, for who does not ask for OpenMetrics.
    Prometheus,
}

impl Form {
    /// Its media type.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Form::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Form::Prometheus => prometheus_text::CONTENT_TYPE,
        }
    }
}

/// Writes a snapshot.
pub fn render(snapshot: Arc<Snapshot>, form: Form) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Rendering { snapshot, form }));
    let mut written = String::new();
    match form {
        Form::OpenMetrics => text::encode(&mut written, &registry)?,
        Form::Prometheus => prometheus_text::encode(&mut written, &registry)?,
    }
    Ok(written)
}

#[derive(Debug)]
struct Rendering {
    snapshot: Arc<Snapshot>,
    form: Form,
}

impl Collector for Rendering {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for family in &self.snapshot.families {
            self.family(family, &mut encoder)?;
        }
        Ok(())
    }
}

impl Rendering {
    fn family(&self, family: &Family, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let metric = family.metric;
        let unit = match metric.unit {
            Unit::None => None,
            Unit::Seconds => Some(registry::Unit::Seconds),
            Unit::Bytes => Some(registry::Unit::Bytes),
        };
        let kind = match metric.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
            Kind::Histogram(_) => MetricType::Histogram,
            Kind::Info => MetricType::Info,
        };
        let mut encoder = encoder.encode_descriptor(metric.stem, metric.help, unit.as_ref(), kind)?;
        for point in &family.points {
            let labels = Labels(metric.labels, &point.labels);
            match metric.kind {
                Kind::Info => encoder.encode_info(&labels)?,
                kind => self.point(kind, point, encoder.encode_family(&labels)?)?,
            }
        }
        Ok(())
    }

    fn point(&self, kind: Kind, point: &Point, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        match (kind, &point.value) {
            (Kind::Counter, Value::Count(count)) => encoder.encode_counter::<NoLabelSet, u64, u64>(count, None),
            (Kind::Counter, Value::Amount(amount)) => encoder.encode_counter::<NoLabelSet, f64, u64>(amount, None),
            (_, Value::Count(count)) => encoder.encode_gauge(count),
            (_, Value::Amount(amount)) => encoder.encode_gauge(amount),
            (_, Value::Observed(_, Some(exemplars))) if self.form == Form::OpenMetrics => exemplars.encode(encoder),
            (_, Value::Observed(histogram, _)) => {
                let ends = histogram.bounds().seconds().chain([f64::INFINITY]);
                let buckets: Vec<(f64, u64)> = ends.zip(histogram.counts().iter().copied()).collect();
                encoder.encode_histogram::<NoLabelSet>(histogram.sum(), histogram.count(), &buckets, None)
            }
            (_, Value::Labels) => Ok(()),
        }
    }
}

/// Names and values of labels.
struct Labels<'a>(&'a [&'static str], &'a [String]);

impl EncodeLabelSet for Labels<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        for (name, value) in self.0.iter().zip(self.1) {
            let mut label = encoder.encode_label();
            let mut key = label.encode_label_key()?;
            EncodeLabelKey::encode(name, &mut key)?;
            let mut written = key.encode_label_value()?;
            EncodeLabelValue::encode(&value.as_str(), &mut written)?;
            written.finish()?;
        }
        Ok(())
    }
}
