//! The web configuration file, in the form that Prometheus' exporters share: TLS, users, headers.
//!
//! What this server cannot do is refused by name instead of being taken and left undone.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use serde::Deserialize;

use crate::output::quoted;

/// The file's contents.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebConfig {
    /// Encryption; absent for none.
    pub tls_server_config: Option<TlsConfig>,
    /// What is said of HTTP itself.
    pub http_server_config: HttpConfig,
    /// Users and the bcrypt hashes of their passwords; none for no authentication.
    pub basic_auth_users: BTreeMap<String, String>,
}

/// `tls_server_config`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsConfig {
    /// The server's certificates, PEM.
    pub cert_file: Option<PathBuf>,
    /// Its key, PEM.
    pub key_file: Option<PathBuf>,
    /// Whether clients show a certificate.
    pub client_auth_type: ClientAuth,
    /// Who signed the clients' certificates, PEM.
    pub client_ca_file: Option<PathBuf>,
    /// The oldest version of TLS.
    pub min_version: Option<TlsVersion>,
    /// The newest.
    pub max_version: Option<TlsVersion>,
    /// The cipher suites that are offered; all that are sound when there is none.
    pub cipher_suites: Vec<String>,
    /// Go has not looked at it since 1.17, and neither does this.
    pub prefer_server_cipher_suites: bool,
}

/// `http_server_config`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// This server speaks HTTP/1.1, whether it is wanted to speak HTTP/2 too or not.
    pub http2: bool,
    /// Headers added to each response.
    pub headers: BTreeMap<String, String>,
}

/// `client_auth_type`: Go's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum ClientAuth {
    /// Clients show none.
    #[default]
    #[serde(alias = "")]
    NoClientCert,
    /// Clients that show one show a good one.
    VerifyClientCertIfGiven,
    /// Every client shows a good one.
    RequireAndVerifyClientCert,
}

/// `min_version`, `max_version`: Go's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum TlsVersion {
    /// 1.2.
    TLS12,
    /// 1.3.
    TLS13,
}

/// The headers that exporters let the file set.
const HEADERS: [&str; 5] = [
    "Strict-Transport-Security",
    "X-Content-Type-Options",
    "X-Frame-Options",
    "X-XSS-Protection",
    "Content-Security-Policy",
];

impl WebConfig {
    /// Reads the file. Paths in it are relative to its directory.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("cannot read the web configuration file {}", quoted(path)))?;
        let mut config = Self::parse(&text)
            .with_context(|| format!("the web configuration file {} is not as it should be", quoted(path)))?;
        if let (Some(tls), Some(dir)) = (&mut config.tls_server_config, path.parent()) {
            for file in [&mut tls.cert_file, &mut tls.key_file, &mut tls.client_ca_file].into_iter().flatten() {
                *file = dir.join(&*file);
            }
        }
        Ok(config)
    }

    /// Reads its text.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        // A file with nothing but comments is a configuration of nothing.
        let empty = text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'));
        let config: WebConfig = if empty { WebConfig::default() } else { serde_saphyr::from_str(text)? };
        if let Some(tls) = &config.tls_server_config {
            if tls.cert_file.is_none() || tls.key_file.is_none() {
                bail!("tls_server_config needs both cert_file and key_file");
            }
            let verifies = tls.client_auth_type != ClientAuth::NoClientCert;
            if verifies && tls.client_ca_file.is_none() {
                bail!("client_auth_type asks for certificates, and there is no client_ca_file to verify them by");
            }
            if !verifies && tls.client_ca_file.is_some() {
                bail!("there is a client_ca_file, and no client_auth_type that asks for certificates");
            }
            if let (Some(min), Some(max)) = (tls.min_version, tls.max_version)
                && min > max
            {
                bail!("min_version is newer than max_version");
            }
        }
        for (user, hash) in &config.basic_auth_users {
            if hash.parse::<bcrypt::HashParts>().is_err() {
                bail!("the password of user {user:?} is no bcrypt hash; `htpasswd -nBC 10 ''` makes one");
            }
        }
        for header in config.http_server_config.headers.keys() {
            if !HEADERS.contains(&header.as_str()) {
                bail!("the header {header:?} cannot be set; those that can are {}", HEADERS.join(", "));
            }
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$2y$10$X0h1gDsPszWURQaxFh.zoubFi6DXncSjhoQNJgRrnGs7EsimhC7zG";

    #[test]
    fn what_exporters_share_is_read() {
        let text = format!(
            "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n  min_version: TLS12\n  \
             client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.crt\n  \
             prefer_server_cipher_suites: true\n\
             http_server_config:\n  http2: true\n  headers:\n    X-Frame-Options: deny\n\
             basic_auth_users:\n  alice: {HASH}\n"
        );
        let config = WebConfig::parse(&text).expect("lawful");
        let tls = config.tls_server_config.expect("it is there");
        assert_eq!(tls.client_auth_type, ClientAuth::RequireAndVerifyClientCert);
        assert_eq!(tls.min_version, Some(TlsVersion::TLS12));
        assert_eq!(config.basic_auth_users["alice"], HASH);
        assert_eq!(config.http_server_config.headers["X-Frame-Options"], "deny");
    }

    #[test]
    fn nothing_is_a_configuration_too() {
        for text in ["", "# nothing\n\n", "{}", "basic_auth_users: {}"] {
            let config = WebConfig::parse(text).expect(text);
            assert!(config.tls_server_config.is_none() && config.basic_auth_users.is_empty());
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let wrong = [
            ("basic_auth_user: {}", "basic_auth_user"),
            ("basic_auth_users:\n  bob: secret\n", "bob"),
            ("tls_server_config:\n  cert_file: x\n", "key_file"),
            ("tls_server_config: {cert_file: x, key_file: y, min_version: TLS10}", "TLS10"),
            ("tls_server_config: {cert_file: x, key_file: y, min_version: TLS13, max_version: TLS12}", "newer"),
            ("tls_server_config: {cert_file: x, key_file: y, client_auth_type: RequireAnyClientCert}", "RequireAny"),
            (
                "tls_server_config: {cert_file: x, key_file: y, client_auth_type: RequireAndVerifyClientCert}",
                "client_ca_file",
            ),
            ("http_server_config: {headers: {Set-Cookie: x}}", "Set-Cookie"),
            ("- a\n- list\n", ""),
            ("\u{1}", ""),
        ];
        for (text, told) in wrong {
            let error = format!("{:#}", WebConfig::parse(text).expect_err(text));
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
