//! Who may come in: what the web configuration file says, made ready to be used.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context as _;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use super::{WebConfig, tls};

/// Good credentials that are remembered. bcrypt takes a tenth of a second on purpose, and a scraper comes every few
/// seconds.
const REMEMBERED: usize = 100;

/// What was made of one reading of the configuration.
pub struct Access {
    /// Encryption, if there is any.
    pub tls: Option<TlsAcceptor>,
    /// Headers added to each response.
    pub headers: HeaderMap,
    users: Vec<(String, String)>,
    remembered: Mutex<HashSet<[u8; 32]>>,
    /// Passwords are tried one by one, so that guessing takes no more than one core.
    trying: Semaphore,
}

impl Access {
    /// Readies what the configuration asks for; reads the certificates.
    pub fn new(config: &WebConfig) -> anyhow::Result<Self> {
        let mut headers = HeaderMap::new();
        for (name, value) in &config.http_server_config.headers {
            let name: HeaderName = name.parse().with_context(|| format!("{name:?} is no name of a header"))?;
            let value = HeaderValue::from_str(value).with_context(|| format!("header {name} cannot be {value:?}"))?;
            headers.insert(name, value);
        }
        Ok(Access {
            tls: config.tls_server_config.as_ref().map(tls::acceptor).transpose()?,
            headers,
            users: config.basic_auth_users.clone().into_iter().collect(),
            remembered: Mutex::default(),
            trying: Semaphore::new(1),
        })
    }

    /// Whether who sends this `Authorization` header may come in.
    pub async fn admits(self: Arc<Self>, authorization: Option<&HeaderValue>) -> bool {
        if self.users.is_empty() {
            return true;
        }
        let Some((user, password)) = authorization.and_then(credentials) else { return false };
        let known = self.users.iter().find(|(name, _)| *name == user);
        // Who is not known takes as long as who is.
        let Some((_, hash)) = known.or(self.users.first()) else { return false };
        let print = fingerprint(&user, &password, hash);
        if self.remembered().contains(&print) {
            return true;
        }
        let known = known.is_some();
        let hash = hash.clone();
        let Ok(_permit) = self.trying.acquire().await else { return false };
        let right = tokio::task::spawn_blocking(move || bcrypt::verify(password, &hash).unwrap_or(false));
        let admitted = right.await.unwrap_or(false) && known;
        if admitted {
            let mut remembered = self.remembered();
            if remembered.len() >= REMEMBERED {
                remembered.clear();
            }
            remembered.insert(print);
        }
        admitted
    }

    fn remembered(&self) -> std::sync::MutexGuard<'_, HashSet<[u8; 32]>> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// User and password of a `Basic` authorization.
fn credentials(header: &HeaderValue) -> Option<(String, String)> {
    let (scheme, encoded) = header.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(BASE64_STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

fn fingerprint(user: &str, password: &str, hash: &str) -> [u8; 32] {
    let mut digest = Sha256::new();
    for part in [user, password, hash] {
        // With their lengths, so that no two triples give the same bytes.
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(user: &str, password: &str) -> HeaderValue {
        let encoded = BASE64_STANDARD.encode(format!("{user}:{password}"));
        HeaderValue::from_str(&format!("Basic {encoded}")).expect("ASCII")
    }

    #[tokio::test]
    async fn only_known_users_with_their_own_password_come_in() {
        let hash = bcrypt::hash("hunter2", 4).expect("a hash");
        let other = bcrypt::hash("swordfish", 4).expect("a hash");
        let config = WebConfig::parse(&format!("basic_auth_users: {{alice: {hash}, bob: {other}}}")).expect("lawful");
        let access = Arc::new(Access::new(&config).expect("no files are needed"));
        let admits = async |value: Option<HeaderValue>| Arc::clone(&access).admits(value.as_ref()).await;
        // Twice: the second time from memory.
        for _ in 0..2 {
            assert!(admits(Some(header("alice", "hunter2"))).await);
            assert!(admits(Some(header("bob", "swordfish"))).await);
            assert!(!admits(Some(header("alice", "swordfish"))).await);
            assert!(!admits(Some(header("carol", "hunter2"))).await);
            assert!(!admits(Some(header("", ""))).await);
            assert!(!admits(None).await);
        }
        for garbage in ["Basic", "Basic !!!", "Bearer aGVsbG8=", "Basic aGVsbG8="] {
            assert!(!admits(Some(HeaderValue::from_static(garbage))).await, "{garbage}");
        }
    }
}
