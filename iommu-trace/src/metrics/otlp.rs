//! The same snapshot as OTLP, in the message types of the OpenTelemetry project.
//!
//! Names have neither unit nor `_total`: a collector that writes Prometheus' form adds both, and comes to the names of
//! docs/metrics.md.

use std::time::SystemTime;

use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    metrics::v1::{
        AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
        ScopeMetrics, Sum, metric::Data, number_data_point,
    },
    resource::v1::Resource,
};

use super::{Family, Id, Kind, Point, Snapshot, Unit, Value};

/// A snapshot as one request.
#[must_use]
pub fn request(snapshot: &Snapshot) -> ExportMetricsServiceRequest {
    let times = Times { since: nanoseconds(snapshot.since), at: nanoseconds(snapshot.at) };
    let scope = InstrumentationScope {
        name: "iommu-trace".into(),
        version: crate::version::VERSION.into(),
        ..InstrumentationScope::default()
    };
    let metrics = snapshot.families.iter().map(|family| metric(family, times)).collect();
    let resource = Some(Resource { attributes: resource(snapshot), ..Resource::default() });
    let scope_metrics = vec![ScopeMetrics { scope: Some(scope), metrics, schema_url: String::new() }];
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics { resource, scope_metrics, schema_url: String::new() }],
    }
}

#[derive(Clone, Copy)]
struct Times {
    since: u64,
    at: u64,
}

fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.as_nanos().try_into().unwrap_or(u64::MAX)
}

fn attribute(key: &str, value: &str) -> KeyValue {
    let value = AnyValue { value: Some(any_value::Value::StringValue(value.to_owned())) };
    KeyValue { key: key.to_owned(), value: Some(value), ..KeyValue::default() }
}

/// Who tells it: the semantic conventions' names of what the kernel's metric has.
fn resource(snapshot: &Snapshot) -> Vec<KeyValue> {
    let mut attributes =
        vec![attribute("service.name", "iommu-trace"), attribute("service.version", crate::version::VERSION)];
    let kernel = snapshot.family(Id::Kernel).and_then(|family| family.points.first());
    if let Some([release, machine, host]) = kernel.map(|point| point.labels.as_slice()) {
        attributes.push(attribute("service.instance.id", host));
        attributes.push(attribute("host.name", host));
        attributes.push(attribute("host.arch", if machine == "x86_64" { "amd64" } else { machine }));
        attributes.push(attribute("os.type", "linux"));
        attributes.push(attribute("os.version", release));
    }
    attributes
}

fn metric(family: &Family, times: Times) -> Metric {
    let metric = family.metric;
    let numbers = || family.points.iter().map(|point| number(family, point, times)).collect();
    let temporality = AggregationTemporality::Cumulative.into();
    let data = match metric.kind {
        Kind::Counter => {
            Data::Sum(Sum { data_points: numbers(), aggregation_temporality: temporality, is_monotonic: true })
        }
        Kind::Gauge | Kind::Info => Data::Gauge(Gauge { data_points: numbers() }),
        Kind::Histogram(_) => Data::Histogram(Histogram {
            data_points: family.points.iter().filter_map(|point| observed(family, point, times)).collect(),
            aggregation_temporality: temporality,
        }),
    };
    let suffix = if metric.kind == Kind::Info { "_info" } else { "" };
    let unit = match metric.unit {
        Unit::None => "",
        Unit::Seconds => "s",
        Unit::Bytes => "By",
    };
    Metric {
        name: format!("{}{suffix}", metric.stem),
        description: metric.help.into(),
        unit: unit.into(),
        data: Some(data),
        ..Metric::default()
    }
}

fn attributes(family: &Family, point: &Point) -> Vec<KeyValue> {
    family.metric.labels.iter().zip(&point.labels).map(|(name, value)| attribute(name, value)).collect()
}

fn number(family: &Family, point: &Point, times: Times) -> NumberDataPoint {
    let value = match &point.value {
        Value::Count(count) => number_data_point::Value::AsInt(i64::try_from(*count).unwrap_or(i64::MAX)),
        Value::Amount(amount) => number_data_point::Value::AsDouble(*amount),
        Value::Labels | Value::Observed(..) => number_data_point::Value::AsInt(1),
    };
    NumberDataPoint {
        attributes: attributes(family, point),
        start_time_unix_nano: if family.metric.kind == Kind::Counter { times.since } else { 0 },
        time_unix_nano: times.at,
        value: Some(value),
        ..NumberDataPoint::default()
    }
}

fn observed(family: &Family, point: &Point, times: Times) -> Option<HistogramDataPoint> {
    let Value::Observed(histogram, _) = &point.value else { return None };
    Some(HistogramDataPoint {
        attributes: attributes(family, point),
        start_time_unix_nano: times.since,
        time_unix_nano: times.at,
        count: histogram.count(),
        sum: Some(histogram.sum()),
        bucket_counts: histogram.counts().to_vec(),
        explicit_bounds: histogram.bounds().seconds().collect(),
        ..HistogramDataPoint::default()
    })
}
