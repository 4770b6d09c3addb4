//! `keadm init`: prepares a cluster for Kedge and this machine to run cloudcore. Every step can be
//! repeated: it applies what should be, whatever was there.

pub mod config;
pub mod definitions;
pub mod rights;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::exit::{Exit, Failure};
use crate::init::config::{CloudConfig, Enrol};
use crate::kubernetes::{self, Cluster, MANAGED_BY, OWNER};
use crate::receipt::Receipt;
use crate::supervisor::{Supervisor, SupervisorArgs};
use crate::systemd::{CLOUDCORE_UNIT, Unit};
use crate::terminal::{Output, Steps};
use crate::{binaries, files, http};

/// The configuration file's name in the configuration directory.
pub const CONFIG_FILE: &str = "cloudcore.yaml";
/// cloudcore's credentials for the cluster, beside it.
pub const KUBECONFIG_FILE: &str = "cloudcore.kubeconfig";
/// Where init notes what it made.
pub const RECEIPT_FILE: &str = "init.json";

/// Prepares a cluster (definitions, namespace, rights) and this machine (cloudcore).
#[derive(Args, Clone, Debug)]
pub struct InitArgs {
    /// The cluster [default: $KUBECONFIG or ~/.kube/config]
    #[arg(long, value_name = "PATH")]
    pub kube_config: Option<PathBuf>,
    /// The names and addresses under which nodes reach this machine.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "127.0.0.1")]
    pub advertise_address: Vec<String>,
    /// cloudcore.yaml and its kubeconfig.
    #[arg(long, default_value = "/etc/kedge", value_name = "DIR")]
    pub config_dir: PathBuf,
    /// What cloudcore may write on this machine. It keeps its state in the cluster.
    #[arg(long, default_value = "/var/lib/kedge-cloud", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Where cloudcore keeps its Secrets.
    #[arg(long, default_value = "kubeedge")]
    pub namespace: String,
    #[command(flatten)]
    pub supervisor: SupervisorArgs,
    /// Prints objects and files instead of applying and writing them.
    #[arg(short, long)]
    pub dry_run: bool,
    /// Seconds to wait for definitions to be served, and for cloudcore to be ready.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub timeout: u64,
    /// How to report.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Runs the command.
///
/// # Errors
/// See [`crate::exit`].
pub async fn run(args: &InitArgs) -> anyhow::Result<()> {
    let mut steps = Steps::new("init", args.output);
    args.supervisor.check()?;
    let config_dir = std::path::absolute(&args.config_dir).context("resolving --config-dir")?;
    let config = CloudConfig {
        kubeconfig: config_dir.join(KUBECONFIG_FILE),
        namespace: args.namespace.clone(),
        enrol: Enrol::advertising(args.advertise_address.clone())?,
        hub: None,
        ops: None,
    };
    let yaml = config.render()?;
    if args.dry_run {
        return dry_run(args, &config_dir, &yaml, steps);
    }
    let patience = Duration::from_secs(args.timeout);
    let cluster = kubernetes::connect(args.kube_config.as_deref()).await?;
    steps.done(format_args!("cluster {}: {}", cluster.server, cluster.version));
    prepare(&cluster, &args.namespace, patience, &mut steps).await?;
    let token = rights::apply(&cluster, &args.namespace, &mut steps).await?;

    let kubeconfig = cluster.standalone_kubeconfig(token.as_deref())?;
    let changed = write_files(&config_dir, args, &yaml, &kubeconfig, &mut steps)?;
    let unit = unit(args, &config_dir)?;
    match args.supervisor.choice() {
        Supervisor::Systemd => {
            args.supervisor.install(CLOUDCORE_UNIT, &unit, changed, &mut steps)?;
            wait_ready(patience).await?;
            steps.done("cloudcore: ready");
            steps.say("\nLet nodes in: keadm gettoken, then on each node keadm join");
        }
        Supervisor::None => {
            steps.say("\nNobody supervises cloudcore on this machine. Run it so:");
            steps.say(format_args!("  {}", unit.exec.join(" ")));
            steps.say("Then let nodes in: keadm gettoken, and on each node keadm join");
        }
    }
    steps.fact("command_line", unit.exec.clone());
    steps.fact("cluster", cluster.server.clone());
    steps.finish();
    Ok(())
}

/// What the cluster needs whoever runs cloudcore: definitions and the namespace.
///
/// # Errors
/// The API server does not take them, or does not serve them in time.
pub async fn prepare(
    cluster: &Cluster,
    namespace: &str,
    patience: Duration,
    steps: &mut Steps,
) -> anyhow::Result<()> {
    definitions::apply(cluster, patience, steps).await?;
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let doing = format!("creating namespace {namespace}");
    let there =
        namespaces.get_opt(namespace).await.map_err(|error| kubernetes::explain(error, &doing))?;
    if there.is_some() {
        steps.done(format_args!("namespace {namespace}: there already"));
        return Ok(());
    }
    namespaces
        .patch(
            namespace,
            &PatchParams::apply(OWNER).force(),
            &Patch::Apply(&the_namespace(namespace)),
        )
        .await
        .map_err(|error| kubernetes::explain(error, &doing))?;
    steps.done(format_args!("namespace {namespace}: created"));
    Ok(())
}

/// Marked as ours: `reset cloud` leaves a namespace that somebody else made.
fn the_namespace(name: &str) -> serde_json::Value {
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": { "name": name, "labels": { MANAGED_BY: OWNER } },
    })
}

fn unit(args: &InitArgs, config_dir: &Path) -> anyhow::Result<Unit> {
    let cloudcore = match binaries::find("cloudcore") {
        Ok(path) => path,
        Err(_) if args.dry_run => "cloudcore".into(),
        Err(error) => return Err(error),
    };
    Ok(Unit {
        description: "Kedge cloudcore".into(),
        exec: vec![
            cloudcore.display().to_string(),
            "--config".into(),
            config_dir.join(CONFIG_FILE).display().to_string(),
        ],
        writable: vec![std::path::absolute(&args.data_dir).context("resolving --data-dir")?],
        runtime_dir: None,
        private_devices: true,
    })
}

fn dry_run(args: &InitArgs, config_dir: &Path, yaml: &str, steps: Steps) -> anyhow::Result<()> {
    let mut objects =
        crds::manifests::all().iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>()?;
    objects.push(the_namespace(&args.namespace));
    objects.extend(rights::objects(&args.namespace));
    for object in &objects {
        steps.say(format_args!("---\n{}", serde_yaml_ng::to_string(object)?.trim_end()));
    }
    steps.say(format_args!("\n--- {} (0600)\n{yaml}", config_dir.join(CONFIG_FILE).display()));
    if args.supervisor.choice() == Supervisor::Systemd {
        let path = args.supervisor.unit_dir.join(CLOUDCORE_UNIT);
        steps.say(format_args!("--- {}\n{}", path.display(), unit(args, config_dir)?));
    }
    steps.say("Nothing was applied or written (--dry-run).");
    steps.finish();
    Ok(())
}

fn write_files(
    config_dir: &Path,
    args: &InitArgs,
    yaml: &str,
    kubeconfig: &str,
    steps: &mut Steps,
) -> anyhow::Result<bool> {
    let receipt_path = config_dir.join(RECEIPT_FILE);
    let mut receipt = Receipt::read(&receipt_path)?;
    let data_dir = std::path::absolute(&args.data_dir).context("resolving --data-dir")?;
    let (config, secret) = (config_dir.join(CONFIG_FILE), config_dir.join(KUBECONFIG_FILE));
    receipt.make_dir(config_dir, 0o755)?;
    receipt.make_dir(&data_dir, 0o700)?;
    receipt.data_dir = Some(data_dir);
    receipt.files.extend([config.clone(), secret.clone(), receipt_path.clone()]);
    receipt.write(&receipt_path)?;
    let mut changed = false;
    for (path, content) in [(&config, yaml), (&secret, kubeconfig)] {
        let written = receipt.write_file(path, content, 0o600)?;
        changed |= written != files::Written::Unchanged;
        steps.done(format_args!("{}: {}", path.display(), written.word()));
    }
    Ok(changed)
}

async fn wait_ready(patience: Duration) -> anyhow::Result<()> {
    let deadline = tokio::time::Instant::now() + patience;
    let mut last = "it does not answer".to_owned();
    while tokio::time::Instant::now() < deadline {
        match http::get_plain(config::OPS_LISTEN, "/readyz").await {
            Ok((200, _)) => return Ok(()),
            Ok((status, body)) => {
                last = format!("it says {status}: {}", String::from_utf8_lossy(&body).trim());
            }
            Err(error) => last = format!("{error:#}"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let doing = format!("waiting {} s for cloudcore at {}", patience.as_secs(), config::OPS_LISTEN);
    Err(Failure::new(Exit::TimedOut, doing)
        .because(last)
        .next(format!("journalctl -u {CLOUDCORE_UNIT} -n 50"))
        .into())
}
