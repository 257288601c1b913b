//! Metrics pushed to an OpenTelemetry collector: OTLP over HTTP, protobuf.

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Request, Uri,
    body::Bytes,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
use prost::Message as _;
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, timeout},
};

use super::Monitor;
use crate::{cli::complain, metrics::otlp};

/// How long a collector may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// What is read of its answer.
const MAX_ANSWER: usize = 64 << 10;
/// Headers for every request, as every OTLP exporter takes them: `name=value,name=value`.
const HEADERS: &str = "OTEL_EXPORTER_OTLP_HEADERS";

/// Where to push, and how often.
#[derive(Clone, Debug)]
pub struct PushOptions {
    /// Where.
    pub endpoint: Endpoint,
    /// How often.
    pub every: Duration,
}

/// The URL of a collector's metrics. `/v1/metrics` is added to one without a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint(Uri);

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |_| "not a URL such as http://collector:4318".to_owned();
        let uri: Uri = text.parse().map_err(wrong)?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none_or(str::is_empty) {
            return Err("not a URL such as http://collector:4318, or with https://".to_owned());
        }
        if uri.path() != "/" {
            return Ok(Endpoint(uri));
        }
        format!("{}/v1/metrics", text.trim_end_matches('/'))
            .parse()
            .map(Endpoint)
            .map_err(|_| "not a URL to which a path could be added, such as http://collector:4318".to_owned())
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

type Http = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Pushes until it is told to stop, and once more then: the last numbers matter most.
pub async fn run(options: PushOptions, monitor: Monitor, mut stop: watch::Receiver<bool>) {
    let (client, headers) = match (client(&options.endpoint), headers()) {
        (Ok(client), Ok(headers)) => (client, headers),
        (Err(error), _) | (_, Err(error)) => {
            complain("warning", &format!("nothing is pushed to {}: {error:#}", options.endpoint));
            return;
        }
    };
    let mut ticks = interval(options.every.max(Duration::from_millis(100)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut well = true;
    loop {
        let stopped = tokio::select! {
            _ = ticks.tick() => false,
            () = stopped(&mut stop) => true,
        };
        let pushed = timeout(PATIENCE, push(&client, &options.endpoint, &headers, &monitor)).await;
        let pushed = pushed.unwrap_or_else(|_| Err(anyhow::anyhow!("it took longer than {PATIENCE:?}")));
        // Once, not each time: a collector that is down for the night would fill the journal.
        match (&pushed, well) {
            (Err(error), true) => {
                complain("warning", &format!("the metrics could not be pushed to {}: {error:#}", options.endpoint));
            }
            (Ok(()), false) => complain("push", &format!("{} takes the metrics again", options.endpoint)),
            _ => {}
        }
        well = pushed.is_ok();
        if stopped {
            return;
        }
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // Who could tell is gone: it is over as well.
    let _ = stop.wait_for(|stop| *stop).await;
}

fn client(endpoint: &Endpoint) -> anyhow::Result<Http> {
    let provider = Arc::new(ring::default_provider());
    let connector = HttpsConnectorBuilder::new();
    let connector = if endpoint.0.scheme_str() == Some("https") {
        connector
            .with_provider_and_native_roots(provider)
            .context("cannot read the certificates that this system trusts")?
            .https_only()
    } else {
        // Nobody's certificate is looked at, so nobody's is read.
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        connector.with_tls_config(tls).https_or_http()
    };
    Ok(Client::builder(TokioExecutor::new()).build(connector.enable_http1().build()))
}

fn headers() -> anyhow::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    let Some(given) = std::env::var_os(HEADERS) else { return Ok(headers) };
    let given = given.to_str().with_context(|| format!("{HEADERS} is no text"))?;
    for pair in given.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        // The value is a secret as often as not, and stays out of the message.
        let (name, value) = pair.split_once('=').with_context(|| format!("{HEADERS} has a part without `=`"))?;
        let name: HeaderName = name.trim().parse().with_context(|| format!("{HEADERS}: {name:?} is no name"))?;
        let value: HeaderValue = value.trim().parse().with_context(|| format!("{HEADERS}: {name} has a bad value"))?;
        headers.insert(name, value);
    }
    Ok(headers)
}

async fn push(client: &Http, endpoint: &Endpoint, headers: &HeaderMap, monitor: &Monitor) -> anyhow::Result<()> {
    let snapshot = monitor.metrics().await.context("the model does not answer")?;
    let body = otlp::request(&snapshot).encode_to_vec();
    let mut request = Request::post(endpoint.0.clone()).body(Full::new(Bytes::from(body)))?;
    request.headers_mut().extend(headers.clone());
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
    let response = client.request(request).await?;
    let status = response.status();
    let answer =
        Limited::new(response.into_body(), MAX_ANSWER).collect().await.map(http_body_util::Collected::to_bytes);
    if !status.is_success() {
        let said = String::from_utf8_lossy(answer.as_deref().unwrap_or_default()).trim().to_owned();
        bail!("it answered {status}{}{}", if said.is_empty() { "" } else { ": " }, said.escape_debug());
    }
    // A collector may take a part, and say so.
    let answer = answer.ok().and_then(|bytes| ExportMetricsServiceResponse::decode(bytes).ok());
    if let Some(partial) = answer.and_then(|answer| answer.partial_success)
        && partial.rejected_data_points > 0
    {
        bail!("it refused {} numbers: {}", partial.rejected_data_points, partial.error_message.escape_debug());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_without_a_path_gets_the_usual_one() {
        let endpoint = |text: &str| text.parse::<Endpoint>().map(|endpoint| endpoint.to_string());
        assert_eq!(endpoint("http://collector:4318"), Ok("http://collector:4318/v1/metrics".into()));
        assert_eq!(endpoint("https://[::1]:4318/"), Ok("https://[::1]:4318/v1/metrics".into()));
        assert_eq!(endpoint("http://x/otlp/metrics"), Ok("http://x/otlp/metrics".into()));
        for wrong in ["", "collector:4318", "ftp://x", "http://", "grpc://x:4317", "not a url"] {
            assert!(endpoint(wrong).is_err(), "{wrong}");
        }
    }
}
