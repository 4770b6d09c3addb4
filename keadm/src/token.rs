//! The join token: `<hex SHA-256 of the CA certificate>.<JWT>`. keadm cannot verify it (the key never
//! leaves the cloud), but it can tell a token from a typing mistake, and pin the CA by it.

use std::fmt::Write as _;

use anyhow::bail;
use base64::Engine as _;
use sha2::{Digest as _, Sha256};

/// A token of the right shape.
#[derive(Clone)]
pub struct Token {
    text: String,
    /// Seconds since the epoch, if the token says.
    expires: Option<i64>,
}

/// Never shows the token: it lets a node in.
impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("expires", &self.expires).finish_non_exhaustive()
    }
}

impl Token {
    /// Parses a token; white space around it is left out.
    ///
    /// # Errors
    /// Which part has the wrong shape. The token itself is never in the text.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let text = text.trim();
        let parts: Vec<&str> = text.split('.').collect();
        let [hash, _, payload, _] = parts.as_slice() else {
            bail!(
                "a token has 4 parts with dots between (CA hash and a JWT), this has {}",
                parts.len()
            );
        };
        if hash.len() != 64 || !hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            bail!("the first part must be 64 hexadecimal digits (the hash of the CA)");
        }
        let Ok(payload) = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload) else {
            bail!("the third part is not base64url");
        };
        let Ok(claims) = serde_json::from_slice::<serde_json::Value>(&payload) else {
            bail!("the third part does not hold JSON claims");
        };
        Ok(Self { text: text.to_owned(), expires: claims["exp"].as_i64() })
    }

    /// The token as it was given.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// When it ends, if it says.
    #[must_use]
    pub fn expires(&self) -> Option<jiff::Timestamp> {
        jiff::Timestamp::from_second(self.expires?).ok()
    }

    /// Whether it had ended at `now`.
    #[must_use]
    pub fn is_expired(&self, now: jiff::Timestamp) -> bool {
        self.expires().is_some_and(|end| end <= now)
    }

    /// Whether it was issued by the holder of this CA certificate.
    #[must_use]
    pub fn pins(&self, ca_der: &[u8]) -> bool {
        let hash = self.text.split('.').next().unwrap_or_default();
        hash.eq_ignore_ascii_case(&hex_sha256(ca_der))
    }
}

fn hex_sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A token for a CA, unsigned.
    pub(crate) fn token_for(ca: &[u8], expires: i64) -> String {
        let encode = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
        format!(
            "{}.{}.{}.{}",
            hex_sha256(ca),
            encode(r#"{"alg":"HS256","typ":"JWT"}"#),
            encode(&format!(r#"{{"exp":{expires}}}"#)),
            encode("signature")
        )
    }

    #[test]
    fn a_token_pins_its_ca_and_says_when_it_ends() {
        let token = Token::parse(&format!("  {}\n", token_for(b"ca", 1_000))).unwrap();
        assert!(token.pins(b"ca"));
        assert!(!token.pins(b"other"));
        assert!(token.is_expired(jiff::Timestamp::from_second(1_000).unwrap()));
        assert!(!token.is_expired(jiff::Timestamp::from_second(999).unwrap()));
    }

    #[test]
    fn a_mistake_is_named_and_the_token_is_not_repeated() {
        let good = token_for(b"ca", 1);
        let cut = good.rsplit_once('.').unwrap().0;
        for (text, says) in [
            (String::new(), "4 parts"),
            (cut.to_owned(), "4 parts"),
            (good[1..].to_owned(), "64 hexadecimal"),
            (good.replacen(&good[..1], "g", 1), "64 hexadecimal"),
            (format!("{}.a.!.b", &good[..64]), "base64url"),
            (format!("{}.a.YQ.b", &good[..64]), "JSON"),
        ] {
            let error = Token::parse(&text).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
            assert!(text.is_empty() || !error.contains(&text));
        }
    }

    #[test]
    fn a_token_is_not_shown_by_debug() {
        let text = token_for(b"ca", 1);
        let shown = format!("{:?}", Token::parse(&text).unwrap());
        assert!(!shown.contains(&text[..64]), "{shown}");
    }
}
