//! Join tokens, in the upstream's form: `<hex SHA-256 of the CA certificate>.<JWT>`.
//!
//! The first part lets a gateway check the authority it is offered; the JWT (HS256, one claim `exp`,
//! keyed with the authority's private key bytes) lets the authority check the gateway. Tokens are
//! secrets: nothing here prints one.

use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use super::authority::Authority;

/// Why a token does not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Past its `exp`.
    #[error("the join token has expired: make a new one with `keadm gettoken`")]
    Expired,
    /// Not signed by this installation, or no token at all.
    #[error("the join token is not one of this installation: make one with `keadm gettoken`")]
    Invalid,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    exp: u64,
}

/// Makes a token that is good until `unix_secs + ttl`.
///
/// # Errors
/// The JWT library refuses, which it does not for these claims.
pub fn sign(
    authority: &Authority,
    ttl: Duration,
    unix_secs: u64,
) -> Result<String, jsonwebtoken::errors::Error> {
    let claims = Claims { exp: unix_secs.saturating_add(ttl.as_secs()) };
    let key = EncodingKey::from_secret(authority.key_der());
    let jwt = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key)?;
    Ok(format!("{}.{jwt}", authority.fingerprint()))
}

/// Checks the JWT part, as it stands in an `Authorization` header. Returns its expiry.
///
/// # Errors
/// See [`TokenError`].
pub fn verify(authority: &Authority, jwt: &str, unix_secs: u64) -> Result<u64, TokenError> {
    let mut rules = Validation::new(Algorithm::HS256);
    // The time is an argument here: the library would read the clock by itself.
    rules.validate_exp = false;
    rules.validate_aud = false;
    rules.algorithms = vec![Algorithm::HS256];
    rules.required_spec_claims.clear();
    let key = DecodingKey::from_secret(authority.key_der());
    let decoded = jsonwebtoken::decode::<Claims>(jwt, &key, &rules);
    let exp = decoded.map_err(|_| TokenError::Invalid)?.claims.exp;
    if exp <= unix_secs { Err(TokenError::Expired) } else { Ok(exp) }
}

/// Whether a stored token is ours and has more than half of its life before it.
#[must_use]
pub fn is_fresh(authority: &Authority, token: &str, ttl: Duration, unix_secs: u64) -> bool {
    let Some((fingerprint, jwt)) = token.split_once('.') else { return false };
    fingerprint == authority.fingerprint()
        && verify(authority, jwt, unix_secs)
            .is_ok_and(|exp| exp.saturating_sub(unix_secs) > ttl.as_secs() / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_795_000_000;
    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_token_lets_in_until_it_expires() {
        let authority = Authority::generate(NOW).unwrap();
        let token = sign(&authority, HOUR, NOW).unwrap();
        let (fingerprint, jwt) = token.split_once('.').unwrap();
        assert_eq!(fingerprint, authority.fingerprint());
        assert_eq!(jwt.split('.').count(), 3);
        assert_eq!(verify(&authority, jwt, NOW + 3599), Ok(NOW + 3600));
        assert_eq!(verify(&authority, jwt, NOW + 3600), Err(TokenError::Expired));
    }

    #[test]
    fn a_token_of_another_installation_is_refused() {
        let (ours, theirs) = (Authority::generate(NOW).unwrap(), Authority::generate(NOW).unwrap());
        let token = sign(&theirs, HOUR, NOW).unwrap();
        let (_, jwt) = token.split_once('.').unwrap();
        assert_eq!(verify(&ours, jwt, NOW), Err(TokenError::Invalid));
        for junk in ["", ".", "a.b.c", "eyJhbGciOiJub25lIn0.eyJleHAiOjk5OTk5OTk5OTl9."] {
            assert_eq!(verify(&ours, junk, NOW), Err(TokenError::Invalid), "{junk:?}");
        }
    }

    #[test]
    fn a_token_is_replaced_at_half_of_its_life() {
        let authority = Authority::generate(NOW).unwrap();
        let token = sign(&authority, HOUR, NOW).unwrap();
        assert!(is_fresh(&authority, &token, HOUR, NOW + 1799));
        assert!(!is_fresh(&authority, &token, HOUR, NOW + 1801));
        assert!(!is_fresh(&Authority::generate(NOW).unwrap(), &token, HOUR, NOW));
        assert!(!is_fresh(&authority, "", HOUR, NOW));
    }
}
