//! cloudcore.yaml, as keadm writes it. `cloudcore check-config` is the judge; a test asks it.

use std::path::PathBuf;

use serde::Serialize;

use crate::exit::{Exit, Failure};

/// Where cloudcore serves health and metrics unless told otherwise.
pub const OPS_LISTEN: &str = "127.0.0.1:9091";

/// What `init` sets; everything else is cloudcore's default.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CloudConfig {
    pub kubeconfig: PathBuf,
    pub namespace: String,
    pub enrol: Enrol,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hub: Option<Listen>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ops: Option<Listen>,
}

/// An address other than the default.
#[derive(Clone, Debug, Serialize)]
pub struct Listen {
    pub listen: String,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Enrol {
    /// The names and addresses in cloudcore's certificate.
    pub advertise: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
}

impl Enrol {
    /// Checks what an operator typed.
    ///
    /// # Errors
    /// [`Exit::Usage`] for an entry that no certificate can hold.
    pub fn advertising(list: Vec<String>) -> anyhow::Result<Self> {
        let advertise: Vec<String> = list.iter().map(|entry| entry.trim().to_owned()).collect();
        for entry in &advertise {
            rustls::pki_types::ServerName::try_from(entry.as_str()).map_err(|_| {
                Failure::new(Exit::Usage, format!("--advertise-address {entry:?}"))
                    .because(
                        "neither a DNS name nor an IP address (no port, no brackets, no scheme)",
                    )
                    .next("e.g. --advertise-address 10.0.0.5,cloud.example.com")
            })?;
        }
        Ok(Self { advertise, listen: None })
    }
}

impl CloudConfig {
    /// The file.
    ///
    /// # Errors
    /// A path that is not UTF-8.
    pub fn render(&self) -> anyhow::Result<String> {
        let yaml = serde_yaml_ng::to_string(self)?;
        Ok(format!("# Written by keadm init. All keys: cloudcore default-config\n{yaml}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_and_addresses_are_advertised() {
        for good in ["10.0.0.5", "::1", "cloud.example.com", " padded "] {
            assert!(Enrol::advertising(vec![good.into()]).is_ok(), "{good}");
        }
        for bad in ["", "10.0.0.5:10000", "[::1]", "https://cloud"] {
            let error = Enrol::advertising(vec![bad.into()]).unwrap_err();
            assert_eq!(crate::exit::of(&error), Exit::Usage, "{bad}");
        }
    }
}
