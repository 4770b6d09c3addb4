//! The CustomResourceDefinitions: applied, and waited for until the API server serves them.

use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt as _};

use crate::exit::{Exit, Failure};
use crate::kubernetes::{self, Cluster, OWNER};
use crate::terminal::Steps;

/// Applies every definition and waits until all are established.
///
/// # Errors
/// The API server refuses one, or does not serve it within `patience`.
pub async fn apply(cluster: &Cluster, patience: Duration, steps: &mut Steps) -> anyhow::Result<()> {
    let api: Api<CustomResourceDefinition> = Api::all(cluster.client.clone());
    let definitions = crds::manifests::all();
    for definition in &definitions {
        let name = definition.name_any();
        let before = api
            .get_opt(&name)
            .await
            .map_err(|error| kubernetes::explain(error, &format!("reading CRD {name}")))?;
        let after = api
            .patch(&name, &PatchParams::apply(OWNER).force(), &Patch::Apply(definition))
            .await
            .map_err(|error| kubernetes::explain(error, &format!("applying CRD {name}")))?;
        let word = match before {
            None => "created",
            Some(before) if before.metadata.generation == after.metadata.generation => "unchanged",
            Some(_) => "updated",
        };
        steps.done(format_args!("CRD {name}: {word}"));
    }
    let deadline = tokio::time::Instant::now() + patience;
    for definition in &definitions {
        wait_established(&api, &definition.name_any(), deadline, patience).await?;
    }
    steps.done("CRDs: established");
    Ok(())
}

async fn wait_established(
    api: &Api<CustomResourceDefinition>,
    name: &str,
    deadline: tokio::time::Instant,
    patience: Duration,
) -> anyhow::Result<()> {
    loop {
        let doing = format!("waiting for CRD {name} to be established");
        let found = api.get_opt(name).await.map_err(|error| kubernetes::explain(error, &doing))?;
        let Some(problem) = problem(found.as_ref()) else { return Ok(()) };
        if tokio::time::Instant::now() >= deadline {
            return Err(Failure::new(Exit::TimedOut, doing)
                .because(format!("after {} s: {problem}", patience.as_secs()))
                .next(format!("kubectl describe crd {name}"))
                .into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Why a definition is not served yet, if it is not.
fn problem(definition: Option<&CustomResourceDefinition>) -> Option<String> {
    let Some(definition) = definition else { return Some("it is not there".into()) };
    let conditions = definition.status.as_ref().and_then(|status| status.conditions.as_ref());
    let condition =
        |name: &str| conditions.into_iter().flatten().find(|condition| condition.type_ == name);
    if condition("Established").is_some_and(|established| established.status == "True") {
        return None;
    }
    let said = condition("NamesAccepted").and_then(|accepted| accepted.message.clone());
    Some(said.unwrap_or_else(|| "the API server has not established it".into()))
}
