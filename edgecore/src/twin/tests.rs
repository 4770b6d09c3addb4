use proptest::prelude::*;
use serde_json::json;

use super::*;

const NOW: u64 = 1_754_463_538_000;

fn id() -> DeviceId {
    DeviceId::parse("dev/a").unwrap()
}

fn model() -> DeviceModelSpec {
    serde_json::from_value(json!({"properties": [
        {"name": "t", "type": "INT", "minimum": "0", "maximum": "10"},
        {"name": "free"}
    ]}))
    .unwrap()
}

fn sample(value: &str, sampled_ms: u64) -> Option<Sample> {
    Some(Sample { value: value.into(), sampled_ms })
}

fn report(twins: &mut Twins, value: &str, sampled_ms: u64, now_ms: u64) -> Vec<News> {
    let samples = (sample(value, sampled_ms), None);
    let news = twins.report(&id(), "t", samples, Some(&model()), now_ms).unwrap();
    news.into_iter().filter(|news| matches!(news, News::Values { .. })).collect()
}

fn reported(twins: &Twins) -> (String, u64) {
    let sample = twins.get(&id(), "t").unwrap().reported.clone().unwrap();
    (sample.value, sample.sampled_ms)
}

#[test]
fn a_value_must_read_as_its_type_and_may_lie_outside_its_bounds() {
    let mut twins = Twins::default();
    let mut put = |property: &str, value: &str| {
        twins.report(&id(), property, (sample(value, NOW), None), Some(&model()), NOW).map(|_| ())
    };
    put("t", "11").unwrap();
    put("t", "").unwrap();
    put("free", "any ☃ text").unwrap();
    let error = put("t", "1.5").unwrap_err();
    assert!(error.to_string().contains("\"t\"") && error.to_string().contains("INT"), "{error}");
    assert!(put("free", &"x".repeat(64 * 1024)).is_ok());
    assert!(put("free", &"x".repeat(64 * 1024 + 1)).is_err());
}

#[test]
fn a_new_value_is_told_at_once_and_the_same_one_now_and_then() {
    let mut twins = Twins::default();
    assert_eq!(report(&mut twins, "1", NOW, NOW).len(), 1);
    assert_eq!(report(&mut twins, "1", NOW + 1000, NOW + 1000).len(), 0);
    assert_eq!(reported(&twins).1, NOW + 1000, "the sample time is kept all the same");
    assert_eq!(report(&mut twins, "2", NOW + 2000, NOW + 2000).len(), 1);
    assert_eq!(report(&mut twins, "2", NOW + 31_999, NOW + 31_999).len(), 0);
    assert_eq!(report(&mut twins, "2", NOW + 32_000, NOW + 32_000).len(), 1);
}

#[test]
fn an_older_sample_is_dropped_unless_a_clock_was_wrong() {
    let mut twins = Twins::default();
    report(&mut twins, "1", NOW, NOW);
    report(&mut twins, "2", NOW - 1, NOW + 10);
    assert_eq!(reported(&twins), ("1".into(), NOW));
    // A device that lives in 2099 until somebody sets its clock.
    report(&mut twins, "3", NOW * 2, NOW + 20);
    report(&mut twins, "4", NOW + 30, NOW + 30);
    assert_eq!(reported(&twins), ("4".into(), NOW + 30));
}

#[test]
fn a_confirmation_covers_what_was_told_and_not_what_came_after() {
    let mut twins = Twins::default();
    let mark = |news: &[News]| match &news[0] {
        News::Values { mark, .. } => *mark,
        News::State { .. } => unreachable!(),
    };
    let first = mark(&report(&mut twins, "1", NOW, NOW));
    let second = mark(&report(&mut twins, "2", NOW, NOW));
    twins.confirmed(&id(), "t", first);
    assert!(twins.get(&id(), "t").unwrap().is_unconfirmed());
    twins.confirmed(&id(), "t", second);
    assert!(!twins.get(&id(), "t").unwrap().is_unconfirmed());
    twins.confirmed(&id(), "nothing", 9);
}

#[test]
fn what_was_not_confirmed_is_told_after_a_restart_and_nothing_else() {
    let mut twins = Twins::default();
    report(&mut twins, "1", NOW, NOW);
    twins.state(&id(), "unhealthy", NOW);
    let saved = twins.take_unsaved().unwrap();
    assert!(saved.twins[0].dirty && saved.states[0].dirty);
    let mut restarted = Twins::default();
    let news = restarted.restore(saved.twins, saved.states);
    assert_eq!(news.len(), 2);
    for news in news {
        match news {
            News::Values { device, property, values, mark } => {
                assert_eq!(values.reported.unwrap().sampled_ms, Some(NOW));
                restarted.confirmed(&device, &property, mark);
            }
            News::State { device, state, mark } => {
                assert_eq!(state.state, "unhealthy");
                restarted.state_confirmed(&device, mark);
            }
        }
    }
    let saved = restarted.take_unsaved().unwrap();
    assert!(Twins::default().restore(saved.twins, saved.states).is_empty());
}

#[test]
fn a_state_is_told_when_it_changes_and_keeps_when_it_was_last_online() {
    let mut twins = Twins::default();
    let told = |news: Option<News>| match news {
        Some(News::State { state, .. }) => Some((state.state, state.last_online)),
        Some(News::Values { .. }) | None => None,
    };
    let online = Some("2025-08-06T06:58:58Z".to_owned());
    assert_eq!(told(twins.state(&id(), "ok", NOW)), Some(("ok".into(), online)));
    assert_eq!(told(twins.state(&id(), "ok", NOW + 5000)), None);
    let later = Some("2025-08-06T06:59:03Z".to_owned());
    assert_eq!(told(twins.state(&id(), "offline", NOW + 9000)), Some(("offline".into(), later)));
    assert_eq!(told(twins.unknown(&id(), NOW + 9999)).unwrap().0, "unknown");
}

#[test]
fn a_device_that_delivers_is_online_unless_its_mapper_says_otherwise() {
    let mut twins = Twins::default();
    let state = |twins: &Twins| twins.state_of(&id()).map(|state| state.state.clone());
    report(&mut twins, "1", NOW, NOW);
    assert_eq!(state(&twins).as_deref(), Some("online"));
    twins.unknown(&id(), NOW);
    report(&mut twins, "1", NOW + 1, NOW);
    assert_eq!(state(&twins).as_deref(), Some("online"));
    twins.state(&id(), "unhealthy", NOW);
    report(&mut twins, "2", NOW + 2, NOW);
    assert_eq!(state(&twins).as_deref(), Some("unhealthy"));
    let silent = DeviceId::parse("dev/silent").unwrap();
    assert_eq!(twins.unknown(&silent, NOW), None);
}

#[test]
fn what_is_gone_leaves_no_row_behind() {
    let mut twins = Twins::default();
    report(&mut twins, "1", NOW, NOW);
    twins.take_unsaved();
    twins.keep_only(&id(), |name| name != "t");
    assert_eq!(twins.take_unsaved().unwrap().gone, [(id(), "t".to_owned())]);
    report(&mut twins, "1", NOW, NOW);
    twins.forget(&id());
    assert!(!twins.has_unsaved() && twins.get(&id(), "t").is_none());
}

proptest! {
    #[test]
    fn sample_times_never_go_backwards(samples in proptest::collection::vec((0..5u8, 0..50_000u64), 1..40)) {
        let mut twins = Twins::default();
        let mut last = 0;
        for (value, offset) in samples {
            report(&mut twins, &value.to_string(), NOW + offset, NOW + 50_000);
            let (_, at) = reported(&twins);
            prop_assert!(at >= last);
            last = at;
        }
    }
}
