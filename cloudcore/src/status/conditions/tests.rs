use super::*;

const NOW: u64 = 1_795_000_000_000;

fn facts() -> Facts<'static> {
    Facts {
        generation: 3,
        node: Some("gw-1"),
        reach: Reach::Here,
        parked: None,
        delivery: Delivery::Stored,
        properties: vec![PropertyFact {
            name: "set",
            observable: true,
            accepted: Some(true),
            applied: Some(true),
        }],
        heard: true,
        state: Some("online"),
        last_online: Some("2026-11-22T13:00:00Z"),
    }
}

fn shown(facts: &Facts<'_>) -> Vec<(&'static str, String, String)> {
    let next = Shown::default().next(facts, NOW);
    let conditions = next.conditions.iter();
    conditions.map(|c| (c.kind.as_str(), c.status.clone(), c.reason.clone())).collect()
}

fn reason(facts: &Facts<'_>, kind: &str) -> String {
    let found = shown(facts).into_iter().find(|(name, _, _)| *name == kind);
    found.map(|(_, status, reason)| format!("{status} {reason}")).unwrap_or_default()
}

#[test]
fn a_device_that_works_has_five_true_conditions() {
    let statuses: Vec<_> =
        shown(&facts()).into_iter().map(|(kind, status, _)| (kind, status)).collect();
    let yes = || "True".to_owned();
    let all = ["ModelResolved", "Delivered", "Accepted", "Converged", "Online"];
    assert_eq!(statuses, all.map(|kind| (kind, yes())));
}

#[test]
fn every_fault_shows_where_it_is() {
    let model =
        hub_proto::id::ObjectKey::new(hub_proto::id::ObjectKind::DeviceModel, "dev", "m").unwrap();
    let missing = Parked::ModelNotFound(model);
    let parked = Facts { parked: Some(&missing), ..facts() };
    assert_eq!(reason(&parked, "ModelResolved"), "False ModelNotFound");
    assert_eq!(reason(&parked, "Delivered"), "False Parked");
    assert_eq!(reason(&parked, "Converged"), "False Parked");

    let invalid = Parked::Invalid("spec.properties[0].name: is required".into());
    let invalid = Facts { parked: Some(&invalid), ..facts() };
    assert_eq!(reason(&invalid, "ModelResolved"), "False Invalid");

    let no_reference = Parked::NoModelReference;
    let no_reference = Facts { parked: Some(&no_reference), ..facts() };
    assert_eq!(reason(&no_reference, "ModelResolved"), "False NoModelReference");

    let unbound = Facts { node: None, ..facts() };
    assert_eq!(reason(&unbound, "Delivered"), "False NoNode");

    let pending = Facts { delivery: Delivery::Pending, ..facts() };
    assert_eq!(reason(&pending, "Delivered"), "False Pending");
    let gone = Facts { reach: Reach::Lost, ..pending };
    assert_eq!(reason(&gone, "Delivered"), "False NodeUnreachable");
    assert_eq!(reason(&gone, "Online"), "Unknown NodeUnreachable");

    let refused = Facts { delivery: Delivery::Refused("disk full"), ..facts() };
    assert_eq!(reason(&refused, "Delivered"), "False Refused");

    for (state, expected) in [
        (Some("Online"), "True DeviceOnline"),
        (Some("ok"), "True DeviceOnline"),
        (Some("offline"), "False DeviceOffline"),
        (Some("unhealthy"), "False DeviceUnhealthy"),
        (Some("unknown"), "Unknown StateUnknown"),
        (None, "True Reporting"),
    ] {
        assert_eq!(reason(&Facts { state, ..facts() }, "Online"), expected, "{state:?}");
    }
    let silent = Facts { state: None, heard: false, ..facts() };
    assert_eq!(reason(&silent, "Online"), "Unknown NothingReported");
}

/// `kubectl wait --for=condition=Converged` must not return before the node has the device.
#[test]
fn nothing_desired_is_fulfilled_only_where_the_device_is() {
    let nothing = |delivery| Facts { properties: Vec::new(), delivery, ..facts() };
    assert_eq!(reason(&nothing(Delivery::Stored), "Converged"), "True NothingDesired");
    assert_eq!(reason(&nothing(Delivery::Pending), "Converged"), "False NotDelivered");
    assert_eq!(reason(&nothing(Delivery::Refused("full")), "Converged"), "False NotDelivered");
    let nowhere = Facts { node: None, ..nothing(Delivery::NotAsked) };
    assert_eq!(reason(&nowhere, "Converged"), "False NotDelivered");
}

#[test]
fn convergence_is_what_the_device_reports_and_acceptance_what_the_mapper_says() {
    let with = |observable, accepted, applied| Facts {
        properties: vec![PropertyFact { name: "set", observable, accepted, applied }],
        ..facts()
    };
    let both = |facts: &Facts<'_>| (reason(facts, "Accepted"), reason(facts, "Converged"));
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(both(&with(true, None, None)), pair("False AwaitingMapper", "False AwaitingReport"));
    assert_eq!(
        both(&with(true, Some(false), Some(false))),
        pair("False AwaitingMapper", "False Differs")
    );
    assert_eq!(both(&with(true, Some(true), Some(false))), pair("True Observed", "False Differs"));
    assert_eq!(both(&with(false, None, None)), pair("True Heard", "Unknown NotReported"));
    let nothing = Facts { properties: vec![], heard: false, ..facts() };
    assert_eq!(both(&nothing), pair("Unknown NothingReported", "True NothingDesired"));
}

#[test]
fn a_condition_keeps_its_time_until_it_turns() {
    let first = Shown::default().next(&facts(), NOW);
    let later = first.next(&Facts { generation: 4, ..facts() }, NOW + 60_000);
    assert!(!first.turned(&later), "a new generation alone is the caller's to judge");
    assert_eq!(later.conditions[0].since, first.conditions[0].since);
    assert_eq!(later.conditions[0].observed_generation, 4);

    let offline = later.next(&Facts { state: Some("offline"), ..facts() }, NOW + 90_000);
    assert!(later.turned(&offline));
    let online = |shown: &Shown| shown.conditions[4].since.clone();
    assert_ne!(online(&offline), online(&later));
    assert_eq!(offline.conditions[0].since, first.conditions[0].since);
}

#[test]
fn a_later_online_time_alone_is_no_turn() {
    let first = Shown::default().next(&facts(), NOW);
    let later = Facts { last_online: Some("2026-11-22T14:00:00Z"), ..facts() };
    assert!(!first.turned(&first.next(&later, NOW + 1000)));
}

#[test]
fn what_is_not_known_after_a_restart_is_left_as_it_was() {
    let before = Shown::default().next(&facts(), NOW);
    let restarted = Facts { delivery: Delivery::NotAsked, ..facts() };
    let after = before.next(&restarted, NOW + 1000);
    assert!(!before.turned(&after));
}

#[test]
fn what_is_written_reads_back() {
    let next = Shown::default().next(&facts(), NOW);
    let patch = next.patch();
    let status: DeviceObjectStatus = serde_json::from_value(patch["status"].clone()).unwrap();
    let read = Shown::read(&status);
    assert!(!read.turned(&next));
    assert_eq!(read.observed_generation(), 3);
    assert_eq!(read.state(), Some("online"));
    assert_eq!(read.conditions[0].since, next.conditions[0].since);
}
