//! edgecore.yaml, as keadm writes it. `edgecore check-config` is the judge; a test asks it.

use std::path::PathBuf;

use serde::Serialize;

/// What keadm sets; everything else is edgecore's default.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EdgeConfig {
    pub node_name: String,
    pub cloud: Cloud,
    pub data_dir: PathBuf,
    pub dmi: Dmi,
    pub ops: Ops,
    pub log: String,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cloud {
    pub hub: String,
    pub enrol: String,
    pub token_file: PathBuf,
}

#[derive(Clone, Debug, Serialize)]
pub struct Dmi {
    pub socket: PathBuf,
}

#[derive(Clone, Debug, Serialize)]
pub struct Ops {
    pub listen: String,
}

impl EdgeConfig {
    /// The file.
    ///
    /// # Errors
    /// A path that is not UTF-8.
    pub fn render(&self) -> anyhow::Result<String> {
        let yaml = serde_yaml_ng::to_string(self)?;
        Ok(format!("# Written by keadm join. All keys: edgecore default-config\n{yaml}"))
    }
}

/// Checks a node name by the rule of Kubernetes (RFC 1123 subdomain).
///
/// # Errors
/// The rule.
pub fn check_node_name(name: &str) -> Result<(), String> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let good_label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| plain(byte) || byte == b'-')
            && label.bytes().next().is_some_and(plain)
            && label.bytes().last().is_some_and(plain)
    };
    if name.len() <= 253 && name.split('.').all(good_label) {
        Ok(())
    } else {
        Err("expected lower-case letters, digits, '-' and '.', each part starting and ending with a \
             letter or digit, at most 253 characters"
            .into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_names_follow_kubernetes() {
        for good in ["gw-1", "a", "gw.site-1.example", "1"] {
            assert_eq!(check_node_name(good), Ok(()), "{good}");
        }
        for bad in ["", "GW", "gw_1", "-gw", "gw-", "gw..1", ".gw", &"a".repeat(254)] {
            assert!(check_node_name(bad).is_err(), "{bad}");
        }
    }
}
