//! The wiring of a mapper process: its server, its link to edgecore, its device tasks.
//! Start at [`Mapper::run`].

use std::{
    collections::HashMap,
    future::Future,
    io,
    os::unix::ffi::OsStrExt as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use dmi_proto::authority::AnyAuthority;
use dmi_proto::v1beta1::{
    self as dmi, device_mapper_service_server::DeviceMapperServiceServer as Server,
};
use futures_util::StreamExt as _;
use tokio::{
    net::UnixListener,
    sync::watch,
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};
use tokio_stream::wrappers::UnixListenerStream;
use tracing::{debug, info, warn};

use crate::{
    config::Config,
    device_task,
    driver::Driver,
    fleet::{Change, Fleet, FleetError},
    link::{self, Registrar},
    reports::Reports,
    server::Service,
    socket,
    spec::{DeviceSpec, ObjectId},
};

/// All devices together have this long to close their connections at shutdown.
const DRAIN: Duration = Duration::from_secs(3);
/// The link and the server have this long each.
const CLOSE: Duration = Duration::from_millis(750);

/// Why a mapper cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The mapper's own socket cannot be bound.
    #[error("{0}")]
    Bind(#[from] io::Error),
    /// A part that must run for ever ended. The process should be restarted.
    #[error("the {part} ended unexpectedly: {reason}")]
    Ended {
        /// Which part.
        part: &'static str,
        /// What is known of the cause.
        reason: String,
    },
}

/// A driver with its configuration, ready to run.
#[derive(Debug)]
pub struct Mapper<D> {
    driver: D,
    config: Config,
}

impl<D: Driver> Mapper<D> {
    /// Puts a driver and a configuration together. An empty `common.protocol` becomes the driver's
    /// [`Driver::PROTOCOL`].
    #[must_use]
    pub fn new(driver: D, mut config: Config) -> Self {
        if config.common.protocol.is_empty() {
            D::PROTOCOL.clone_into(&mut config.common.protocol);
        }
        Self { driver, config }
    }

    /// Runs until `shutdown` resolves, then drains: devices are disconnected, what is owed to
    /// edgecore is sent if it can be at once, the socket is removed. Takes less than 5 s.
    ///
    /// The mapper's server answers before the mapper registers. edgecore need not be there.
    ///
    /// # Errors
    /// See [`RunError`].
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), RunError> {
        let Config { common, grpc_server, .. } = self.config;
        if let Some(port) = &common.http_port {
            debug!(port, "http_port is accepted, but the REST API is not served yet");
        }
        // edgecore dials the path from a directory of its own.
        let own_path = std::path::absolute(&grpc_server.socket_path)?;
        let (listener, socket_file) = socket::bind(&own_path)?;
        let reports = Arc::new(Reports::default());
        let crew = Arc::new(Crew::new(self.driver, common.protocol.clone(), Arc::clone(&reports)));
        let (stop, stopped) = watch::channel(false);
        let mut server = tokio::spawn(serve(listener, Arc::clone(&crew), stopped.clone()));
        let mapper_info = dmi::MapperInfo {
            name: common.name,
            version: common.version,
            api_version: common.api_version,
            protocol: common.protocol,
            address: own_path.as_os_str().as_bytes().to_vec(),
            state: "ok".to_owned(),
        };
        info!(name = mapper_info.name, protocol = mapper_info.protocol,
            socket = %own_path.display(), "mapper started");
        let mut link = {
            let (crew, reports) = (Arc::clone(&crew), Arc::clone(&reports));
            let edgecore = common.edgecore_sock;
            tokio::spawn(async move {
                link::run(&edgecore, mapper_info, crew, reports, stopped).await;
            })
        };
        let ended = |part, reason: String| Err(RunError::Ended { part, reason });
        let outcome = tokio::select! {
            () = shutdown => Ok(()),
            end = &mut server => ended("server", format!("{end:?}")),
            end = &mut link => ended("link to edgecore", format!("{end:?}")),
        };
        info!("stopping");
        crew.stop_all().await;
        stop.send_replace(true);
        for (part, task) in [("link", &mut link), ("server", &mut server)] {
            if !task.is_finished() && timeout(CLOSE, &mut *task).await.is_err() {
                debug!(part, "did not close in time");
                task.abort();
            }
        }
        drop(socket_file);
        outcome
    }
}

async fn serve<D: Driver>(
    listener: UnixListener,
    crew: Arc<Crew<D>>,
    mut stopped: watch::Receiver<bool>,
) {
    let stop = async move { drop(stopped.wait_for(|stop| *stop).await) };
    let incoming =
        UnixListenerStream::new(listener).map(|accepted| accepted.map(AnyAuthority::new));
    let service = Server::new(Service(crew));
    let served = tonic::transport::Server::builder()
        .serve_with_incoming_shutdown(service, incoming, stop)
        .await;
    if let Err(error) = served {
        warn!(%error, "server ended");
    }
}

/// The fleet and the tasks that run it. Changes are decided and performed under one lock, which no
/// one holds across an await.
pub(crate) struct Crew<D: Driver> {
    driver: Arc<D>,
    reports: Arc<Reports>,
    inner: Mutex<Inner>,
}

struct Inner {
    fleet: Fleet,
    tasks: HashMap<ObjectId, Task>,
    /// Tasks told to stop that may not have ended yet; a successor waits for its predecessor.
    ending: HashMap<ObjectId, JoinHandle<()>>,
    /// Set at shutdown: nothing starts any more.
    draining: bool,
}

struct Task {
    target: watch::Sender<Option<Arc<DeviceSpec>>>,
    handle: JoinHandle<()>,
}

impl<D: Driver> Crew<D> {
    fn new(driver: D, protocol: String, reports: Arc<Reports>) -> Self {
        let fleet = Fleet::new(protocol);
        let inner = Inner { fleet, tasks: HashMap::new(), ending: HashMap::new(), draining: false };
        Self { driver: Arc::new(driver), reports, inner: Mutex::new(inner) }
    }

    /// Lets `decide` change the fleet and performs what follows from it.
    pub(crate) fn change(
        &self,
        decide: impl FnOnce(&mut Fleet) -> Result<Vec<Change>, FleetError>,
    ) -> Result<(), FleetError> {
        let mut inner = self.lock();
        let changes = decide(&mut inner.fleet)?;
        for change in changes {
            match change {
                Change::Start(spec) => self.start(&mut inner, spec),
                Change::Update(spec) => match inner.tasks.get(&spec.id) {
                    Some(task) => drop(task.target.send_replace(Some(spec))),
                    None => self.start(&mut inner, spec),
                },
                Change::Stop(id) => self.stop(&mut inner, &id),
            }
        }
        Ok(())
    }

    /// Whether a device that should run can, as far as its configuration tells.
    pub(crate) fn check(&self, id: &ObjectId) -> Result<(), String> {
        let spec = self.lock().fleet.running(id).cloned();
        spec.map_or(Ok(()), |spec| device_task::protocol(&*self.driver, &spec).map(drop))
    }

    /// The device as edgecore gave it, with the latest known twins.
    pub(crate) fn describe(&self, id: &ObjectId) -> Option<dmi::Device> {
        let mut device = self.lock().fleet.device(id).cloned()?;
        let twins = self.reports.lock().latest(id);
        device.status.get_or_insert_default().twins = twins;
        Some(device)
    }

    fn start(&self, inner: &mut Inner, spec: Arc<DeviceSpec>) {
        if inner.draining {
            return;
        }
        inner.ending.retain(|_, handle| !handle.is_finished());
        let id = spec.id.clone();
        self.reports.lock().open(&id);
        let (target, watched) = watch::channel(Some(spec));
        let (driver, reports) = (Arc::clone(&self.driver), Arc::clone(&self.reports));
        let predecessor = inner.ending.remove(&id);
        let handle = tokio::spawn(async move {
            if let Some(predecessor) = predecessor {
                drop(predecessor.await);
            }
            device_task::run(driver, watched, reports).await;
        });
        inner.tasks.insert(id, Task { target, handle });
    }

    fn stop(&self, inner: &mut Inner, id: &ObjectId) {
        self.reports.lock().close(id);
        if let Some(task) = inner.tasks.remove(id) {
            task.target.send_replace(None);
            inner.ending.insert(id.clone(), task.handle);
        }
    }

    /// Stops every device and waits for them, at most [`DRAIN`].
    async fn stop_all(&self) {
        let handles: Vec<_> = {
            let mut inner = self.lock();
            inner.draining = true;
            let tasks: Vec<_> = inner.tasks.drain().map(|(_, task)| task).collect();
            // All are told first, then all are waited for.
            tasks.iter().for_each(|task| drop(task.target.send_replace(None)));
            let ending = inner.ending.drain().map(|(_, handle)| handle).collect::<Vec<_>>();
            tasks.into_iter().map(|task| task.handle).chain(ending).collect()
        };
        let deadline = Instant::now() + DRAIN;
        for mut handle in handles {
            if timeout_at(deadline, &mut handle).await.is_err() {
                warn!("a device did not stop in time");
                handle.abort();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<D: Driver> Registrar for Crew<D> {
    fn begin_registration(&self) {
        self.lock().fleet.begin_registration();
    }

    fn registered(&self, models: Vec<dmi::DeviceModel>, devices: Vec<dmi::Device>) {
        let reconciled = self.change(|fleet| Ok(fleet.reconcile(models, devices)));
        debug_assert!(reconciled.is_ok(), "reconcile never refuses");
    }
}
