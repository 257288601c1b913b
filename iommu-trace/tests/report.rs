//! `report`: one page that holds everything, loads nothing, and draws. Chromium looks at it where it is installed.
#![allow(missing_docs, clippy::unwrap_used, reason = "this is a test")]

mod common;

use std::{fs, path::Path, process::Command};

use common::recorded::{record, workload};

fn report(dir: &Path, recording: &Path) -> String {
    let page = dir.join("page.html");
    let output = Command::new(env!("CARGO_BIN_EXE_iommu-trace"))
        .args(["report", "-o"])
        .args([&page, recording])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::read_to_string(page).unwrap()
}

fn data(page: &str) -> serde_json::Value {
    let (_, rest) = page.split_once("<script type=\"application/json\" id=\"data\">").unwrap();
    serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap()
}

#[test]
fn the_page_holds_everything_and_refers_to_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let page = report(dir.path(), &record(dir.path(), "a.itr", &workload(120, 1)));
    let data = data(&page);
    assert_eq!(data["faults"]["ts"].as_array().unwrap().len(), 120);
    assert_eq!(data["stats"]["events"]["fault"]["count"], 120);
    assert_eq!(data["lives"].as_array().unwrap().len(), 5, "{}", data["lives"]);
    let violation = &data["violations"][0];
    assert_eq!(violation["rule"], "slot-occupied");
    assert_eq!(violation["evidence"].as_array().unwrap().len(), 3);
    assert_eq!(data["stats"]["lost"][0]["count"], 3);
    let histogram = data["histograms"][4].as_array().unwrap();
    assert_eq!(histogram.iter().map(|column| column[1].as_u64().unwrap()).sum::<u64>(), 120);
    for outside in ["http://", "https://", "src=", "@import", "url("] {
        let page = page.replace("http://www.w3.org/2000/svg", "");
        assert!(!page.contains(outside), "{outside}");
    }
}

#[test]
fn what_a_recording_says_cannot_leave_its_place_in_the_page() {
    let dir = tempfile::tempdir().unwrap();
    let mut script = workload(5, 1);
    for event in &mut script.events {
        event.task.comm = iommu_trace::event::Comm::new("</script><b>");
    }
    let page = report(dir.path(), &record(dir.path(), "a.itr", &script));
    assert!(!page.contains("</script><b>"));
    assert!(data(&page)["violations"][0]["evidence"][0]["task"].as_str().unwrap().starts_with("</script><b>"));
}

/// Chromium's log, the page's state after its program ran, and a picture.
fn look(dir: &Path, arguments: &[&str]) -> (String, String) {
    let page = format!("file://{}", dir.join("page.html").display());
    let profile = format!("--user-data-dir={}", dir.join("profile").display());
    let output = Command::new("chromium")
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--enable-logging=stderr",
            "--v=0",
            "--window-size=1200,1500",
        ])
        .args([
            "--disable-background-networking",
            "--disable-component-update",
            "--no-first-run",
            "--host-resolver-rules=MAP * ~NOTFOUND",
        ])
        .arg(&profile)
        .args(arguments)
        .arg(page)
        .output()
        .unwrap();
    (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_browser_draws_it_without_an_error_and_without_a_request() {
    if Command::new("chromium").arg("--version").output().is_err() {
        // The nightly run of continuous integration installs it.
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    report(dir.path(), &record(dir.path(), "a.itr", &workload(400, 1)));
    // The policy of the page forbids every request, and one that was tried would be told on the console.
    let page = fs::read_to_string(dir.path().join("page.html")).unwrap();
    let count = "<script>addEventListener('load', () => document.body.dataset.requests = performance.getEntriesByType('resource').length)</script></body>";
    fs::write(dir.path().join("page.html"), page.replace("</body>", count)).unwrap();
    let (dom, messages) = look(dir.path(), &["--dump-dom"]);
    assert!(dom.contains("data-drawn=\"4 rows, 400 faults, 5 lives, 1 violations\""), "{messages}");
    assert!(dom.contains("slot-occupied") && dom.contains("0000:00:00.2"));
    let console: Vec<&str> = messages.lines().filter(|line| line.contains(":CONSOLE")).collect();
    assert!(console.is_empty(), "{console:?}");
    assert!(dom.contains("data-requests=\"0\""), "the page asks for something");

    let picture = dir.path().join("page.png");
    look(dir.path(), &[&format!("--screenshot={}", picture.display())]);
    assert!(fs::metadata(&picture).unwrap().len() > 40_000, "the picture is empty");
    if let Some(keep) = std::env::var_os("IOMMU_TRACE_PICTURE") {
        fs::copy(&picture, keep).unwrap();
    }
}

#[test]
#[ignore = "takes long without optimisation"]
fn a_hundred_thousand_faults_open_within_seconds_and_more_are_thinned() {
    let dir = tempfile::tempdir().unwrap();
    let page = report(dir.path(), &record(dir.path(), "a.itr", &workload(150_000, 1)));
    println!("a page of 150,000 faults takes {} bytes", page.len());
    let data = data(&page);
    let drawn = data["thinned"]["faults_drawn"].as_u64().unwrap();
    assert!((80_000..=100_000).contains(&drawn) && data["thinned"]["faults"] == 150_000);
    // From the beginning of the navigation until everything is drawn.
    let count =
        "<script>addEventListener('load', () => document.body.dataset.took = performance.now())</script></body>";
    fs::write(dir.path().join("page.html"), page.replace("</body>", count)).unwrap();
    let (dom, _) = look(dir.path(), &["--dump-dom"]);
    assert!(dom.contains("Thinned: of 150,000 faults"));
    let took: f64 = dom.split("data-took=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap();
    println!("it was drawn after {took} ms");
    assert!(took < 10_000.0, "{took} ms");
}
