//! What cloudcore may do in a cluster, and no more. Every rule says which part of cloudcore needs it.

use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use serde_json::{Value, json};

use crate::exit::{Exit, Failure};
use crate::kubernetes::{self, Cluster, MANAGED_BY, OWNER};
use crate::terminal::Steps;

/// The name of every object here.
pub const NAME: &str = "kedge-cloudcore";
/// The Secret that holds the service account's token.
pub const TOKEN_SECRET: &str = "kedge-cloudcore-token";
/// Kubernetes keeps the nodes' leases there.
const LEASES_NAMESPACE: &str = "kube-node-lease";

/// Every object, in the order in which to apply.
#[must_use]
pub fn objects(namespace: &str) -> Vec<Value> {
    let rbac = "rbac.authorization.k8s.io/v1";
    let labels = json!({ MANAGED_BY: OWNER });
    let meta = |namespace: Option<&str>| match namespace {
        Some(namespace) => json!({ "name": NAME, "namespace": namespace, "labels": labels }),
        None => json!({ "name": NAME, "labels": labels }),
    };
    let subject = json!([{ "kind": "ServiceAccount", "name": NAME, "namespace": namespace }]);
    let role = |kind: &str, place: Option<&str>, rules: Value| json!({ "apiVersion": rbac, "kind": kind, "metadata": meta(place), "rules": rules });
    let binding = |kind: &str, role: &str, place: Option<&str>| {
        json!({
            "apiVersion": rbac, "kind": kind, "metadata": meta(place), "subjects": subject,
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": role, "name": NAME },
        })
    };
    vec![
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta(Some(namespace)) }),
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
            "metadata": {
                "name": TOKEN_SECRET, "namespace": namespace, "labels": labels,
                "annotations": { "kubernetes.io/service-account.name": NAME },
            },
        }),
        role("ClusterRole", None, cluster_rules()),
        binding("ClusterRoleBinding", "ClusterRole", None),
        role("Role", Some(namespace), own_namespace_rules()),
        binding("RoleBinding", "Role", Some(namespace)),
        role("Role", Some(LEASES_NAMESPACE), lease_rules()),
        binding("RoleBinding", "Role", Some(LEASES_NAMESPACE)),
    ]
}

fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> Value {
    json!({ "apiGroups": [group], "resources": resources, "verbs": verbs })
}

fn cluster_rules() -> Value {
    const DEVICES: &str = "devices.kubeedge.io";
    let all = ["get", "list", "watch", "create", "update", "patch", "delete"];
    json!([
        // watches: what is wanted.
        rule(DEVICES, &["devices", "devicemodels"], &["get", "list", "watch"]),
        // status: what was reported. The finalizers rule is for the owner reference of a DeviceStatus.
        rule(DEVICES, &["devices/status"], &["get", "update", "patch"]),
        rule(DEVICES, &["devices/finalizers"], &["update"]),
        rule(DEVICES, &["devicestatuses", "devicestatuses/status"], &all),
        // status, for upstream edges: what they have acked.
        rule(
            "reliablesyncs.kubeedge.io",
            &[
                "objectsyncs",
                "objectsyncs/status",
                "clusterobjectsyncs",
                "clusterobjectsyncs/status"
            ],
            &all,
        ),
        // nodes: every gateway has a Node.
        rule("", &["nodes"], &["get", "list", "watch", "create", "update", "patch"]),
        rule("", &["nodes/status"], &["get", "update", "patch"]),
        rule("", &["events"], &["create", "patch"]),
        rule("events.k8s.io", &["events"], &["create", "patch"]),
        // enrolment makes its namespace if it is missing.
        rule("", &["namespaces"], &["get", "create"]),
    ])
}

fn own_namespace_rules() -> Value {
    json!([
        // enrolment: the CA, the server certificate, the join token.
        rule("", &["secrets"], &["get", "list", "watch", "create", "update", "patch", "delete"]),
        // who of several replicas may write.
        rule("coordination.k8s.io", &["leases"], &["get", "create", "update", "patch"]),
    ])
}

fn lease_rules() -> Value {
    json!([
        // nodes: the heartbeat of a Node.
        rule(
            "coordination.k8s.io",
            &["leases"],
            &["get", "list", "watch", "create", "update", "patch", "delete"]
        ),
    ])
}

/// Applies the objects and returns cloudcore's token. A server that gives service accounts no tokens
/// gets none of them: nobody would use the roles, and cloudcore works with the kubeconfig at hand.
///
/// # Errors
/// The API server refuses an object, or never fills the token in.
pub async fn apply(
    cluster: &Cluster,
    namespace: &str,
    steps: &mut Steps,
) -> anyhow::Result<Option<String>> {
    if !has_service_accounts(cluster).await? {
        steps.done(
            "rights: this API server runs no service accounts; cloudcore gets the kubeconfig's own",
        );
        return Ok(None);
    }
    for object in objects(namespace) {
        let kind = object["kind"].as_str().unwrap_or_default().to_owned();
        let doing = format!("applying {kind} {NAME}");
        apply_one(cluster, object).await.map_err(|error| kubernetes::explain(error, &doing))?;
    }
    steps.done(format_args!("rights: ServiceAccount {namespace}/{NAME} and its roles applied"));
    wait_token(cluster, namespace).await.map(Some)
}

/// Whether the server gives service accounts tokens.
async fn has_service_accounts(cluster: &Cluster) -> anyhow::Result<bool> {
    let doing = "asking which core resources are served";
    let served = cluster.client.list_core_api_resources("v1").await;
    let served = served.map_err(|error| kubernetes::explain(error, doing))?;
    Ok(served.resources.iter().any(|resource| resource.name == "serviceaccounts/token"))
}

async fn apply_one(cluster: &Cluster, object: Value) -> Result<(), kube::Error> {
    let object: DynamicObject = serde_json::from_value(object).map_err(kube::Error::SerdeError)?;
    let types = object.types.clone().unwrap_or_default();
    let (group, version) =
        types.api_version.split_once('/').unwrap_or(("", types.api_version.as_str()));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &types.kind));
    let api: Api<DynamicObject> = match &object.metadata.namespace {
        Some(namespace) => Api::namespaced_with(cluster.client.clone(), namespace, &resource),
        None => Api::all_with(cluster.client.clone(), &resource),
    };
    let name = object.metadata.name.clone().unwrap_or_default();
    api.patch(&name, &PatchParams::apply(OWNER).force(), &Patch::Apply(&object)).await?;
    Ok(())
}

async fn wait_token(cluster: &Cluster, namespace: &str) -> anyhow::Result<String> {
    let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), namespace);
    let doing = format!("waiting for the token of ServiceAccount {namespace}/{NAME}");
    for _ in 0..100 {
        let secret =
            secrets.get(TOKEN_SECRET).await.map_err(|error| kubernetes::explain(error, &doing))?;
        if let Some(token) = secret.data.and_then(|mut data| data.remove("token")) {
            return Ok(String::from_utf8_lossy(&token.0).into_owned());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(Failure::new(Exit::TimedOut, doing)
        .because("10 s passed and the Secret has no token: does kube-controller-manager run?")
        .into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_rule_has_a_wildcard_and_devices_are_never_written() {
        for object in objects("kubeedge") {
            for rule in object["rules"].as_array().into_iter().flatten() {
                let text = rule.to_string();
                assert!(!text.contains('*'), "{text}");
                let resources = rule["resources"].as_array().unwrap();
                if resources.iter().any(|resource| resource == "devices") {
                    assert_eq!(rule["verbs"], json!(["get", "list", "watch"]));
                }
            }
        }
    }

    #[test]
    fn every_object_says_who_made_it() {
        for object in objects("kubeedge") {
            assert_eq!(object["metadata"]["labels"][MANAGED_BY], OWNER, "{object}");
        }
    }
}
