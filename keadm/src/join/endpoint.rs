//! `host:port` as an operator types it.

use std::fmt;
use std::str::FromStr;

/// A host (name or address) and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    host: String,
    port: u16,
}

impl Endpoint {
    /// The host, an IPv6 address without its brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The same host at another port.
    #[must_use]
    pub fn at(&self, port: u16) -> Self {
        Self { host: self.host.clone(), port }
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (host, port) =
            text.rsplit_once(':').ok_or("expected HOST:PORT, e.g. 10.0.0.5:10000")?;
        let port =
            port.parse().ok().filter(|port| *port != 0).ok_or("the port is not 1 to 65535")?;
        let host = match host.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').ok_or("a bracket is not closed")?,
            None if host.contains(':') => return Err("an IPv6 address needs brackets".into()),
            None => host,
        };
        rustls::pki_types::ServerName::try_from(host)
            .map_err(|_| "the host is neither a name nor an address (no scheme, no path)")?;
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_reads_back_as_written() {
        for text in ["127.0.0.1:10000", "[::1]:1", "cloud.example.com:65535"] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_mistake_is_named() {
        for (text, says) in [
            ("cloud", "HOST:PORT"),
            ("cloud:0", "port"),
            ("cloud:99999", "port"),
            ("::1:10000", "brackets"),
            ("[::1:10000", "bracket"),
            ("https://cloud:10000", "brackets"),
            ("cl oud:1", "name nor an address"),
        ] {
            let error = text.parse::<Endpoint>().unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
