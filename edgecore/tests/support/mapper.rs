//! A mapper that takes what it is told and remembers it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use dmi_proto::v1beta1 as dmi;
use dmi_proto::v1beta1::device_manager_service_client::DeviceManagerServiceClient;
use dmi_proto::v1beta1::device_mapper_service_server::{
    DeviceMapperService, DeviceMapperServiceServer,
};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

#[derive(Default)]
pub struct State {
    pub models: BTreeMap<String, dmi::DeviceModel>,
    pub devices: BTreeMap<String, dmi::Device>,
    /// Every call, e.g. `RegisterDevice dev/a`.
    pub calls: Vec<String>,
    /// Devices whose calls fail.
    pub failing: BTreeSet<String>,
    /// Devices whose calls never end.
    pub hanging: BTreeSet<String>,
}

pub struct Mapper {
    pub name: String,
    pub socket: PathBuf,
    state: Arc<Mutex<State>>,
    /// Its own, so that killing it ends its connections too.
    runtime: Option<Runtime>,
    pub edge: DeviceManagerServiceClient<Channel>,
}

impl Mapper {
    /// Listens and is connected to the edge, but has not registered.
    pub fn start(dir: &Path, edge: &Path, name: &str) -> Self {
        let mut mapper = Self {
            name: name.into(),
            socket: dir.join(format!("{name}.sock")),
            state: Arc::default(),
            runtime: None,
            edge: dial(edge),
        };
        mapper.listen();
        mapper
    }

    pub fn listen(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let service = DeviceMapperServiceServer::new(Service(self.state.clone()));
        let listener = {
            let _inside = runtime.enter();
            UnixListener::bind(&self.socket).unwrap()
        };
        let incoming = futures_util::stream::unfold(listener, async |listener| {
            let stream = listener.accept().await.map(|(stream, _)| stream);
            Some((stream, listener))
        });
        runtime.spawn(async move {
            Server::builder().add_service(service).serve_with_incoming(Box::pin(incoming)).await
        });
        self.runtime = Some(runtime);
    }

    /// As if the process were killed: connections end and everything it knew is gone.
    pub fn kill(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
        *self.state() = State::default();
    }

    pub fn info(&self) -> dmi::MapperInfo {
        dmi::MapperInfo {
            name: self.name.clone(),
            version: "v1".into(),
            api_version: "v1.0.0".into(),
            protocol: "virtual".into(),
            address: self.socket.to_str().unwrap().into(),
            state: "ok".into(),
        }
    }

    /// Registers with data and takes the answer as what it has.
    pub async fn register(&mut self) -> dmi::MapperRegisterResponse {
        let request = dmi::MapperRegisterRequest { with_data: true, mapper: Some(self.info()) };
        let answer = self.edge.mapper_register(request).await.unwrap().into_inner();
        let mut state = self.state();
        for model in &answer.model_list {
            state.models.insert(id(&model.namespace, &model.name), model.clone());
        }
        for device in &answer.device_list {
            state.devices.insert(id(&device.namespace, &device.name), device.clone());
        }
        drop(state);
        answer
    }

    pub async fn report(
        &mut self,
        device: &str,
        property: &str,
        value: &str,
        at: &str,
    ) -> Result<(), Status> {
        let twin = |value: &str, at: &str| dmi::TwinProperty {
            value: value.into(),
            metadata: [("timestamp".to_owned(), at.to_owned()), ("type".into(), "string".into())]
                .into(),
        };
        let request = dmi::ReportDeviceStatusRequest {
            device_name: device.into(),
            device_namespace: "dev".into(),
            reported_device: Some(dmi::DeviceStatus {
                twins: vec![dmi::Twin {
                    property_name: property.into(),
                    observed_desired: Some(twin("", "")),
                    reported: Some(twin(value, at)),
                }],
                ..dmi::DeviceStatus::default()
            }),
        };
        self.edge.report_device_status(request).await.map(drop)
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn desired(&self, device: &str, property: &str) -> Option<String> {
        let state = self.state();
        let spec = state.devices.get(device)?.spec.as_ref()?;
        let property = spec.properties.iter().find(|p| p.name == property)?;
        Some(property.desired.as_ref()?.value.clone())
    }
}

impl Drop for Mapper {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A client of the edge's DMI that connects when it is used.
pub fn dial(edge: &Path) -> DeviceManagerServiceClient<Channel> {
    let edge = edge.to_owned();
    let connector = tower::service_fn(move |_| {
        let edge = edge.clone();
        async move { UnixStream::connect(edge).await.map(hyper_util::rt::TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://edge").connect_with_connector_lazy(connector);
    DeviceManagerServiceClient::new(channel)
}

pub fn id(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

struct Service(Arc<Mutex<State>>);

impl Service {
    async fn enter(&self, call: &str, id: &str) -> Result<(), Status> {
        let hangs = {
            let mut state = self.0.lock().unwrap();
            state.calls.push(format!("{call} {id}"));
            if state.failing.contains(id) {
                return Err(Status::internal("told to fail"));
            }
            state.hanging.contains(id)
        };
        if hangs {
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

#[tonic::async_trait]
impl DeviceMapperService for Service {
    async fn register_device(
        &self,
        request: Request<dmi::RegisterDeviceRequest>,
    ) -> Result<Response<dmi::RegisterDeviceResponse>, Status> {
        let device = request.into_inner().device.unwrap();
        let id = id(&device.namespace, &device.name);
        self.enter("RegisterDevice", &id).await?;
        self.state().devices.insert(id, device);
        Ok(Response::new(dmi::RegisterDeviceResponse::default()))
    }

    async fn remove_device(
        &self,
        request: Request<dmi::RemoveDeviceRequest>,
    ) -> Result<Response<dmi::RemoveDeviceResponse>, Status> {
        let request = request.into_inner();
        let id = id(&request.device_namespace, &request.device_name);
        self.enter("RemoveDevice", &id).await?;
        self.state().devices.remove(&id);
        Ok(Response::new(dmi::RemoveDeviceResponse {}))
    }

    async fn update_device(
        &self,
        request: Request<dmi::UpdateDeviceRequest>,
    ) -> Result<Response<dmi::UpdateDeviceResponse>, Status> {
        let device = request.into_inner().device.unwrap();
        let id = id(&device.namespace, &device.name);
        self.enter("UpdateDevice", &id).await?;
        self.state().devices.insert(id, device);
        Ok(Response::new(dmi::UpdateDeviceResponse {}))
    }

    async fn create_device_model(
        &self,
        request: Request<dmi::CreateDeviceModelRequest>,
    ) -> Result<Response<dmi::CreateDeviceModelResponse>, Status> {
        let model = request.into_inner().model.unwrap();
        let id = id(&model.namespace, &model.name);
        self.enter("CreateDeviceModel", &id).await?;
        self.state().models.insert(id, model);
        Ok(Response::new(dmi::CreateDeviceModelResponse::default()))
    }

    async fn remove_device_model(
        &self,
        request: Request<dmi::RemoveDeviceModelRequest>,
    ) -> Result<Response<dmi::RemoveDeviceModelResponse>, Status> {
        let request = request.into_inner();
        let id = id(&request.model_namespace, &request.model_name);
        self.enter("RemoveDeviceModel", &id).await?;
        self.state().models.remove(&id);
        Ok(Response::new(dmi::RemoveDeviceModelResponse {}))
    }

    async fn update_device_model(
        &self,
        request: Request<dmi::UpdateDeviceModelRequest>,
    ) -> Result<Response<dmi::UpdateDeviceModelResponse>, Status> {
        let model = request.into_inner().model.unwrap();
        let id = id(&model.namespace, &model.name);
        self.enter("UpdateDeviceModel", &id).await?;
        self.state().models.insert(id, model);
        Ok(Response::new(dmi::UpdateDeviceModelResponse {}))
    }

    async fn get_device(
        &self,
        _: Request<dmi::GetDeviceRequest>,
    ) -> Result<Response<dmi::GetDeviceResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }
}
