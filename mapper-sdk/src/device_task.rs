//! The task of one device: performs what [`crate::device::Device`] decides, with the typed driver.

use std::{
    collections::HashMap,
    future::Future,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::FutureExt as _;
use serde::de::DeserializeOwned;
use tokio::{
    sync::watch,
    task::JoinError,
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::{Instrument as _, error, info, warn};

use crate::{
    device::{CallFault, Device, DeviceState, Effect, Event, Now, ReadRequest, Reading},
    driver::{Driver, DriverError, Property},
    reports::Reports,
    spec::{DeviceSpec, PropertySpec},
    value::Value,
};

/// What a device should be; `None` is stop. A watch, so that only the newest counts.
pub(crate) type Target = watch::Receiver<Option<Arc<DeviceSpec>>>;

/// How long a call under way may go on once the device is to stop.
const STOP_GRACE: Duration = Duration::from_secs(1);
/// Pause before a device task that panicked itself starts over.
const RESTART_DELAY: Duration = Duration::from_secs(1);

/// Runs a device until its target is `None`. Never returns early: a panic outside the driver's
/// calls (in a visitor's `Deserialize`, in `check` or `holds`) starts the device over.
pub(crate) async fn run<D: Driver>(driver: Arc<D>, target: Target, reports: Arc<Reports>) {
    let Some(id) = target.borrow().as_ref().map(|spec| spec.id.clone()) else { return };
    let span = tracing::info_span!("device", %id);
    async {
        loop {
            let attempt = serve(Arc::clone(&driver), target.clone(), &reports);
            match AssertUnwindSafe(attempt).catch_unwind().await {
                Ok(()) => break,
                Err(panic) => {
                    error!(reason = panic_text(&*panic), "device task panicked, starting over");
                    reports.lock().put_state(&id, DeviceState::Unhealthy);
                    reports.wake();
                    sleep(RESTART_DELAY).await;
                }
            }
        }
    }
    .instrument(span)
    .await;
}

/// The protocol configuration in the driver's type.
///
/// # Errors
/// Why a device with this spec cannot work at all, naming the field.
pub(crate) fn protocol<D: Driver>(driver: &D, spec: &DeviceSpec) -> Result<D::Protocol, String> {
    const PLACE: &str = "spec.protocol.configData";
    let protocol = typed(spec.protocol.clone()?, PLACE)?;
    driver.check_protocol(&protocol).map_err(|reason| format!("{PLACE}: {reason}"))?;
    Ok(protocol)
}

async fn serve<D: Driver>(driver: Arc<D>, mut target: Target, reports: &Reports) {
    let Some(spec) = target.borrow_and_update().clone() else { return };
    let mut plan = Plan::parse(&*driver, &spec);
    let mut device = Device::new(Arc::clone(&plan.spec), plan.broken(), rand::random(), now());
    let mut calls = Calls { driver, connection: None, target: target.clone() };
    info!(properties = plan.properties.len(), "device started");
    // An error means that the sender is gone, which is a stop as well.
    while target.borrow().is_some() {
        match target.has_changed() {
            Ok(false) => {}
            Err(_) => break,
            Ok(true) => {
                let Some(spec) = target.borrow_and_update().clone() else { break };
                plan = Plan::parse(&*calls.driver, &spec);
                device.set_spec(Arc::clone(&plan.spec), plan.broken(), now());
                info!("device changed");
            }
        }
        if let Some(effect) = device.poll(now()) {
            perform(effect, &mut device, &mut calls, &plan, reports).await;
            continue;
        }
        let idle = device.poll_timeout().map(Instant::from_std);
        tokio::select! {
            changed = target.changed() => {
                if changed.is_err() { break }
                target.mark_changed();
            }
            () = async { match idle {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            } } => {}
        }
    }
    calls.disconnect().await;
    info!("device stopped");
}

async fn perform<D: Driver>(
    effect: Effect,
    device: &mut Device,
    calls: &mut Calls<D>,
    plan: &Plan<D>,
    reports: &Reports,
) {
    let id = &plan.spec.id;
    let event = match effect {
        Effect::Connect => calls.connect(plan).await,
        Effect::Read(requests) => calls.read(plan, requests).await,
        Effect::Write { property, value } => calls.write(plan, &property, value).await,
        Effect::Disconnect => return calls.disconnect().await,
        Effect::Report(samples) => {
            reports.lock().put_samples(id, samples);
            return reports.wake();
        }
        Effect::Forget(property) => return reports.lock().forget_property(id, &property),
        Effect::State(state) => {
            reports.lock().put_state(id, state);
            return reports.wake();
        }
    };
    device.handle(event, now());
    if !device.is_connected() {
        calls.connection = None;
    }
}

/// A spec with its free-form parts read into the driver's types.
struct Plan<D: Driver> {
    /// The spec, with a problem noted at every property whose visitor cannot be read.
    spec: Arc<DeviceSpec>,
    protocol: Result<D::Protocol, String>,
    properties: HashMap<String, Arc<Property<D::Visitor>>>,
}

impl<D: Driver> Plan<D> {
    fn parse(driver: &D, spec: &DeviceSpec) -> Self {
        let mut spec = spec.clone();
        let protocol =
            protocol(driver, &spec).inspect_err(|reason| error!(reason, "the device cannot work"));
        let mut properties = HashMap::new();
        for (name, property) in &mut spec.properties {
            if let Some(remark) = &property.remark {
                warn!(property = name, remark, "odd configuration");
            }
            match typed_property(driver, name, property) {
                Ok(typed) => drop(properties.insert(name.clone(), Arc::new(typed))),
                Err(reason) => {
                    warn!(property = name, reason, "the property cannot work");
                    property.problem = Some(reason);
                }
            }
        }
        Self { spec: Arc::new(spec), protocol, properties }
    }

    fn broken(&self) -> Option<&str> {
        self.protocol.as_ref().err().map(String::as_str)
    }
}

fn typed_property<D: Driver>(
    driver: &D,
    name: &str,
    spec: &PropertySpec,
) -> Result<Property<D::Visitor>, String> {
    if let Some(problem) = &spec.problem {
        return Err(problem.clone());
    }
    let property = Property {
        name: name.to_owned(),
        data_type: spec.data_type,
        access: spec.access,
        range: spec.range,
        unit: spec.unit.clone(),
        visitor: typed(spec.visitor.clone(), "visitors.configData")?,
    };
    driver.check(&property).map_err(|reason| format!("visitors.configData: {reason}"))?;
    Ok(property)
}

/// Reads free-form configuration into a type. The error names the field.
fn typed<T: DeserializeOwned>(config: serde_json::Value, place: &str) -> Result<T, String> {
    serde_path_to_error::deserialize(config).map_err(|error| {
        let path = error.path().to_string();
        let field = if path == "." { String::new() } else { format!(".{path}") };
        format!("{place}{field}: {}", error.into_inner())
    })
}

/// The driver and the one connection, with deadlines and panic containment around every call.
struct Calls<D: Driver> {
    driver: Arc<D>,
    connection: Option<D::Connection>,
    target: Target,
}

impl<D: Driver> Calls<D> {
    async fn connect(&mut self, plan: &Plan<D>) -> Event {
        let protocol = match &plan.protocol {
            Ok(protocol) => protocol.clone(),
            Err(reason) => return Event::ConnectFailed(DriverError::lost(reason)),
        };
        let (driver, id) = (Arc::clone(&self.driver), plan.spec.id.clone());
        match self.call(async move { driver.connect(&id, &protocol).await }).await {
            Ok(Ok(connection)) => {
                self.connection = Some(connection);
                Event::Connected
            }
            Ok(Err(error)) => Event::ConnectFailed(error),
            Err(fault) => Event::CallLost(fault),
        }
    }

    async fn read(&mut self, plan: &Plan<D>, requests: Vec<ReadRequest>) -> Event {
        let (requests, properties): (Vec<_>, Vec<_>) = requests
            .into_iter()
            .filter_map(|request| {
                let property = Arc::clone(plan.properties.get(&request.property)?);
                Some((request, property))
            })
            .unzip();
        let Some(mut connection) = self.connection.take() else { return no_connection() };
        let (driver, batch) = (Arc::clone(&self.driver), properties.clone());
        let outcome = self.call(async move {
            let batch: Vec<_> = batch.iter().map(Arc::as_ref).collect();
            let values = driver.read_many(&mut connection, &batch).await;
            (connection, values)
        });
        let values = match outcome.await {
            Ok((connection, values)) => {
                self.connection = Some(connection);
                values
            }
            Err(fault) => return Event::CallLost(fault),
        };
        let mut values = values.into_iter();
        let mut lost = false;
        let readings = requests.into_iter().zip(properties).map(|(request, property)| {
            let result = values.next().unwrap_or_else(|| {
                // After a lost connection the rest of the batch was not tried.
                let reason = "the driver returned no value";
                Err(if lost { DriverError::lost(reason) } else { DriverError::failed(reason) })
            });
            lost |= matches!(result, Err(DriverError::Lost(_)));
            let reading = result.and_then(|value| {
                let value = value.into_type(property.data_type).map_err(DriverError::failed)?;
                let holds = request
                    .desired
                    .is_some_and(|desired| self.driver.holds(&property, &desired, &value));
                Ok(Reading { value, holds })
            });
            (request.property, reading)
        });
        Event::Read(readings.collect())
    }

    async fn write(&mut self, plan: &Plan<D>, property: &str, value: Value) -> Event {
        let (Some(property), Some(mut connection)) =
            (plan.properties.get(property).cloned(), self.connection.take())
        else {
            return no_connection();
        };
        let driver = Arc::clone(&self.driver);
        let outcome = self.call(async move {
            let result = driver.write(&mut connection, &property, &value).await;
            (connection, result)
        });
        match outcome.await {
            Ok((connection, result)) => {
                self.connection = Some(connection);
                Event::Written(result)
            }
            Err(fault) => Event::CallLost(fault),
        }
    }

    async fn disconnect(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        let driver = Arc::clone(&self.driver);
        let closed = self.call(async move { driver.disconnect(connection).await }).await;
        if let Err(fault) = closed {
            warn!(%fault, "connection not closed in good order");
        }
    }

    /// Runs one driver call in a task of its own, so that a panic stays there. The task is aborted
    /// past the deadline, and a moment after the device is told to stop.
    async fn call<T: Send + 'static>(
        &mut self,
        call: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, CallFault> {
        let deadline = self.driver.deadline();
        let mut task = AbortOnDrop(tokio::spawn(call.in_current_span()));
        let mut target = self.target.clone();
        let stopping = async move {
            drop(target.wait_for(Option::is_none).await);
            sleep(STOP_GRACE).await;
        };
        let outcome = tokio::select! {
            outcome = timeout(deadline, &mut task.0) => outcome,
            () = stopping => return Err(CallFault::Deadline(STOP_GRACE)),
        };
        match outcome {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(failure)) => Err(CallFault::Panic(join_text(failure))),
            Err(_) => Err(CallFault::Deadline(deadline)),
        }
    }
}

struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn no_connection() -> Event {
    Event::CallLost(CallFault::NotConnected)
}

fn join_text(failure: JoinError) -> String {
    match failure.try_into_panic() {
        Ok(panic) => panic_text(&*panic).to_owned(),
        Err(cancelled) => cancelled.to_string(),
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

/// The device task is the driver of the pure state machine, so it is the one that reads the clocks.
fn now() -> Now {
    #[expect(
        clippy::disallowed_methods,
        reason = "drives the state machine: the clock comes in here"
    )]
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Now {
        instant: Instant::now().into_std(),
        unix_ms: u64::try_from(unix.as_millis()).unwrap_or(u64::MAX),
    }
}
