//! `boiler --listen 127.0.0.1:0`: a simulated Modbus TCP boiler. Prints one JSON object per line:
//! where it listens, then every write by a client and every change of its own.

use std::{io::Write as _, net::SocketAddr, process::ExitCode};

use clap::Parser;
use mapper_modbus::boiler::{Boiler, Simulator};
use tokio::signal::unix::{SignalKind, signal};

/// A simulated Modbus TCP boiler for demos and tests.
#[derive(Parser)]
#[command(name = "boiler", version)]
struct Arguments {
    /// Address to listen on; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("boiler: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let listener = tokio::net::TcpListener::bind(arguments.listen).await?;
    print(&serde_json::json!({ "listening": listener.local_addr()? }));
    let simulator = Simulator::start(listener, Boiler::default(), |event| print(&event))?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    simulator.stop().await;
    Ok(())
}

fn print(line: &impl serde::Serialize) {
    let mut out = std::io::stdout().lock();
    if let Ok(line) = serde_json::to_string(line) {
        // Whoever listened may be gone; the boiler goes on.
        drop(writeln!(out, "{line}").and_then(|()| out.flush()));
    }
}
