//! `keadm join`: makes this machine a node. Validates first, then writes, then starts.

pub mod config;
pub mod endpoint;
pub mod probe;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;

use crate::exit::{Exit, Failure};
use crate::join::config::{Cloud, Dmi, EdgeConfig, Ops};
use crate::join::endpoint::Endpoint;
use crate::receipt::Receipt;
use crate::supervisor::{Supervisor, SupervisorArgs};
use crate::systemd::{self, EDGECORE_UNIT, Unit};
use crate::terminal::{Output, Steps};
use crate::token::Token;
use crate::{binaries, files, http};

/// The configuration file's name in the configuration directory.
pub const CONFIG_FILE: &str = "edgecore.yaml";
/// The token file's name in the configuration directory.
pub const TOKEN_FILE: &str = "token";
/// Where join notes what it made.
pub const RECEIPT_FILE: &str = "join.json";

/// Makes this machine a node: writes edgecore's configuration and token, and starts it.
#[derive(Args, Clone, Debug)]
pub struct JoinArgs {
    /// Where cloudcore's hub is.
    #[arg(short = 'e', long, value_name = "HOST:PORT")]
    pub cloudcore_ipport: Endpoint,
    /// The join token (keadm gettoken). Stays in the shell's history: prefer --token-file.
    #[arg(short, long, conflicts_with = "token_file", required_unless_present = "token_file")]
    pub token: Option<String>,
    /// A file that holds the join token; `-` reads it from stdin.
    #[arg(long, value_name = "PATH")]
    pub token_file: Option<PathBuf>,
    /// The node's name [default: this machine's host name]
    #[arg(short = 'i', long, value_name = "NAME")]
    pub edgenode_name: Option<String>,
    /// The port of cloudcore's enrolment service.
    #[arg(short = 's', long, default_value_t = 10002, value_name = "PORT")]
    pub certport: u16,
    #[command(flatten)]
    pub places: EdgePlaces,
    /// Where edgecore serves health and metrics.
    #[arg(long, default_value = "127.0.0.1:9092", value_name = "ADDR")]
    pub ops_listen: std::net::SocketAddr,
    #[command(flatten)]
    pub supervisor: SupervisorArgs,
    /// Prints the files instead of writing them; still checks the cloud.
    #[arg(short, long)]
    pub dry_run: bool,
    /// Seconds to wait for the node to be ready, when systemd runs it.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub timeout: u64,
    /// How to report.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Where a node keeps its files.
#[derive(Args, Clone, Debug)]
pub struct EdgePlaces {
    /// edgecore.yaml and the token.
    #[arg(long, default_value = "/etc/kedge", value_name = "DIR")]
    pub config_dir: PathBuf,
    /// The database and the node's key and certificates.
    #[arg(long, default_value = "/var/lib/kedge", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Sockets.
    #[arg(long, default_value = "/run/kedge", value_name = "DIR")]
    pub run_dir: PathBuf,
}

impl EdgePlaces {
    /// The same places as absolute paths: a unit has no working directory.
    ///
    /// # Errors
    /// The working directory is gone.
    pub fn absolute(&self) -> anyhow::Result<Self> {
        let absolute = |path: &Path| {
            std::path::absolute(path).with_context(|| format!("resolving {}", path.display()))
        };
        Ok(Self {
            config_dir: absolute(&self.config_dir)?,
            data_dir: absolute(&self.data_dir)?,
            run_dir: absolute(&self.run_dir)?,
        })
    }
}

/// Runs the command.
///
/// # Errors
/// See [`crate::exit`]; nothing is written before everything that can be checked has been.
pub async fn run(args: &JoinArgs) -> anyhow::Result<()> {
    let mut steps = Steps::new("join", args.output);
    let command_line = perform(args, &mut steps).await?;
    steps.fact("command_line", command_line);
    steps.finish();
    Ok(())
}

/// Joins, and returns the command line that runs the node.
///
/// # Errors
/// As [`run`].
pub async fn perform(args: &JoinArgs, steps: &mut Steps) -> anyhow::Result<Vec<String>> {
    args.supervisor.check()?;
    let places = args.places.absolute()?;
    let config = edge_config(args, &places)?;
    refuse_other_identity(&places, &config)?;
    let token = read_token(args)?;
    let edgecore = match binaries::find("edgecore") {
        Ok(path) => path,
        Err(_) if args.dry_run => "edgecore".into(),
        Err(error) => return Err(error),
    };
    steps.done(format_args!("node name {}, token: well formed", config.node_name));

    let found = probe::cloud(&args.cloudcore_ipport, args.certport, &token).await?;
    steps.done(format_args!("cloud {}: reachable, {found}", args.cloudcore_ipport));

    let unit = unit(&edgecore, &places, &config.node_name);
    let yaml = config.render()?;
    steps.fact("node", config.node_name.clone());
    if args.dry_run {
        show(&places, &yaml, args, &unit, steps);
        return Ok(unit.exec);
    }
    let changed = write_files(&places, &yaml, &token, steps)?;
    match args.supervisor.choice() {
        Supervisor::Systemd => {
            args.supervisor.install(EDGECORE_UNIT, &unit, changed, steps)?;
            wait_connected(args.ops_listen, Duration::from_secs(args.timeout)).await?;
            steps.done(format_args!("node {}: connected to the cloud", config.node_name));
            steps.say(format_args!("\nSee it: kubectl get node {}", config.node_name));
        }
        Supervisor::None => {
            steps.say("\nNobody supervises edgecore on this machine. Run it so:");
            steps.say(format_args!("  {}", unit.exec.join(" ")));
        }
    }
    Ok(unit.exec)
}

/// What edgecore is told.
fn edge_config(args: &JoinArgs, places: &EdgePlaces) -> anyhow::Result<EdgeConfig> {
    let node_name = match &args.edgenode_name {
        Some(name) => name.clone(),
        None => host_name()?,
    };
    config::check_node_name(&node_name).map_err(|problem| {
        Failure::new(Exit::Usage, format!("node name {node_name:?}"))
            .because(problem)
            .next("name it: --edgenode-name NAME")
    })?;
    Ok(EdgeConfig {
        node_name,
        cloud: Cloud {
            hub: args.cloudcore_ipport.to_string(),
            enrol: args.cloudcore_ipport.at(args.certport).to_string(),
            token_file: places.config_dir.join(TOKEN_FILE),
        },
        data_dir: places.data_dir.clone(),
        dmi: Dmi { socket: places.run_dir.join("dmi.sock") },
        ops: Ops { listen: args.ops_listen.to_string() },
        log: "info".into(),
    })
}

fn host_name() -> anyhow::Result<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .context("reading this machine's host name; name the node: --edgenode-name NAME")?;
    Ok(name.trim().to_lowercase())
}

/// A machine that is one node already does not become another by a second join.
fn refuse_other_identity(places: &EdgePlaces, config: &EdgeConfig) -> anyhow::Result<()> {
    let path = places.config_dir.join(CONFIG_FILE);
    let Ok(text) = std::fs::read_to_string(&path) else { return Ok(()) };
    let before: serde_json::Value = serde_yaml_ng::from_str(&text).unwrap_or_default();
    match before["nodeName"].as_str() {
        Some(name) if name != config.node_name => Err(Failure::new(
            Exit::NotClean,
            format!("this machine is node {name:?} already ({})", path.display()),
        )
        .next(format!("keadm reset --config-dir {}", places.config_dir.display()))
        .into()),
        _ => Ok(()),
    }
}

fn read_token(args: &JoinArgs) -> anyhow::Result<Token> {
    let text = match (&args.token, &args.token_file) {
        (Some(token), _) => token.clone(),
        (None, Some(path)) if path == Path::new("-") => {
            std::io::read_to_string(std::io::stdin()).context("reading the token from stdin")?
        }
        (None, Some(path)) => std::fs::read_to_string(path).map_err(|error| {
            Failure::new(Exit::Usage, format!("reading the token from {}", path.display()))
                .because(error)
        })?,
        (None, None) => String::new(),
    };
    let bad = |problem: anyhow::Error| {
        Failure::new(Exit::Usage, "checking the token")
            .because(problem)
            .next("get one on the cloud side: keadm gettoken")
    };
    let token = Token::parse(&text).map_err(bad)?;
    if token.is_expired(jiff::Timestamp::now()) {
        let ended = token.expires().map(|end| end.to_string()).unwrap_or_default();
        return Err(bad(anyhow::anyhow!(
            "it ended at {ended}, and it is {} by this machine's clock",
            jiff::Timestamp::now().round(jiff::Unit::Second)?
        ))
        .into());
    }
    Ok(token)
}

/// The service that runs edgecore.
fn unit(edgecore: &Path, places: &EdgePlaces, node: &str) -> Unit {
    let config = places.config_dir.join(CONFIG_FILE);
    let runtime_dir = systemd::runtime_dir(&places.run_dir);
    let mut writable = vec![places.data_dir.clone()];
    if runtime_dir.is_none() {
        writable.push(places.run_dir.clone());
    }
    Unit {
        description: format!("Kedge edge node {node}"),
        exec: vec![edgecore.display().to_string(), "--config".into(), config.display().to_string()],
        writable,
        runtime_dir,
        private_devices: true,
    }
}

fn show(places: &EdgePlaces, yaml: &str, args: &JoinArgs, unit: &Unit, steps: &Steps) {
    steps.say(format_args!(
        "\n--- {} (0600)\n{yaml}",
        places.config_dir.join(CONFIG_FILE).display()
    ));
    steps.say(format_args!(
        "--- {} (0600)\n<the token>",
        places.config_dir.join(TOKEN_FILE).display()
    ));
    if args.supervisor.choice() == Supervisor::Systemd {
        let path = args.supervisor.unit_dir.join(EDGECORE_UNIT);
        steps.say(format_args!("\n--- {}\n{unit}", path.display()));
    }
    steps.say("\nNothing was written (--dry-run).");
}

/// Writes what edgecore reads; says whether anything changed. The receipt comes first: a join that
/// dies half-way can be reset.
fn write_files(
    places: &EdgePlaces,
    yaml: &str,
    token: &Token,
    steps: &mut Steps,
) -> anyhow::Result<bool> {
    let receipt_path = places.config_dir.join(RECEIPT_FILE);
    let mut receipt = Receipt::read(&receipt_path)?;
    receipt.data_dir = Some(places.data_dir.clone());
    receipt.run_dir = Some(places.run_dir.clone());
    let (config, secret) =
        (places.config_dir.join(CONFIG_FILE), places.config_dir.join(TOKEN_FILE));
    receipt.make_dir(&places.config_dir, 0o755)?;
    receipt.make_dir(&places.data_dir, 0o700)?;
    receipt.make_dir(&places.run_dir, 0o750)?;
    receipt.files.extend([config.clone(), secret.clone(), receipt_path.clone()]);
    receipt.write(&receipt_path)?;
    let mut changed = false;
    for (path, content) in [(&config, yaml), (&secret, token.text())] {
        let written = receipt.write_file(path, content, 0o600)?;
        // A new token alone is no reason to restart a node that is enrolled.
        changed |= path == &config && written != files::Written::Unchanged;
        steps.done(format_args!("{}: {}", path.display(), written.word()));
    }
    Ok(changed)
}

/// Waits until edgecore has a session with the cloud. Its `/readyz` would not do: a node is ready
/// without its cloud, but a join is done only when the cloud has taken it.
async fn wait_connected(ops: std::net::SocketAddr, patience: Duration) -> anyhow::Result<()> {
    let address = ops.to_string();
    let mut last = "it does not answer".to_owned();
    let deadline = tokio::time::Instant::now() + patience;
    while tokio::time::Instant::now() < deadline {
        match http::get_plain(&address, "/status").await {
            Ok((_, body)) => {
                let status: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
                if status["link"]["connected"] == true {
                    return Ok(());
                }
                let error = status["link"]["lastError"].as_str().unwrap_or("no session yet");
                error.clone_into(&mut last);
            }
            Err(error) => last = format!("{error:#}"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Err(Failure::new(
        Exit::TimedOut,
        format!("waiting {} s for edgecore to connect to the cloud", patience.as_secs()),
    )
    .because(last)
    .next(format!("journalctl -u {EDGECORE_UNIT} -n 50"))
    .into())
}
