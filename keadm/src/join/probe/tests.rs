//! Each way to fail has its name. A real TLS server on loopback stands in for cloudcore.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::exit;
use crate::token::tests::token_for;

/// A cloud whose certificate is good for `name`; answers every request with its CA.
async fn cloud_named(name: &str) -> (Endpoint, Vec<u8>) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
    let ca_der = ca.der().to_vec();
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![leaf.der().clone()],
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = listener.local_addr().unwrap().to_string().parse().unwrap();
    let (acceptor, body) = (TlsAcceptor::from(Arc::new(config)), ca_der.clone());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut request = [0; 1024];
            if stream.read(&mut request).await.is_ok_and(|read| read > 0) {
                let head = format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    body.len()
                );
                drop(stream.write_all(head.as_bytes()).await);
                drop(stream.write_all(&body).await);
                drop(stream.shutdown().await);
            }
        }
    });
    (place, ca_der)
}

fn token(ca: &[u8]) -> Token {
    Token::parse(&token_for(ca, i64::MAX / 2)).unwrap()
}

async fn failure(place: &Endpoint, ca: &[u8]) -> (Exit, String) {
    let error = cloud(place, place.port(), &token(ca)).await.unwrap_err();
    (exit::of(&error), exit::line(&error))
}

#[tokio::test]
async fn the_cloud_of_the_token_is_accepted() {
    let (place, ca) = cloud_named("127.0.0.1").await;
    cloud(&place, place.port(), &token(&ca)).await.unwrap();
}

#[tokio::test]
async fn another_ca_is_refused_by_its_hash() {
    let (place, _) = cloud_named("127.0.0.1").await;
    let (exit, line) = failure(&place, b"another").await;
    assert_eq!(exit, Exit::Refused);
    assert!(line.contains("hash differs"), "{line}");
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let (place, ca) = cloud_named("cloud.example.com").await;
    let (exit, line) = failure(&place, &ca).await;
    assert_eq!(exit, Exit::Refused);
    assert!(line.contains("TLS:"), "{line}");
}

#[tokio::test]
async fn a_closed_port_is_refused_and_said_to_be() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place: Endpoint = listener.local_addr().unwrap().to_string().parse().unwrap();
    drop(listener);
    let (exit, line) = failure(&place, b"").await;
    assert_eq!(exit, Exit::Unreachable);
    assert!(line.contains("refused:"), "{line}");
}

#[tokio::test]
async fn a_port_that_speaks_no_tls_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place: Endpoint = listener.local_addr().unwrap().to_string().parse().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            drop(stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await);
        }
    });
    let (exit, line) = failure(&place, b"").await;
    assert_eq!(exit, Exit::Unreachable);
    assert!(line.contains("opening TLS"), "{line}");
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_named() {
    let place: Endpoint = "no-such-host.invalid:10000".parse().unwrap();
    let (exit, line) = failure(&place, b"").await;
    assert_eq!(exit, Exit::Unreachable);
    assert!(line.contains("DNS"), "{line}");
}
