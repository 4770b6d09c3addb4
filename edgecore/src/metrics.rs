//! What is counted. The names are an interface: docs/operating.md lists them.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Every number that the agent keeps. Clones share them.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "each field's meaning is its help text below")]
pub struct Metrics {
    pub link_up: Gauge,
    pub connects: Counter,
    pub frames_received: Counter,
    pub frames_sent: Counter,
    pub frames_skipped: Counter,
    pub objects_applied: Counter,
    pub reports_taken: Counter,
    pub reports_refused: Counter,
    pub mapper_calls: Counter,
    pub mapper_call_failures: Counter,
    pub store_failures: Counter,
    pub devices: Gauge,
    pub models: Gauge,
    pub unconfirmed: Gauge,
    pub writes_waiting: Gauge,
}

impl Metrics {
    /// A registry that shows them.
    #[must_use]
    pub fn registry(&self) -> Registry {
        let mut registry = Registry::with_prefix("kedge_edge");
        let mut counter =
            |name, help, counter: &Counter| registry.register(name, help, counter.clone());
        counter("connects", "Connections to the cloud since the start", &self.connects);
        counter("frames_received", "Messages from the cloud", &self.frames_received);
        counter("frames_sent", "Messages and pings to the cloud", &self.frames_sent);
        counter("frames_skipped", "Messages that could not be understood", &self.frames_skipped);
        counter("objects_applied", "Object changes committed and applied", &self.objects_applied);
        counter("reports_taken", "Values and states taken from mappers", &self.reports_taken);
        counter(
            "reports_refused",
            "Report calls refused, wholly or in part",
            &self.reports_refused,
        );
        counter("mapper_calls", "Calls made to mappers", &self.mapper_calls);
        counter("mapper_call_failures", "Calls to mappers that failed", &self.mapper_call_failures);
        counter("store_failures", "Writes that did not reach the disk", &self.store_failures);
        let mut gauge = |name, help, gauge: &Gauge| registry.register(name, help, gauge.clone());
        gauge("link_up", "1 while connected to the cloud", &self.link_up);
        gauge("devices", "Devices held", &self.devices);
        gauge("models", "Device models held", &self.models);
        gauge("reports_unconfirmed", "Devices with unconfirmed reports", &self.unconfirmed);
        gauge("store_writes_waiting", "Writes waiting for the disk", &self.writes_waiting);
        registry
    }
}
