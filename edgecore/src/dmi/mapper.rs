//! One mapper that we call: a kept connection to its socket, and one call at a time over it.
//!
//! The connection is our measure of a mapper's health, so this task owns it and says when it comes
//! and goes. A mapper that hangs keeps only its own task busy, and that for no longer than a call's
//! deadline.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use dmi_proto::v1beta1 as dmi;
use dmi_proto::v1beta1::device_mapper_service_client::DeviceMapperServiceClient;
use hub_proto::backoff::Backoff;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tonic::body::Body;
use tonic::{Code, Status};

use crate::fleet::{Call, CallOutcome};

/// As upstream has it; a Go mapper waits up to 3 s for a model, and drivers connect to devices.
const CALL_DEADLINE: Duration = Duration::from_secs(10);

/// A mapper registers before its own server listens, so the first attempts often fail.
const FIRST_DIAL: Duration = Duration::from_millis(100);
const LAST_DIAL: Duration = Duration::from_secs(2);

/// What a mapper's task tells the agent.
#[derive(Debug)]
pub struct MapperEvent {
    /// The mapper's name.
    pub name: String,
    /// The registration that the task was started for.
    pub generation: u64,
    /// What happened.
    pub what: MapperChange,
}

/// What happened to a mapper.
#[derive(Debug)]
pub enum MapperChange {
    /// Its connection is up.
    Up,
    /// Its connection is gone.
    Down(String),
    /// A call ended.
    Done(CallOutcome),
}

/// Keeps a connection to `address` and makes the calls that come in, until `calls` is closed.
pub async fn run(
    name: String,
    generation: u64,
    address: String,
    mut calls: mpsc::Receiver<Call>,
    events: mpsc::Sender<MapperEvent>,
) {
    let tell = async |what| {
        let event = MapperEvent { name: name.clone(), generation, what };
        events.send(event).await.is_ok()
    };
    let mut backoff = Backoff::new(FIRST_DIAL, LAST_DIAL, generation);
    loop {
        let (sender, connection) = match connect(&address).await {
            Ok(connected) => connected,
            Err(error) => {
                tracing::debug!(mapper = name, address, %error, "mapper does not listen");
                tokio::select! {
                    () = tokio::time::sleep(backoff.next_delay()) => {}
                    // Nothing is called while we are down; this only ends when we are let go.
                    call = calls.recv() => if call.is_none() { return },
                }
                continue;
            }
        };
        backoff.reset();
        // What was asked over the last connection is decided anew by the agent.
        while calls.try_recv().is_ok() {}
        if !tell(MapperChange::Up).await {
            return;
        }
        let mut client = DeviceMapperServiceClient::with_origin(
            Connected(sender),
            http::Uri::from_static("http://mapper"),
        );
        tokio::pin!(connection);
        let reason = loop {
            let call = tokio::select! {
                ended = &mut connection => break ended_because(ended),
                call = calls.recv() => call,
            };
            let Some(call) = call else { return };
            let outcome = tokio::select! {
                ended = &mut connection => break ended_because(ended),
                outcome = perform(&mut client, call) => outcome,
            };
            if !tell(MapperChange::Done(outcome)).await {
                return;
            }
        };
        if !tell(MapperChange::Down(reason)).await {
            return;
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

type Connection = http2::Connection<TokioIo<UnixStream>, Body, TokioExecutor>;

async fn connect(address: &str) -> Result<(http2::SendRequest<Body>, Connection), String> {
    let connecting = async {
        let stream = UnixStream::connect(address).await.map_err(|error| error.to_string())?;
        http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(64 * 1024)
            .initial_connection_window_size(128 * 1024)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())
    };
    let timed = tokio::time::timeout(CALL_DEADLINE, connecting).await;
    timed.unwrap_or_else(|_| Err("no answer".into()))
}

fn ended_because(ended: Result<(), hyper::Error>) -> String {
    match ended {
        Ok(()) => "the mapper closed it".into(),
        Err(error) => error.to_string(),
    }
}

async fn perform(client: &mut DeviceMapperServiceClient<Connected>, call: Call) -> CallOutcome {
    let removing = matches!(call, Call::RemoveDevice(_) | Call::RemoveModel(_));
    let answered = async {
        match call {
            Call::CreateModel(model) => {
                let request = dmi::CreateDeviceModelRequest { model: Some(model) };
                client.create_device_model(request).await.map(drop)
            }
            Call::UpdateModel(model) => {
                let request = dmi::UpdateDeviceModelRequest { model: Some(model) };
                client.update_device_model(request).await.map(drop)
            }
            Call::RemoveModel(key) => {
                let request = dmi::RemoveDeviceModelRequest {
                    model_name: key.name().to_owned(),
                    model_namespace: key.namespace().to_owned(),
                };
                client.remove_device_model(request).await.map(drop)
            }
            Call::RegisterDevice(device) => {
                let request = dmi::RegisterDeviceRequest { device: Some(device) };
                client.register_device(request).await.map(drop)
            }
            Call::UpdateDevice(device) => {
                let request = dmi::UpdateDeviceRequest { device: Some(device) };
                client.update_device(request).await.map(drop)
            }
            Call::RemoveDevice(id) => {
                let request = dmi::RemoveDeviceRequest {
                    device_name: id.name().to_owned(),
                    device_namespace: id.namespace().to_owned(),
                };
                client.remove_device(request).await.map(drop)
            }
        }
    };
    match tokio::time::timeout(CALL_DEADLINE, answered).await {
        Ok(Ok(())) => CallOutcome::Accepted,
        Ok(Err(status)) => outcome(&status, removing),
        Err(_) => CallOutcome::Unanswered(format!("no answer in {CALL_DEADLINE:?}")),
    }
}

fn outcome(status: &Status, removing: bool) -> CallOutcome {
    if status.code() == Code::Unimplemented {
        return CallOutcome::Unimplemented;
    }
    if removing && status.code() == Code::NotFound {
        return CallOutcome::Accepted; // gone is gone
    }
    let text: String = status.message().chars().take(300).collect();
    let reason = format!("{:?}: {text}", status.code());
    // What the library makes of a broken connection; a mapper's own answer has no source.
    let broken = std::error::Error::source(status).is_some();
    if broken { CallOutcome::Unanswered(reason) } else { CallOutcome::Refused(reason) }
}

/// Lets tonic's client use a connection whose end we watch ourselves.
struct Connected(http2::SendRequest<Body>);

impl tower::Service<http::Request<Body>> for Connected {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
