//! The edge-mapper wire: KubeEdge DMI v1beta1 as generated code, and [`value`], the one place that
//! knows how a JSON value travels in a `google.protobuf.Any`. [`authority`] is for whoever serves either.
//!
//! Start at [`v1beta1::device_manager_service_server`] (what edgecore serves) and
//! [`v1beta1::device_mapper_service_server`] (what a mapper serves).

pub mod authority;
pub mod value;

/// Generated from `proto/dmi.proto`. The package name is part of every gRPC path and cannot change.
#[expect(
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    reason = "generated code is judged by its generator"
)]
pub mod v1beta1 {
    tonic::include_proto!("v1beta1");
}
