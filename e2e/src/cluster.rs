//! Reading the Kubernetes API. What a user does goes through [`crate::kubectl`]; looking many
//! times a second goes through a client, since starting a kubectl for each look would be most of
//! what two cores do.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use crds::{Device, DeviceStatus};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::runtime::{Handle, Runtime};

use crate::wait;

/// A view of one namespace of a cluster.
pub struct Cluster {
    runtime: Runtime,
    reader: Reader,
}

/// The part of a [`Cluster`] that threads may share.
#[derive(Clone)]
pub struct Reader {
    handle: Handle,
    client: Client,
    namespace: String,
}

/// A value as the DeviceStatus shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The value.
    pub value: String,
    /// Milliseconds since 1970; 0 if there is no timestamp.
    pub at_ms: i64,
}

impl Cluster {
    /// Reads the kubeconfig; connects when first asked something.
    ///
    /// # Panics
    /// When the kubeconfig is no good.
    #[must_use]
    pub fn new(kubeconfig: &Path, namespace: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap_or_else(|error| panic!("starting a runtime: {error}"));
        let client = runtime.block_on(async {
            let read = Kubeconfig::read_from(kubeconfig)
                .unwrap_or_else(|error| panic!("{}: {error}", kubeconfig.display()));
            let mut config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
                .await
                .unwrap_or_else(|error| panic!("{}: {error}", kubeconfig.display()));
            config.connect_timeout = Some(Duration::from_secs(5));
            config.read_timeout = Some(Duration::from_secs(30));
            Client::try_from(config).unwrap_or_else(|error| panic!("making a client: {error}"))
        });
        let handle = runtime.handle().clone();
        Self { runtime, reader: Reader { handle, client, namespace: namespace.to_owned() } }
    }

    /// A handle for another thread.
    #[must_use]
    pub fn reader(&self) -> Reader {
        self.reader.clone()
    }

    /// Runs a future, e.g. one on [`Reader::devices`].
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }
}

impl std::ops::Deref for Cluster {
    type Target = Reader;
    fn deref(&self) -> &Reader {
        &self.reader
    }
}

impl Reader {
    /// The devices of the namespace.
    #[must_use]
    pub fn devices(&self) -> Api<Device> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The statuses of the namespace.
    #[must_use]
    pub fn statuses(&self) -> Api<DeviceStatus> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The runtime that the client lives in.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// A device.
    ///
    /// # Errors
    /// The API's, as text: it may be down on purpose.
    pub fn device(&self, name: &str) -> Result<Option<Device>, String> {
        self.handle.block_on(self.devices().get_opt(name)).map_err(|error| error.to_string())
    }

    /// What a device last said.
    ///
    /// # Errors
    /// The API's, as text.
    pub fn status(&self, name: &str) -> Result<Option<DeviceStatus>, String> {
        self.handle.block_on(self.statuses().get_opt(name)).map_err(|error| error.to_string())
    }

    /// Writes a desired value of the device's first property as a controller would, fast.
    ///
    /// # Errors
    /// The API's, as text.
    pub fn desire(&self, device: &str, value: &str) -> Result<(), String> {
        let uri = format!(
            "/apis/devices.kubeedge.io/v1beta1/namespaces/{}/devices/{device}",
            self.namespace
        );
        let patch = serde_json::json!([
            {"op": "replace", "path": "/spec/properties/0/desired/value", "value": value}
        ]);
        let request = http::Request::patch(uri)
            .header("content-type", "application/json-patch+json")
            .body(patch.to_string().into_bytes())
            .map_err(|error| error.to_string())?;
        let answer = self.handle.block_on(self.client.request_text(request));
        answer.map(drop).map_err(|error| error.to_string())
    }

    /// What a device last reported for a property.
    ///
    /// # Errors
    /// What is there instead.
    pub fn reported(&self, device: &str, property: &str) -> Result<Reading, String> {
        let status = self.status(device)?.ok_or("no DeviceStatus")?;
        reading(&status, property)
            .ok_or_else(|| format!("{property} is not in {:?}", status.status))
    }

    /// What every device of the namespace last reported for a property.
    ///
    /// # Errors
    /// The API's, as text.
    pub fn all_reported(&self, property: &str) -> Result<BTreeMap<String, String>, String> {
        let statuses = self.statuses();
        let list = self.handle.block_on(statuses.list(&ListParams::default()));
        let list = list.map_err(|error| error.to_string())?;
        let value = |status: &DeviceStatus| {
            Some((status.metadata.name.clone()?, reading(status, property)?.value))
        };
        Ok(list.items.iter().filter_map(value).collect())
    }

    /// The revisions of a Device, its DeviceStatus and its Node: each changes with every write.
    ///
    /// # Errors
    /// What is there instead.
    pub fn revisions(&self, device: &str, node: &str) -> Result<[Option<String>; 3], String> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let node = self.handle.block_on(nodes.get(node)).map_err(|error| error.to_string())?;
        let status = self.status(device)?.ok_or("no DeviceStatus")?;
        let device = self.device(device)?.ok_or("no Device")?;
        Ok([
            device.metadata.resource_version,
            status.metadata.resource_version,
            node.metadata.resource_version,
        ])
    }

    /// Waits until the DeviceStatus shows a value, and returns it with its time.
    ///
    /// # Panics
    /// When it does not in time.
    #[track_caller]
    pub fn await_reported(&self, device: &str, property: &str, value: &str) -> Reading {
        wait::until(&format!("DeviceStatus {device} shows {property} = {value}"), || {
            let reading = self.reported(device, property)?;
            if reading.value == value { Ok(reading) } else { Err(format!("{reading:?}")) }
        })
    }

    /// A condition of a device as `Status/Reason: message`.
    ///
    /// # Errors
    /// What is there instead.
    pub fn condition(&self, device: &str, kind: &str) -> Result<String, String> {
        let device = self.device(device)?.ok_or("no Device")?;
        let status = device.status.ok_or("no status")?;
        status
            .conditions
            .iter()
            .find(|condition| condition.type_ == kind)
            .map(|found| format!("{}/{}: {}", found.status, found.reason, found.message))
            .ok_or_else(|| format!("no {kind} among {:?}", status.conditions))
    }

    /// Waits until a condition of a device starts with the text, e.g. `False/ModelNotFound`.
    ///
    /// # Panics
    /// When it does not in time.
    #[track_caller]
    pub fn await_condition(&self, device: &str, kind: &str, wanted: &str) -> String {
        wait::until(&format!("Device {device} has {kind} {wanted}"), || {
            let found = self.condition(device, kind)?;
            if found.starts_with(wanted) { Ok(found) } else { Err(found) }
        })
    }

    /// The Ready condition of a node as `Status/Reason`.
    ///
    /// # Errors
    /// What is there instead.
    pub fn node_ready(&self, name: &str) -> Result<String, String> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let node = self
            .handle
            .block_on(nodes.get_opt(name))
            .map_err(|error| error.to_string())?
            .ok_or("no Node")?;
        let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
        conditions
            .iter()
            .find(|condition| condition.type_ == "Ready")
            .map(|found| format!("{}/{}", found.status, found.reason.clone().unwrap_or_default()))
            .ok_or_else(|| format!("no Ready among {conditions:?}"))
    }

    /// Waits until a node's Ready condition has the status.
    ///
    /// # Panics
    /// When it does not in time.
    #[track_caller]
    pub fn await_node(&self, name: &str, status: &str) {
        wait::until(&format!("Node {name} is Ready={status}"), || {
            let found = self.node_ready(name)?;
            if found.starts_with(&format!("{status}/")) { Ok(()) } else { Err(found) }
        });
    }

    /// A node's lease.
    ///
    /// # Errors
    /// The API's, as text.
    pub fn lease(&self, node: &str) -> Result<Option<Lease>, String> {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), "kube-node-lease");
        self.handle.block_on(leases.get_opt(node)).map_err(|error| error.to_string())
    }
}

/// What a DeviceStatus says of a property.
#[must_use]
pub fn reading(status: &DeviceStatus, property: &str) -> Option<Reading> {
    let twins = &status.status.as_ref()?.twins;
    let reported = twins.iter().find(|twin| twin.property_name == property)?.reported.as_ref()?;
    let at_ms = reported.metadata.get("timestamp").and_then(|ms| ms.parse().ok()).unwrap_or(0);
    Some(Reading { value: reported.value.clone(), at_ms })
}
