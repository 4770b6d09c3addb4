//! Tests of one device as a state machine: no runtime, no clock. Over 500 lines, because all of them share
//! one bench and one promise list.

#![expect(clippy::wildcard_enum_match_arm, reason = "tests look for one effect among many")]

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    spec::ObjectId,
    value::{Access, DataType, Range},
};

const CYCLE: Duration = Duration::from_millis(1000);

/// A device, a clock that only moves when told, and a driver that answers at once.
struct Bench {
    device: Device,
    spec: DeviceSpec,
    start: Instant,
    elapsed: Duration,
    /// What the device holds, by property.
    holds: BTreeMap<String, i64>,
    /// Effects in order, without their answers.
    log: Vec<Effect>,
}

fn property(desired: Option<&str>) -> PropertySpec {
    PropertySpec {
        data_type: DataType::Int,
        access: Access::ReadWrite,
        range: Range { minimum: Some(0.0), maximum: Some(100.0) },
        unit: String::new(),
        visitor: json!({}),
        cycle: CYCLE,
        report: true,
        desired: desired.map(str::to_owned),
        problem: None,
        remark: None,
    }
}

fn spec(properties: &[(&str, PropertySpec)]) -> DeviceSpec {
    DeviceSpec {
        id: ObjectId::new("default", "d").unwrap(),
        protocol: Ok(json!({})),
        properties: properties.iter().map(|(n, p)| ((*n).to_owned(), p.clone())).collect(),
        state_cycle: None,
    }
}

fn failed<T>(reason: &str) -> Result<T, DriverError> {
    Err(DriverError::failed(reason))
}

impl Bench {
    fn new(spec: DeviceSpec) -> Self {
        #[expect(clippy::disallowed_methods, reason = "an arbitrary origin")]
        let start = Instant::now() + Duration::from_secs(3600);
        let now = Now { instant: start, unix_ms: 0 };
        let device = Device::new(Arc::new(spec.clone()), None, 42, now);
        let holds = spec.properties.keys().map(|name| (name.clone(), 0)).collect();
        Self { device, spec, start, elapsed: Duration::ZERO, holds, log: Vec::new() }
    }

    fn now(&self) -> Now {
        let unix_ms = u64::try_from(self.elapsed.as_millis()).unwrap();
        Now { instant: self.start + self.elapsed, unix_ms }
    }

    fn advance(&mut self, by: Duration) {
        self.elapsed += by;
    }

    fn change(&mut self, change: impl FnOnce(&mut DeviceSpec)) {
        change(&mut self.spec);
        let now = self.now();
        self.device.set_spec(Arc::new(self.spec.clone()), None, now);
    }

    /// The next effect, not answered.
    fn poll(&mut self) -> Option<Effect> {
        let effect = self.device.poll(self.now())?;
        self.log.push(effect.clone());
        Some(effect)
    }

    fn answer(&mut self, event: Event) {
        let now = self.now();
        self.device.handle(event, now);
    }

    fn reading(&self, request: &ReadRequest) -> (String, Result<Reading, DriverError>) {
        let value = Value::Int(self.holds[&request.property]);
        let holds = request.desired.as_ref() == Some(&value);
        (request.property.clone(), Ok(Reading { value, holds }))
    }

    /// Runs with a healthy driver until nothing is to be done at this time.
    fn settle(&mut self) {
        for _ in 0..1000 {
            let Some(effect) = self.poll() else { return };
            match effect {
                Effect::Connect => self.answer(Event::Connected),
                Effect::Read(requests) => {
                    let readings = requests.iter().map(|request| self.reading(request)).collect();
                    self.answer(Event::Read(readings));
                }
                Effect::Write { property, value: Value::Int(value) } => {
                    self.holds.insert(property, value);
                    self.answer(Event::Written(Ok(())));
                }
                Effect::Write { value, .. } => panic!("{value:?} is not an INT"),
                Effect::Disconnect | Effect::Report(_) | Effect::Forget(_) | Effect::State(_) => {}
            }
        }
        panic!("the device never rests: {:#?}", &self.log[self.log.len() - 10..]);
    }

    /// Polls until an effect of interest, answering nothing on the way.
    fn until(&mut self, wanted: impl Fn(&Effect) -> bool) -> Effect {
        while let Some(effect) = self.poll() {
            if wanted(&effect) {
                return effect;
            }
        }
        panic!("not wanted: {:#?}", self.log);
    }

    fn writes(&self) -> Vec<(String, i64)> {
        let write = |effect: &Effect| match effect {
            Effect::Write { property, value: Value::Int(value) } => {
                Some((property.clone(), *value))
            }
            _ => None,
        };
        self.log.iter().filter_map(write).collect()
    }

    fn count(&self, wanted: impl Fn(&Effect) -> bool) -> usize {
        self.log.iter().filter(|effect| wanted(effect)).count()
    }

    /// The last report of a property.
    fn sample(&self, property: &str) -> Option<&Sample> {
        self.log.iter().rev().find_map(|effect| match effect {
            Effect::Report(samples) => samples.iter().find(|sample| sample.property == property),
            _ => None,
        })
    }

    fn desired_state(&self, property: &str) -> Option<&'static str> {
        Some(self.sample(property)?.desired.as_ref()?.state)
    }
}

fn is_connect(effect: &Effect) -> bool {
    matches!(effect, Effect::Connect)
}

fn is_read(effect: &Effect) -> bool {
    matches!(effect, Effect::Read(_))
}

#[test]
fn properties_due_together_are_read_together_and_reported_at_once() {
    let mut bench = Bench::new(spec(&[("a", property(None)), ("b", property(None))]));
    bench.settle();
    assert_eq!(bench.count(is_read), 1);
    let reported = bench.count(|effect| matches!(effect, Effect::Report(s) if s.len() == 2));
    assert_eq!(reported, 1);
    assert!(bench.log.contains(&Effect::State(DeviceState::Online)));
}

#[test]
fn a_property_is_read_once_per_cycle() {
    let mut slow = property(None);
    slow.cycle = CYCLE * 3;
    let mut bench = Bench::new(spec(&[("fast", property(None)), ("slow", slow)]));
    bench.settle();
    bench.log.clear();
    for _ in 0..300 {
        bench.advance(Duration::from_millis(100));
        bench.settle();
    }
    let reads = |name: &str| {
        bench.count(|effect| matches!(effect, Effect::Read(requests) if requests.iter().any(|r| r.property == name)))
    };
    assert_eq!((reads("fast"), reads("slow")), (30, 10));
    // On one grid: whenever the slow one is due, the fast one is, too.
    assert_eq!(bench.count(is_read), 30);
}

#[test]
fn the_timeout_says_when_the_next_read_is_due() {
    let mut bench = Bench::new(spec(&[("a", property(None))]));
    bench.settle();
    let due = bench.device.poll_timeout().unwrap();
    assert!(due > bench.now().instant && due <= bench.now().instant + CYCLE);
    bench.elapsed = due - bench.start;
    assert!(matches!(bench.poll(), Some(Effect::Read(_))));
}

#[test]
fn cycles_that_a_slow_device_missed_are_left_out_and_counted() {
    let mut bench = Bench::new(spec(&[("a", property(None))]));
    bench.settle();
    bench.log.clear();
    bench.elapsed = bench.device.poll_timeout().unwrap() - bench.start;
    let Some(Effect::Read(requests)) = bench.poll() else { panic!() };
    let readings = requests.iter().map(|request| bench.reading(request)).collect();
    bench.advance(CYCLE * 5 / 2);
    bench.answer(Event::Read(readings));
    bench.settle();
    assert_eq!(bench.count(is_read), 1);
    assert_eq!(bench.device.missed_cycles(), 2);
}

#[test]
fn a_property_without_desired_value_is_never_written() {
    let mut bench = Bench::new(spec(&[("a", property(None))]));
    for _ in 0..20 {
        bench.settle();
        bench.advance(CYCLE);
    }
    bench.change(|spec| spec.properties.get_mut("a").unwrap().cycle = CYCLE / 2);
    bench.settle();
    assert_eq!(bench.writes(), []);
    assert_eq!(bench.sample("a").unwrap().desired, None);
}

#[test]
fn a_desired_value_is_written_once_per_change_and_read_back_at_once() {
    let mut bench = Bench::new(spec(&[("a", property(Some("5")))]));
    for _ in 0..5 {
        bench.settle();
        bench.advance(CYCLE);
    }
    assert_eq!(bench.writes(), [("a".to_owned(), 5)]);
    bench.settle();
    bench.log.clear();
    bench.change(|spec| spec.properties.get_mut("a").unwrap().desired = Some("6".into()));
    bench.settle();
    // Pending, written, read back, applied: without time passing.
    assert_eq!(bench.writes(), [("a".to_owned(), 6)]);
    assert_eq!(bench.sample("a").unwrap().value, Value::Int(6));
    assert_eq!(bench.desired_state("a"), Some("applied"));
    assert_eq!(bench.count(is_connect), 0);
}

#[test]
fn a_device_that_holds_the_desired_value_already_is_not_written() {
    let mut bench = Bench::new(spec(&[("a", property(Some("5")))]));
    bench.holds.insert("a".into(), 5);
    bench.settle();
    assert_eq!(bench.writes(), []);
    assert_eq!(bench.desired_state("a"), Some("applied"));
}

#[test]
fn after_a_reconnect_only_a_value_that_was_lost_is_written_again() {
    let mut bench =
        Bench::new(spec(&[("kept", property(Some("5"))), ("lost", property(Some("6")))]));
    bench.settle();
    bench.log.clear();
    bench.advance(CYCLE);
    bench.until(is_read);
    bench.answer(Event::CallLost(CallFault::Deadline(CYCLE)));
    bench.holds.insert("lost".into(), 0);
    bench.settle();
    assert!(bench.log.contains(&Effect::State(DeviceState::Offline)));
    bench.advance(Duration::from_secs(1));
    bench.settle();
    assert_eq!(bench.writes(), [("lost".to_owned(), 6)]);
    assert_eq!(bench.log.last(), bench.log.iter().rfind(|e| matches!(e, Effect::Report(_))));
}

#[test]
fn a_value_that_cannot_be_read_is_written_to_be_sure() {
    let mut bench = Bench::new(spec(&[("a", property(Some("5")))]));
    bench.until(is_connect);
    bench.answer(Event::Connected);
    bench.until(is_read);
    bench.answer(Event::Read(vec![("a".into(), failed("exception 2"))]));
    assert!(matches!(bench.until(|e| matches!(e, Effect::Write { .. })), Effect::Write { .. }));
}

#[test]
fn a_failed_write_is_tried_again_later_and_a_refused_one_is_not() {
    let mut bench = Bench::new(spec(&[("a", property(Some("5")))]));
    bench.settle();
    for (reason, state) in [("busy", "failed"), ("no such register", "refused")] {
        bench.log.clear();
        let desired = if state == "failed" { "7" } else { "8" };
        bench.change(|spec| spec.properties.get_mut("a").unwrap().desired = Some(desired.into()));
        bench.until(|effect| matches!(effect, Effect::Write { .. }));
        bench.answer(Event::Written(Err(if state == "failed" {
            DriverError::failed(reason)
        } else {
            DriverError::refused(reason)
        })));
        bench.until(|effect| matches!(effect, Effect::Report(_)));
        let observed = bench.sample("a").unwrap().desired.clone().unwrap();
        assert_eq!((observed.state, observed.reason.as_deref()), (state, Some(reason)));
        assert_eq!(observed.text, desired);
        bench.settle();
        assert_eq!(bench.writes().len(), 1, "not again at once");
        bench.advance(Duration::from_secs(120));
        bench.settle();
        assert_eq!(bench.writes().len(), if state == "failed" { 2 } else { 1 });
    }
}

#[test]
fn a_write_that_breaks_the_driver_every_time_is_tried_ever_more_rarely() {
    let mut bench = Bench::new(spec(&[("a", property(Some("5")))]));
    let start = bench.elapsed;
    while bench.elapsed - start < Duration::from_secs(600) {
        match bench.poll() {
            Some(Effect::Connect) => bench.answer(Event::Connected),
            Some(Effect::Read(requests)) => {
                let readings = requests.iter().map(|request| bench.reading(request)).collect();
                bench.answer(Event::Read(readings));
            }
            Some(Effect::Write { .. }) => {
                bench.answer(Event::CallLost(CallFault::Panic("no such register".into())));
            }
            Some(_) => {}
            None => bench.elapsed = bench.device.poll_timeout().unwrap() - bench.start,
        }
    }
    let writes = bench.writes().len();
    assert!((10..=20).contains(&writes), "{writes} writes in ten minutes");
    let observed = bench.sample("a").unwrap().desired.clone().unwrap();
    assert_eq!(observed.state, "failed");
    assert!(observed.reason.unwrap().contains("panicked"));
}

#[test]
fn values_that_break_a_rule_never_reach_the_driver() {
    let mut read_only = property(Some("5"));
    read_only.access = Access::ReadOnly;
    let mut bench = Bench::new(spec(&[
        ("read_only", read_only),
        ("too_high", property(Some("101"))),
        ("no_number", property(Some("warm"))),
    ]));
    bench.settle();
    assert_eq!(bench.writes(), []);
    for name in ["read_only", "too_high", "no_number"] {
        assert_eq!(bench.desired_state(name), Some("refused"), "{name}");
    }
    // A wider range lets the value through, once.
    bench.change(|spec| spec.properties.get_mut("too_high").unwrap().range.maximum = Some(200.0));
    bench.settle();
    assert_eq!(bench.writes(), [("too_high".to_owned(), 101)]);
}

#[test]
fn a_changed_property_touches_nothing_else() {
    let mut bench = Bench::new(spec(&[("a", property(Some("1"))), ("b", property(Some("2")))]));
    bench.settle();
    bench.log.clear();
    bench.change(|spec| {
        spec.properties.get_mut("b").unwrap().visitor = json!({"offset": 7});
        spec.properties.insert("c".into(), property(None));
    });
    bench.holds.insert("c".into(), 9);
    bench.settle();
    assert_eq!(bench.count(is_connect), 0);
    assert_eq!(bench.count(|e| matches!(e, Effect::Disconnect)), 0);
    let read = bench.log.iter().filter_map(|effect| match effect {
        Effect::Read(requests) => {
            Some(requests.iter().map(|r| r.property.as_str()).collect::<Vec<_>>())
        }
        _ => None,
    });
    assert_eq!(read.collect::<Vec<_>>(), [["b", "c"]]);
}

#[test]
fn only_another_protocol_configuration_reconnects() {
    let mut bench = Bench::new(spec(&[("a", property(None))]));
    bench.settle();
    bench.log.clear();
    bench.change(|spec| spec.protocol = Ok(json!({"port": 2})));
    bench.settle();
    let position = |wanted: fn(&Effect) -> bool| bench.log.iter().position(wanted).unwrap();
    assert!(position(|e| matches!(e, Effect::Disconnect)) < position(is_connect));
}

#[test]
fn a_removed_or_silenced_property_is_forgotten() {
    let mut bench = Bench::new(spec(&[("a", property(None)), ("b", property(None))]));
    bench.settle();
    bench.log.clear();
    bench.change(|spec| {
        spec.properties.remove("a");
        spec.properties.get_mut("b").unwrap().report = false;
    });
    bench.advance(CYCLE);
    bench.settle();
    assert!(bench.log.contains(&Effect::Forget("a".into())));
    assert!(bench.log.contains(&Effect::Forget("b".into())));
    assert_eq!(bench.sample("a"), None);
    assert_eq!(bench.sample("b"), None);
    assert_eq!(bench.count(is_read), 1);
}

#[test]
fn a_panic_makes_the_device_unhealthy_until_it_answers_again() {
    let mut bench = Bench::new(spec(&[("a", property(None))]));
    bench.settle();
    bench.log.clear();
    bench.advance(CYCLE);
    bench.until(is_read);
    bench.answer(Event::CallLost(CallFault::Panic("index out of bounds".into())));
    bench.settle();
    bench.advance(Duration::from_secs(1));
    bench.settle();
    let states: Vec<_> = bench.log.iter().filter(|e| matches!(e, Effect::State(_))).collect();
    assert_eq!(
        states,
        [&Effect::State(DeviceState::Unhealthy), &Effect::State(DeviceState::Online)]
    );
}

#[test]
fn a_configuration_that_cannot_work_is_not_tried_until_it_changes() {
    let mut bench = Bench::new(spec(&[("a", property(None))]));
    let now = bench.now();
    bench.device = Device::new(Arc::new(bench.spec.clone()), Some("ip: is required"), 1, now);
    bench.advance(Duration::from_secs(3600));
    bench.settle();
    assert_eq!(bench.log, [Effect::State(DeviceState::Unhealthy)]);
    bench.change(|spec| spec.protocol = Ok(json!({"ip": "h"})));
    bench.settle();
    assert_eq!(bench.log.last(), bench.log.iter().rfind(|e| matches!(e, Effect::State(_))));
    assert!(bench.log.contains(&Effect::State(DeviceState::Online)));
}

#[test]
fn a_broken_property_is_left_alone() {
    let mut broken = property(Some("5"));
    broken.problem = Some("visitors.configData.offset: missing".into());
    let mut bench = Bench::new(spec(&[("good", property(None)), ("broken", broken)]));
    bench.settle();
    let touches = |effect: &Effect| match effect {
        Effect::Read(requests) => requests.iter().any(|r| r.property == "broken"),
        Effect::Write { property, .. } => property == "broken",
        _ => false,
    };
    assert_eq!(bench.count(touches), 0);
    assert!(bench.sample("good").is_some());
}

#[test]
fn reconnects_back_off_and_start_over_after_an_answer() {
    let mut bench = Bench::new(spec(&[("a", property(None))]));
    let mut waits = Vec::new();
    for _ in 0..12 {
        bench.until(is_connect);
        let before = bench.elapsed;
        bench.answer(Event::ConnectFailed(DriverError::lost("refused")));
        bench.settle();
        bench.elapsed = bench.device.poll_timeout().unwrap() - bench.start;
        waits.push(bench.elapsed - before);
    }
    assert!(waits[0] < Duration::from_millis(400), "{waits:?}");
    assert!(waits[11] > Duration::from_secs(10) && waits[11] < Duration::from_secs(20));
    assert_eq!(bench.count(|e| *e == Effect::State(DeviceState::Offline)), 1);
    bench.settle();
    bench.advance(CYCLE);
    bench.until(is_read);
    bench.answer(Event::CallLost(CallFault::Deadline(CYCLE)));
    assert!(bench.device.poll_timeout().unwrap() - bench.now().instant < CYCLE);
}

#[test]
fn the_state_is_repeated_when_asked_for() {
    let mut spec = spec(&[("a", property(None))]);
    spec.state_cycle = Some(CYCLE * 2);
    let mut bench = Bench::new(spec);
    for _ in 0..10 {
        bench.settle();
        bench.advance(CYCLE);
    }
    assert_eq!(bench.count(|e| *e == Effect::State(DeviceState::Online)), 5);
}

/// What a random walk may do to a device.
#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    Desire(u8, Option<i64>),
    Lose,
    Panic,
    FailRead,
    FailWrite,
    Forget(u8),
    Reconnect,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1_u64..3000).prop_map(Step::Wait),
        3 => (0_u8..3, proptest::option::of(-5_i64..105)).prop_map(|(p, v)| Step::Desire(p, v)),
        1 => Just(Step::Lose),
        1 => Just(Step::Panic),
        1 => Just(Step::FailRead),
        1 => Just(Step::FailWrite),
        1 => (0_u8..3).prop_map(Step::Forget),
        1 => Just(Step::Reconnect),
    ]
}

proptest! {
    /// Whatever happened before: with a healthy driver and a little time the device holds every
    /// acceptable desired value, was only ever written what was desired and allowed, and rests.
    #[test]
    fn a_device_converges_after_any_trouble(steps in proptest::collection::vec(step(), 0..40)) {
        let names = ["a", "b", "c"];
        let mut bench = Bench::new(spec(&names.map(|name| (name, property(None)))));
        let mut desired_ever: Vec<(String, i64)> = Vec::new();
        for step in steps {
            match step {
                Step::Wait(ms) => bench.advance(Duration::from_millis(ms)),
                Step::Desire(which, value) => {
                    let name = names[usize::from(which)];
                    desired_ever.extend(value.map(|value| (name.to_owned(), value)));
                    bench.change(|spec| {
                        let property = spec.properties.get_mut(name).unwrap();
                        property.desired = value.map(|value| value.to_string());
                    });
                }
                Step::Forget(which) => bench.holds.insert(names[usize::from(which)].into(), 0).map_or((), drop),
                Step::Reconnect => bench.change(|spec| {
                    let port = spec.protocol.as_ref().unwrap()["port"].as_i64().unwrap_or(0);
                    spec.protocol = Ok(json!({"port": port + 1}));
                }),
                Step::Lose | Step::Panic | Step::FailRead | Step::FailWrite => {
                    let Some(effect) = bench.poll() else { continue };
                    match (effect, &step) {
                        (Effect::Connect, _) => {
                            bench.answer(Event::ConnectFailed(DriverError::lost("no")));
                        }
                        (Effect::Read(r), Step::FailRead) => {
                            let all = r.into_iter().map(|r| (r.property, failed("exception")));
                            bench.answer(Event::Read(all.collect()));
                        }
                        (Effect::Write { .. }, Step::FailWrite) => bench.answer(Event::Written(failed("busy"))),
                        (Effect::Read(_) | Effect::Write { .. }, Step::Panic) => {
                            bench.answer(Event::CallLost(CallFault::Panic("boom".into())));
                        }
                        (Effect::Read(_) | Effect::Write { .. }, _) => {
                            bench.answer(Event::CallLost(CallFault::Deadline(CYCLE)));
                        }
                        _ => {}
                    }
                }
            }
        }
        // A register that lost its value while connected is written again after a reconnect.
        bench.change(|spec| spec.protocol = Ok(json!({"port": -1})));
        for _ in 0..200 {
            bench.settle();
            bench.advance(Duration::from_secs(1));
        }
        bench.settle();
        for (name, property) in &bench.spec.properties {
            match property.desired_value() {
                Some(Ok(Value::Int(value))) => {
                    prop_assert_eq!(bench.holds[name], value);
                    prop_assert_eq!(bench.desired_state(name), Some("applied"));
                }
                Some(_) => prop_assert_eq!(bench.desired_state(name), Some("refused")),
                None => prop_assert_eq!(bench.desired_state(name), None),
            }
        }
        for write in bench.writes() {
            prop_assert!(desired_ever.contains(&write) && (0..=100).contains(&write.1));
        }
    }
}
