//! `keadm reset cloud`: this cluster no longer has a cloudcore. Devices are the user's: they and their
//! definitions stay unless `--all`.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use k8s_openapi::api::core::v1::{Namespace, Node, Secret};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams};
use kube::{Api, ResourceExt as _};

use crate::files;
use crate::init::{CONFIG_FILE, KUBECONFIG_FILE, RECEIPT_FILE, rights};
use crate::kubernetes::{self, Cluster, MANAGED_BY, OWNER};
use crate::receipt::Receipt;
use crate::reset::confirm;
use crate::supervisor::SupervisorArgs;
use crate::systemd::CLOUDCORE_UNIT;
use crate::terminal::{Output, Steps};

/// What cloudcore keeps in its namespace.
const SECRETS: [&str; 4] = ["casecret", "cloudcoresecret", "tokensecret", rights::TOKEN_SECRET];
/// How a Node that cloudcore registered calls its kubelet.
const KUBELET_MARK: &str = "-kedge";

/// Takes back what init made in a cluster and on this machine.
#[derive(Args, Clone, Debug)]
pub struct CloudResetArgs {
    /// The cluster [default: $KUBECONFIG or ~/.kube/config]
    #[arg(long, value_name = "PATH")]
    kube_config: Option<PathBuf>,
    /// Where cloudcore keeps its Secrets.
    #[arg(long, default_value = "kubeedge")]
    namespace: String,
    /// cloudcore.yaml and its kubeconfig.
    #[arg(long, default_value = "/etc/kedge", value_name = "DIR")]
    config_dir: PathBuf,
    /// Also removes every Device, DeviceModel and DeviceStatus, with their definitions.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    supervisor: SupervisorArgs,
    /// Does not ask.
    #[arg(short, long)]
    force: bool,
    /// How to report.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Runs the command.
///
/// # Errors
/// See [`crate::exit`].
pub async fn run(args: &CloudResetArgs) -> anyhow::Result<()> {
    let cluster = kubernetes::connect(args.kube_config.as_deref()).await?;
    let devices = if args.all {
        "ALL DEVICES, their models and their status are removed too."
    } else {
        "Devices, models and their status stay."
    };
    confirm(
        args.force,
        &format!(
            "This removes cloudcore's CA, tokens and rights from {}: every node has to join again. \
             {devices}\nGo on?",
            cluster.server
        ),
    )?;
    let mut steps = Steps::new("reset", args.output);
    args.supervisor.uninstall(CLOUDCORE_UNIT, &mut steps)?;
    remove_nodes(&cluster, &mut steps).await?;
    remove_rights(&cluster, &args.namespace, &mut steps).await?;
    remove_secrets(&cluster, &args.namespace, &mut steps).await?;
    remove_namespace(&cluster, &args.namespace, &mut steps).await?;
    remove_definitions(&cluster, args.all, &mut steps).await?;
    remove_files(
        &std::path::absolute(&args.config_dir).context("resolving --config-dir")?,
        &mut steps,
    )?;
    if steps.lines().is_empty() {
        steps.say("nothing of Kedge was here");
    }
    steps.finish();
    Ok(())
}

/// Deletes an object; one that is not there, or whose kind is not served, counts as deleted before.
async fn delete<K>(api: &Api<K>, name: &str, what: &str, steps: &mut Steps) -> anyhow::Result<()>
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    match api.delete(name, &DeleteParams::background()).await {
        Ok(_) => {
            steps.done(format_args!("removed {what}"));
            Ok(())
        }
        Err(error) if kubernetes::status(&error) == Some(404) => Ok(()),
        Err(error) => Err(kubernetes::explain(error, &format!("removing {what}"))),
    }
}

/// The Nodes of gateways, which only cloudcore keeps alive, and their leases.
async fn remove_nodes(cluster: &Cluster, steps: &mut Steps) -> anyhow::Result<()> {
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let leases = dynamic(cluster, "coordination.k8s.io", "v1", "Lease", Some("kube-node-lease"));
    let list = nodes
        .list(&ListParams::default().labels("node-role.kubernetes.io/edge"))
        .await
        .map_err(|error| kubernetes::explain(error, "listing nodes"))?;
    for node in list {
        let info = node.status.as_ref().and_then(|status| status.node_info.as_ref());
        if !info.is_some_and(|info| info.kubelet_version.ends_with(KUBELET_MARK)) {
            continue;
        }
        let name = node.name_any();
        delete(&nodes, &name, &format!("Node {name}"), steps).await?;
        delete(&leases, &name, &format!("Lease kube-node-lease/{name}"), steps).await?;
    }
    Ok(())
}

async fn remove_rights(
    cluster: &Cluster,
    namespace: &str,
    steps: &mut Steps,
) -> anyhow::Result<()> {
    for object in rights::objects(namespace).iter().rev() {
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let (kind, name) = (text(&object["kind"]), text(&object["metadata"]["name"]));
        let api_version = text(&object["apiVersion"]);
        let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
        let place = object["metadata"]["namespace"].as_str();
        let api = dynamic(cluster, group, version, &kind, place);
        delete(&api, &name, &format!("{kind} {name}"), steps).await?;
    }
    Ok(())
}

async fn remove_secrets(
    cluster: &Cluster,
    namespace: &str,
    steps: &mut Steps,
) -> anyhow::Result<()> {
    let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), namespace);
    for name in SECRETS {
        delete(&secrets, name, &format!("Secret {namespace}/{name}"), steps).await?;
    }
    Ok(())
}

async fn remove_namespace(cluster: &Cluster, name: &str, steps: &mut Steps) -> anyhow::Result<()> {
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let doing = format!("reading namespace {name}");
    let found =
        namespaces.get_opt(name).await.map_err(|error| kubernetes::explain(error, &doing))?;
    let Some(found) = found else { return Ok(()) };
    if found.labels().get(MANAGED_BY).map(String::as_str) != Some(OWNER) {
        steps.done(format_args!("left namespace {name}: keadm did not make it"));
        return Ok(());
    }
    delete(&namespaces, name, &format!("Namespace {name}"), steps).await
}

/// A definition goes when nothing of its kind is left: removing it removes every object.
async fn remove_definitions(cluster: &Cluster, all: bool, steps: &mut Steps) -> anyhow::Result<()> {
    let definitions: Api<CustomResourceDefinition> = Api::all(cluster.client.clone());
    for definition in crds::manifests::all() {
        let name = definition.name_any();
        if !all {
            let version = definition.spec.versions.first().map_or("v1", |v| v.name.as_str());
            let kind = &definition.spec.names.kind;
            let api = dynamic(cluster, &definition.spec.group, version, kind, None);
            let count = match api.list(&ListParams::default().limit(1)).await {
                Ok(list) => list.items.len(),
                Err(error) if kubernetes::status(&error) == Some(404) => 0,
                Err(error) => return Err(kubernetes::explain(error, &format!("listing {kind}"))),
            };
            if count > 0 {
                steps.done(format_args!("left CRD {name}: it has objects (--all removes them)"));
                continue;
            }
        }
        delete(&definitions, &name, &format!("CRD {name}"), steps).await?;
    }
    Ok(())
}

fn remove_files(config_dir: &Path, steps: &mut Steps) -> anyhow::Result<()> {
    let receipt = Receipt::read(&config_dir.join(RECEIPT_FILE))?;
    let mut ours = receipt.files.clone();
    ours.extend([CONFIG_FILE, KUBECONFIG_FILE, RECEIPT_FILE].map(|name| config_dir.join(name)));
    for file in &ours {
        if files::remove_file(file)? {
            steps.done(format_args!("removed {}", file.display()));
        }
    }
    for dir in receipt.directories.iter().rev() {
        if files::remove_empty_dir(dir)? {
            steps.done(format_args!("removed {}", dir.display()));
        }
    }
    Ok(())
}

fn dynamic(
    cluster: &Cluster,
    group: &str,
    version: &str,
    kind: &str,
    namespace: Option<&str>,
) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    match namespace {
        Some(namespace) => Api::namespaced_with(cluster.client.clone(), namespace, &resource),
        None => Api::all_with(cluster.client.clone(), &resource),
    }
}
