//! The command line, logging, and the signals that stop the process.

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser};
use tracing_subscriber::EnvFilter;

/// A Kubernetes API for one machine: objects in SQLite, served over TLS.
#[derive(Debug, Clone, Parser)]
#[command(name = "apiserver", version)]
pub struct Config {
    /// Directory for the database and the keys; made on first start.
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,

    /// Address to serve on; port 0 picks a free one (see the kubeconfig).
    #[arg(long, default_value = "127.0.0.1:6443", value_name = "ADDR")]
    pub listen: SocketAddr,

    /// Where to write the administrator's kubeconfig once the server listens
    /// [default: DIR/admin.kubeconfig].
    #[arg(long, value_name = "PATH")]
    pub kubeconfig: Option<PathBuf>,

    /// How long changes stay replayable for watches, in seconds (60 to 86400).
    #[arg(long, default_value_t = 600, value_name = "SECONDS",
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub history: u64,

    #[command(flatten)]
    pub log: Log,
}

impl Config {
    /// A configuration for tests and embedding: everything in `data_dir`, on a free loopback port.
    pub fn in_dir(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            kubeconfig: None,
            history: 600,
            log: Log { log: "info".into() },
        }
    }

    pub fn kubeconfig_path(&self) -> PathBuf {
        self.kubeconfig.clone().unwrap_or_else(|| self.data_dir.join("admin.kubeconfig"))
    }

    pub fn history(&self) -> Duration {
        Duration::from_secs(self.history)
    }
}

/// What is logged.
#[derive(Debug, Clone, Args)]
pub struct Log {
    /// Log filter: error, warn, info, debug, trace, or `module=level,...`.
    #[arg(long, default_value = "info", value_name = "FILTER")]
    pub log: String,
}

impl Log {
    /// Sends the log to stderr. A second call (tests) changes nothing.
    pub fn install(&self) {
        let filter = EnvFilter::try_new(&self.log).unwrap_or_else(|_| EnvFilter::new("info"));
        let installed = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(std::io::stderr().is_terminal())
            .with_writer(std::io::stderr)
            .try_init();
        drop(installed);
    }
}

/// Completes on SIGTERM or SIGINT.
pub async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("cannot listen for signals; stop the process with SIGKILL");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}
