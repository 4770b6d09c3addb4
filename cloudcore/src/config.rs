//! The configuration file: typed, unknown keys refused, every default written down once.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer};

/// What `cloudcore default-config` prints. A test keeps it equal to [`Config::default`].
pub const DEFAULT_CONFIG: &str = r#"# Configuration of cloudcore. Every value shown is the default.

# File with the address of the Kubernetes API and the credentials for it.
# Absent: the in-cluster configuration of a pod.
# kubeconfig: /etc/kedge/kubeconfig

# Namespace of the Secrets casecret, cloudcoresecret and tokensecret. Created if missing.
namespace: kubeedge

# Only devices and models of these namespaces. Empty: all namespaces.
watchNamespaces: []

hub:
  # Where gateways connect (TLS, websocket, client certificate required).
  listen: "0.0.0.0:10000"
  # A gateway that sends no keepalive for this long is gone. At least 2s; gateways send each 15s.
  keepaliveTimeout: 30s
  # Most gateways at the same time, 1 to 1000000.
  nodeLimit: 100000

enrol:
  # Where gateways get their certificate (HTTPS).
  listen: "0.0.0.0:10002"
  # Host names and addresses that gateways use to reach both ports; they go into the server
  # certificate, which is issued anew when this list changes.
  advertise: ["127.0.0.1"]
  # Life of a gateway's certificate. At least 1m.
  nodeCertificateTtl: 8760h
  # Life of a join token; a new one is written to tokensecret at half of it. At least 2s.
  tokenTtl: 24h

status:
  # At most one DeviceStatus write per device in this time, none if nothing changed. At least 10ms.
  interval: 1s

nodes:
  # Without a session for this long a Node turns Unknown. The Lease is renewed four times as often.
  # At least 1s.
  leaseDuration: 40s
  # Whether Node objects are created and kept.
  register: true

ops:
  # Plain HTTP: /healthz /readyz /metrics /nodes
  listen: "127.0.0.1:9091"

# What is logged: error, warn, info, debug, trace, or a filter as of the env_logger family.
log: info
"#;

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Not YAML, an unknown key, or a value of the wrong type.
    #[error("{0}")]
    Parse(#[source] serde_yaml_ng::Error),
    /// A value outside its range.
    #[error("{field}: {rule}")]
    Value {
        /// Path of the key.
        field: &'static str,
        /// What is expected.
        rule: String,
    },
}

/// Everything that can be set.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Config {
    /// See [`DEFAULT_CONFIG`], as for every field below.
    pub kubeconfig: Option<PathBuf>,
    pub namespace: String,
    pub watch_namespaces: Vec<String>,
    pub hub: HubConfig,
    pub enrol: EnrolConfig,
    pub status: StatusConfig,
    pub nodes: NodesConfig,
    pub ops: OpsConfig,
    pub log: String,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HubConfig {
    pub listen: SocketAddr,
    #[serde(deserialize_with = "duration")]
    pub keepalive_timeout: Duration,
    pub node_limit: usize,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct EnrolConfig {
    pub listen: SocketAddr,
    pub advertise: Vec<String>,
    #[serde(deserialize_with = "duration")]
    pub node_certificate_ttl: Duration,
    #[serde(deserialize_with = "duration")]
    pub token_ttl: Duration,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct StatusConfig {
    #[serde(deserialize_with = "duration")]
    pub interval: Duration,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NodesConfig {
    #[serde(deserialize_with = "duration")]
    pub lease_duration: Duration,
    pub register: bool,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct OpsConfig {
    pub listen: SocketAddr,
}

const HOUR: Duration = Duration::from_secs(3600);
const EVERYWHERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

impl Default for Config {
    fn default() -> Self {
        Self {
            kubeconfig: None,
            namespace: "kubeedge".into(),
            watch_namespaces: Vec::new(),
            hub: HubConfig::default(),
            enrol: EnrolConfig::default(),
            status: StatusConfig::default(),
            nodes: NodesConfig::default(),
            ops: OpsConfig::default(),
            log: "info".into(),
        }
    }
}

impl Default for HubConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(EVERYWHERE, 10000),
            keepalive_timeout: Duration::from_secs(30),
            node_limit: 100_000,
        }
    }
}

impl Default for EnrolConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(EVERYWHERE, 10002),
            advertise: vec!["127.0.0.1".into()],
            node_certificate_ttl: 8760 * HOUR,
            token_ttl: 24 * HOUR,
        }
    }
}

impl Default for StatusConfig {
    fn default() -> Self {
        Self { interval: Duration::from_secs(1) }
    }
}

impl Default for NodesConfig {
    fn default() -> Self {
        Self { lease_duration: Duration::from_secs(40), register: true }
    }
}

impl Default for OpsConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::new(HERE, 9091) }
    }
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// The reason a person needs: file, line and key.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text)
    }

    /// Parses and checks a document. An empty one is the default configuration.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let config: Option<Self> = serde_yaml_ng::from_str(text).map_err(ConfigError::Parse)?;
        let config = config.unwrap_or_default();
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let refuse = |field, rule: &str| Err(ConfigError::Value { field, rule: rule.into() });
        let at_least = |field, value: Duration, least: Duration| {
            let rule = format!("expected at least {least:?}, found {value:?}");
            if value < least { Err(ConfigError::Value { field, rule }) } else { Ok(()) }
        };
        if self.namespace.is_empty() {
            return refuse("namespace", "expected the name of a namespace");
        }
        if self.watch_namespaces.iter().any(String::is_empty) {
            return refuse("watchNamespaces", "expected names of namespaces, found an empty one");
        }
        if !(1..=1_000_000).contains(&self.hub.node_limit) {
            return refuse("hub.nodeLimit", "expected 1 to 1000000");
        }
        if self.enrol.advertise.is_empty() {
            let rule = "expected at least one host name or address that gateways can reach";
            return refuse("enrol.advertise", rule);
        }
        if let Some(bad) = self.enrol.advertise.iter().find(|name| !is_host(name)) {
            let rule =
                format!("{bad:?} is neither a host name nor an address (no port, no scheme)");
            return Err(ConfigError::Value { field: "enrol.advertise", rule });
        }
        let second = Duration::from_secs(1);
        at_least("hub.keepaliveTimeout", self.hub.keepalive_timeout, 2 * second)?;
        at_least("enrol.nodeCertificateTtl", self.enrol.node_certificate_ttl, 60 * second)?;
        at_least("enrol.tokenTtl", self.enrol.token_ttl, 2 * second)?;
        at_least("status.interval", self.status.interval, Duration::from_millis(10))?;
        at_least("nodes.leaseDuration", self.nodes.lease_duration, second)
    }
}

fn is_host(name: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty() && label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
    };
    name.parse::<IpAddr>().is_ok() || (name.len() <= 253 && name.split('.').all(label))
}

/// Reads `10s`, `1h30m`, `250ms`. A visitor, so that the YAML reader names key and line of a mistake.
fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    struct Text;

    impl serde::de::Visitor<'_> for Text {
        type Value = Duration;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a duration like \"10s\"")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Duration, E> {
            let duration: Option<jiff::SignedDuration> = text.parse().ok();
            duration
                .and_then(|duration| Duration::try_from(duration).ok())
                .ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
        }
    }

    deserializer.deserialize_str(Text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_printed_default_is_the_default() {
        assert_eq!(Config::parse(DEFAULT_CONFIG).unwrap(), Config::default());
        assert_eq!(Config::parse("").unwrap(), Config::default());
    }

    #[test]
    fn a_mistake_is_named_with_its_place() {
        for (text, expected) in [
            ("hub: { lisen: x }", "hub: unknown field `lisen`"),
            ("hub:\n  keepaliveTimeout: soon\n", "line 2"),
            ("hub: { keepaliveTimeout: 1s }", "hub.keepaliveTimeout: expected at least 2s"),
            ("hub: { nodeLimit: 0 }", "hub.nodeLimit"),
            ("hub: { listen: nowhere }", "hub.listen"),
            ("enrol: { advertise: [] }", "enrol.advertise"),
            ("enrol: { advertise: [\"https://a:1\"] }", "https://a:1"),
            ("status: { interval: 1ms }", "status.interval"),
            ("status: { interval: -1s }", "status.interval"),
            ("nodes: { leaseDuration: 0s }", "nodes.leaseDuration"),
            ("namespace: ''", "namespace"),
            ("watchNamespaces: ['']", "watchNamespaces"),
        ] {
            let error = Config::parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text:?} gave {error:?}");
        }
    }

    #[test]
    fn durations_are_read_as_people_write_them() {
        let config = Config::parse("status: { interval: 1m30s }").unwrap();
        assert_eq!(config.status.interval, Duration::from_secs(90));
        let config = Config::parse("status: { interval: 250ms }").unwrap();
        assert_eq!(config.status.interval, Duration::from_millis(250));
    }
}
