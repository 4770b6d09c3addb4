//! Deadlines by name: at most one per name, the earliest first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

#[derive(Debug)]
pub struct Deadlines<K> {
    by_name: BTreeMap<K, Instant>,
    in_order: BTreeSet<(Instant, K)>,
}

impl<K> Default for Deadlines<K> {
    fn default() -> Self {
        Self { by_name: BTreeMap::new(), in_order: BTreeSet::new() }
    }
}

impl<K: Ord + Clone> Deadlines<K> {
    /// Sets or replaces the deadline of a name.
    pub fn set(&mut self, name: K, at: Instant) {
        self.clear(&name);
        self.by_name.insert(name.clone(), at);
        self.in_order.insert((at, name));
    }

    pub fn clear(&mut self, name: &K) {
        if let Some(at) = self.by_name.remove(name) {
            self.in_order.remove(&(at, name.clone()));
        }
    }

    pub fn has(&self, name: &K) -> bool {
        self.by_name.contains_key(name)
    }

    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// The earliest deadline.
    pub fn first(&self) -> Option<Instant> {
        self.in_order.first().map(|(at, _)| *at)
    }

    /// Takes the earliest that has been reached.
    pub fn take_due(&mut self, now: Instant) -> Option<K> {
        if self.first()? > now {
            return None;
        }
        let (_, name) = self.in_order.pop_first()?;
        self.by_name.remove(&name);
        Some(name)
    }
}
