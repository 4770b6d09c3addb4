//! What edgecore calls: `DeviceMapperService`. Every answer comes from memory; no call waits for a
//! device.

use std::sync::Arc;

use dmi_proto::v1beta1::{self as dmi, device_mapper_service_server::DeviceMapperService};
use tonic::{Request, Response, Status};

use crate::{driver::Driver, fleet::FleetError, mapper::Crew, spec::ObjectId};

pub(crate) struct Service<D: Driver>(pub(crate) Arc<Crew<D>>);

impl<D: Driver> Service<D> {
    fn put_device(&self, device: Option<dmi::Device>) -> Result<ObjectId, Status> {
        let device = device.ok_or(FleetError::Missing("device"))?;
        let id = ObjectId::new(&device.namespace, &device.name);
        let id = id.ok_or(FleetError::Nameless("device"))?;
        self.0.change(|fleet| fleet.put_device(device))?;
        // The device is kept either way; the caller learns why it will not work.
        self.0.check(&id).map_err(|reason| {
            Status::invalid_argument(format!("device {id} cannot work: {reason}"))
        })?;
        Ok(id)
    }

    fn put_model(&self, model: Option<dmi::DeviceModel>) -> Result<ObjectId, Status> {
        let model = model.ok_or(FleetError::Missing("model"))?;
        let id = ObjectId::new(&model.namespace, &model.name);
        let id = id.ok_or(FleetError::Nameless("model"))?;
        self.0.change(|fleet| fleet.put_model(model))?;
        Ok(id)
    }
}

#[tonic::async_trait]
impl<D: Driver> DeviceMapperService for Service<D> {
    async fn register_device(
        &self,
        request: Request<dmi::RegisterDeviceRequest>,
    ) -> Result<Response<dmi::RegisterDeviceResponse>, Status> {
        let id = self.put_device(request.into_inner().device)?;
        Ok(Response::new(dmi::RegisterDeviceResponse {
            device_name: id.name().to_owned(),
            device_namespace: id.namespace().to_owned(),
        }))
    }

    async fn update_device(
        &self,
        request: Request<dmi::UpdateDeviceRequest>,
    ) -> Result<Response<dmi::UpdateDeviceResponse>, Status> {
        self.put_device(request.into_inner().device)?;
        Ok(Response::new(dmi::UpdateDeviceResponse {}))
    }

    async fn remove_device(
        &self,
        request: Request<dmi::RemoveDeviceRequest>,
    ) -> Result<Response<dmi::RemoveDeviceResponse>, Status> {
        let request = request.into_inner();
        let id = ObjectId::new(&request.device_namespace, &request.device_name)
            .ok_or(FleetError::Nameless("device"))?;
        self.0.change(|fleet| Ok(fleet.remove_device(&id)))?;
        Ok(Response::new(dmi::RemoveDeviceResponse {}))
    }

    async fn create_device_model(
        &self,
        request: Request<dmi::CreateDeviceModelRequest>,
    ) -> Result<Response<dmi::CreateDeviceModelResponse>, Status> {
        let id = self.put_model(request.into_inner().model)?;
        Ok(Response::new(dmi::CreateDeviceModelResponse {
            device_model_name: id.name().to_owned(),
            device_model_namespace: id.namespace().to_owned(),
        }))
    }

    async fn update_device_model(
        &self,
        request: Request<dmi::UpdateDeviceModelRequest>,
    ) -> Result<Response<dmi::UpdateDeviceModelResponse>, Status> {
        self.put_model(request.into_inner().model)?;
        Ok(Response::new(dmi::UpdateDeviceModelResponse {}))
    }

    async fn remove_device_model(
        &self,
        request: Request<dmi::RemoveDeviceModelRequest>,
    ) -> Result<Response<dmi::RemoveDeviceModelResponse>, Status> {
        let request = request.into_inner();
        let id = ObjectId::new(&request.model_namespace, &request.model_name)
            .ok_or(FleetError::Nameless("model"))?;
        self.0.change(|fleet| {
            fleet.remove_model(&id);
            Ok(Vec::new())
        })?;
        Ok(Response::new(dmi::RemoveDeviceModelResponse {}))
    }

    async fn get_device(
        &self,
        request: Request<dmi::GetDeviceRequest>,
    ) -> Result<Response<dmi::GetDeviceResponse>, Status> {
        let request = request.into_inner();
        let id = ObjectId::new(&request.device_namespace, &request.device_name)
            .ok_or(FleetError::Nameless("device"))?;
        let device = self.0.describe(&id);
        let device = device.ok_or_else(|| Status::not_found(format!("no device {id}")))?;
        Ok(Response::new(dmi::GetDeviceResponse { device: Some(device) }))
    }
}

impl From<FleetError> for Status {
    fn from(error: FleetError) -> Self {
        Self::invalid_argument(error.to_string())
    }
}
