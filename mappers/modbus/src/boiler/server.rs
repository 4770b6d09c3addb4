//! Serves a [`Boiler`] over Modbus TCP and tells what happens to it.

use std::{
    future, io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde::Serialize;
use tokio::{
    net::TcpListener,
    sync::oneshot,
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};
use tokio_modbus::{
    ExceptionCode, Request, Response, SlaveRequest,
    server::{
        Service,
        tcp::{Server, accept_tcp_connection},
    },
};

use super::model::{Boiler, CellTable, Change};

/// Time between two steps of the physics.
const TICK: Duration = Duration::from_millis(250);

/// What happened; as JSON one object with the key `write` or `change`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// A client wrote a register or coil.
    Write(Change),
    /// The simulation changed a register or bit.
    Change(Change),
}

/// A boiler being served. Stops when dropped.
#[derive(Debug)]
pub struct Simulator {
    address: SocketAddr,
    state: Arc<State>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

struct State {
    boiler: Mutex<Boiler>,
    connections: AtomicUsize,
    requests: AtomicUsize,
    tell: Box<dyn Fn(Event) + Send + Sync>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("boiler", &self.boiler).finish_non_exhaustive()
    }
}

impl Simulator {
    /// Serves on `listener`. `tell` is called, in order, with everything that happens; it must not
    /// block for long.
    ///
    /// # Errors
    /// If the listener has no address.
    pub fn start(
        listener: TcpListener,
        boiler: Boiler,
        tell: impl Fn(Event) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            boiler: Mutex::new(boiler),
            connections: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            tell: Box::new(tell),
        });
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(run(listener, Arc::clone(&state), stopped));
        Ok(Self { address, state, stop: Some(stop), task })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Looks at the boiler, or changes it behind the clients' backs.
    pub fn with<T>(&self, look: impl FnOnce(&mut Boiler) -> T) -> T {
        look(&mut self.state.boiler.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many connections were accepted so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::Relaxed)
    }

    /// How many requests were answered so far.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.state.requests.load(Ordering::Relaxed)
    }

    /// Stops serving, closes all connections and frees the port.
    pub async fn stop(mut self) {
        self.stop.take();
        // The task can only have ended in good order or with its runtime.
        drop((&mut self.task).await);
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(listener: TcpListener, state: Arc<State>, stopped: oneshot::Receiver<()>) {
    let server = Server::new(listener);
    let on_connected = |stream: tokio::net::TcpStream, peer| {
        let state = Arc::clone(&state);
        async move {
            state.connections.fetch_add(1, Ordering::Relaxed);
            stream.set_nodelay(true)?;
            accept_tcp_connection(stream, peer, move |_| Ok(Some(Unit(Arc::clone(&state)))))
        }
    };
    let broken = |error: io::Error| tracing::debug!(%error, "client connection broke");
    let physics = async {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            let mut boiler = state.boiler.lock().unwrap_or_else(PoisonError::into_inner);
            for change in boiler.step(TICK) {
                (state.tell)(Event::Change(change));
            }
        }
    };
    tokio::select! {
        served = server.serve(&on_connected, broken) => {
            if let Err(error) = served {
                tracing::error!(%error, "simulator stopped serving");
            }
        }
        () = physics => {}
        _ = stopped => {}
    }
}

/// Answers for every unit id alike.
struct Unit(Arc<State>);

impl Service for Unit {
    type Request = SlaveRequest<'static>;
    type Response = Response;
    type Exception = ExceptionCode;
    type Future = future::Ready<Result<Response, ExceptionCode>>;

    fn call(&self, request: Self::Request) -> Self::Future {
        future::ready(self.0.answer(request.request))
    }
}

impl State {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the functions a boiler has are listed, the rest are none"
    )]
    fn answer(&self, request: Request<'_>) -> Result<Response, ExceptionCode> {
        use CellTable::{Coil, Discrete, Holding, Input};
        self.requests.fetch_add(1, Ordering::Relaxed);
        let mut boiler = self.boiler.lock().unwrap_or_else(PoisonError::into_inner);
        let count = |cells: usize| u16::try_from(cells).unwrap_or(u16::MAX);
        let response = match request {
            Request::ReadCoils(at, n) => boiler.bits(Coil, at, n).map(Response::ReadCoils),
            Request::ReadDiscreteInputs(at, n) => {
                boiler.bits(Discrete, at, n).map(Response::ReadDiscreteInputs)
            }
            Request::ReadHoldingRegisters(at, n) => {
                boiler.registers(Holding, at, n).map(Response::ReadHoldingRegisters)
            }
            Request::ReadInputRegisters(at, n) => {
                boiler.registers(Input, at, n).map(Response::ReadInputRegisters)
            }
            Request::WriteSingleCoil(at, bit) => {
                self.told(boiler.write_coils(at, &[bit]), Response::WriteSingleCoil(at, bit))
            }
            Request::WriteMultipleCoils(at, bits) => {
                let response = Response::WriteMultipleCoils(at, count(bits.len()));
                self.told(boiler.write_coils(at, &bits), response)
            }
            Request::WriteSingleRegister(at, word) => self
                .told(boiler.write_registers(at, &[word]), Response::WriteSingleRegister(at, word)),
            Request::WriteMultipleRegisters(at, words) => {
                let response = Response::WriteMultipleRegisters(at, count(words.len()));
                self.told(boiler.write_registers(at, &words), response)
            }
            _ => return Err(ExceptionCode::IllegalFunction),
        };
        response.ok_or(ExceptionCode::IllegalDataAddress)
    }

    /// Tells what was written and answers; `None` if nothing could be.
    fn told(&self, written: Option<Vec<Change>>, response: Response) -> Option<Response> {
        for change in written? {
            (self.tell)(Event::Write(change));
        }
        Some(response)
    }
}
