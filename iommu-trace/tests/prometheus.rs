//! A real Prometheus scrapes a real exporter, and is asked everything that the dashboards ask.
//!
//! Its programs are taken from the directory `IOMMU_TRACE_PROMETHEUS`, as `cargo xtask test --only prometheus` gives it,
//! or from `PATH`.
#![allow(missing_docs, clippy::unwrap_used, reason = "this is a test")]
#![allow(clippy::float_cmp, reason = "numbers of things, which are whole")]

mod common;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use common::{
    busy::{self, Busy, DEVICES, FAULTS},
    grafana, promql,
    serving::{Reply, Serving},
};
use serde_json::Value;

const ALL: &[&str] = &["--events", "attach,fault,sva,iommufd,dma,invalidate,reset"];

/// One of Prometheus' programs.
fn program(name: &str) -> PathBuf {
    match std::env::var_os("IOMMU_TRACE_PROMETHEUS") {
        Some(dir) => Path::new(&dir).join(name),
        None => name.into(),
    }
}

/// Runs promtool and wants it to be content.
fn promtool(arguments: &[&str], input: &str) {
    let mut child = Command::new(program("promtool"))
        .args(arguments)
        .current_dir(grafana::dir().join("prometheus"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is there");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "promtool {}:\n{said}", arguments.join(" "));
}

#[test]
#[ignore = "needs Prometheus: cargo xtask test --only prometheus"]
fn promtool_is_content_with_the_metrics() {
    let mut source = Busy::new(3);
    source.besides = busy::trouble;
    let serving = Serving::start(source, ALL);
    serving.metrics_when(|metrics| metrics.sum("iommu_trace_faults_total", &[]) >= f64::from(3 * DEVICES * FAULTS));
    promtool(&["check", "metrics"], &serving.get("/metrics").body);
}

#[test]
#[ignore = "needs Prometheus: cargo xtask test --only prometheus"]
fn promtool_is_content_with_the_configuration_and_the_rules_pass_their_tests() {
    promtool(&["check", "config", "prometheus.yml"], "");
    promtool(&["check", "rules", "iommu-trace.rules.yml", "iommu-trace.alerts.yml"], "");
    promtool(&["test", "rules", "tests/alerts.test.yml"], "");
}

/// A running Prometheus.
struct Prometheus {
    child: Child,
    address: SocketAddr,
    dir: tempfile::TempDir,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Prometheus {
    /// Starts it on what is scraped each second.
    fn start(target: SocketAddr) -> Prometheus {
        let dir = tempfile::tempdir().unwrap();
        let ours = grafana::dir().join("prometheus");
        for name in ["iommu-trace.rules.yml", "iommu-trace.alerts.yml"] {
            let rules = fs::read_to_string(ours.join(name)).unwrap();
            fs::write(dir.path().join(name), rules.replace("interval: 5m", "interval: 1s")).unwrap();
        }
        let config = fs::read_to_string(ours.join("prometheus.yml")).unwrap();
        let config = config.replace("15s", "1s").replace("127.0.0.1:9798", &target.to_string());
        fs::write(dir.path().join("prometheus.yml"), config).unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let child = Command::new(program("prometheus"))
            .current_dir(dir.path())
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data", "--enable-feature=exemplar-storage"])
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(fs::File::create(dir.path().join("log")).unwrap())
            .spawn()
            .expect("prometheus is there");
        Prometheus { child, address, dir }
    }

    /// Asks its API; `None` while it does not answer.
    fn try_get(&self, path: &str) -> Option<Value> {
        let mut stream = TcpStream::connect(self.address).ok()?;
        // Version 1.0, so that the answer comes in one piece.
        write!(stream, "GET {path} HTTP/1.0\r\nHost: test\r\n\r\n").ok()?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).ok()?;
        serde_json::from_str(&Reply::parse(&String::from_utf8(bytes).unwrap()).body).ok()
    }

    fn get(&self, path: &str) -> Value {
        let answer = self.try_get(path).unwrap_or_else(|| panic!("no answer to {path}"));
        assert_eq!(answer["status"], "success", "{path}: {answer}");
        answer["data"].clone()
    }

    fn query(&self, expression: &str) -> Vec<Value> {
        let data = self.get(&format!("/api/v1/query?query={}", encoded(expression)));
        assert_eq!(data["resultType"], "vector", "{expression}");
        data["result"].as_array().unwrap().clone()
    }

    /// Asks until it answers with this number.
    fn value_when(&self, expression: &str, wanted: impl Fn(f64) -> bool) {
        let begun = Instant::now();
        let mut last = None;
        while begun.elapsed() < Duration::from_secs(90) {
            let path = format!("/api/v1/query?query={}", encoded(expression));
            last = self.try_get(&path);
            let value = last.as_ref().and_then(|answer| number(answer["data"]["result"].get(0)?));
            if value.is_some_and(&wanted) {
                return;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        panic!("it never came to that: {expression} is {last:?}\n{log}");
    }
}

fn number(sample: &Value) -> Option<f64> {
    sample["value"][1].as_str()?.parse().ok()
}

fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// The names in `{{…}}`.
fn legend_labels(legend: &str) -> Vec<&str> {
    legend.split("{{").skip(1).filter_map(|rest| rest.split("}}").next()).collect()
}

#[test]
#[ignore = "needs Prometheus: cargo xtask test --only prometheus"]
fn every_panel_and_rule_has_data_of_the_right_shape() {
    let mut source = Busy::new(u32::MAX);
    source.every = Duration::from_millis(100);
    source.besides = busy::trouble;
    let serving = Serving::start(source, ALL);
    let prometheus = Prometheus::start(serving.address);
    let target = serving.address.to_string();
    prometheus.value_when("min(count_over_time(iommu_trace_source_up[1m]))", |count| count >= 12.0);

    for dashboard in grafana::panels().dashboards {
        for panel in dashboard.rows.iter().flat_map(|row| &row.panels) {
            for query in &panel.queries {
                let expression = query[0]
                    .replace("$__rate_interval", "10s")
                    .replace("$__range", "1m")
                    .replace("$job", ".+")
                    .replace("$instance", &target)
                    .replace("$device", "0000:00:00.3");
                let result = prometheus.query(&expression);
                let place = format!("{} / {}: {expression}", dashboard.title, panel.title);
                assert!(!result.is_empty(), "{place} has no data");
                for sample in &result {
                    let value = number(sample).unwrap();
                    assert!(value.is_finite() && value >= 0.0, "{place} is {value}");
                    for label in query.get(1).map_or(Vec::new(), |legend| legend_labels(legend)) {
                        let there = sample["metric"][label].as_str().is_some_and(|value| !value.is_empty());
                        assert!(there, "{place}: a series without the label {label}: {sample}");
                    }
                }
                if panel.kind == "stat" {
                    assert_eq!(result.len(), 1, "{place} shows one number");
                }
                if panel.unit == "percentunit" {
                    assert!(result.iter().all(|sample| number(sample).unwrap() < 4.0), "{place}");
                }
            }
        }
    }

    for recorded in promql::rules().iter().filter_map(|rule| rule.record.as_ref()) {
        prometheus.value_when(&format!("count({recorded})"), |count| count >= 1.0);
    }
    let groups = prometheus.get("/api/v1/rules");
    let rules: Vec<&Value> =
        groups["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap()).collect();
    assert_eq!(rules.len(), promql::rules().len());
    for rule in &rules {
        assert_eq!((rule["health"].as_str(), rule["lastError"].as_str()), (Some("ok"), None), "{rule}");
    }
    let firing = |name: &str| rules.iter().any(|rule| rule["name"] == name && rule["state"] == "firing");
    for alert in ["IommuTraceViolation", "IommuTraceDmaFaults", "IommuTraceEventsLost", "IommuTraceFaultUnanswered"] {
        assert!(firing(alert), "{alert} does not fire");
    }
    for alert in ["IommuTraceDown", "IommuTraceAbsent", "IommuTraceFaultsStuck", "IommuTraceProbesBroken"] {
        assert!(!firing(alert), "{alert} fires");
    }

    let exemplars = prometheus.get(&format!(
        "/api/v1/query_exemplars?query={}&start=0&end=9999999999",
        encoded("iommu_trace_fault_response_seconds_bucket")
    ));
    let exemplar = &exemplars[0]["exemplars"][0];
    assert!(exemplar["labels"]["addr"].as_str().unwrap().starts_with("0x"), "{exemplars}");
}

#[test]
#[ignore = "needs Prometheus: cargo xtask test --only prometheus"]
fn its_numbers_are_those_of_the_events_and_hostile_names_arrive_whole() {
    let mut source = Busy::new(40);
    source.ends = true;
    source.besides = |script, round| {
        if round == 7 {
            busy::hostile(script);
        }
    };
    let serving = Serving::start(source, ALL);
    let prometheus = Prometheus::start(serving.address);
    prometheus.value_when("iommu_trace_source_up", |up| up == 0.0);
    let faults = f64::from(40 * DEVICES * FAULTS) + busy::HOSTILE.len() as f64;
    let told = |expression: &str| number(&prometheus.query(expression)[0]).unwrap();
    assert_eq!(told("sum(iommu_trace_faults_total)"), faults);
    assert_eq!(told("sum(iommu_trace_fault_lookup_seconds_count)"), faults);
    assert_eq!(told("sum(iommu_trace_fault_response_seconds_bucket{le=\"+Inf\"})"), faults);
    assert_eq!(told("iommu_trace_events_total{event=\"replace\"}"), 80.0 + f64::from(DEVICES) + 4.0);
    let devices = prometheus.get("/api/v1/label/device/values");
    let devices: Vec<&str> = devices.as_array().unwrap().iter().map(|value| value.as_str().unwrap()).collect();
    for name in ["quote\"and\\slash", r"new\nline", r"not \xff\xfe utf-8", "le=\"0.1\"} 7 # {"] {
        assert!(devices.contains(&name), "{name} is not among {devices:?}");
    }
}
