//! One gateway: an edgecore and a modbus mapper, and what the edgecore says of itself.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{ops, port, wait};

/// Where a gateway's parts are, and what they are called.
#[derive(Clone, Debug)]
pub struct Edge {
    /// The node's name.
    pub node: String,
    /// The name of its edgecore among the processes.
    pub edgecore: String,
    /// The name of its mapper among the processes.
    pub mapper: String,
    /// Its database and keys.
    pub data: PathBuf,
    /// Its join token.
    pub token: PathBuf,
    /// The port of its own pages.
    pub ops: u16,
}

impl Edge {
    pub(crate) fn at(suffix: &str, unique: &str, dir: &Path) -> Self {
        Self {
            node: format!("gw-{unique}{suffix}"),
            edgecore: format!("edgecore{suffix}"),
            mapper: format!("mapper{suffix}"),
            data: dir.join(format!("data{suffix}")),
            token: dir.join(format!("token{suffix}")),
            ops: port::free(),
        }
    }

    /// Everything that edgecore says of itself.
    ///
    /// # Errors
    /// It does not answer.
    pub fn status(&self) -> Result<Value, String> {
        let (code, body) = ops::get(self.ops, "/status").ok_or("edgecore does not answer")?;
        if code != 200 {
            return Err(format!("edgecore answers {code}: {body}"));
        }
        serde_json::from_str(&body).map_err(|error| format!("{error}: {body}"))
    }

    /// The names of the devices it holds, sorted.
    ///
    /// # Errors
    /// It does not answer.
    pub fn devices(&self) -> Result<Vec<String>, String> {
        let status = self.status()?;
        let devices = status["devices"].as_array().ok_or_else(|| status.to_string())?;
        let mut names: Vec<_> =
            devices.iter().filter_map(|d| d["name"].as_str()).map(str::to_owned).collect();
        names.sort();
        Ok(names)
    }

    /// How many models it holds.
    ///
    /// # Errors
    /// It does not answer.
    pub fn models(&self) -> Result<u64, String> {
        let status = self.status()?;
        status["store"]["models"].as_u64().ok_or_else(|| status.to_string())
    }

    /// Waits until it holds these devices and no others.
    ///
    /// # Panics
    /// When it does not in time.
    #[track_caller]
    pub fn await_devices(&self, names: &[&str]) {
        wait::until(&format!("{} holds {names:?}", self.node), || {
            wait::equal(self.devices()?, names.iter().map(|&name| name.to_owned()).collect())
        });
    }

    /// Waits until it has a link to the cloud, or none.
    ///
    /// # Panics
    /// When it does not in time.
    #[track_caller]
    pub fn await_link(&self, connected: bool) {
        wait::until(&format!("{} connected={connected}", self.node), || {
            let status = self.status()?;
            if status["link"]["connected"] == connected {
                Ok(())
            } else {
                Err(status["link"].to_string())
            }
        });
    }
}
