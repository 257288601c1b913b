//! Encryption as the web configuration file asks for it, by rustls.

use std::{path::Path, sync::Arc};

use anyhow::{Context as _, bail};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use tokio_rustls::TlsAcceptor;

use super::web_config::{ClientAuth, TlsConfig, TlsVersion};
use crate::output::quoted;

/// Reads certificates and key.
pub fn acceptor(config: &TlsConfig) -> anyhow::Result<TlsAcceptor> {
    let (Some(cert_file), Some(key_file)) = (&config.cert_file, &config.key_file) else {
        bail!("tls_server_config needs both cert_file and key_file");
    };
    let provider = Arc::new(provider(&config.cipher_suites)?);
    let wanted = |version| {
        config.min_version.is_none_or(|min| min <= version) && config.max_version.is_none_or(|max| version <= max)
    };
    let versions: Vec<_> = [(TlsVersion::TLS12, &rustls::version::TLS12), (TlsVersion::TLS13, &rustls::version::TLS13)]
        .into_iter()
        .filter(|(version, _)| wanted(*version))
        .map(|(_, version)| version)
        .collect();
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&versions)
        .context("no cipher suite fits the versions of TLS that are left")?;
    let builder = match (config.client_auth_type, &config.client_ca_file) {
        (ClientAuth::NoClientCert, _) | (_, None) => builder.with_no_client_auth(),
        (asked, Some(file)) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(file)? {
                roots.add(certificate).with_context(|| format!("a certificate in {} is no good", quoted(file)))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = match asked {
                ClientAuth::VerifyClientCertIfGiven => verifier.allow_unauthenticated(),
                ClientAuth::RequireAndVerifyClientCert | ClientAuth::NoClientCert => verifier,
            };
            let verifier = verifier.build().with_context(|| format!("{} cannot be used", quoted(file)))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let key = PrivateKeyDer::from_pem_file(key_file)
        .with_context(|| format!("cannot read a private key from {}", quoted(key_file)))?;
    let mut server = builder
        .with_single_cert(certificates(cert_file)?, key)
        .with_context(|| format!("{} and {} do not go together", quoted(cert_file), quoted(key_file)))?;
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(server)))
}

fn certificates(file: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let tried = || format!("cannot read certificates from {}", quoted(file));
    let read: Vec<_> =
        CertificateDer::pem_file_iter(file).with_context(tried)?.collect::<Result<_, _>>().with_context(tried)?;
    if read.is_empty() {
        bail!("there is no certificate in {}", quoted(file));
    }
    Ok(read)
}

/// The cipher suites of these names (IANA's and Go's); all that are sound when there is no name.
fn provider(names: &[String]) -> anyhow::Result<CryptoProvider> {
    let mut provider = ring::default_provider();
    if names.is_empty() {
        return Ok(provider);
    }
    // rustls writes TLS13_AES_128_GCM_SHA256 where IANA has TLS_AES_128_GCM_SHA256.
    let name = |suite: &rustls::SupportedCipherSuite| format!("{:?}", suite.suite()).replace("TLS13_", "TLS_");
    let known: Vec<String> = provider.cipher_suites.iter().map(name).collect();
    if let Some(unknown) = names.iter().find(|wanted| !known.contains(wanted)) {
        bail!("there is no sound cipher suite {unknown}; those that are there: {}", known.join(", "));
    }
    provider.cipher_suites.retain(|suite| names.contains(&name(suite)));
    Ok(provider)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cipher_suites_are_known_by_their_iana_names() {
        let names = ["TLS_AES_128_GCM_SHA256", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"].map(str::to_owned);
        assert_eq!(provider(&names).expect("both are sound").cipher_suites.len(), 2);
        let error = provider(&["TLS_RSA_WITH_RC4_128_SHA".to_owned()]).expect_err("it is broken").to_string();
        assert!(error.contains("RC4") && error.contains("TLS_AES_256_GCM_SHA384"), "{error}");
    }
}
