//! P-256 private keys in the two forms that are in the field.
//!
//! Upstream stores SEC 1 (`ECPrivateKey`), the TLS and certificate libraries want PKCS#8. Both are
//! short and, for one curve, fixed; they are written out here instead of pulling in an ASN.1 stack.

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::PrivatePkcs8KeyDer;

const SCALAR: usize = 32;
const POINT: usize = 65;

/// `SEQUENCE { INTEGER 1, OCTET STRING (32) …`
const SEC1_HEAD: [u8; 7] = [0x30, 0x77, 0x02, 0x01, 0x01, 0x04, 0x20];
/// `[0] { OBJECT IDENTIFIER prime256v1 }, [1] { BIT STRING (65) …`
const SEC1_MIDDLE: [u8; 17] = [
    0xa0, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0xa1, 0x44, 0x03, 0x42,
    0x00,
];
/// `SEQUENCE { INTEGER 0, SEQUENCE { ecPublicKey, prime256v1 }, OCTET STRING { SEQUENCE { INTEGER 1,
/// OCTET STRING (32) …`
const PKCS8_HEAD: [u8; 36] = [
    0x30, 0x81, 0x87, 0x02, 0x01, 0x00, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02,
    0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x04, 0x6d, 0x30, 0x6b, 0x02,
    0x01, 0x01, 0x04, 0x20,
];
/// `[1] { BIT STRING (65) …`
const PKCS8_MIDDLE: [u8; 5] = [0xa1, 0x44, 0x03, 0x42, 0x00];

/// Why bytes are not a usable key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Not SEC 1, not PKCS#8, or not for P-256.
    #[error("not a P-256 private key with its public key, in SEC 1 or PKCS#8 form")]
    Form,
    /// The public key does not belong to it, say.
    #[error("the key is refused: {0}")]
    Refused(#[source] rcgen::Error),
}

/// Reads a key in either form.
///
/// # Errors
/// Any other form, another curve, or a key without its public part.
pub fn read(der: &[u8]) -> Result<KeyPair, KeyError> {
    let pkcs8 = match (sec1_parts(der), pkcs8_parts(der)) {
        (Some((scalar, point)), _) | (None, Some((scalar, point))) => {
            [&PKCS8_HEAD[..], scalar, &PKCS8_MIDDLE[..], point].concat()
        }
        (None, None) => return Err(KeyError::Form),
    };
    let der = PrivatePkcs8KeyDer::from(pkcs8);
    KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256).map_err(KeyError::Refused)
}

/// Writes a key as upstream stores it.
///
/// # Errors
/// A key of another curve.
pub fn sec1(key: &KeyPair) -> Result<Vec<u8>, KeyError> {
    let (scalar, point) = pkcs8_parts(key.serialized_der()).ok_or(KeyError::Form)?;
    Ok([&SEC1_HEAD[..], scalar, &SEC1_MIDDLE[..], point].concat())
}

fn sec1_parts(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = der.strip_prefix(&SEC1_HEAD)?;
    let (scalar, rest) = rest.split_at_checked(SCALAR)?;
    let point = rest.strip_prefix(&SEC1_MIDDLE)?;
    (point.len() == POINT).then_some((scalar, point))
}

fn pkcs8_parts(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = der.strip_prefix(&PKCS8_HEAD)?;
    let (scalar, rest) = rest.split_at_checked(SCALAR)?;
    let point = rest.strip_prefix(&PKCS8_MIDDLE)?;
    (point.len() == POINT).then_some((scalar, point))
}

#[cfg(test)]
mod tests {
    use rcgen::PublicKeyData;

    use super::*;

    #[test]
    fn a_key_reads_back_in_both_forms() {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        for der in [sec1(&key).unwrap(), key.serialize_der()] {
            assert_eq!(read(&der).unwrap().der_bytes(), key.der_bytes());
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let der = sec1(&key).unwrap();
        for length in 0..der.len() {
            assert!(read(&der[..length]).is_err());
        }
        assert!(read(b"-----BEGIN EC PRIVATE KEY-----").is_err());
        let mut other = der;
        let last = other.len() - 1;
        other[last] ^= 1;
        assert!(read(&other).is_err(), "the public key must belong to the private one");
    }
}
