//! What a service manager is told. A test program of its own, because where to tell it is in the environment.
#![allow(missing_docs, clippy::unwrap_used, reason = "this is a test")]

mod common;

use std::{os::unix::net::UnixDatagram, time::Duration};

use common::{busy::Busy, serving::Serving};
use iommu_trace::serve::Control;

#[test]
fn a_service_manager_is_told_of_readiness_reload_health_and_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    // SAFETY: the only test of this program, before it has started a thread.
    unsafe {
        std::env::set_var("NOTIFY_SOCKET", &path);
        std::env::set_var("WATCHDOG_USEC", "400000");
        std::env::remove_var("WATCHDOG_PID");
    }
    let until = |wanted: &str| {
        let mut before = Vec::new();
        loop {
            let mut bytes = [0; 512];
            let length = socket.recv(&mut bytes).unwrap();
            let told = String::from_utf8_lossy(&bytes[..length]).into_owned();
            if told.contains(wanted) {
                return before;
            }
            before.push(told);
        }
    };
    let serving = Serving::start(Busy::new(1), &[]);
    until("READY=1");
    // It answers by the time that it is told to be ready.
    assert_eq!(serving.get("/healthz").body, "ok\n");
    until("WATCHDOG=1");
    until("WATCHDOG=1");
    serving.tell(Control::Reload);
    until("RELOADING=1");
    until("READY=1");
    serving.stop().unwrap();
    let before = until("STOPPING=1");
    assert!(before.iter().all(|told| told.contains("WATCHDOG=1")), "{before:?}");
}
