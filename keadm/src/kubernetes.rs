//! The cluster, as keadm needs it: a client from a kubeconfig, and errors sorted by what they mean.

use std::path::Path;
use std::time::Duration;

use kube::config::{AuthInfo, Cluster as ClusterEntry, KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::exit::{Exit, Failure};

/// Keeps an operator from waiting for a machine that is not there.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who writes, in `metadata.managedFields` and in labels.
pub const OWNER: &str = "keadm";
/// Marks objects that keadm made, so that `reset cloud` takes back only those.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// A cluster that answered.
pub struct Cluster {
    pub client: Client,
    /// Where it is, for messages.
    pub server: String,
    /// Its version, for messages.
    pub version: String,
    kubeconfig: Kubeconfig,
}

/// Connects with `kubeconfig`, or with `$KUBECONFIG` or `~/.kube/config` when there is none.
///
/// # Errors
/// [`Exit::Usage`] for a kubeconfig that cannot be used, [`Exit::Unreachable`] when nothing answers,
/// [`Exit::Refused`] when the credentials are not accepted.
pub async fn connect(kubeconfig: Option<&Path>) -> anyhow::Result<Cluster> {
    let (kubeconfig, named) = match kubeconfig {
        Some(path) => (Kubeconfig::read_from(path), path.display().to_string()),
        None => (Kubeconfig::read(), "from $KUBECONFIG or ~/.kube/config".to_owned()),
    };
    let unusable = |error: kube::config::KubeconfigError| {
        Failure::new(Exit::Usage, format!("reading the kubeconfig {named}"))
            .because(error)
            .next("name one: --kube-config PATH")
    };
    let kubeconfig = kubeconfig.map_err(unusable)?;
    let options = KubeConfigOptions::default();
    let mut config =
        Config::from_custom_kubeconfig(kubeconfig.clone(), &options).await.map_err(unusable)?;
    config.connect_timeout = Some(PATIENCE);
    let server = config.cluster_url.to_string();
    let client = Client::try_from(config).map_err(|error| {
        Failure::new(Exit::Usage, format!("using the kubeconfig {named}")).because(error)
    })?;
    let asking = format!("asking the cluster {server} for its version");
    let silent = || Failure::new(Exit::Unreachable, asking.clone());
    let version = match tokio::time::timeout(PATIENCE, client.apiserver_version()).await {
        Ok(Ok(version)) => version.git_version,
        Ok(Err(error)) => return Err(explain(error, &asking)),
        Err(_) => {
            return Err(silent()
                .because(format!("no answer within {} s", PATIENCE.as_secs()))
                .next("check that the API server runs: kubectl get --raw /readyz")
                .into());
        }
    };
    Ok(Cluster { client, server, version, kubeconfig })
}

impl Cluster {
    /// The entries of the current context, with files read into it, as a kubeconfig that stands alone.
    ///
    /// # Errors
    /// [`Exit::Usage`] when a file that the kubeconfig names cannot be read.
    pub fn standalone_kubeconfig(&self, token: Option<&str>) -> anyhow::Result<String> {
        let (cluster, user) = self.current();
        let mut cluster = cluster.cloned().unwrap_or_default();
        if let Some(file) = cluster.certificate_authority.take() {
            cluster.certificate_authority_data = Some(base64_of(&file)?);
        }
        let user = match token {
            Some(token) => serde_json::json!({ "token": token }),
            None => inline_user(user.cloned().unwrap_or_default())?,
        };
        let document = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "kedge",
            "clusters": [{ "name": "kedge", "cluster": cluster }],
            "users": [{ "name": "cloudcore", "user": user }],
            "contexts": [{ "name": "kedge", "context": { "cluster": "kedge", "user": "cloudcore" } }],
        });
        Ok(serde_yaml_ng::to_string(&document)?)
    }

    fn current(&self) -> (Option<&ClusterEntry>, Option<&AuthInfo>) {
        let context = self
            .kubeconfig
            .contexts
            .iter()
            .find(|context| Some(&context.name) == self.kubeconfig.current_context.as_ref())
            .and_then(|context| context.context.as_ref());
        let Some(context) = context else { return (None, None) };
        let cluster = self.kubeconfig.clusters.iter().find(|entry| entry.name == context.cluster);
        let user = self
            .kubeconfig
            .auth_infos
            .iter()
            .find(|entry| Some(&entry.name) == context.user.as_ref());
        (
            cluster.and_then(|entry| entry.cluster.as_ref()),
            user.and_then(|entry| entry.auth_info.as_ref()),
        )
    }
}

fn inline_user(mut user: AuthInfo) -> anyhow::Result<serde_json::Value> {
    if let Some(file) = user.client_certificate.take() {
        user.client_certificate_data = Some(base64_of(&file)?);
    }
    let key = user.client_key.take().map(|file| base64_of(&file)).transpose()?;
    let mut user = serde_json::to_value(user)?;
    if let Some(key) = key {
        user["client-key-data"] = key.into();
    }
    Ok(user)
}

fn base64_of(file: &str) -> anyhow::Result<String> {
    use base64::Engine as _;
    let bytes = std::fs::read(file).map_err(|error| {
        Failure::new(Exit::Usage, format!("reading {file}, which the kubeconfig names"))
            .because(error)
    })?;
    Ok(base64::engine::general_purpose::STANDARD.encode(bytes))
}

/// The HTTP status that the API server answered with, if it answered.
#[must_use]
pub fn status(error: &kube::Error) -> Option<u16> {
    if let kube::Error::Api(status) = error { Some(status.code) } else { None }
}

/// Sorts an error: no answer is [`Exit::Unreachable`], 401 and 403 are [`Exit::Refused`].
#[must_use]
pub fn explain(error: kube::Error, doing: &str) -> anyhow::Error {
    let failure = Failure::new(Exit::Failed, doing);
    if let kube::Error::Api(status) = &error {
        return refusal(status, doing).into();
    }
    if matches!(error, kube::Error::SerdeError(_)) {
        return failure.because(error).into();
    }
    Failure::new(Exit::Unreachable, doing)
        .because(error)
        .next("check that the API server runs: kubectl get --raw /readyz")
        .into()
}

fn refusal(status: &kube::core::Status, doing: &str) -> Failure {
    let said = format!("the API server said {}: {}", status.code, status.message);
    let exit = if matches!(status.code, 401 | 403) { Exit::Refused } else { Exit::Failed };
    let failure = Failure::new(exit, doing).because(said);
    match status.code {
        401 => failure.next("use a kubeconfig with valid credentials: --kube-config PATH"),
        403 => failure.next("use a kubeconfig whose user may do this (cluster-admin may)"),
        404 => failure.next("has the cluster been prepared? keadm init"),
        _ => failure,
    }
}
