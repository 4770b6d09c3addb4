//! Performs status writes against the Kubernetes API.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hub_proto::id::Revision;
use kube::api::{ApiResource, DeleteParams, Patch, PatchParams, PostParams};
use kube::core::DynamicObject;
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::action::{Action, Outcome, Write};
use crate::enrol::secrets::is_code;

/// An API server that takes longer is treated as absent.
const DEADLINE: Duration = Duration::from_secs(10);

/// Writes statuses. Remembers whether a kind has the status subresource: upstream's definitions have
/// none, and the main resource is patched then.
pub struct Writer {
    client: Client,
    devices: Target,
    statuses: Target,
}

struct Target {
    resource: ApiResource,
    without_subresource: AtomicBool,
}

impl Writer {
    /// Writes through this client.
    #[must_use]
    pub fn new(client: Client) -> Self {
        let target = |resource| Target { resource, without_subresource: AtomicBool::new(false) };
        Self {
            client,
            devices: target(ApiResource::erase::<crds::Device>(&())),
            statuses: target(ApiResource::erase::<crds::DeviceStatus>(&())),
        }
    }

    /// Performs one write, within a deadline.
    pub async fn perform(&self, write: &Write) -> Outcome {
        match timeout(DEADLINE, self.attempt(write)).await {
            Ok(Ok(revision)) => Outcome::Written(revision),
            Ok(Err(error)) => judge(write, &error),
            Err(_) => Outcome::Failed("the API server does not answer".into()),
        }
    }

    async fn attempt(&self, write: &Write) -> Result<Option<Revision>, kube::Error> {
        match &write.action {
            Action::Reported { patch, exists } => {
                let api = self.api(&self.statuses, write);
                if !exists {
                    self.create(&api, write).await?;
                }
                match self.patch(&self.statuses, &api, write, patch).await {
                    Err(error) if is_code(&error, 404) => {
                        self.create(&api, write).await?;
                        self.patch(&self.statuses, &api, write, patch).await
                    }
                    patched => patched,
                }
            }
            Action::Conditions { patch, .. } => {
                let api = self.api(&self.devices, write);
                self.patch(&self.devices, &api, write, patch).await
            }
            Action::DeleteReported => {
                let api = self.api(&self.statuses, write);
                match self.delete_owned(&api, write).await {
                    Err(error) if is_code(&error, 404) || is_code(&error, 409) => Ok(None),
                    deleted => deleted.map(|()| None),
                }
            }
        }
    }

    fn api(&self, target: &Target, write: &Write) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), write.device.namespace(), &target.resource)
    }

    async fn patch(
        &self,
        target: &Target,
        api: &Api<DynamicObject>,
        write: &Write,
        patch: &Value,
    ) -> Result<Option<Revision>, kube::Error> {
        let (name, params, patch) =
            (write.device.name(), PatchParams::default(), Patch::Merge(patch));
        if !target.without_subresource.load(Ordering::Relaxed) {
            match api.patch_status(name, &params, &patch).await {
                Err(error) if is_code(&error, 404) => {}
                patched => return Ok(revision(&patched?)),
            }
        }
        // No such object, or no such subresource: the main resource tells them apart.
        let patched = api.patch(name, &params, &patch).await?;
        if !target.without_subresource.swap(true, Ordering::Relaxed) {
            tracing::info!(
                kind = target.resource.kind,
                "no status subresource here: writing status through the main resource"
            );
        }
        Ok(revision(&patched))
    }

    async fn create(&self, api: &Api<DynamicObject>, write: &Write) -> Result<(), kube::Error> {
        let mut object = DynamicObject::new(write.device.name(), &self.statuses.resource);
        object.metadata.namespace = Some(write.device.namespace().to_owned());
        let owner = json!([{
            "apiVersion": self.devices.resource.api_version,
            "kind": self.devices.resource.kind,
            "name": write.device.name(),
            "uid": &*write.uid,
            "controller": true,
            "blockOwnerDeletion": true,
        }]);
        object.metadata.owner_references =
            serde_json::from_value(owner).map_err(kube::Error::SerdeError)?;
        object.data = json!({ "spec": {} });
        match api.create(&PostParams::default(), &object).await {
            Ok(_) => Ok(()),
            Err(error) if is_code(&error, 409) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Deletes the status only if it belongs to the device that is gone.
    async fn delete_owned(
        &self,
        api: &Api<DynamicObject>,
        write: &Write,
    ) -> Result<(), kube::Error> {
        let object = api.get(write.device.name()).await?;
        let owners = object.metadata.owner_references.unwrap_or_default();
        if owners.iter().any(|owner| *owner.uid == *write.uid) {
            let same =
                kube::api::Preconditions { uid: object.metadata.uid, resource_version: None };
            let params = DeleteParams { preconditions: Some(same), ..DeleteParams::default() };
            api.delete(write.device.name(), &params).await?;
        }
        Ok(())
    }
}

fn revision(object: &DynamicObject) -> Option<Revision> {
    object.metadata.resource_version.as_deref().and_then(Revision::parse)
}

fn judge(write: &Write, error: &kube::Error) -> Outcome {
    let text = error.to_string();
    if [400, 413, 422].iter().any(|code| is_code(error, *code)) {
        tracing::warn!(device = %write.device, error = text, "status refused by the API");
        return Outcome::Rejected(text);
    }
    // A device that was deleted a moment ago: the watch will say so.
    if is_code(error, 404) {
        tracing::debug!(device = %write.device, "no object to write a status to");
    } else {
        tracing::warn!(device = %write.device, error = text, "status not written, trying again");
    }
    Outcome::Failed(text)
}
