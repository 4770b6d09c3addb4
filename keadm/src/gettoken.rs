//! `keadm gettoken`: prints the join token, and nothing else, on stdout.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;

use crate::exit::{Exit, Failure};
use crate::kubernetes::{self, Cluster};
use crate::terminal::{self, Output};
use crate::token::Token;

/// The Secret in which cloudcore keeps the token, and its key.
const SECRET: &str = "tokensecret";
const KEY: &str = "tokendata";

/// Prints the join token.
#[derive(Args, Clone, Debug)]
pub struct GettokenArgs {
    /// The cluster [default: $KUBECONFIG or ~/.kube/config]
    #[arg(long, value_name = "PATH")]
    pub kube_config: Option<PathBuf>,
    /// Where cloudcore keeps its Secrets.
    #[arg(long, default_value = "kubeedge")]
    pub namespace: String,
    /// Seconds to wait for cloudcore to make one.
    #[arg(long, default_value_t = 10, value_name = "SECONDS")]
    pub timeout: u64,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Runs the command.
///
/// # Errors
/// [`Exit::TimedOut`] when there is no token; those of [`kubernetes::connect`].
pub async fn run(args: &GettokenArgs) -> anyhow::Result<()> {
    let cluster = kubernetes::connect(args.kube_config.as_deref()).await?;
    let token = fetch(&cluster, &args.namespace, Duration::from_secs(args.timeout)).await?;
    match args.output {
        Output::Text => terminal::line(token.text()),
        Output::Json => terminal::line(serde_json::json!({
            "token": token.text(),
            "expires": token.expires().map(|end| end.to_string()),
        })),
    }
    Ok(())
}

/// Waits for the token.
///
/// # Errors
/// As [`run`].
pub async fn fetch(
    cluster: &Cluster,
    namespace: &str,
    patience: Duration,
) -> anyhow::Result<Token> {
    let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), namespace);
    let doing = format!("reading the join token (Secret {namespace}/{SECRET}, key {KEY})");
    let deadline = tokio::time::Instant::now() + patience;
    loop {
        let found =
            secrets.get_opt(SECRET).await.map_err(|error| kubernetes::explain(error, &doing))?;
        let data = found.and_then(|secret| secret.data?.remove(KEY));
        if let Some(data) = data.filter(|data| !data.0.is_empty()) {
            let text = String::from_utf8_lossy(&data.0).into_owned();
            return Token::parse(&text).map_err(|problem| {
                Failure::new(Exit::Failed, doing.clone())
                    .because(problem)
                    .next(
                        "is another program's Secret there? cloudcore writes its own anew at start",
                    )
                    .into()
            });
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(Failure::new(Exit::TimedOut, doing)
                .because(format!("not there after {} s", patience.as_secs()))
                .next("start cloudcore against this cluster; it makes the token at start")
                .into());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
