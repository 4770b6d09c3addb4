//! The configuration file: typed, with unknown keys refused and every default written down.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use hub_proto::id::NodeName;
use rustls_pki_types::ServerName;
use serde::{Deserialize, Deserializer};

/// A complete configuration with its comments; what `edgecore default-config` prints.
pub const DEFAULT_CONFIG: &str = include_str!("default-config.yaml");

/// Everything edgecore can be told.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Config {
    /// The name of this node, as the cloud knows it.
    pub node_name: NodeName,
    /// Where the cloud is.
    pub cloud: Cloud,
    /// Holds the database and the node's key and certificates.
    #[serde(default = "default_data_dir")]
    pub data_dir: PathBuf,
    /// Where mappers find this node.
    #[serde(default)]
    pub dmi: Dmi,
    /// Health, metrics and status.
    #[serde(default)]
    pub ops: Ops,
    /// What is logged, e.g. `info` or `info,edgecore::link=debug`.
    #[serde(default = "default_log")]
    pub log: String,
}

/// Where the cloud is.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Cloud {
    /// `host:port` of the websocket.
    pub hub: Endpoint,
    /// `host:port` of the enrolment service.
    pub enrol: Endpoint,
    /// The file that holds the join token. Read only to enrol; may vanish afterwards.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// Time between keepalives, 1 s to 10 min.
    #[serde(default = "default_heartbeat", deserialize_with = "duration")]
    pub heartbeat: Duration,
    /// The project id in the websocket's path. Every default installation uses the same.
    #[serde(default = "default_project")]
    pub project: String,
}

/// Where mappers find this node.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Dmi {
    /// The socket. Its directory is created with mode 0750 and should hold nothing else.
    pub socket: PathBuf,
}

/// Health, metrics and status.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Ops {
    /// Plain HTTP; keep it on loopback.
    pub listen: SocketAddr,
}

impl Default for Dmi {
    fn default() -> Self {
        Self { socket: "/run/kedge/dmi.sock".into() }
    }
}

impl Default for Ops {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 9092)) }
    }
}

fn default_data_dir() -> PathBuf {
    "/var/lib/kedge".into()
}

fn default_log() -> String {
    "info".into()
}

fn default_heartbeat() -> Duration {
    Duration::from_secs(15)
}

fn default_project() -> String {
    hub_proto::wire::DEFAULT_PROJECT_ID.into()
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// The file cannot be read, is not this document (with line and field), or holds a value out of
    /// range.
    pub fn load(file: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("reading configuration {}", file.display()))?;
        Self::parse(&text).with_context(|| format!("configuration {}", file.display()))
    }

    /// Reads and checks a text.
    ///
    /// # Errors
    /// As [`Config::load`], but for the reading.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let config: Self = serde_yaml_ng::from_str(text)?;
        let heartbeat = config.cloud.heartbeat;
        if !(Duration::from_secs(1)..=Duration::from_mins(10)).contains(&heartbeat) {
            bail!("cloud.heartbeat: {heartbeat:?} is not between 1s and 10m");
        }
        if config.cloud.project.is_empty() || !config.cloud.project.bytes().all(is_path_byte) {
            bail!("cloud.project: expected letters, digits, '-' and '_'");
        }
        for (field, path) in [("dataDir", &config.data_dir), ("dmi.socket", &config.dmi.socket)] {
            if !path.is_absolute() {
                bail!("{field}: {} is not an absolute path", path.display());
            }
        }
        // The length of sun_path, less the suffix of the name that the socket is made under.
        if config.dmi.socket.as_os_str().len() > 100 {
            bail!("dmi.socket: longer than 100 bytes, which no socket address holds");
        }
        if tracing_subscriber::EnvFilter::try_new(&config.log).is_err() {
            bail!("log: {:?} is not a log filter", config.log);
        }
        Ok(config)
    }
}

fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    use serde::de::Error;
    let text = String::deserialize(deserializer)?;
    let signed: jiff::SignedDuration = text
        .parse()
        .map_err(|_| D::Error::custom(format!("{text:?} is not a duration like 10s")))?;
    Duration::try_from(signed).map_err(|_| D::Error::custom("a duration cannot be negative"))
}

/// `host:port`; a host is a name or an address, an IPv6 address in brackets.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Endpoint {
    host: String,
    port: u16,
}

impl Endpoint {
    /// Parses `host:port`.
    ///
    /// # Errors
    /// What is missing or wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bad = |what: &str| format!("{text:?} is not host:port: {what}");
        let (host, port) = text.rsplit_once(':').ok_or_else(|| bad("no port"))?;
        let port: u16 = port.parse().map_err(|_| bad("the port is no number to 65535"))?;
        let host = match host.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').ok_or_else(|| bad("no closing bracket"))?,
            None if host.contains(':') => return Err(bad("an IPv6 address needs brackets")),
            None => host,
        };
        ServerName::try_from(host).map_err(|_| bad("the host is no name or address"))?;
        Ok(Self { host: host.to_owned(), port })
    }

    /// The host, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The name that the peer's certificate must carry.
    #[must_use]
    pub fn server_name(&self) -> Option<ServerName<'static>> {
        ServerName::try_from(self.host.clone()).ok()
    }
}

impl TryFrom<String> for Endpoint {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
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

    const SMALL: &str =
        "nodeName: gw-1\ncloud: {hub: \"127.0.0.1:10000\", enrol: \"[::1]:10002\"}\n";

    #[test]
    fn the_printed_default_is_accepted_and_says_the_true_defaults() {
        let printed = Config::parse(DEFAULT_CONFIG).unwrap();
        let small = Config::parse(SMALL).unwrap();
        assert_eq!(printed.data_dir, small.data_dir);
        assert_eq!(printed.dmi.socket, small.dmi.socket);
        assert_eq!(printed.ops.listen, small.ops.listen);
        assert_eq!(printed.log, small.log);
        assert_eq!(printed.cloud.heartbeat, small.cloud.heartbeat);
    }

    #[test]
    fn a_mistake_is_named() {
        for (from, to, expected) in [
            ("gw-1", "GW 1", "node name"),
            ("hub", "hubb", "hubb"),
            ("127.0.0.1:10000", "127.0.0.1", "no port"),
            ("[::1]:10002", "::1:10002", "brackets"),
            ("nodeName", "log: edgecore=loud\nnodeName", "log"),
            ("nodeName", "dataDir: var\nnodeName", "dataDir"),
            ("hub:", "heartbeat: 15, hub:", "duration"),
            ("hub:", "heartbeat: 0s, hub:", "heartbeat"),
            ("hub:", "heartbeat: -3s, hub:", "negative"),
        ] {
            let text = SMALL.replacen(from, to, 1);
            let error = format!("{:#}", Config::parse(&text).map(|_| ()).unwrap_err());
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn an_endpoint_reads_back_as_written() {
        for text in ["127.0.0.1:1", "[::1]:65535", "cloud.example.com:10000"] {
            assert_eq!(Endpoint::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Endpoint::parse("[::1]:1").unwrap().host(), "::1");
    }
}
