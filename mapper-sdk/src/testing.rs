//! For tests of mappers: [`FakeEdge`], an edgecore in the test's own process, and short builders for
//! the messages it hands out. Feature `testing`.
//!
//! Everything here panics with a message when it cannot do its work, as a test wants it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use dmi_proto::v1beta1::{
    self as dmi,
    device_manager_service_server::{DeviceManagerService, DeviceManagerServiceServer},
    device_mapper_service_client::DeviceMapperServiceClient,
};
use serde_json::Value as Json;
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{
    Code, Request, Response, Status,
    transport::{Channel, Endpoint},
};

use crate::{
    config::{Common, Config, GrpcServer},
    driver::Driver,
    mapper::{Mapper, RunError},
    socket,
};

/// How long [`FakeEdge::until`] waits before it gives up.
const PATIENCE: Duration = Duration::from_secs(15);

/// A model from rows of (name, type, access mode, minimum, maximum), namespace `default`.
#[must_use]
pub fn model(name: &str, properties: &[(&str, &str, &str, &str, &str)]) -> dmi::DeviceModel {
    let properties =
        properties.iter().map(|(name, data_type, access, minimum, maximum)| dmi::ModelProperty {
            name: (*name).to_owned(),
            r#type: (*data_type).to_owned(),
            access_mode: (*access).to_owned(),
            minimum: (*minimum).to_owned(),
            maximum: (*maximum).to_owned(),
            ..dmi::ModelProperty::default()
        });
    dmi::DeviceModel {
        name: name.to_owned(),
        namespace: "default".to_owned(),
        spec: Some(dmi::DeviceModelSpec { properties: properties.collect(), commands: vec![] }),
    }
}

/// A device without properties, namespace `default`.
#[must_use]
pub fn device(name: &str, model: &str, protocol: &str, config: &Json) -> dmi::Device {
    dmi::Device {
        name: name.to_owned(),
        namespace: "default".to_owned(),
        spec: Some(dmi::DeviceSpec {
            device_model_reference: model.to_owned(),
            protocol: Some(dmi::ProtocolConfig {
                protocol_name: protocol.to_owned(),
                config_data: Some(custom(config)),
            }),
            ..dmi::DeviceSpec::default()
        }),
        status: None,
    }
}

/// A property that reports to the cloud. `cycle_ms` 0 is the default cycle of a second.
#[must_use]
pub fn property(
    name: &str,
    desired: Option<&str>,
    cycle_ms: i64,
    visitor: &Json,
) -> dmi::DeviceProperty {
    dmi::DeviceProperty {
        name: name.to_owned(),
        // edgecore always sends this part, empty or not.
        desired: Some(dmi::TwinProperty {
            value: desired.unwrap_or_default().to_owned(),
            ..dmi::TwinProperty::default()
        }),
        visitors: Some(dmi::VisitorConfig {
            protocol_name: String::new(),
            config_data: Some(custom(visitor)),
        }),
        collect_cycle: cycle_ms,
        report_to_cloud: true,
        ..dmi::DeviceProperty::default()
    }
}

/// Adds properties to a device.
#[must_use]
pub fn with(mut device: dmi::Device, properties: Vec<dmi::DeviceProperty>) -> dmi::Device {
    device.spec.get_or_insert_default().properties = properties;
    device
}

fn custom(json: &Json) -> dmi::CustomizedValue {
    let map = json.as_object().expect("configuration must be a JSON object");
    let data = dmi_proto::value::encode_map(map).expect("configuration must be encodable");
    dmi::CustomizedValue { data }
}

/// What a [`FakeEdge`] was told.
#[derive(Debug, Clone, Default)]
pub struct Record {
    /// Every registration, in order.
    pub registrations: Vec<dmi::MapperRegisterRequest>,
    /// Every twin, in order, with the name of its device.
    pub twins: Vec<(String, dmi::Twin)>,
    /// Every state, in order, with the name of its device.
    pub states: Vec<(String, String)>,
    /// Number of calls that carried twins.
    pub twin_calls: usize,
    /// Number of reports that were refused, see [`FakeEdge::refuse_reports`].
    pub refused: usize,
}

impl Record {
    /// The last twin of a property.
    #[must_use]
    pub fn twin(&self, device: &str, property: &str) -> Option<&dmi::Twin> {
        let mut twins = self.twins.iter().rev();
        twins.find(|(d, twin)| d == device && twin.property_name == property).map(|(_, twin)| twin)
    }

    /// The last reported value of a property.
    #[must_use]
    pub fn value(&self, device: &str, property: &str) -> Option<&str> {
        Some(self.twin(device, property)?.reported.as_ref()?.value.as_str())
    }

    /// A metadata entry of the last observed desired value, for example `state` or `reason`.
    #[must_use]
    pub fn desired_metadata(&self, device: &str, property: &str, key: &str) -> Option<&str> {
        let twin = self.twin(device, property)?;
        twin.observed_desired.as_ref()?.metadata.get(key).map(String::as_str)
    }

    /// The last state of a device.
    #[must_use]
    pub fn state(&self, device: &str) -> Option<&str> {
        self.states.iter().rev().find(|(d, _)| d == device).map(|(_, state)| state.as_str())
    }
}

/// What edgecore knows: handed out at registration.
#[derive(Debug, Clone, Default)]
struct Known {
    models: BTreeMap<String, dmi::DeviceModel>,
    devices: BTreeMap<String, dmi::Device>,
}

/// An edgecore for tests: serves `DeviceManagerService` on a socket, records what it is told, and
/// calls the mapper that registered.
#[derive(Debug)]
pub struct FakeEdge {
    socket: PathBuf,
    record: watch::Sender<Record>,
    known: watch::Sender<Known>,
    refusal: watch::Sender<Option<Code>>,
    server: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl FakeEdge {
    /// Starts serving on a socket in `directory`.
    #[must_use]
    pub fn start(directory: &Path) -> Self {
        let mut edge = Self::absent(directory);
        edge.appear();
        edge
    }

    /// An edgecore that is not there yet; [`FakeEdge::appear`] starts it.
    #[must_use]
    pub fn absent(directory: &Path) -> Self {
        Self {
            socket: directory.join("dmi.sock"),
            record: watch::Sender::default(),
            known: watch::Sender::default(),
            refusal: watch::Sender::default(),
            server: None,
        }
    }

    /// A configuration for a mapper that talks to this edgecore.
    #[must_use]
    pub fn config(&self, protocol: &str) -> Config {
        Config {
            grpc_server: GrpcServer { socket_path: self.socket.with_file_name("mapper.sock") },
            common: Common {
                name: format!("{protocol}-mapper"),
                version: "v0".to_owned(),
                api_version: "v1".to_owned(),
                protocol: protocol.to_owned(),
                address: String::new(),
                edgecore_sock: self.socket.clone(),
                http_port: None,
            },
            log: "info".to_owned(),
        }
    }

    /// Starts serving. What was recorded and what is known stays.
    pub fn appear(&mut self) {
        let (listener, file) = socket::bind(&self.socket).expect("cannot bind the fake edge");
        let (stop, stopped) = oneshot::channel::<()>();
        let (record, known) = (self.record.clone(), self.known.clone());
        let refusal = self.refusal.clone();
        let service = DeviceManagerServiceServer::new(Service { record, known, refusal });
        let server = tokio::spawn(async move {
            let _file = file;
            tonic::transport::Server::builder()
                .serve_with_incoming_shutdown(service, UnixListenerStream::new(listener), async {
                    drop(stopped.await);
                })
                .await
                .expect("the fake edge failed");
        });
        self.server = Some((stop, server));
    }

    /// Goes away: connections end, the socket disappears.
    pub async fn vanish(&mut self) {
        if let Some((stop, server)) = self.server.take() {
            drop(stop);
            server.await.expect("the fake edge panicked");
        }
    }

    /// Adds to what the next registration is answered with. Calls nobody.
    pub fn know_model(&self, model: dmi::DeviceModel) {
        self.known.send_modify(|known| drop(known.models.insert(model.name.clone(), model)));
    }

    /// Adds to what the next registration is answered with. Calls nobody.
    pub fn know_device(&self, device: dmi::Device) {
        self.known.send_modify(|known| drop(known.devices.insert(device.name.clone(), device)));
    }

    /// Takes a device out of the next registration's answer. Calls nobody.
    pub fn forget_device(&self, name: &str) {
        self.known.send_modify(|known| drop(known.devices.remove(name)));
    }

    /// Answers every report with this code from now on; `None` takes them again.
    pub fn refuse_reports(&self, code: Option<Code>) {
        self.refusal.send_replace(code);
    }

    /// Knows the model and calls CreateDeviceModel.
    pub async fn create_model(&self, model: dmi::DeviceModel) {
        self.know_model(model.clone());
        let request = dmi::CreateDeviceModelRequest { model: Some(model) };
        self.mapper().await.create_device_model(request).await.expect("CreateDeviceModel");
    }

    /// Knows the device and calls RegisterDevice.
    ///
    /// # Errors
    /// What the mapper answered.
    pub async fn register_device(&self, device: dmi::Device) -> Result<(), Status> {
        self.know_device(device.clone());
        let request = dmi::RegisterDeviceRequest { device: Some(device) };
        self.mapper().await.register_device(request).await.map(drop)
    }

    /// Knows the device and calls UpdateDevice.
    ///
    /// # Errors
    /// What the mapper answered.
    pub async fn update_device(&self, device: dmi::Device) -> Result<(), Status> {
        self.know_device(device.clone());
        let request = dmi::UpdateDeviceRequest { device: Some(device) };
        self.mapper().await.update_device(request).await.map(drop)
    }

    /// Forgets the device and calls RemoveDevice.
    ///
    /// # Errors
    /// What the mapper answered.
    pub async fn remove_device(&self, name: &str) -> Result<(), Status> {
        self.forget_device(name);
        let request = dmi::RemoveDeviceRequest {
            device_name: name.to_owned(),
            device_namespace: "default".to_owned(),
        };
        self.mapper().await.remove_device(request).await.map(drop)
    }

    /// Calls GetDevice.
    ///
    /// # Errors
    /// What the mapper answered.
    pub async fn get_device(&self, name: &str) -> Result<dmi::Device, Status> {
        let request = dmi::GetDeviceRequest {
            device_name: name.to_owned(),
            device_namespace: "default".to_owned(),
        };
        let answer = self.mapper().await.get_device(request).await?;
        answer.into_inner().device.ok_or_else(|| Status::internal("no device in the answer"))
    }

    /// A client of the mapper that registered last, at the address it gave.
    pub async fn mapper(&self) -> DeviceMapperServiceClient<Channel> {
        self.until("a registration", |record| !record.registrations.is_empty()).await;
        let address = self.record.borrow().registrations.last().and_then(|registration| {
            let address = &registration.mapper.as_ref()?.address;
            String::from_utf8(address.clone()).ok()
        });
        let address = address.expect("the mapper gave no address");
        let endpoint = Endpoint::from_shared(format!("unix://{address}")).expect("bad address");
        let channel = endpoint.connect().await.expect("the mapper does not listen");
        DeviceMapperServiceClient::new(channel)
    }

    /// What was told so far.
    #[must_use]
    pub fn record(&self) -> Record {
        self.record.borrow().clone()
    }

    /// Forgets what was told so far.
    pub fn clear(&self) {
        self.record.send_modify(|record| {
            record.twins.clear();
            record.states.clear();
            record.twin_calls = 0;
        });
    }

    /// Waits until the record satisfies `condition`; panics after 15 s and says what was wanted.
    pub async fn until(&self, what: &str, mut condition: impl FnMut(&Record) -> bool) {
        let mut record = self.record.subscribe();
        let met = tokio::time::timeout(PATIENCE, record.wait_for(|record| condition(record))).await;
        if met.is_err() {
            panic!("waited in vain for {what}; recorded: {:#?}", self.record.borrow());
        }
    }
}

/// A mapper running in the test's own process.
#[derive(Debug)]
pub struct RunningMapper {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), RunError>>,
}

impl RunningMapper {
    /// Starts a driver as a mapper of this edgecore.
    #[must_use]
    pub fn start<D: Driver>(driver: D, edge: &FakeEdge) -> Self {
        let mapper = Mapper::new(driver, edge.config(D::PROTOCOL));
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(mapper.run(async { drop(stopped.await) }));
        Self { stop, task }
    }

    /// Stops it and waits for the drain.
    ///
    /// # Errors
    /// Why it ended before it was asked to.
    pub async fn stop(self) -> Result<(), RunError> {
        drop(self.stop);
        self.task.await.expect("the mapper panicked")
    }
}

struct Service {
    record: watch::Sender<Record>,
    known: watch::Sender<Known>,
    refusal: watch::Sender<Option<Code>>,
}

impl Service {
    /// # Errors
    /// What [`FakeEdge::refuse_reports`] asked for.
    fn take_report(&self) -> Result<(), Status> {
        let refusal = *self.refusal.borrow();
        let Some(code) = refusal else { return Ok(()) };
        self.record.send_modify(|record| record.refused += 1);
        Err(Status::new(code, "fail to report device status because of too many request"))
    }
}

#[tonic::async_trait]
impl DeviceManagerService for Service {
    async fn mapper_register(
        &self,
        request: Request<dmi::MapperRegisterRequest>,
    ) -> Result<Response<dmi::MapperRegisterResponse>, Status> {
        let known = self.known.borrow().clone();
        self.record.send_modify(|record| record.registrations.push(request.into_inner()));
        Ok(Response::new(dmi::MapperRegisterResponse {
            model_list: known.models.into_values().collect(),
            device_list: known.devices.into_values().collect(),
        }))
    }

    async fn report_device_status(
        &self,
        request: Request<dmi::ReportDeviceStatusRequest>,
    ) -> Result<Response<dmi::ReportDeviceStatusResponse>, Status> {
        let request = request.into_inner();
        self.take_report()?;
        let twins = request.reported_device.map(|device| device.twins).unwrap_or_default();
        if twins.iter().any(|twin| twin.reported.is_none() || twin.observed_desired.is_none()) {
            return Err(Status::invalid_argument("upstream's edgecore dies of a half twin"));
        }
        self.record.send_modify(|record| {
            record.twin_calls += 1;
            let device = &request.device_name;
            record.twins.extend(twins.into_iter().map(|twin| (device.clone(), twin)));
        });
        Ok(Response::new(dmi::ReportDeviceStatusResponse {}))
    }

    async fn report_device_states(
        &self,
        request: Request<dmi::ReportDeviceStatesRequest>,
    ) -> Result<Response<dmi::ReportDeviceStatesResponse>, Status> {
        let request = request.into_inner();
        self.take_report()?;
        self.record.send_modify(|record| record.states.push((request.device_name, request.state)));
        Ok(Response::new(dmi::ReportDeviceStatesResponse {}))
    }
}
