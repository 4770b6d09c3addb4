//! A wire between edge and cloud: a TCP proxy that cuts after a given byte, holds, throttles,
//! refuses or swallows.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use crate::{port, wait};

/// How long a blocked thread may take to see that the wire has changed.
const TICK: Duration = Duration::from_millis(20);

/// Read at once, at most.
const CHUNK: usize = 16 * 1024;

/// A proxy on a port of its own. Ends with its owner.
pub struct Wire {
    port: u16,
    state: Arc<Mutex<State>>,
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the edge to the cloud.
    Up,
    /// From the cloud to the edge.
    Down,
}

/// What has happened on a wire so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Connections made by the edge.
    pub connections: u64,
    /// Bytes from the edge to the cloud.
    pub up: u64,
    /// Bytes from the cloud to the edge.
    pub down: u64,
    /// Cuts made by [`Wire::cut_after`] so far.
    pub cuts: u64,
}

/// How the wire treats bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Carries everything.
    Whole,
    /// Closes each connection as soon as it is made.
    Refusing,
    /// Keeps connections open and carries nothing, as a dead link does: what is sent meanwhile
    /// arrives when it is whole again.
    Silent,
}

struct State {
    mode: Mode,
    delay: Duration,
    /// Bytes a second each way, at most.
    rate: Option<u32>,
    /// Bytes that may still pass that way before everything is cut.
    budget: Option<(Way, u64)>,
    traffic: Traffic,
    open: Vec<TcpStream>,
    /// A connection with an older number than this carries nothing more and is never closed.
    forgotten_before: u64,
    closed: bool,
}

impl Wire {
    /// A wire to a port of loopback.
    ///
    /// # Panics
    /// When no port can be had.
    #[must_use]
    pub fn to(target: u16) -> Self {
        let port = port::free();
        let listener = TcpListener::bind(("127.0.0.1", port))
            .unwrap_or_else(|error| panic!("a wire on {port}: {error}"));
        let state = Arc::new(Mutex::new(State {
            mode: Mode::Whole,
            delay: Duration::ZERO,
            rate: None,
            budget: None,
            traffic: Traffic::default(),
            open: Vec::new(),
            forgotten_before: 0,
            closed: false,
        }));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || accept(&listener, target, &shared));
        Self { port, state }
    }

    /// Where the edge dials.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What has happened so far.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.state().traffic
    }

    /// Connections that are open now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.state().open.len() / 2
    }

    /// Cuts every connection now; new ones are carried.
    pub fn cut(&self) {
        self.state().cut();
    }

    /// Cuts every connection after exactly so many more bytes of one way; new ones are carried.
    pub fn cut_after(&self, way: Way, bytes: u64) {
        self.state().budget = Some((way, bytes));
    }

    /// Cuts every connection and closes new ones, until [`Wire::mend`].
    pub fn refuse(&self) {
        let mut state = self.state();
        state.mode = Mode::Refusing;
        state.cut();
    }

    /// Carries nothing and closes nothing, until [`Wire::mend`].
    pub fn hush(&self) {
        self.state().mode = Mode::Silent;
    }

    /// The connections of now never carry anything again and are never closed, as when a router
    /// forgets them; new ones are carried.
    pub fn forget(&self) {
        let mut state = self.state();
        state.forgotten_before = state.traffic.connections + 1;
    }

    /// Carries everything again.
    pub fn mend(&self) {
        let mut state = self.state();
        state.mode = Mode::Whole;
        state.budget = None;
        state.delay = Duration::ZERO;
        state.rate = None;
    }

    /// Every byte is under way for so long.
    pub fn delay(&self, delay: Duration) {
        self.state().delay = delay;
    }

    /// At most so many bytes a second each way.
    pub fn throttle(&self, bytes_per_second: u32) {
        self.state().rate = Some(bytes_per_second);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let mut state = self.state();
        state.closed = true;
        state.cut();
        drop(state);
        // Wakes the accepting thread, which then sees that it is over.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl State {
    fn cut(&mut self) {
        for stream in self.open.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// How many of `wanted` bytes may pass, and whether everything is cut behind them.
    fn admit(&mut self, way: Way, wanted: usize) -> (usize, bool) {
        let wanted = wanted as u64;
        let (passed, cut) = match &mut self.budget {
            Some((budgeted, left)) if *budgeted == way => {
                let passed = wanted.min(*left);
                *left -= passed;
                (passed, *left == 0)
            }
            Some(_) | None => (wanted, false),
        };
        if cut {
            self.budget = None;
            self.traffic.cuts += 1;
        }
        match way {
            Way::Up => self.traffic.up += passed,
            Way::Down => self.traffic.down += passed,
        }
        (usize::try_from(passed).unwrap_or(usize::MAX), cut)
    }
}

fn accept(listener: &TcpListener, target: u16, state: &Arc<Mutex<State>>) {
    for stream in listener.incoming() {
        let Ok(edge) = stream else { continue };
        let number = {
            let mut state = lock(state);
            if state.closed {
                return;
            }
            state.traffic.connections += 1;
            if state.mode == Mode::Refusing {
                continue;
            }
            state.traffic.connections
        };
        // A cloud that is not there: the edge sees its connection closed.
        let target = SocketAddr::from(([127, 0, 0, 1], target));
        let Ok(cloud) = TcpStream::connect_timeout(&target, Duration::from_secs(2)) else {
            continue;
        };
        let clones = [edge.try_clone(), cloud.try_clone(), edge.try_clone(), cloud.try_clone()];
        let [Ok(edge2), Ok(cloud2), Ok(edge3), Ok(cloud3)] = clones else { continue };
        lock(state).open.extend([edge3, cloud3]);
        for (way, from, to) in [(Way::Up, edge, cloud), (Way::Down, cloud2, edge2)] {
            let state = Arc::clone(state);
            std::thread::spawn(move || carry(number, way, from, to, &state));
        }
    }
}

/// Carries one way of one connection until either end closes or the wire is cut. Reading and writing
/// are two threads, so that a delay is one of distance: bytes are under way together.
fn carry(number: u64, way: Way, mut from: TcpStream, mut to: TcpStream, state: &Arc<Mutex<State>>) {
    let _ = to.set_nodelay(true);
    let (Ok(source), Ok(sink)) = (from.try_clone(), to.try_clone()) else { return };
    // Short: what a throttled wire cannot carry stays with the sender.
    let (sender, under_way) = mpsc::sync_channel::<(Instant, Vec<u8>)>(64);
    let shared = Arc::clone(state);
    let reading = std::thread::spawn(move || {
        while let Some((delay, rate)) = wait_until_carrying(number, &shared) {
            let mut bytes =
                vec![0; rate.map_or(CHUNK, |rate| (rate as usize / 50).clamp(1, CHUNK))];
            let Ok(length @ 1..) = from.read(&mut bytes) else { return };
            bytes.truncate(length);
            if sender.send((wait::now() + delay, bytes)).is_err() {
                return;
            }
            if rate.is_some() {
                std::thread::sleep(TICK);
            }
        }
    });
    for (due, bytes) in under_way {
        std::thread::sleep(due.saturating_duration_since(wait::now()));
        // It may have gone silent meanwhile: nothing must slip through.
        if wait_until_carrying(number, state).is_none() {
            break;
        }
        let (passed, cut) = lock(state).admit(way, bytes.len());
        let written = to.write_all(&bytes[..passed]);
        if cut {
            lock(state).cut();
        }
        if cut || written.is_err() {
            break;
        }
    }
    let _ = source.shutdown(Shutdown::Both);
    let _ = sink.shutdown(Shutdown::Both);
    let _ = reading.join();
    let ends = [source.peer_addr().ok(), sink.peer_addr().ok()];
    lock(state)
        .open
        .retain(|stream| stream.peer_addr().is_ok_and(|peer| !ends.contains(&Some(peer))));
}

/// Waits while the wire carries nothing for this connection; `None` when it never will again. Nothing
/// is read meanwhile: the sender's window fills, as on a dead link.
fn wait_until_carrying(number: u64, state: &Mutex<State>) -> Option<(Duration, Option<u32>)> {
    loop {
        let state = lock(state);
        if state.closed {
            return None;
        }
        if state.mode != Mode::Silent && number >= state.forgotten_before {
            return Some((state.delay, state.rate));
        }
        drop(state);
        std::thread::sleep(TICK);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A far end that says back what it hears.
    fn echo() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                std::thread::spawn(move || {
                    let mut back = stream.try_clone().unwrap();
                    let _ = std::io::copy(&mut stream, &mut back);
                });
            }
        });
        port
    }

    fn dial(wire: &Wire) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", wire.port())).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream
    }

    fn read_all(mut stream: TcpStream) -> Vec<u8> {
        let mut read = Vec::new();
        let _ = stream.read_to_end(&mut read);
        read
    }

    #[test]
    fn a_wire_is_cut_after_exactly_the_bytes_that_were_asked_for() {
        let wire = Wire::to(echo());
        for bytes in [1_usize, 7, 100] {
            wire.cut_after(Way::Down, bytes as u64);
            let mut stream = dial(&wire);
            stream.write_all(&[7; 100]).unwrap();
            assert_eq!(read_all(stream).len(), bytes);
        }
        assert_eq!(wire.traffic().cuts, 3);
        assert_eq!(wire.traffic().connections, 3);
    }

    #[test]
    fn a_hushed_wire_carries_nothing_and_delivers_when_mended() {
        let wire = Wire::to(echo());
        let mut stream = dial(&wire);
        stream.write_all(b"a").unwrap();
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        wire.hush();
        stream.write_all(b"b").unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        assert!(stream.read_exact(&mut byte).is_err());
        wire.mend();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"b");
    }

    #[test]
    fn a_delay_is_one_of_distance_not_of_rate() {
        let wire = Wire::to(echo());
        wire.delay(Duration::from_millis(100));
        let mut stream = dial(&wire);
        let start = wait::now();
        for _ in 0..20 {
            stream.write_all(b"a").unwrap();
            std::thread::sleep(Duration::from_millis(5));
        }
        stream.read_exact(&mut [0; 20]).unwrap();
        let took = wait::now() - start;
        assert!((Duration::from_millis(200)..Duration::from_secs(1)).contains(&took), "{took:?}");
    }

    #[test]
    fn a_refusing_wire_closes_old_and_new_connections() {
        let wire = Wire::to(echo());
        let mut old = dial(&wire);
        old.write_all(b"a").unwrap();
        old.read_exact(&mut [0]).unwrap();
        wire.refuse();
        assert_eq!(read_all(old), b"");
        assert_eq!(read_all(dial(&wire)), b"");
        wire.mend();
        let mut new = dial(&wire);
        new.write_all(b"a").unwrap();
        new.read_exact(&mut [0]).unwrap();
    }

    #[test]
    fn a_forgotten_connection_is_dead_while_a_new_one_lives() {
        let wire = Wire::to(echo());
        let mut old = dial(&wire);
        old.write_all(b"a").unwrap();
        old.read_exact(&mut [0]).unwrap();
        wire.forget();
        old.write_all(b"b").unwrap();
        let mut new = dial(&wire);
        new.write_all(b"c").unwrap();
        new.read_exact(&mut [0]).unwrap();
        old.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        assert!(old.read_exact(&mut [0]).is_err());
    }
}
