//! The way up: one kept connection to edgecore, registration on it, reports over it.
//!
//! A connection is one registration. When it ends, for whatever reason, the next one starts with a
//! registration whose answer is the whole truth about our devices, and everything known is reported
//! again. The end is seen at once, without traffic: the socket is wrapped so that dropping it
//! (which HTTP/2 does at end of file) wakes the loop. There are no keep-alive pings: a Unix socket
//! has no half-open state, and a Go server answers frequent pings by closing the connection.

use std::{
    io,
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use dmi_proto::v1beta1::{
    self as dmi, device_manager_service_client::DeviceManagerServiceClient as Client,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
    sync::{oneshot, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tonic::{Code, Status, transport::Channel, transport::Endpoint};
use tracing::{debug, info, warn};

use crate::{
    backoff::Backoff,
    reports::{Report, Reports},
};

const CALL_DEADLINE: Duration = Duration::from_secs(10);
const DIAL_DEADLINE: Duration = Duration::from_secs(5);
const REDIAL_BASE: Duration = Duration::from_millis(100);
const REDIAL_CAP: Duration = Duration::from_secs(3);
const RESEND_BASE: Duration = Duration::from_millis(200);
const RESEND_CAP: Duration = Duration::from_secs(5);
/// An edge that lost a call to us is repaired by the next registration at the latest.
const REGISTER_AGAIN: Duration = Duration::from_secs(300);
/// How soon after a registration an answer that says "I do not know this" leads to another one.
const REGISTER_AFTER_DOUBT: Duration = Duration::from_secs(2);
/// A registration answer carries all devices of the node; far above gRPC's default of 4 MiB.
const MAX_ANSWER: usize = 64 << 20;
/// How long the last reports may take at shutdown.
const FLUSH: Duration = Duration::from_millis(500);

/// What the link needs from the runtime.
pub(crate) trait Registrar: Send + Sync + 'static {
    fn begin_registration(&self);
    fn registered(&self, models: Vec<dmi::DeviceModel>, devices: Vec<dmi::Device>);
}

/// Keeps a registration with edgecore until `stop`, then sends what is still owed.
pub(crate) async fn run(
    socket: &Path,
    info: dmi::MapperInfo,
    registrar: Arc<impl Registrar>,
    reports: Arc<Reports>,
    mut stop: watch::Receiver<bool>,
) {
    let mut backoff = Backoff::new(REDIAL_BASE, REDIAL_CAP, rand::random());
    let mut away = false;
    while !*stop.borrow() {
        let error = match dial(socket).await {
            Ok((channel, ended)) => {
                let client = Client::new(channel).max_decoding_message_size(MAX_ANSWER);
                let now = Instant::now();
                let mut session = Session {
                    client,
                    info: &info,
                    reports: &reports,
                    registered_at: now,
                    register_at: now,
                };
                match session.register(&*registrar).await {
                    Ok(()) => {
                        info!(socket = %socket.display(), "registered with edgecore");
                        backoff.reset();
                        away = false;
                        session.serve(&*registrar, ended, &mut stop).await
                    }
                    Err(status) => format!("registration refused: {}", status.message()),
                }
            }
            Err(error) => error.to_string(),
        };
        if *stop.borrow() {
            break;
        }
        let delay = backoff.next();
        if std::mem::replace(&mut away, true) {
            debug!(error, ?delay, "edgecore is still away");
        } else {
            warn!(error, socket = %socket.display(), "no connection to edgecore, trying again");
        }
        tokio::select! {
            () = sleep(delay) => {}
            _ = stop.changed() => {}
        }
    }
}

struct Session<'a> {
    client: Client<Channel>,
    info: &'a dmi::MapperInfo,
    reports: &'a Reports,
    registered_at: Instant,
    register_at: Instant,
}

impl Session<'_> {
    /// Moves the next registration forward to this long after the last one.
    fn register_in(&mut self, after: Duration) {
        self.register_at = self.register_at.min(self.registered_at + after);
    }

    async fn register(&mut self, registrar: &impl Registrar) -> Result<(), Status> {
        registrar.begin_registration();
        let request =
            dmi::MapperRegisterRequest { with_data: true, mapper: Some(self.info.clone()) };
        let answer = within(self.client.mapper_register(request)).await?;
        let (models, devices) = (answer.model_list, answer.device_list);
        debug!(models = models.len(), devices = devices.len(), "registration answered");
        registrar.registered(models, devices);
        self.reports.lock().owe_everything();
        self.registered_at = Instant::now();
        self.register_at = self.registered_at + REGISTER_AGAIN;
        Ok(())
    }

    /// Sends reports until the connection ends. Returns why it did.
    async fn serve(
        &mut self,
        registrar: &impl Registrar,
        mut ended: oneshot::Receiver<()>,
        stop: &mut watch::Receiver<bool>,
    ) -> String {
        let mut backoff = Backoff::new(RESEND_BASE, RESEND_CAP, rand::random());
        loop {
            let pause = match self.send_all().await {
                Ok(()) => {
                    backoff.reset();
                    None
                }
                Err(status) if status.code() == Code::Unavailable => return status.to_string(),
                Err(status) => {
                    let delay = backoff.next();
                    // An upstream edge takes one call a second; the newest value waits its turn.
                    debug!(%status, ?delay, "report not taken, trying again");
                    Some(Instant::now() + delay)
                }
            };
            tokio::select! {
                _ = &mut ended => return "edgecore closed the connection".to_owned(),
                _ = stop.changed() => {
                    drop(timeout(FLUSH, self.send_all()).await);
                    return "stopping".to_owned();
                }
                () = sleep_until(self.register_at) => {
                    if let Err(status) = self.register(registrar).await {
                        return format!("registration refused: {}", status.message());
                    }
                }
                () = async { match pause {
                    Some(at) => sleep_until(at).await,
                    None => self.reports.woken().await,
                } } => {}
            }
        }
    }

    /// Sends until nothing is owed, or until a call fails in a way that may pass.
    async fn send_all(&mut self) -> Result<(), Status> {
        loop {
            let Some(report) = self.reports.lock().take() else { return Ok(()) };
            let Err(status) = self.send(&report).await else { continue };
            let code = status.code();
            if matches!(code, Code::InvalidArgument | Code::Unimplemented) {
                // Nothing that trying again could change.
                warn!(id = %report.id(), %status, "edgecore refuses a report");
            } else if matches!(
                code,
                Code::NotFound | Code::FailedPrecondition | Code::Unauthenticated
            ) {
                // The device is not edgecore's, or we are not: ask for the truth.
                debug!(id = %report.id(), %status, "edgecore does not know this");
                self.register_in(REGISTER_AFTER_DOUBT);
            } else {
                self.reports.lock().put_back(&report);
                return Err(status);
            }
        }
    }

    async fn send(&mut self, report: &Report) -> Result<(), Status> {
        match report {
            Report::State { id, state } => {
                let request = dmi::ReportDeviceStatesRequest {
                    device_name: id.name().to_owned(),
                    device_namespace: id.namespace().to_owned(),
                    state: state.name().to_owned(),
                };
                within(self.client.report_device_states(request)).await.map(drop)
            }
            Report::Twins { id, twins } => {
                let status =
                    dmi::DeviceStatus { twins: twins.clone(), ..dmi::DeviceStatus::default() };
                let request = dmi::ReportDeviceStatusRequest {
                    device_name: id.name().to_owned(),
                    reported_device: Some(status),
                    device_namespace: id.namespace().to_owned(),
                };
                within(self.client.report_device_status(request)).await.map(drop)
            }
        }
    }
}

async fn within<T>(
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Status> {
    match timeout(CALL_DEADLINE, call).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded("edgecore did not answer")),
    }
}

/// Connects once. The receiver resolves when the connection is gone.
async fn dial(socket: &Path) -> Result<(Channel, oneshot::Receiver<()>), DialError> {
    let stream = UnixStream::connect(socket).await?;
    let (alive, ended) = oneshot::channel();
    let once = Mutex::new(Some(TokioIo::new(WatchedStream { stream, _alive: alive })));
    // The channel would silently connect again by itself; a new connection needs a registration.
    let connector = tower::service_fn(move |_| {
        let stream = once.lock().unwrap_or_else(PoisonError::into_inner).take();
        async move { stream.ok_or_else(|| io::Error::other("the connection to edgecore ended")) }
    });
    let endpoint = Endpoint::from_static("http://localhost");
    match timeout(DIAL_DEADLINE, endpoint.connect_with_connector(connector)).await {
        Ok(channel) => Ok((channel?, ended)),
        Err(_) => Err(DialError::Deadline),
    }
}

#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error("{0}")]
    Connect(#[from] io::Error),
    #[error("{0}")]
    Http2(#[from] tonic::transport::Error),
    #[error("edgecore did not answer")]
    Deadline,
}

/// A stream whose drop is noticed: the sender goes with it.
#[derive(Debug)]
struct WatchedStream {
    stream: UnixStream,
    _alive: oneshot::Sender<()>,
}

impl AsyncRead for WatchedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for WatchedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
