//! The exporter without a kernel: what it serves, and what a client can do to it.
#![allow(missing_docs, clippy::unwrap_used, reason = "this is a test")]
#![allow(clippy::float_cmp, reason = "numbers of things, which are whole")]

mod common;

use std::{
    io::{Read as _, Write as _},
    time::{Duration, Instant},
};

use common::{
    busy::{self, Busy, DEVICES, FAULTS, Given},
    scripted::{Scripted, Step},
    serving::{Metrics, Reply, Serving},
};
use iommu_trace::{
    model::{ModelOptions, testing::Script},
    serve::Control,
};

const ALL: &[&str] = &["--events", "attach,fault,sva,iommufd,dma,invalidate,reset"];

/// An exporter after `rounds` rounds.
fn after(rounds: u32, arguments: &[&str]) -> (Serving, Metrics) {
    let serving = Serving::start(Busy::new(rounds), arguments);
    let faults = f64::from(rounds * DEVICES * FAULTS);
    let metrics = serving.metrics_when(|metrics| metrics.sum("iommu_trace_faults_total", &[]) >= faults);
    (serving, metrics)
}

#[test]
fn what_happened_is_counted() {
    let (serving, metrics) = after(5, ALL);
    let sum = |name: &str, labels: &[&str]| metrics.sum(name, labels);
    let faults = f64::from(5 * DEVICES * FAULTS);
    assert_eq!(sum("iommu_trace_faults_total", &[]), faults);
    assert_eq!(sum("iommu_trace_faults_total", &["response=\"success\""]), faults * 0.75);
    assert_eq!(sum("iommu_trace_faults_total", &["device=\"0000:00:00.2\"", "group=\"2\""]), faults / 3.0);
    for stage in ["interrupt", "lookup", "device_id", "handler", "delivered", "response"] {
        assert_eq!(sum(&format!("iommu_trace_fault_{stage}_seconds_count"), &[]), faults, "{stage}");
        let all = sum(&format!("iommu_trace_fault_{stage}_seconds_bucket"), &["le=\"+Inf\""]);
        assert_eq!(all, faults, "{stage}");
    }
    // Look-ups of a device take 100 ns, 1, 10 and 100 µs by turns.
    let within = |le: &str| sum("iommu_trace_fault_lookup_seconds_bucket", &["device=\"0000:00:00.1\"", le]);
    assert_eq!(within("le=\"0.0000001\""), 5.0);
    assert_eq!(within("le=\"0.000001\""), 10.0);
    assert_eq!(sum("iommu_trace_handles", &["owner=\"iommufd\"", "domain_type=\"unmanaged\""]), 6.0);
    assert_eq!(sum("iommu_trace_handles", &["owner=\"sva\"", "domain_type=\"sva\""]), 1.0);
    assert_eq!(sum("iommu_trace_device_handles", &["device=\"0000:00:00.1\""]), 2.0);
    assert_eq!(sum("iommu_trace_slots", &["content=\"handle\""]), 7.0);
    let labels = ["change=\"replace\"", "owner=\"iommufd\"", "result=\"ok\""];
    assert_eq!(sum("iommu_trace_changes_total", &labels), 10.0);
    assert_eq!(sum("iommu_trace_lookups_total", &["result=\"none\""]), 5.0);
    // One for each fault, and one for each replace.
    assert_eq!(sum("iommu_trace_lookups_total", &["result=\"found\""]), faults + 10.0);
    assert_eq!(sum("iommu_trace_mirror_lookups_total", &["result=\"same\""]), faults + 10.0);
    assert_eq!(sum("iommu_trace_mirror_lookup_seconds_count", &[]), faults);
    assert_eq!(sum("iommu_trace_dma_faults_total", &["access=\"write\""]), 5.0);
    assert_eq!(sum("iommu_trace_mapped_bytes_total", &["operation=\"map\""]), f64::from(10 * 0x20_0000));
    assert_eq!(sum("iommu_trace_mappings_total", &["operation=\"map\"", "result=\"error\""]), 5.0);
    assert_eq!(sum("iommu_trace_invalidation_seconds_count", &["kind=\"iotlb\""]), 5.0);
    assert_eq!(sum("iommu_trace_flush_seconds_count", &[]), 5.0);
    assert_eq!(sum("iommu_trace_violations_total", &[]), 0.0);
    assert_eq!(sum("iommu_trace_source_up", &[]), 1.0);
    assert!(sum("process_resident_memory_bytes", &[]) > 1e6);
    serving.stop().unwrap();
}

#[test]
fn counters_are_there_before_anything_happened_and_what_is_not_watched_is_not() {
    let serving = Serving::start(Busy::new(0), &[]);
    let metrics = serving.metrics();
    assert_eq!(metrics.0.get("iommu_trace_violations_total{rule=\"use-after-detach\",severity=\"error\"}"), Some(&0.0));
    assert_eq!(metrics.0.get("iommu_trace_lost_total{probe=\"iommu_report_device_fault\"}"), Some(&0.0));
    assert_eq!(metrics.0.get("iommu_trace_events_total{event=\"fault\"}"), Some(&0.0));
    assert!(metrics.has("iommu_trace_changes_total") && metrics.has("iommu_trace_change_seconds_bucket"));
    assert!(!metrics.has("iommu_trace_mappings_total") && !metrics.has("iommu_trace_invalidation_seconds_count"));
    assert!(!metrics.has("iommu_trace_flush_seconds_count"));
    // A driver that is not at work here has no counters.
    assert!(!metrics.0.contains_key("iommu_trace_lost_total{probe=\"iommu_completion_wait\"}"));
}

#[test]
fn the_numbers_are_those_of_the_model() {
    let mut script = Script::new();
    busy::setup(&mut script);
    script.pass(200_000_000);
    for round in 0..20 {
        busy::round(&mut script, round);
        busy::violation(&mut script, round);
    }
    let (model, _) = script.model(busy::info().features, ModelOptions::default());
    let counts = model.counts().clone();
    let serving = Serving::start(Given::new(script), ALL);
    let metrics = serving.metrics_when(|metrics| metrics.sum("iommu_trace_records_total", &[]) >= counts.events as f64);
    assert_eq!(metrics.sum("iommu_trace_records_total", &[]), counts.events as f64);
    for (event, count) in counts.spans.iter() {
        assert_eq!(metrics.sum("iommu_trace_events_total", &[&format!("event=\"{event}\"")]), count as f64, "{event}");
    }
    let response = |name: &str| metrics.sum("iommu_trace_faults_total", &[&format!("response=\"{name}\"")]);
    assert_eq!(response("success"), counts.responses.success as f64);
    assert_eq!(response("invalid"), counts.responses.invalid as f64);
    assert!(counts.responses.success > 0 && counts.responses.invalid > 0);
    assert_eq!(metrics.sum("iommu_trace_violations_total", &["rule=\"slot-occupied\""]), 20.0);
    let told: u64 = model.judgements().violations.values().sum();
    assert_eq!(metrics.sum("iommu_trace_violations_total", &[]), told as f64);
}

#[test]
fn open_metrics_has_exemplars_and_an_end_and_the_other_form_has_neither() {
    let (serving, _) = after(2, ALL);
    let accept = "Accept: application/openmetrics-text;version=1.0.0;q=0.9,text/plain;q=0.5\r\n";
    let open = serving.get_with("/metrics", accept);
    assert_eq!(open.headers["content-type"], "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(open.body.ends_with("# EOF\n"));
    let example =
        open.body.lines().find(|line| line.contains("fault_response_seconds_bucket") && line.contains(" # {"));
    let example = example.unwrap();
    assert!(example.contains("pasid=\"") && example.contains("addr=\"0x"), "{example}");
    let plain = serving.get("/metrics");
    assert_eq!(plain.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    assert!(!plain.body.contains(" # {") && !plain.body.contains("# EOF"));
    // But for that, and for what this process has cost meanwhile, they tell the same.
    let (mut open, mut plain) = (Metrics::parse(&open.body).0, Metrics::parse(&plain.body).0);
    for series in [&mut open, &mut plain] {
        series.retain(|name, _| !name.starts_with("process_"));
    }
    // The library adds observations up in another order.
    let near = |a: f64, b: f64| (a - b).abs() <= 1e-9 * b.abs();
    assert!(open.keys().eq(plain.keys()));
    for (name, value) in &open {
        assert!(near(*value, plain[name]), "{name}: {value}, {}", plain[name]);
    }
}

#[test]
fn violations_are_shown_newest_first_as_check_tells_them() {
    let mut source = Busy::new(150);
    source.besides = |script, round| busy::violation(script, round);
    let serving = Serving::start(source, &[]);
    serving.metrics_when(|metrics| metrics.sum("iommu_trace_violations_total", &[]) >= 150.0);
    let reply = serving.get("/violations");
    assert_eq!((reply.status, reply.headers["content-type"].as_str()), (200, "application/json"));
    let page: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
    assert_eq!(page["errors"], 150);
    let latest = page["latest"].as_array().unwrap();
    assert_eq!(latest.len(), 100);
    assert_eq!(latest[0]["rule"], "slot-occupied");
    assert!(latest[0]["ts"].as_u64() > latest[1]["ts"].as_u64());
    assert!(!latest[0]["evidence"].as_array().unwrap().is_empty());
    let schema: serde_json::Value = serde_json::from_str(iommu_trace::output::JSON_SCHEMA).unwrap();
    let schema = jsonschema::validator_for(&schema).unwrap();
    for violation in latest {
        assert!(schema.is_valid(violation), "{violation}");
    }
}

#[test]
fn other_pages() {
    let (serving, _) = after(1, &[]);
    assert_eq!(serving.get("/healthz").body, "ok\n");
    assert!(serving.get("/").body.contains("href=\"/metrics\""));
    assert_eq!(serving.get("/no/such/page").status, 404);
    let reply =
        serving.send(b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello");
    assert_eq!((reply.status, reply.headers["allow"].as_str()), (405, "GET, HEAD"));
    let reply = serving.send(b"HEAD /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert_eq!((reply.status, reply.body.as_str()), (200, ""));
    assert!(reply.headers["content-length"].parse::<u64>().unwrap() > 1000);
}

#[test]
fn a_recording_that_is_over_is_served_on() {
    let mut source = Busy::new(3);
    source.ends = true;
    let serving = Serving::start(source, &[]);
    let metrics = serving.metrics_when(|metrics| metrics.sum("iommu_trace_source_up", &[]) == 0.0);
    assert_eq!(metrics.sum("iommu_trace_faults_total", &[]), f64::from(3 * DEVICES * FAULTS));
    let reply = serving.get("/healthz");
    assert!(reply.status == 200 && reply.body.contains("the recording is over"), "{}", reply.body);
    serving.stop().unwrap();
}

#[test]
fn a_source_that_fails_ends_it_with_the_reason() {
    let source = Scripted::live(vec![Step::Events(Vec::new()), Step::Fail("the ring is gone")]);
    let error = Serving::start(source, &[]).wait().unwrap_err();
    assert_eq!(format!("{error:#}"), "the ring is gone");
}

#[test]
fn hostile_names_survive_as_label_values() {
    let mut script = Script::new();
    busy::hostile(&mut script);
    let serving = Serving::start(Given::new(script), &[]);
    let metrics = serving.metrics_when(|metrics| metrics.sum("iommu_trace_faults_total", &[]) == 4.0);
    for (device, faults) in [
        (r#"device="quote\"and\\slash""#, 1.0),
        (r#"device="new\\nline""#, 1.0),
        (r#"device="not \\xff\\xfe utf-8""#, 1.0),
        (r#"device="le=\"0.1\"} 7 # {""#, 1.0),
    ] {
        assert_eq!(metrics.sum("iommu_trace_faults_total", &[device, "response=\"success\""]), faults, "{device}");
    }
}

#[test]
fn ten_thousand_devices_and_pasids_are_bounded_and_scraped_within_50_ms() {
    let mut script = Script::new();
    script.step = 10;
    busy::crowd(&mut script, 10_000);
    let serving = Serving::start(Given::new(script), &[]);
    let metrics = serving.metrics_when(|metrics| metrics.sum("iommu_trace_faults_total", &[]) == 10_000.0);
    assert_eq!(metrics.sum("iommu_trace_handles", &[]), 20_000.0);
    assert_eq!(metrics.sum("iommu_trace_device_handles", &["device=\"other\""]), 2.0 * (10_000.0 - 128.0));
    assert_eq!(metrics.sum("iommu_trace_faults_total", &["device=\"other\"", "group=\"other\""]), 10_000.0 - 128.0);
    let devices = metrics.0.keys().filter(|series| series.starts_with("iommu_trace_device_handles{")).count();
    assert_eq!(devices, 129);
    // The best of some: this machine does other things, too.
    let took = (0..10).map(|_| {
        let begun = Instant::now();
        assert_eq!(serving.get("/metrics").status, 200);
        begun.elapsed()
    });
    let took = took.min().unwrap();
    // What is promised is for optimised code.
    let limit = if cfg!(debug_assertions) { Duration::from_secs(2) } else { Duration::from_millis(50) };
    eprintln!("{} series, {took:?}", metrics.0.len());
    assert!(took < limit, "{took:?} for {} series", metrics.0.len());
}

#[test]
fn fifty_at_once_among_slow_ones_are_all_answered() {
    let (serving, _) = after(2, &[]);
    // As many as would take half the places, each stuck in its head.
    let mut slow: Vec<_> = (0..64).map(|_| serving.connect()).collect();
    for stream in &mut slow {
        stream.write_all(b"GET /metrics HTT").unwrap();
    }
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..50 {
            scope.spawn(|| {
                for _ in 0..5 {
                    let reply = serving.get("/metrics");
                    assert_eq!(reply.status, 200);
                    assert_eq!(Metrics::parse(&reply.body).sum("iommu_trace_faults_total", &[]), 24.0);
                }
            });
        }
    });
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    // The slow ones are shown the door.
    for stream in slow {
        assert_ne!(Reply::read(stream).status, 200);
    }
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
}

#[test]
fn when_all_places_are_taken_by_the_slow_others_wait_for_some_seconds_and_are_answered() {
    let (serving, _) = after(1, &[]);
    let slow: Vec<_> = (0..200).map(|_| serving.connect()).collect();
    assert_eq!(serving.get("/metrics").status, 200);
    drop(slow);
}

#[test]
fn garbage_is_refused_and_the_others_are_answered() {
    let (serving, _) = after(1, &[]);
    let garbage: &[&[u8]] = &[
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\0\0\0\0\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ];
    for bytes in garbage {
        let mut stream = serving.connect();
        stream.write_all(bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let status = Reply::read(stream).status;
        assert!(matches!(status, 0 | 200 | 400 | 404 | 505), "{status}: {}", String::from_utf8_lossy(bytes));
    }
    // Too many lines.
    let lines = "X-Line: 1\r\n".repeat(1000);
    assert_eq!(serving.get_with("/metrics", &lines).status, 431);
    assert_eq!(serving.get("/healthz").body, "ok\n");
}

/// Resident bytes of this process, in which the exporter runs.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn a_gigabyte_of_head_is_cut_off_and_takes_no_memory() {
    let (serving, _) = after(1, &[]);
    let before = resident();
    let mut stream = serving.connect();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nX-Large: ").unwrap();
    let piece = vec![b'x'; 1 << 20];
    let sent = (0..1024).take_while(|_| stream.write_all(&piece).is_ok()).count();
    assert!(sent < 64, "{sent} MiB were taken");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let status = Reply::parse(&String::from_utf8_lossy(&answer)).status;
    // The reset that follows unread bytes may overtake the answer.
    assert!(matches!(status, 0 | 431), "{status}");
    let grown = resident().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes more");
    assert_eq!(serving.get("/healthz").body, "ok\n");
}

#[test]
fn who_leaves_or_reads_nothing_does_no_harm() {
    let mut script = Script::new();
    busy::crowd(&mut script, 1000);
    let serving = Serving::start(Given::new(script), &[]);
    serving.metrics_when(|metrics| metrics.sum("iommu_trace_faults_total", &[]) == 1000.0);
    serving.get("/metrics");
    let before = resident();
    // 100 who ask for megabytes and take none of them, and 100 who are gone before the answer.
    let mut stuck: Vec<_> = (0..100).map(|_| serving.connect()).collect();
    for stream in &mut stuck {
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    }
    for _ in 0..100 {
        let mut stream = serving.connect();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    }
    assert_eq!(serving.get("/healthz").body, "ok\n");
    let text = serving.get("/metrics").body.len() as u64;
    let grown = resident().saturating_sub(before);
    assert!(grown < 20 * text, "{grown} bytes more, with a page of {text}");
    drop(stuck);
}

#[test]
fn with_users_nobody_else_comes_in_and_a_reload_changes_who_does() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("web.yml");
    let config = |password: &str| format!("basic_auth_users:\n  alice: {}\n", bcrypt::hash(password, 4).unwrap());
    std::fs::write(&path, config("first")).unwrap();
    let serving = Serving::start(Busy::new(1), &["--web-config", path.to_str().unwrap()]);
    let status = |user: &str| {
        use base64::Engine as _;
        let encoded = base64::prelude::BASE64_STANDARD.encode(user);
        serving.get_with("/metrics", &format!("Authorization: Basic {encoded}\r\n")).status
    };
    let refused = serving.get("/healthz");
    assert_eq!((refused.status, refused.headers["www-authenticate"].as_str()), (401, "Basic"));
    assert_eq!((status("alice:first"), status("alice:second"), status("bob:first")), (200, 401, 401));

    // What is no good changes nothing.
    std::fs::write(&path, "basic_auth_users:\n  alice: plain\n").unwrap();
    serving.tell(Control::Reload);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(status("alice:first"), 200);

    std::fs::write(&path, config("second")).unwrap();
    serving.tell(Control::Reload);
    let begun = Instant::now();
    while status("alice:second") != 200 {
        assert!(begun.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(status("alice:first"), 401);
}

#[test]
fn what_cannot_be_served_is_said_at_once() {
    let refused = |arguments: &[&str]| format!("{:#}", common::serving::exporter(arguments).err().unwrap());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let error = refused(&["--web-config", "/nonexistent/web.yml"]);
    assert!(error.contains("cannot read the web configuration file \"/nonexistent/web.yml\": No such file"), "{error}");
    let error = refused(&["--rules", "stale-lookup", "--silence", "stale-lookup"]);
    assert!(error.contains("leaves no rule"), "{error}");
    let options = {
        use clap::Parser as _;
        #[derive(clap::Parser)]
        struct Arguments {
            #[command(flatten)]
            arguments: iommu_trace::cli::ServeArgs,
        }
        Arguments::try_parse_from(["test", "--listen", &address]).unwrap().arguments.options().unwrap()
    };
    let error = format!("{:#}", iommu_trace::serve::Exporter::bind(options).err().unwrap());
    assert!(error.contains("cannot listen on 127.0.0.1:") && error.contains("Address already in use"), "{error}");
}

#[test]
fn with_a_certificate_it_speaks_tls_and_nothing_else() {
    use std::sync::Arc;

    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(dir.path().join("server.crt"), made.cert.pem()).unwrap();
    std::fs::write(dir.path().join("server.key"), made.signing_key.serialize_pem()).unwrap();
    let path = dir.path().join("web.yml");
    let config = "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n  min_version: TLS13\n\
                  http_server_config:\n  headers:\n    X-Frame-Options: deny\n";
    std::fs::write(&path, config).unwrap();
    let serving = Serving::start(Busy::new(1), &["--web-config", path.to_str().unwrap()]);
    assert!(serving.url.starts_with("https://"), "{}", serving.url);

    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let client = rustls::ClientConnection::new(Arc::new(client), "localhost".try_into().unwrap()).unwrap();
    let mut stream = rustls::StreamOwned::new(client, serving.connect());
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text);
    let reply = Reply::parse(&text);
    assert_eq!((reply.status, reply.body.as_str()), (200, "ok\n"));
    assert_eq!(reply.headers["x-frame-options"], "deny");
    // Who speaks without it is told by TLS, not by HTTP.
    let mut stream = serving.connect();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    assert!(!bytes.starts_with(b"HTTP"), "{}", String::from_utf8_lossy(&bytes));
}

#[cfg(feature = "otlp")]
mod push {
    use std::{io::BufRead as _, net::TcpListener, sync::mpsc};

    use iommu_trace::metrics::{Kind, METRICS};
    use opentelemetry_proto::tonic::{
        collector::metrics::v1::ExportMetricsServiceRequest,
        metrics::v1::{Metric, metric::Data, number_data_point::Value},
    };
    use prost::Message as _;

    use super::*;

    /// A collector that takes what comes, refuses the first, and tells what it got.
    fn collector() -> (String, mpsc::Receiver<(String, Vec<u8>)>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (sender, got) = mpsc::channel();
        std::thread::spawn(move || {
            let mut answers = ["503 Service Unavailable"].into_iter();
            for stream in listener.incoming() {
                let mut reader = std::io::BufReader::new(stream.unwrap());
                let mut head = String::new();
                while reader.read_line(&mut head).unwrap() > 2 {}
                let length =
                    head.to_lowercase().lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
                let mut body = vec![0; length.unwrap()];
                reader.read_exact(&mut body).unwrap();
                let status = answers.next().unwrap_or("200 OK");
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                reader.get_mut().write_all(answer.as_bytes()).unwrap();
                if sender.send((head, body)).is_err() {
                    return;
                }
            }
        });
        (url, got)
    }

    fn sum(metric: &Metric) -> f64 {
        let numbers = match metric.data.as_ref().unwrap() {
            Data::Sum(sum) => &sum.data_points,
            Data::Gauge(gauge) => &gauge.data_points,
            Data::Histogram(histogram) => return histogram.data_points.iter().map(|point| point.count as f64).sum(),
            other => panic!("{other:?}"),
        };
        let value = |value: &Value| match value {
            Value::AsInt(int) => *int as f64,
            Value::AsDouble(double) => *double,
        };
        numbers.iter().map(|point| value(point.value.as_ref().unwrap())).sum()
    }

    #[test]
    fn a_collector_gets_the_metrics_that_are_scraped_and_the_last_ones_at_the_end() {
        let (url, got) = collector();
        let serving = Serving::start(Busy::new(4), &[ALL, &["--otlp", &url, "--otlp-interval", "200ms"]].concat());
        let faults = f64::from(4 * DEVICES * FAULTS);
        let scraped = serving.metrics_when(|metrics| metrics.sum("iommu_trace_faults_total", &[]) == faults);
        let (head, _) = got.recv_timeout(Duration::from_secs(20)).unwrap();
        assert!(head.starts_with("POST /v1/metrics HTTP/1.1\r\n"), "{head}");
        assert!(head.to_lowercase().contains("content-type: application/x-protobuf"), "{head}");
        // That one was refused; it goes on.
        got.recv_timeout(Duration::from_secs(20)).unwrap();
        serving.stop().unwrap();
        let (_, body) = got.try_iter().last().unwrap();
        let request = ExportMetricsServiceRequest::decode(&body[..]).unwrap();
        let resource = &request.resource_metrics[0];
        let attributes = &resource.resource.as_ref().unwrap().attributes;
        assert!(attributes.iter().any(|attribute| attribute.key == "service.name"));
        let pushed = &resource.scope_metrics[0].metrics;
        let mut compared = 0;
        for metric in METRICS.iter().filter(|metric| metric.stem.starts_with("iommu_trace_")) {
            let suffix = if metric.kind == Kind::Info { "_info" } else { "" };
            let name = format!("{}{suffix}", metric.stem);
            let unit = if metric.unit.name() == "seconds" { "s" } else { "" };
            let there = pushed.iter().find(|pushed| pushed.name == name && (unit.is_empty() || pushed.unit == unit));
            let there = there.unwrap_or_else(|| panic!("{name} was not pushed"));
            let series = match metric.kind {
                Kind::Histogram(_) => format!("{}_count", metric.family()),
                _ => metric.series().concat(),
            };
            // The cost and the source go on, and end.
            if !["iommu_trace_bpf_run", "iommu_trace_bpf_runs", "iommu_trace_source_up"].contains(&metric.stem) {
                assert_eq!(sum(there), scraped.sum(&series, &[]), "{name}");
                compared += 1;
            }
        }
        assert!(compared > 25, "{compared}");
    }

    #[test]
    fn without_a_collector_it_serves_all_the_same() {
        let serving = Serving::start(Busy::new(1), &["--otlp", "http://127.0.0.1:1", "--otlp-interval", "100ms"]);
        assert_eq!(serving.get("/healthz").body, "ok\n");
        serving.stop().unwrap();
    }
}

#[test]
fn a_recording_is_served_with_the_figures_of_stats_by_the_program_itself() {
    use std::{
        io::BufRead as _,
        process::{Command, Stdio},
    };

    let dir = tempfile::tempdir().unwrap();
    let path = common::recorded::record(dir.path(), "a.itr", &common::recorded::workload(200, 1));
    let path = path.to_str().unwrap();
    let program = env!("CARGO_BIN_EXE_iommu-trace");
    let stats = Command::new(program).args(["stats", "--format", "json", path]).output().unwrap();
    let stats: serde_json::Value = serde_json::from_slice(&stats.stdout).unwrap();

    let mut child = Command::new(program)
        .args(["serve", "--listen", "127.0.0.1:0", "--from", path])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = std::io::BufReader::new(child.stderr.take().unwrap()).lines();
    let address = told.find_map(|line| {
        let line = line.unwrap();
        Some(line.strip_prefix("iommu-trace: listening: http://")?.trim_end_matches('/').parse().unwrap())
    });
    // What else it tells must find a reader.
    std::thread::spawn(move || told.count());
    let address: std::net::SocketAddr = address.unwrap();
    let begun = Instant::now();
    let metrics = loop {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let metrics = Metrics::parse(&Reply::read(stream).body);
        if metrics.0.get("iommu_trace_source_up") == Some(&0.0) {
            break metrics;
        }
        assert!(begun.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(50));
    };
    let figure = |pointer: &str| stats.pointer(pointer).unwrap().as_f64().unwrap();
    assert_eq!(figure("/events/fault/count"), 200.0);
    for (event, told) in stats["events"].as_object().unwrap() {
        let count = metrics.sum("iommu_trace_events_total", &[&format!("event=\"{event}\"")]);
        assert_eq!(count, told["count"].as_f64().unwrap(), "{event}");
    }
    for stage in ["lookup", "device_id", "handler", "delivered", "response"] {
        let count = metrics.sum(&format!("iommu_trace_fault_{stage}_seconds_count"), &[]);
        assert_eq!(count, figure(&format!("/latencies/{stage}/count")), "{stage}");
    }
    for response in ["success", "invalid", "failure", "none", "partial"] {
        let count = metrics.sum("iommu_trace_faults_total", &[&format!("response=\"{response}\"")]);
        assert_eq!(count, figure(&format!("/faults/{response}")), "{response}");
    }
    // It goes on until it is told to end.
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(),
        rustix::process::Signal::TERM,
    )
    .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
