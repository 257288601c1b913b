//! What is answered to a request.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Instant,
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{self, HeaderValue},
};
use serde::Serialize;

use super::{
    Access,
    monitor::{Monitor, State, Violations},
};
use crate::metrics::text::{self, Form};

type Page = Response<Full<Bytes>>;

const INDEX: &str = "\
<!DOCTYPE html>
<title>iommu-trace</title>
<h1>iommu-trace</h1>
<ul>
<li><a href=\"/metrics\">metrics</a>
<li><a href=\"/violations\">violations</a>
<li><a href=\"/healthz\">health</a>
</ul>
";

/// Text that was rendered, and when the rendering was begun.
type Rendered = tokio::sync::Mutex<Option<(Instant, Bytes)>>;

/// Everything that a request may ask for.
pub struct Site {
    monitor: Monitor,
    access: RwLock<Arc<Access>>,
    open_metrics: Rendered,
    prometheus: Rendered,
}

#[derive(Serialize)]
struct ViolationsPage {
    /// Broken rules so far.
    errors: u64,
    /// What later kernels forbid, so far.
    warnings: u64,
    /// The last of both, the newest first.
    latest: Vec<serde_json::Value>,
}

impl Site {
    /// A site about what the monitor sees.
    pub fn new(monitor: Monitor, access: Access) -> Self {
        let access = RwLock::new(Arc::new(access));
        Site { monitor, access, open_metrics: Rendered::default(), prometheus: Rendered::default() }
    }

    /// Who may come in now.
    pub fn access(&self) -> Arc<Access> {
        Arc::clone(&self.access.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// From the next connection on, others may come in.
    pub fn set_access(&self, access: Access) {
        *self.access.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(access);
    }

    /// Answers a request.
    pub async fn answer(&self, request: Request<Incoming>) -> Page {
        let access = self.access();
        let authorization = request.headers().get(header::AUTHORIZATION);
        let mut page = if Arc::clone(&access).admits(authorization).await {
            self.page(&request).await
        } else {
            let mut page = plain(StatusCode::UNAUTHORIZED, "Unauthorized\n");
            page.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic"));
            page
        };
        if page.status().is_client_error() {
            // What else comes on this connection is as likely to be wrong; and a body that nobody wants is not read.
            page.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        page.headers_mut().extend(access.headers.clone());
        page
    }

    async fn page(&self, request: &Request<Incoming>) -> Page {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut page = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
            page.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return page;
        }
        match request.uri().path() {
            "/" => typed("text/html; charset=utf-8", INDEX),
            "/metrics" => self.metrics(wanted(request)).await,
            "/healthz" => self.health().await,
            "/violations" => self.violations().await,
            _ => plain(StatusCode::NOT_FOUND, "there are /metrics, /violations and /healthz\n"),
        }
    }

    async fn metrics(&self, form: Form) -> Page {
        let rendered = match form {
            Form::OpenMetrics => &self.open_metrics,
            Form::Prometheus => &self.prometheus,
        };
        let asked = Instant::now();
        let mut rendered = rendered.lock().await;
        // Many who ask at once share one look: each gets what was seen after it asked.
        if let Some((begun, text)) = &*rendered
            && *begun >= asked
        {
            return typed(form.content_type(), text.clone());
        }
        let begun = Instant::now();
        let Some(snapshot) = self.monitor.metrics().await else { return silent() };
        match tokio::task::spawn_blocking(move || text::render(Arc::new(snapshot), form)).await {
            Ok(Ok(text)) => {
                let text = Bytes::from(text);
                *rendered = Some((begun, text.clone()));
                typed(form.content_type(), text)
            }
            _ => plain(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written\n"),
        }
    }

    async fn health(&self) -> Page {
        if !self.monitor.answers().await {
            return silent();
        }
        match self.monitor.state() {
            State::Reading => plain(StatusCode::OK, "ok\n"),
            State::Over => plain(StatusCode::OK, "ok: the recording is over, these are its final numbers\n"),
            State::Failed(why) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("the source failed: {why}\n")),
        }
    }

    async fn violations(&self) -> Page {
        let Some(Violations { errors, warnings, latest }) = self.monitor.violations().await else { return silent() };
        match serde_json::to_vec(&ViolationsPage { errors, warnings, latest: latest.into() }) {
            Ok(json) => typed("application/json", json),
            Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "the violations could not be written\n"),
        }
    }
}

/// What this client reads: OpenMetrics where it says so, and unless it would rather have text.
fn wanted(request: &Request<Incoming>) -> Form {
    let accept = request.headers().get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    preferred(accept.flat_map(|value| value.split(',')))
}

fn preferred<'a>(accepted: impl Iterator<Item = &'a str>) -> Form {
    let (mut open_metrics, mut plain) = (0.0, 0.0);
    for range in accepted {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let quality = parts.find_map(|part| part.strip_prefix("q=")).and_then(|q| q.parse().ok()).unwrap_or(1.0_f32);
        match media {
            "application/openmetrics-text" => open_metrics = quality.max(open_metrics),
            "text/plain" => plain = quality.max(plain),
            _ => {}
        }
    }
    if open_metrics > 0.0 && open_metrics >= plain { Form::OpenMetrics } else { Form::Prometheus }
}

fn typed(content_type: &'static str, body: impl Into<Bytes>) -> Page {
    let mut page = Response::new(Full::new(body.into()));
    page.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    page
}

fn plain(status: StatusCode, body: impl Into<Bytes>) -> Page {
    let mut page = typed("text/plain; charset=utf-8", body);
    *page.status_mut() = status;
    page
}

fn silent() -> Page {
    plain(StatusCode::SERVICE_UNAVAILABLE, "the model does not answer\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_metrics_is_for_those_who_ask_for_it() {
        let form = |accept: &'static str| preferred(accept.split(','));
        // What Prometheus 2.42 and 3 send, a browser, curl, and nothing.
        let newer = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                     text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(form(newer), Form::OpenMetrics);
        assert_eq!(form("text/html,application/xhtml+xml,*/*;q=0.8"), Form::Prometheus);
        assert_eq!(form("*/*"), Form::Prometheus);
        assert_eq!(form(""), Form::Prometheus);
        assert_eq!(form("application/openmetrics-text;q=0"), Form::Prometheus);
        assert_eq!(form("application/openmetrics-text;q=0.3, text/plain;q=0.5"), Form::Prometheus);
        assert_eq!(form("application/openmetrics-text;q=nonsense"), Form::OpenMetrics);
    }
}
