use serde_json::json;

use super::*;

struct Opened {
    store: Store,
    thread: StoreThread,
    dir: tempfile::TempDir,
    resource: Arc<str>,
}

fn open_in(dir: tempfile::TempDir) -> Opened {
    let (store, thread) = Store::open(&dir.path().join("state.db")).unwrap();
    Opened { store, thread, dir, resource: "things".into() }
}

fn open() -> Opened {
    open_in(tempfile::tempdir().unwrap())
}

impl Opened {
    fn key(&self, name: &str) -> Key {
        Key::new(&self.resource, "n", name)
    }

    async fn write(
        &self,
        name: &str,
        expect: Expect,
        put: Option<Value>,
    ) -> Result<u64, CommitError> {
        let write = Write { key: self.key(name), expect, put, guard: Guard::None };
        self.store.commit(write).await.map(|change| change.rv)
    }

    async fn create(&self, name: &str) -> u64 {
        self.write(name, Expect::Absent, Some(object(name, 0))).await.unwrap()
    }

    async fn names(&self, at: Option<u64>) -> Vec<String> {
        let listing = self.store.list(self.query(at)).await.unwrap();
        listing.items.into_iter().map(|(key, _)| key.name).collect()
    }

    fn query(&self, at: Option<u64>) -> ListQuery {
        ListQuery {
            resource: self.resource.clone(),
            namespace: String::new(),
            name: None,
            at,
            after: None,
            limit: None,
        }
    }
}

fn object(name: &str, value: i64) -> Value {
    json!({"metadata": {"name": name, "uid": format!("uid-{name}")}, "value": value})
}

#[tokio::test]
async fn every_write_has_its_own_revision_and_writes_it_into_the_object() {
    let opened = open();
    let first = opened.create("a").await;
    let second = opened.create("b").await;
    assert_eq!(second, first + 1);
    let stored = opened.store.get(&opened.key("b")).await.unwrap().unwrap();
    assert_eq!(stored.value()["metadata"]["resourceVersion"], second.to_string());
    assert_eq!(opened.store.revision(), second);
}

#[tokio::test]
async fn a_write_is_refused_when_the_object_is_not_as_expected() {
    let opened = open();
    let rv = opened.create("a").await;
    let exists = opened.write("a", Expect::Absent, Some(object("a", 1))).await;
    assert!(matches!(exists, Err(CommitError::Exists)));
    let stale = opened.write("a", Expect::Rv(rv + 9), Some(object("a", 1))).await;
    assert!(matches!(stale, Err(CommitError::Conflict { current }) if current == rv));
    let missing = opened.write("zzz", Expect::Rv(1), None).await;
    assert!(matches!(missing, Err(CommitError::NotFound)));
    assert_eq!(opened.store.revision(), rv, "a refused write consumes no revision");
}

#[tokio::test]
async fn of_writers_that_race_exactly_one_wins() {
    let opened = open();
    let rv = opened.create("a").await;
    let tasks: Vec<_> = (0..20)
        .map(|value| {
            let store = opened.store.clone();
            let put = Some(object("a", value));
            let key = opened.key("a");
            tokio::spawn(async move {
                store.commit(Write { key, expect: Expect::Rv(rv), put, guard: Guard::None }).await
            })
        })
        .collect();
    let mut won = 0;
    for task in tasks {
        won += usize::from(task.await.unwrap().is_ok());
    }
    assert_eq!(won, 1);
}

#[tokio::test]
async fn changes_are_published_in_order_and_replayed_the_same() {
    let opened = open();
    let start = opened.store.revision();
    let mut changes = opened.store.subscribe(&opened.resource);
    let rv = opened.create("a").await;
    let rv = opened.write("a", Expect::Rv(rv), Some(object("a", 1))).await.unwrap();
    opened.write("a", Expect::Rv(rv), None).await.unwrap();
    let replay = opened.store.replay(&opened.resource, "", start).await.unwrap();
    assert_eq!(replay.changes.len(), 3);
    for replayed in replay.changes {
        let live = changes.recv().await.unwrap();
        assert_eq!(live.rv, replayed.rv);
        let values = |s: &Option<Arc<Stored>>| s.as_ref().map(|s| s.value().clone());
        assert_eq!(values(&live.prev), values(&replayed.prev));
        assert_eq!(values(&live.next), values(&replayed.next));
    }
}

#[tokio::test]
async fn a_list_can_be_read_as_of_any_revision_in_the_log() {
    let opened = open();
    let one = opened.create("a").await;
    let two = opened.create("b").await;
    let three = opened.write("a", Expect::Rv(one), None).await.unwrap();
    opened.create("a").await;
    assert_eq!(opened.names(Some(one)).await, ["a"]);
    assert_eq!(opened.names(Some(two)).await, ["a", "b"]);
    assert_eq!(opened.names(Some(three)).await, ["b"]);
    assert_eq!(opened.names(None).await, ["a", "b"]);
    let old = opened.store.list(opened.query(Some(two))).await.unwrap();
    assert_eq!(old.items[0].1.rv, one);
}

#[tokio::test]
async fn pages_follow_each_other_without_gap_or_repeat() {
    let opened = open();
    for index in 0..7 {
        opened.create(&format!("o{index}")).await;
    }
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let mut query = opened.query(None);
        (query.after, query.limit) = (after, Some(3));
        let page = opened.store.list(query).await.unwrap();
        seen.extend(page.items.iter().map(|(key, _)| key.name.clone()));
        assert_eq!(page.remaining, 7 - u64::try_from(seen.len()).unwrap());
        if page.remaining == 0 {
            break;
        }
        let (last, _) = page.items.last().unwrap();
        after = Some((last.namespace.clone(), last.name.clone()));
    }
    assert_eq!(seen, ["o0", "o1", "o2", "o3", "o4", "o5", "o6"]);
}

#[tokio::test]
async fn what_is_compacted_is_refused_and_the_rest_stays() {
    let opened = open();
    let rv = opened.create("a").await;
    let late = crate::clock::now() + std::time::Duration::from_secs(60);
    let floor = opened.store.compact(late).await.unwrap();
    assert_eq!(floor, rv);
    assert_eq!(opened.names(None).await, ["a"]);
    let replay = opened.store.replay(&opened.resource, "", rv - 1).await;
    assert!(matches!(replay, Err(ReadError::Compacted { .. })));
    assert!(opened.store.replay(&opened.resource, "", rv).await.unwrap().changes.is_empty());
    assert!(opened.store.list(opened.query(Some(rv - 1))).await.is_err());
}

#[tokio::test]
async fn a_restart_keeps_objects_log_and_counter() {
    let opened = open();
    opened.create("a").await;
    let rv = opened.create("b").await;
    let rv = opened.write("b", Expect::Rv(rv), None).await.unwrap();
    let late = crate::clock::now() + std::time::Duration::from_secs(60);
    opened.store.compact(late).await.unwrap();
    opened.thread.close().await;
    let reopened = open_in(opened.dir);
    assert_eq!(reopened.store.revision(), rv);
    assert_eq!(reopened.names(None).await, ["a"]);
    assert_eq!(reopened.create("c").await, rv + 1);
}

#[tokio::test]
async fn owners_are_indexed_and_orphans_found() {
    let opened = open();
    opened.create("owner").await;
    let mut child = object("child", 0);
    child["metadata"]["ownerReferences"] = json!([{"uid": "uid-owner"}]);
    let rv = opened.write("child", Expect::Absent, Some(child)).await.unwrap();
    let children = opened.store.dependents("uid-owner").await.unwrap();
    assert_eq!(children, [opened.key("child")]);
    assert!(opened.store.orphaned().await.unwrap().is_empty());
    let owner = opened.store.find_uid("uid-owner").await.unwrap().unwrap();
    let live = opened.store.get(&owner).await.unwrap().unwrap();
    opened.write("owner", Expect::Rv(live.rv), None).await.unwrap();
    assert_eq!(opened.store.orphaned().await.unwrap(), [opened.key("child")]);
    opened.write("child", Expect::Rv(rv), Some(object("child", 1))).await.unwrap();
    assert!(opened.store.dependents("uid-owner").await.unwrap().is_empty());
}

#[tokio::test]
async fn namespaces_guard_their_content() {
    let opened = open();
    let guarded =
        |key: Key, expect, put, guard| opened.store.commit(Write { key, expect, put, guard });
    let missing =
        guarded(opened.key("a"), Expect::Absent, Some(object("a", 0)), Guard::NamespaceExists);
    assert!(matches!(missing.await, Err(CommitError::NamespaceMissing)));
    let namespace = Key::new(&Arc::from("namespaces"), "", "n");
    let made = guarded(namespace.clone(), Expect::Absent, Some(object("n", 0)), Guard::None).await;
    let rv = made.unwrap().rv;
    guarded(opened.key("a"), Expect::Absent, Some(object("a", 0)), Guard::NamespaceExists)
        .await
        .unwrap();
    let removal = guarded(namespace, Expect::Rv(rv), None, Guard::NamespaceEmpty).await;
    assert!(matches!(removal, Err(CommitError::NamespaceNotEmpty)));
}
