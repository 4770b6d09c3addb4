use hub_proto::id::{ObjectKind, Revision};
use hub_proto::message::Change;
use serde_json::value::RawValue;
use tempfile::TempDir;

use super::*;

fn key(kind: ObjectKind, name: &str) -> ObjectKey {
    ObjectKey::new(kind, "dev", name).unwrap()
}

fn device(name: &str) -> DeviceId {
    DeviceId::new("dev", name).unwrap()
}

fn upsert(kind: ObjectKind, name: &str, uid: &str, revision: u64, model: &str) -> Write {
    let body =
        format!(r#"{{"spec":{{"deviceModelRef":{{"name":"{model}"}}}},"revision":{revision}}}"#);
    deliver(ObjectChange {
        key: key(kind, name),
        uid: Some(uid.into()),
        revision: Some(Revision(revision)),
        change: Change::Upsert { create: true, object: RawValue::from_string(body).unwrap() },
    })
}

fn delete(kind: ObjectKind, name: &str, uid: &str) -> Write {
    let uid = Some(uid.to_owned());
    deliver(ObjectChange { key: key(kind, name), uid, revision: None, change: Change::Delete })
}

fn deliver(change: ObjectChange) -> Write {
    Write::Deliver { delivery: MessageId::parse("m").unwrap(), change }
}

fn twin(name: &str, value: &str) -> TwinRow {
    TwinRow {
        device: device(name),
        property: "t".into(),
        reported: Some((value.into(), 5)),
        observed: None,
        dirty: true,
    }
}

fn flush(twins: Vec<TwinRow>) -> Write {
    Write::Flush { twins, gone: Vec::new(), states: Vec::new() }
}

/// Performs the writes one by one, closes, and reopens.
fn after(dir: &TempDir, writes: Vec<Write>) -> (Vec<Done>, Snapshot) {
    let (mut store, _) = open(dir.path(), 1).unwrap();
    let mut answers = Vec::new();
    for write in writes {
        store.writes.blocking_send(write).unwrap();
        answers.push(store.done.blocking_recv().unwrap());
    }
    drop(store.writes);
    store.thread.join().unwrap();
    let (store, snapshot) = open(dir.path(), 2).unwrap();
    drop(store.writes);
    store.thread.join().unwrap();
    (answers, snapshot)
}

fn applied(answers: &[Done]) -> Vec<bool> {
    let result = |done: &Done| match done {
        Done::Delivered { applied, .. } => Some(applied.clone().unwrap()),
        Done::Retained(_) | Done::Registered(_) | Done::Flushed { .. } | Done::Other(_) => None,
    };
    answers.iter().filter_map(result).collect()
}

fn names(snapshot: &Snapshot) -> Vec<String> {
    snapshot.objects.iter().map(|(key, _, _)| key.to_string()).collect()
}

use ObjectKind::{Device, DeviceModel};

#[test]
fn what_was_answered_is_there_when_the_store_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let (answers, snapshot) = after(
        &dir,
        vec![
            upsert(Device, "a", "u", 5, "m"),
            upsert(DeviceModel, "m", "u", 4, ""),
            upsert(Device, "a", "u", 5, "m"),
            upsert(Device, "a", "u", 4, "m"),
            upsert(Device, "b", "u", 1, "m"),
            delete(Device, "b", "another"),
            delete(Device, "b", "u"),
        ],
    );
    assert_eq!(applied(&answers), [true, true, false, false, true, false, true]);
    assert_eq!(names(&snapshot), ["DeviceModel dev/m", "Device dev/a"]);
    assert!(snapshot.objects[1].2.contains("\"revision\":5"));
    assert_eq!(snapshot.objects[1].1, "u");
}

#[test]
fn twins_live_and_die_with_their_device() {
    let dir = tempfile::tempdir().unwrap();
    let (_, snapshot) = after(
        &dir,
        vec![
            upsert(Device, "a", "u", 1, "m"),
            upsert(Device, "b", "u", 2, "m"),
            flush(vec![twin("a", "1"), twin("b", "2"), twin("stranger", "3")]),
            delete(Device, "b", "u"),
            flush(vec![twin("b", "4")]), // it was on its way when the deletion came
        ],
    );
    assert_eq!(snapshot.twins, [twin("a", "1")]);
    // A successor of the same name starts anew.
    let (_, snapshot) = after(&dir, vec![upsert(Device, "a", "v", 3, "m")]);
    assert!(snapshot.twins.is_empty());
}

#[test]
fn the_list_removes_what_was_held_before_and_spares_what_came_since() {
    let dir = tempfile::tempdir().unwrap();
    let (answers, snapshot) = after(
        &dir,
        vec![
            upsert(DeviceModel, "old", "u", 1, ""),
            upsert(DeviceModel, "kept", "u", 2, ""),
            upsert(Device, "gone", "u", 3, "old"),
            upsert(Device, "kept", "u", 4, "kept"),
            Write::LinkUp,
            upsert(DeviceModel, "new", "u", 5, ""),
            upsert(Device, "new", "u", 6, "later"),
            Write::Retain(vec![device("kept"), device("not-here-yet")]),
        ],
    );
    let Some(Done::Retained(Ok(removed))) = answers.last() else { panic!("{answers:?}") };
    assert_eq!(removed, &[key(Device, "gone"), key(DeviceModel, "old")]);
    assert_eq!(
        names(&snapshot),
        ["DeviceModel dev/kept", "DeviceModel dev/new", "Device dev/kept", "Device dev/new"]
    );
}

/// The list comes before the device that says it has another model now: only then is the old one left.
#[test]
fn a_model_that_its_last_device_left_goes_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let (answers, snapshot) = after(
        &dir,
        vec![
            upsert(DeviceModel, "old", "u", 1, ""),
            upsert(Device, "a", "u", 2, "old"),
            Write::LinkUp,
            Write::Retain(vec![device("a")]),
            upsert(DeviceModel, "new", "u", 3, ""),
            upsert(DeviceModel, "coming", "u", 4, ""),
            upsert(Device, "a", "u", 5, "new"),
            Write::DropUnusedModels,
        ],
    );
    let Some(Done::Retained(Ok(removed))) = answers.last() else { panic!("{answers:?}") };
    assert_eq!(removed, &[key(DeviceModel, "old")]);
    assert_eq!(names(&snapshot), ["DeviceModel dev/coming", "DeviceModel dev/new", "Device dev/a"]);
}

#[test]
fn mappers_and_what_they_accepted_are_kept_and_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let row = MapperRow {
        name: "v".into(),
        version: "1".into(),
        api_version: "2".into(),
        protocol: "p".into(),
        address: "/a".into(),
        registered_ms: u64::MAX,
    };
    let (_, snapshot) = after(
        &dir,
        vec![
            Write::Mapper(
                row.clone(),
                vec![(key(Device, "a"), Has::Version(u64::MAX)), (key(Device, "b"), Has::Some)],
            ),
            Write::Accepted("v".into(), key(Device, "b"), None),
            Write::Accepted("v".into(), key(Device, "c"), Some(Has::Maybe(None))),
            Write::Accepted("v".into(), key(Device, "d"), Some(Has::Maybe(Some(3)))),
            Write::Accepted("v".into(), key(Device, "e"), Some(Has::Some)),
        ],
    );
    assert_eq!(snapshot.mappers, std::slice::from_ref(&row));
    assert_eq!(
        snapshot.accepted["v"],
        [
            (key(Device, "a"), Has::Version(u64::MAX)),
            (key(Device, "c"), Has::Maybe(None)),
            (key(Device, "d"), Has::Maybe(Some(3))),
            (key(Device, "e"), Has::Some),
        ]
    );
    let moved = MapperRow { address: "/b".into(), ..row };
    let (_, snapshot) = after(&dir, vec![Write::Mapper(moved.clone(), Vec::new())]);
    assert_eq!(snapshot.mappers, [moved]);
    assert!(snapshot.accepted.is_empty());
    let (_, snapshot) = after(&dir, vec![Write::ForgetMapper("v".into())]);
    assert!(snapshot.mappers.is_empty());
}

#[test]
fn a_damaged_file_is_set_aside_and_a_newer_one_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("edgecore.db"), b"this is no database, but it is long enough")
        .unwrap();
    let (_, snapshot) = after(&dir, vec![upsert(Device, "a", "u", 1, "m")]);
    assert_eq!(names(&snapshot), ["Device dev/a"]);
    assert!(dir.path().join("edgecore.db.corrupt-1").exists());
    let db = rusqlite::Connection::open(dir.path().join("edgecore.db")).unwrap();
    db.execute("UPDATE schema_version SET version = 99", []).unwrap();
    drop(db);
    assert!(matches!(open(dir.path(), 3), Err(OpenError::Newer { found: 99, .. })));
}

#[test]
fn a_group_that_cannot_be_written_fails_as_a_whole_and_later_ones_work() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path(), 1).unwrap();
    // Another process holds the file, as a backup tool might.
    let other = rusqlite::Connection::open(dir.path().join("edgecore.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    store.writes.blocking_send(upsert(Device, "a", "u", 1, "m")).unwrap();
    let Some(Done::Delivered { applied, .. }) = store.done.blocking_recv() else { panic!() };
    assert!(applied.unwrap_err().contains("cannot write"));
    other.execute_batch("ROLLBACK").unwrap();
    store.writes.blocking_send(upsert(Device, "a", "u", 1, "m")).unwrap();
    let Some(Done::Delivered { applied, .. }) = store.done.blocking_recv() else { panic!() };
    assert_eq!(applied, Ok(true));
}

#[test]
fn ten_thousand_devices_that_come_and_go_leave_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path(), 1).unwrap();
    let mut waiting = 0;
    for index in 0..10_000 {
        let name = format!("d{index}");
        for write in [
            upsert(Device, &name, "u", index, "m"),
            flush(vec![twin(&name, "1")]),
            delete(Device, &name, "u"),
        ] {
            store.writes.blocking_send(write).unwrap();
            waiting += 1;
            while waiting > 200 {
                store.done.blocking_recv().unwrap();
                waiting -= 1;
            }
        }
    }
    drop(store.writes);
    while store.done.blocking_recv().is_some() {}
    store.thread.join().unwrap();
    let (store, snapshot) = open(dir.path(), 2).unwrap();
    assert!(snapshot.objects.is_empty() && snapshot.twins.is_empty());
    drop(store);
    let bytes = std::fs::metadata(dir.path().join("edgecore.db")).unwrap().len();
    assert!(bytes < 1024 * 1024, "{bytes}");
}
