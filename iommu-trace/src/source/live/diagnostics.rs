//! The BPF side's own diagnostics, carried by aya-log to our log.

use anyhow::Context as _;
use aya::Ebpf;
use aya_log::EbpfLogger;

/// The global in the object that says which levels are left in the programs.
pub const LEVEL: &str = "AYA_LOG_LEVEL";

/// Reads what the BPF side says.
pub struct Diagnostics(EbpfLogger<ToTracing>);

impl Diagnostics {
    pub fn new(ebpf: &mut Ebpf) -> anyhow::Result<Diagnostics> {
        let logger = EbpfLogger::init_with_logger(ebpf, ToTracing).context("cannot read the BPF side's diagnostics")?;
        Ok(Diagnostics(logger))
    }

    /// Hands on what came since the last time.
    pub fn flush(&mut self) {
        self.0.flush();
    }
}

/// aya-log speaks to the `log` crate; the rest of the program to `tracing`.
struct ToTracing;

impl log::Log for ToTracing {
    fn enabled(&self, _metadata: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let at = record.file().unwrap_or_default();
        match record.level() {
            log::Level::Error | log::Level::Warn => tracing::warn!(target: "bpf", at, "{}", record.args()),
            _ => tracing::debug!(target: "bpf", at, "{}", record.args()),
        }
    }

    fn flush(&self) {}
}
