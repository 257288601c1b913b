//! Connections and their limits: how many, how large a head, how long for each step. A client that is slow, stuck or
//! hostile takes one place for some seconds, and a bounded piece of memory.

use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};

use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_io_timeout::TimeoutStream;

use super::pages::Site;

/// Connections at once. Who comes when all places are taken waits in the kernel's queue.
pub const MAX_CONNECTIONS: usize = 128;
/// Bytes of a request's head.
pub const MAX_HEAD: usize = 16 << 10;
/// Lines of it.
const MAX_HEADERS: usize = 64;
/// How long the head, or the handshake of TLS, may take; also how long a connection may be idle.
pub const HEAD_TIME: Duration = Duration::from_secs(5);
/// How long a client may take nothing of its response.
pub const WRITE_TIME: Duration = Duration::from_secs(10);
/// How long a response may take that has begun when the server stops.
const GRACE: Duration = Duration::from_secs(2);

/// Accepts connections until it is told to stop.
pub async fn accept(listener: TcpListener, site: Arc<Site>, mut stop: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await.ok()?;
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => return Some((place, stream)),
                    // The client left, or descriptors are short: neither is helped by haste.
                    Err(error) => {
                        tracing::debug!(%error, "a connection could not be accepted");
                        sleep(Duration::from_millis(100)).await;
                    }
                }
            }
        };
        let accepted = tokio::select! {
            accepted = next => accepted,
            () = stopped(&mut stop) => None,
        };
        let Some((place, stream)) = accepted else { break };
        let (site, stop) = (Arc::clone(&site), stop.clone());
        connections.spawn(async move {
            serve(stream, site, stop).await;
            drop(place);
        });
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    let rest = async { while connections.join_next().await.is_some() {} };
    let _ = timeout(GRACE, rest).await;
}

/// Waits until the server is to stop.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // Who could tell is gone: it is over as well.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn serve(stream: TcpStream, site: Arc<Site>, stop: watch::Receiver<bool>) {
    // A response is written in few pieces, and the last should not wait for an acknowledgement.
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_TIME));
    let stream = Box::pin(stream);
    let access = site.access();
    match &access.tls {
        None => speak(stream, site, stop, false).await,
        Some(tls) => match timeout(HEAD_TIME, tls.accept(stream)).await {
            Ok(Ok(stream)) => speak(stream, site, stop, false).await,
            Ok(Err(error)) => tracing::debug!(%error, "a handshake failed"),
            Err(_) => tracing::debug!("a handshake took too long"),
        },
    }
}

/// Answers what comes until either side ends it. `half_close` says that who has said everything still listens.
pub async fn speak<S>(stream: S, site: Arc<Site>, mut stop: watch::Receiver<bool>, half_close: bool)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let answer = service_fn(move |request: Request<Incoming>| {
        let site = Arc::clone(&site);
        async move { Ok::<_, Infallible>(site.answer(request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .half_close(half_close)
        .max_headers(MAX_HEADERS)
        .max_header_size(MAX_HEAD)
        .max_buf_size(MAX_HEAD)
        // A response is handed on as it is, not copied for each who reads it.
        .writev(true)
        .serve_connection(TokioIo::new(stream), answer);
    let mut connection = pin!(connection);
    let done = tokio::select! {
        done = connection.as_mut() => done,
        () = stopped(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = done {
        tracing::debug!(%error, "a connection ended early");
    }
}
