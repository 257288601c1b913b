//! What the tracer says of itself.

/// The log goes to standard error.
pub fn to_stderr(verbose: u8) {
    // The loader's own steps are of interest only to who asks twice.
    let levels = match verbose {
        0 => "warn",
        1 => "warn,iommu_trace=debug,bpf=debug",
        _ => "debug,iommu_trace=trace,bpf=trace",
    };
    // Only a second subscriber in one process could be refused, and the first is as good.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(levels))
        .with_writer(std::io::stderr)
        .with_ansi(anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never)
        .with_target(false)
        .without_time()
        .try_init();
}
