//! What goes on while a story breaks something: numbered desired values from above, numbered
//! register values from below, and a watch over what the DeviceStatus shows.

use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::StreamExt;
use kube::runtime::watcher::{self, Event, watcher};

use crate::cluster::{Reader, Reading, reading};
use crate::device::{Commands, Table};

/// Between two numbers.
const PERIOD: Duration = Duration::from_millis(50);

/// Above what a world starts with, so that the whole log of a register must go upwards.
pub const FIRST: u16 = 101;

/// A thread that counts upwards somewhere until it is told to stop.
pub struct Counting {
    stop: Arc<AtomicBool>,
    last: Arc<AtomicU16>,
    thread: Option<JoinHandle<()>>,
}

impl Counting {
    /// Writes 101, 102 and so on as desired value of the device's first property. A number that the
    /// API does not take, because it is down, is tried again.
    #[must_use]
    pub fn desired(api: Reader, device: &str) -> Self {
        let device = device.to_owned();
        Self::start(move |number| api.desire(&device, &number.to_string()).is_ok())
    }

    /// Writes 101, 102 and so on into a cell of the device.
    #[must_use]
    pub fn cell(device: Arc<Commands>, table: Table, address: u16) -> Self {
        Self::start(move |number| {
            device.set(table, address, &[number]);
            true
        })
    }

    fn start(mut write: impl FnMut(u16) -> bool + Send + 'static) -> Self {
        let (stop, last) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU16::new(0)));
        let (stopped, written) = (Arc::clone(&stop), Arc::clone(&last));
        let thread = std::thread::spawn(move || {
            let mut number = FIRST;
            while !stopped.load(Ordering::Relaxed) {
                if write(number) {
                    written.store(number, Ordering::Relaxed);
                    number += 1;
                }
                std::thread::sleep(PERIOD);
            }
        });
        Self { stop, last, thread: Some(thread) }
    }

    /// The last number that was taken; 0 before the first.
    #[must_use]
    pub fn last(&self) -> u16 {
        self.last.load(Ordering::Relaxed)
    }

    /// Stops counting and returns the last number that was taken.
    ///
    /// # Panics
    /// When nothing was written at all.
    #[must_use]
    pub fn stop(mut self) -> u16 {
        self.halt();
        let last = self.last();
        assert!(last > 0, "the load never wrote anything");
        last
    }

    fn halt(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.halt();
    }
}

/// Collects every value that a DeviceStatus shows for a property.
pub struct Audit {
    seen: Arc<Mutex<Vec<Reading>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Audit {
    /// Starts watching.
    #[must_use]
    pub fn start(api: &Reader, device: &str, property: &str) -> Self {
        let seen = Arc::new(Mutex::new(Vec::<Reading>::new()));
        let sink = Arc::clone(&seen);
        let config = watcher::Config::default().fields(&format!("metadata.name={device}"));
        let mut events = watcher(api.statuses(), config).boxed();
        let property = property.to_owned();
        let task = api.handle().spawn(async move {
            while let Some(event) = events.next().await {
                // The watcher lists and watches again by itself after an error.
                let Ok(Event::Apply(status) | Event::InitApply(status)) = event else { continue };
                let Some(reading) = reading(&status, &property) else { continue };
                let mut seen = sink.lock().unwrap_or_else(PoisonError::into_inner);
                if seen.last() != Some(&reading) {
                    seen.push(reading);
                }
            }
        });
        Self { seen, task }
    }

    /// How many different readings were seen so far.
    #[must_use]
    pub fn count(&self) -> usize {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Stops watching and sees that neither value nor sample time ever went backwards.
    ///
    /// # Panics
    /// When one did, or when nothing was seen.
    #[track_caller]
    pub fn assert_never_backwards(self) {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        assert!(!seen.is_empty(), "the audit saw nothing");
        for pair in seen.windows(2) {
            let number = |reading: &Reading| reading.value.parse::<f64>().unwrap_or(f64::NAN);
            let forwards = number(&pair[0]) <= number(&pair[1]) && pair[0].at_ms <= pair[1].at_ms;
            assert!(forwards, "the DeviceStatus went backwards: {pair:?} in {seen:?}");
        }
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        self.task.abort();
    }
}
