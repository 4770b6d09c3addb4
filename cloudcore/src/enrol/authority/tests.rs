use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384};

use super::*;

const NOW: u64 = 1_795_000_000;
const YEAR: Duration = Duration::from_secs(365 * 86400);

fn authority() -> Authority {
    Authority::generate(NOW).unwrap()
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// A request as an upstream edge sends it, or a sly one.
fn request(key: &KeyPair, name: &str, sans: &[&str]) -> Vec<u8> {
    let mut params = CertificateParams::new(names(sans)).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.distinguished_name.push(DnType::OrganizationName, "system:masters");
    params.serialize_request(key).unwrap().der().to_vec()
}

fn p256() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

#[test]
fn an_authority_loads_as_it_was_stored() {
    let first = authority();
    let again = Authority::load(first.certificate().to_vec(), first.key_der().to_vec()).unwrap();
    assert_eq!(again.fingerprint(), first.fingerprint());
    assert_eq!(again.key_der(), first.key_der());
    let server = again.issue_server(&names(&["127.0.0.1"]), NOW).unwrap();
    assert!(first.serves(&server, &names(&["127.0.0.1"]), NOW));
}

#[test]
fn a_key_and_a_certificate_of_different_authorities_are_refused() {
    let (one, two) = (authority(), authority());
    assert!(Authority::load(one.certificate().to_vec(), two.key_der().to_vec()).is_err());
    assert!(Authority::load(one.certificate().to_vec(), b"junk".to_vec()).is_err());
    assert!(Authority::load(b"junk".to_vec(), one.key_der().to_vec()).is_err());
}

#[test]
fn a_server_certificate_serves_its_names_and_no_others() {
    let authority = authority();
    let wanted = names(&["cloud.example.com", "192.0.2.7", "2001:db8::1"]);
    let server = authority.issue_server(&wanted, NOW).unwrap();
    assert!(authority.serves(&server, &wanted, NOW));
    assert!(authority.serves(&server, &wanted[..1], NOW), "fewer names are fine");
    assert!(!authority.serves(&server, &names(&["cloud.example.com", "192.0.2.8"]), NOW));
    assert!(!self::authority().serves(&server, &wanted, NOW), "of another authority");
    let end = NOW + LONG.as_secs();
    assert!(!authority.serves(&server, &wanted, end - 86400), "about to end");
}

#[test]
fn a_node_gets_its_name_and_nothing_it_asked_for_besides() {
    let authority = authority();
    let key = p256();
    let node = NodeName::parse("gw-1").unwrap();
    let request = request(&key, "system:node:somebody-else", &["cloud.example.com"]);
    let der = authority.issue_node(&node, &request, YEAR, NOW).unwrap();

    let certificate = parse_certificate(&der).unwrap();
    let subject = certificate.subject().to_string();
    assert!(
        subject.contains("CN=system:node:gw-1") && subject.contains("O=system:nodes"),
        "{subject}"
    );
    assert!(!subject.contains("masters") && !subject.contains("somebody"));
    assert!(certificate.subject_alternative_name().unwrap().is_none());
    let usage = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth && !usage.any);
    assert!(!certificate.is_ca());
    let validity = certificate.validity();
    assert_eq!(
        validity.not_before.timestamp(),
        i64::try_from(NOW).unwrap() - 300,
        "for late clocks"
    );
    assert_eq!(validity.not_after.timestamp(), i64::try_from(NOW + YEAR.as_secs()).unwrap());
    assert!(signed_by(&certificate, &parse_certificate(authority.certificate()).unwrap()));
    assert_eq!(node_of(&der), Some(node));
}

#[test]
fn a_request_that_is_tampered_with_or_for_another_curve_is_refused() {
    let authority = authority();
    let node = NodeName::parse("gw-1").unwrap();
    let issue = |request: &[u8]| authority.issue_node(&node, request, YEAR, NOW);
    let good = request(&p256(), "system:node:gw-1", &[]);
    assert!(issue(&good).is_ok());

    let mut tampered = good.clone();
    let last = tampered.len() - 1;
    tampered[last] ^= 1;
    assert!(matches!(issue(&tampered), Err(AuthorityError::Request(_))));
    let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let error = issue(&request(&p384, "system:node:gw-1", &[])).unwrap_err();
    assert!(error.to_string().contains("P-256"), "{error}");
    let mut trailing = good.clone();
    trailing.push(0);
    for junk in [&b""[..], b"-----BEGIN", &good[..good.len() - 1], &trailing] {
        assert!(matches!(issue(junk), Err(AuthorityError::Request(_))));
    }
}

#[test]
fn only_a_nodes_certificate_names_a_node() {
    let authority = authority();
    assert_eq!(node_of(authority.certificate()), None);
    let server = authority.issue_server(&names(&["127.0.0.1"]), NOW).unwrap();
    assert_eq!(node_of(&server.certificate), None);
    assert_eq!(node_of(b"junk"), None);
}
