//! A mapper's `config.yaml`, with the upstream's keys. Start at [`Config::from_yaml`].
//!
//! Files written for other KubeEdge mappers must load: a key that means nothing here is reported as
//! a warning, never refused.

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Deserializer, de};

/// The whole file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Config {
    /// The mapper's own server.
    pub grpc_server: GrpcServer,
    /// Who the mapper is and whom it talks to.
    pub common: Common,
    /// Log filter, `info` by default; `debug` or `mapper_sdk=debug,info` and so on.
    #[serde(default = "default_log", deserialize_with = "null_as_empty")]
    pub log: String,
}

/// Key `grpc_server`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct GrpcServer {
    /// Path of the Unix socket this mapper listens on; edgecore dials it.
    pub socket_path: PathBuf,
}

/// Key `common`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Common {
    /// The mapper's name, unique on its node.
    pub name: String,
    /// Informational.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub version: String,
    /// Informational.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub api_version: String,
    /// Must equal `spec.protocol.protocolName` of the devices. Empty or absent: the driver's own.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub protocol: String,
    /// Read by nobody, accepted because upstream files have it.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub address: String,
    /// Path of edgecore's DMI socket.
    #[serde(default = "default_edgecore_sock")]
    pub edgecore_sock: PathBuf,
    /// Port of the REST API, text or number. Accepted; the REST API is not served yet.
    #[serde(default, deserialize_with = "text_or_number")]
    pub http_port: Option<String>,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The text is not the expected YAML. The message names field and line.
    #[error("{0}")]
    Parse(String),
    /// A field has a value that cannot work.
    #[error("{field}: {reason}")]
    Invalid {
        /// Dotted path of the field.
        field: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl Config {
    /// Reads a file. See [`Config::from_yaml`].
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn load(path: &std::path::Path) -> Result<(Self, Vec<String>), ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::from_yaml(&text)
    }

    /// Reads a configuration, and names the keys that mean nothing here.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn from_yaml(text: &str) -> Result<(Self, Vec<String>), ConfigError> {
        let config: Self = {
            let document = serde_yaml_ng::Deserializer::from_str(text);
            serde_path_to_error::deserialize(document).map_err(|error| {
                let path = error.path().to_string();
                let inner = error.into_inner();
                ConfigError::Parse(match path.as_str() {
                    "." | "" => inner.to_string(),
                    // serde_yaml names the path itself where it knows it.
                    path if inner.to_string().starts_with(path) => inner.to_string(),
                    path => format!("{path}: {inner}"),
                })
            })?
        };
        config.check()?;
        let document = serde_yaml_ng::from_str(text).unwrap_or_default();
        Ok((config, unknown_keys(&document)))
    }

    fn check(&self) -> Result<(), ConfigError> {
        let invalid = |field, reason| Err(ConfigError::Invalid { field, reason });
        if self.common.name.trim().is_empty() {
            return invalid("common.name", "must not be empty");
        }
        if self.grpc_server.socket_path.as_os_str().is_empty() {
            return invalid("grpc_server.socket_path", "must not be empty");
        }
        if self.grpc_server.socket_path == self.common.edgecore_sock {
            return invalid("grpc_server.socket_path", "must differ from common.edgecore_sock");
        }
        Ok(())
    }
}

fn unknown_keys(document: &serde_yaml_ng::Value) -> Vec<String> {
    const TOP: &[&str] = &["grpc_server", "common", "log"];
    const SECTIONS: &[(&str, &[&str])] = &[
        ("grpc_server", &["socket_path"]),
        (
            "common",
            &[
                "name",
                "version",
                "api_version",
                "protocol",
                "address",
                "edgecore_sock",
                "http_port",
            ],
        ),
    ];
    let keys = |value: Option<&serde_yaml_ng::Value>| -> Vec<String> {
        let mapping = value.and_then(serde_yaml_ng::Value::as_mapping);
        mapping
            .into_iter()
            .flat_map(|mapping| mapping.keys())
            .map(|key| key.as_str().map_or_else(|| format!("{key:?}"), str::to_owned))
            .collect()
    };
    let mut unknown = keys(Some(document));
    unknown.retain(|key| !TOP.contains(&key.as_str()));
    for (section, known) in SECTIONS {
        let inner = keys(document.get(section)).into_iter();
        let strange = inner.filter(|key| !known.contains(&key.as_str()));
        unknown.extend(strange.map(|key| format!("{section}.{key}")));
    }
    unknown
}

fn default_log() -> String {
    "info".to_owned()
}

fn default_edgecore_sock() -> PathBuf {
    PathBuf::from("/etc/kubeedge/dmi.sock")
}

/// Upstream's template ships `protocol:` with nothing behind it.
fn null_as_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(text_or_number(deserializer)?.unwrap_or_default())
}

/// Text, or a number as text: YAML reads `7777`, `1.0` and `v1` as three different things.
fn text_or_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    struct Visitor;
    impl de::Visitor<'_> for Visitor {
        type Value = Option<String>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a text or a number")
        }
        fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
            Ok(Some(text.to_owned()))
        }
        fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
            Ok(Some(number.to_string()))
        }
        fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
            Ok(Some(number.to_string()))
        }
        fn visit_f64<E>(self, number: f64) -> Result<Self::Value, E> {
            Ok(Some(number.to_string()))
        }
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
    }
    deserializer.deserialize_any(Visitor)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UPSTREAM_TEMPLATE: &str = "
grpc_server:
  socket_path: /etc/kubeedge/Template.sock
common:
  name: Template-mapper
  version: v1.13.0
  api_version: v1.0.0
  protocol: # TODO add your protocol name
  address: 127.0.0.1
  edgecore_sock: /etc/kubeedge/dmi.sock
";

    #[test]
    fn the_upstream_template_loads_as_it_is() {
        let (config, unknown) = Config::from_yaml(UPSTREAM_TEMPLATE).unwrap();
        assert_eq!(config.common.name, "Template-mapper");
        assert_eq!(config.common.protocol, "");
        assert_eq!(config.log, "info");
        assert!(unknown.is_empty());
    }

    #[test]
    fn keys_of_older_mappers_are_named_and_ignored() {
        let text = format!(
            "{UPSTREAM_TEMPLATE}  http_port: 7777\n  colour: red\ndev_init:\n  mode: register\n"
        );
        let (config, unknown) = Config::from_yaml(&text).unwrap();
        assert_eq!(config.common.http_port.as_deref(), Some("7777"));
        assert_eq!(unknown, ["dev_init", "common.colour"]);
    }

    #[test]
    fn an_error_names_the_field() {
        let missing = Config::from_yaml("grpc_server: {}\ncommon: {name: x}").unwrap_err();
        assert!(missing.to_string().contains("socket_path"), "{missing}");
        let wrong = "grpc_server: {socket_path: [1]}\ncommon: {name: x}";
        let wrong = Config::from_yaml(wrong).unwrap_err();
        assert!(wrong.to_string().contains("grpc_server.socket_path"), "{wrong}");
        let empty = "grpc_server: {socket_path: /x}\ncommon: {name: ' '}";
        assert!(Config::from_yaml(empty).unwrap_err().to_string().contains("common.name"));
    }
}
