//! What mappers call: the socket, and the check of every request before the agent sees it.
//!
//! | answer | when |
//! |---|---|
//! | OK | the agent has taken what was sent |
//! | INVALID_ARGUMENT | a part is missing or wrong; the text names it. Values that fit are taken all the same |
//! | NOT_FOUND | the device is not on this node |
//! | RESOURCE_EXHAUSTED | the agent has too much to do; `retry-after-ms` says when to try again |
//! | UNAVAILABLE | edgecore is stopping |
//!
//! Registration is never refused for load: it waits for its turn.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use anyhow::Context;
use dmi_proto::authority::AnyAuthority;
use dmi_proto::v1beta1 as dmi;
use dmi_proto::v1beta1::device_manager_service_server::{
    DeviceManagerService, DeviceManagerServiceServer,
};
use hub_proto::id::DeviceId;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot, watch};
use tonic::{Request, Response, Status};

use crate::twin::Sample;

/// Requests that may wait for the agent. It takes thousands a second; a full queue means a flood.
pub const QUEUE: usize = 1024;

/// The largest request: a report of every property of a large device.
const MAX_REQUEST_BYTES: usize = 4 * 1024 * 1024;

/// Properties in one report. A device has 2048 at most.
const MAX_TWINS: usize = 4096;

/// Requests that one connection may have open.
const MAX_STREAMS: u32 = 256;

/// Names and versions are for people; addresses must fit a socket address.
const MAX_NAME_BYTES: usize = 253;
const MAX_ADDRESS_BYTES: usize = 107;

/// Namespace of mappers that were built before DMI had namespaces.
const DEFAULT_NAMESPACE: &str = "default";

/// Names that a report may go by for a device's state.
const STATES: [&str; 5] = ["online", "offline", "ok", "unhealthy", "unknown"];

/// A request that has passed its checks, with the way back.
#[derive(Debug)]
pub enum DmiRequest {
    /// `MapperRegister`
    Register {
        /// Who.
        mapper: MapperInfo,
        /// Whether the answer is to hold devices and models.
        with_data: bool,
        /// The way back.
        reply: oneshot::Sender<Result<dmi::MapperRegisterResponse, Status>>,
    },
    /// `ReportDeviceStatus`
    Report {
        /// Which device.
        device: DeviceId,
        /// Its values.
        twins: Vec<ReportedTwin>,
        /// The way back.
        reply: oneshot::Sender<Result<(), Status>>,
    },
    /// `ReportDeviceStates`
    State {
        /// Which device.
        device: DeviceId,
        /// One of the five words, in lower case.
        state: &'static str,
        /// The way back.
        reply: oneshot::Sender<Result<(), Status>>,
    },
}

/// A mapper as it introduces itself, checked.
#[derive(Clone, Debug)]
pub struct MapperInfo {
    /// The key.
    pub name: String,
    /// For people.
    pub version: String,
    /// The DMI version it speaks.
    pub api_version: String,
    /// The protocol it serves.
    pub protocol: String,
    /// Path of its socket; empty if it takes no calls.
    pub address: String,
}

/// One property in a report.
#[derive(Clone, Debug)]
pub struct ReportedTwin {
    /// The property.
    pub property: String,
    /// What the device said; without a time it is now.
    pub reported: Option<Timed>,
    /// The desired value the mapper works with.
    pub observed: Option<Timed>,
}

/// A value and the sample time that came with it, if one did.
#[derive(Clone, Debug)]
pub struct Timed {
    /// The value.
    pub value: String,
    /// Ms since the epoch.
    pub sampled_ms: Option<u64>,
}

impl Timed {
    /// The sample; a value that came without a time was sampled now.
    #[must_use]
    pub fn at(self, now_ms: u64) -> Sample {
        Sample { value: self.value, sampled_ms: self.sampled_ms.unwrap_or(now_ms) }
    }
}

/// Listens on `socket`: on a temporary name first, then renamed over whatever was there, so that the
/// path never leads to a socket that nobody listens on.
///
/// # Errors
/// The directory or socket cannot be made.
pub fn listen(socket: &Path) -> anyhow::Result<UnixListener> {
    if let Some(dir) = socket.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(dir)
            .with_context(|| format!("making the directory {}", dir.display()))?;
    }
    let mut temporary = socket.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("removing {}", temporary.display()));
        }
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&temporary)
        .with_context(|| format!("listening on {}", temporary.display()))?;
    fs::rename(&temporary, socket)
        .with_context(|| format!("moving the socket to {}", socket.display()))?;
    Ok(listener)
}

/// Serves until `stop`.
///
/// # Errors
/// The socket cannot be served any more.
pub async fn serve(
    listener: UnixListener,
    requests: mpsc::Sender<DmiRequest>,
    mut stop: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let service = DeviceManagerServiceServer::new(Manager { requests })
        .max_decoding_message_size(MAX_REQUEST_BYTES);
    tonic::transport::Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(64 * 1024)
        .initial_connection_window_size(256 * 1024)
        .add_service(service)
        .serve_with_incoming_shutdown(Incoming(listener), async {
            let _ = stop.wait_for(|stop| *stop).await;
        })
        .await
        .context("serving DMI")
}

/// Accepts for ever: a failed accept, as for want of file descriptors, is one connection less.
struct Incoming(UnixListener);

impl futures_util::Stream for Incoming {
    type Item = std::io::Result<AnyAuthority<UnixStream>>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Self::Item>> {
        self.0
            .poll_accept(cx)
            .map(|accepted| Some(accepted.map(|(stream, _)| AnyAuthority::new(stream))))
    }
}

struct Manager {
    requests: mpsc::Sender<DmiRequest>,
}

#[tonic::async_trait]
impl DeviceManagerService for Manager {
    async fn mapper_register(
        &self,
        request: Request<dmi::MapperRegisterRequest>,
    ) -> Result<Response<dmi::MapperRegisterResponse>, Status> {
        let request = request.into_inner();
        let mapper = mapper_info(request.mapper)?;
        let (reply, answer) = oneshot::channel();
        let register = DmiRequest::Register { mapper, with_data: request.with_data, reply };
        self.requests.send(register).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?.map(Response::new)
    }

    async fn report_device_status(
        &self,
        request: Request<dmi::ReportDeviceStatusRequest>,
    ) -> Result<Response<dmi::ReportDeviceStatusResponse>, Status> {
        let request = request.into_inner();
        let device = device_id(&request.device_namespace, &request.device_name)?;
        let reported = request
            .reported_device
            .ok_or_else(|| Status::invalid_argument("reportedDevice is missing"))?;
        if reported.twins.is_empty() {
            return Err(Status::invalid_argument("reportedDevice.twins is empty"));
        }
        if reported.twins.len() > MAX_TWINS {
            let text = format!("reportedDevice.twins has more than {MAX_TWINS} entries");
            return Err(Status::invalid_argument(text));
        }
        let twins = reported.twins.into_iter().map(reported_twin).collect::<Result<_, _>>()?;
        let (reply, answer) = oneshot::channel();
        self.hand_over(DmiRequest::Report { device, twins, reply })?;
        answer.await.map_err(|_| stopping())??;
        Ok(Response::new(dmi::ReportDeviceStatusResponse {}))
    }

    async fn report_device_states(
        &self,
        request: Request<dmi::ReportDeviceStatesRequest>,
    ) -> Result<Response<dmi::ReportDeviceStatesResponse>, Status> {
        let request = request.into_inner();
        let device = device_id(&request.device_namespace, &request.device_name)?;
        let state = state(&request.state)?;
        let (reply, answer) = oneshot::channel();
        self.hand_over(DmiRequest::State { device, state, reply })?;
        answer.await.map_err(|_| stopping())??;
        Ok(Response::new(dmi::ReportDeviceStatesResponse {}))
    }
}

impl Manager {
    fn hand_over(&self, request: DmiRequest) -> Result<(), Status> {
        self.requests.try_send(request).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => exhausted(),
            mpsc::error::TrySendError::Closed(_) => stopping(),
        })
    }
}

fn mapper_info(mapper: Option<dmi::MapperInfo>) -> Result<MapperInfo, Status> {
    let mapper = mapper.ok_or_else(|| Status::invalid_argument("mapper is missing"))?;
    for (field, text, required) in [
        ("mapper.name", &mapper.name, true),
        ("mapper.protocol", &mapper.protocol, true),
        ("mapper.version", &mapper.version, false),
        ("mapper.api_version", &mapper.api_version, false),
    ] {
        if required && text.is_empty() {
            return Err(Status::invalid_argument(format!("{field} is empty")));
        }
        if text.len() > MAX_NAME_BYTES {
            let text = format!("{field} is longer than {MAX_NAME_BYTES} bytes");
            return Err(Status::invalid_argument(text));
        }
    }
    let address = String::from_utf8(mapper.address)
        .map_err(|_| Status::invalid_argument("mapper.address is not UTF-8"))?;
    let path = address.strip_prefix("unix:").unwrap_or(&address);
    let path = path.strip_prefix("//").unwrap_or(path);
    if path.len() > MAX_ADDRESS_BYTES {
        let text = format!("mapper.address is longer than {MAX_ADDRESS_BYTES} bytes");
        return Err(Status::invalid_argument(text));
    }
    if !path.is_empty() && !path.starts_with('/') {
        return Err(Status::invalid_argument("mapper.address is not an absolute path"));
    }
    Ok(MapperInfo {
        address: path.to_owned(),
        name: mapper.name,
        version: mapper.version,
        api_version: mapper.api_version,
        protocol: mapper.protocol,
    })
}

fn device_id(namespace: &str, name: &str) -> Result<DeviceId, Status> {
    let namespace = if namespace.is_empty() { DEFAULT_NAMESPACE } else { namespace };
    DeviceId::new(namespace, name).map_err(|error| Status::invalid_argument(error.to_string()))
}

fn reported_twin(twin: dmi::Twin) -> Result<ReportedTwin, Status> {
    if twin.property_name.is_empty() {
        return Err(Status::invalid_argument("a twin has no propertyName"));
    }
    if twin.reported.is_none() && twin.observed_desired.is_none() {
        let text = format!(
            "property {:?} has neither reported nor observedDesired",
            short(&twin.property_name)
        );
        return Err(Status::invalid_argument(text));
    }
    Ok(ReportedTwin {
        property: twin.property_name,
        reported: twin.reported.map(timed),
        // Go mappers always fill this in; empty says that nothing is desired.
        observed: twin.observed_desired.map(timed).filter(|observed| !observed.value.is_empty()),
    })
}

fn timed(property: dmi::TwinProperty) -> Timed {
    let sampled_ms = property.metadata.get("timestamp").and_then(|text| text.parse().ok());
    Timed { value: property.value, sampled_ms: sampled_ms.filter(|ms| *ms > 0) }
}

fn state(text: &str) -> Result<&'static str, Status> {
    let lower = text.to_ascii_lowercase();
    // What the Go mapper library calls a lost device.
    if lower == "disconnected" {
        return Ok("offline");
    }
    STATES.into_iter().find(|state| *state == lower).ok_or_else(|| {
        Status::invalid_argument(format!(
            "state {:?} is none of {}",
            short(text),
            STATES.join(", ")
        ))
    })
}

fn short(text: &str) -> String {
    text.chars().take(128).collect()
}

fn stopping() -> Status {
    Status::unavailable("edgecore is stopping")
}

fn exhausted() -> Status {
    let wait = Duration::from_millis(100);
    let mut status = Status::resource_exhausted("too many reports at once; try again shortly");
    if let Ok(value) = wait.as_millis().to_string().parse() {
        status.metadata_mut().insert("retry-after-ms", value);
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info() -> dmi::MapperInfo {
        dmi::MapperInfo {
            name: "m".into(),
            protocol: "modbus".into(),
            address: b"/run/kedge/m.sock".to_vec(),
            ..dmi::MapperInfo::default()
        }
    }

    #[test]
    fn a_mapper_is_taken_as_go_mappers_introduce_themselves() {
        assert_eq!(mapper_info(Some(info())).unwrap().address, "/run/kedge/m.sock");
        let url = dmi::MapperInfo { address: b"unix:///a.sock".to_vec(), ..info() };
        assert_eq!(mapper_info(Some(url)).unwrap().address, "/a.sock");
        let deaf = dmi::MapperInfo { address: Vec::new(), ..info() };
        assert_eq!(mapper_info(Some(deaf)).unwrap().address, "");
    }

    #[test]
    fn a_mapper_without_what_it_needs_is_told_what() {
        for (mapper, expected) in [
            (None, "mapper is missing"),
            (Some(dmi::MapperInfo { name: String::new(), ..info() }), "mapper.name"),
            (Some(dmi::MapperInfo { protocol: String::new(), ..info() }), "mapper.protocol"),
            (Some(dmi::MapperInfo { version: "v".repeat(999), ..info() }), "mapper.version"),
            (Some(dmi::MapperInfo { address: vec![0xff], ..info() }), "UTF-8"),
            (Some(dmi::MapperInfo { address: b"rel.sock".to_vec(), ..info() }), "absolute"),
            (Some(dmi::MapperInfo { address: vec![b'/'; 200], ..info() }), "longer"),
        ] {
            let status = mapper_info(mapper).unwrap_err();
            assert_eq!(status.code(), tonic::Code::InvalidArgument);
            assert!(status.message().contains(expected), "{}", status.message());
        }
    }

    #[test]
    fn states_are_read_in_any_case_and_disconnected_is_offline() {
        for (text, expected) in [("ONLINE", "online"), ("ok", "ok"), ("disconnected", "offline")] {
            assert_eq!(state(text).unwrap(), expected);
        }
        assert!(state("").is_err() && state("great").is_err());
    }

    #[test]
    fn a_sample_time_that_is_no_time_is_now() {
        let property = |timestamp: &str| dmi::TwinProperty {
            value: "1".into(),
            metadata: [("timestamp".to_owned(), timestamp.to_owned())].into(),
        };
        assert_eq!(timed(property("1754463538000")).sampled_ms, Some(1_754_463_538_000));
        for bad in ["", "0", "-5", "soon"] {
            assert_eq!(timed(property(bad)).at(7).sampled_ms, 7, "{bad}");
        }
    }
}
