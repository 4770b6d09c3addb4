//! kube-rs against the server: watchers, controllers, leases, and what happens to watches.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Secret};
use kube::api::{
    Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, WatchEvent,
    WatchParams,
};
use kube::runtime::controller::Action;
use kube::runtime::finalizer::{Event as Finalizer, finalizer};
use kube::runtime::{Controller, watcher};
use serde_json::json;
use support::{PATIENCE, World, eventually, resource, yaml};

fn config_map(name: &str, value: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}, "data": {"v": value}})).unwrap()
}

async fn next<T>(stream: &mut (impl Stream<Item = T> + Unpin)) -> T {
    tokio::time::timeout(PATIENCE, stream.next())
        .await
        .expect("an event in time")
        .expect("an event")
}

/// The code of an API error.
fn code(error: kube::Error) -> u16 {
    let kube::Error::Api(status) = error else { panic!("not an API error: {error}") };
    status.code
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_created_read_replaced_patched_and_deleted() {
    let world = World::start().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(world.client().await);
    let created = maps.create(&PostParams::default(), &config_map("a", "1")).await.unwrap();
    assert!(created.metadata.uid.is_some() && created.metadata.creation_timestamp.is_some());
    let again = maps.create(&PostParams::default(), &config_map("a", "1")).await;
    assert_eq!(code(again.unwrap_err()), 409);
    let mut changed = created.clone();
    changed.data = Some(BTreeMap::from([("v".into(), "2".into())]));
    let replaced = maps.replace("a", &PostParams::default(), &changed).await.unwrap();
    assert_eq!(code(maps.replace("a", &PostParams::default(), &changed).await.unwrap_err()), 409);
    let same = maps.replace("a", &PostParams::default(), &replaced).await.unwrap();
    assert_eq!(same.metadata.resource_version, replaced.metadata.resource_version);
    let merge = Patch::Merge(json!({"data": {"w": "3"}}));
    let patched = maps.patch("a", &PatchParams::default(), &merge).await.unwrap();
    assert_eq!(patched.data.unwrap().len(), 2);
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    maps.create(&dry, &config_map("dry", "1")).await.unwrap();
    assert_eq!(code(maps.get("dry").await.unwrap_err()), 404);
    maps.delete("a", &DeleteParams::default()).await.unwrap();
    assert_eq!(code(maps.get("a").await.unwrap_err()), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_page_and_select() {
    let world = World::start().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(world.client().await);
    for index in 0..5 {
        let mut map = config_map(&format!("m{index}"), "x");
        map.metadata.labels = Some(BTreeMap::from([("even".into(), (index % 2 == 0).to_string())]));
        maps.create(&PostParams::default(), &map).await.unwrap();
    }
    let even = maps.list(&ListParams::default().labels("even=true")).await.unwrap();
    assert_eq!(even.items.len(), 3);
    let first = maps.list(&ListParams::default().limit(2)).await.unwrap();
    assert_eq!((first.items.len(), first.metadata.remaining_item_count), (2, Some(4)));
    maps.delete("m4", &DeleteParams::default()).await.unwrap();
    let token = first.metadata.continue_.unwrap();
    let rest = maps.list(&ListParams::default().limit(500).continue_token(&token)).await.unwrap();
    assert_eq!(rest.items.len(), 4, "later pages show the state of the first one");
    assert_eq!(rest.metadata.resource_version, first.metadata.resource_version);
    let one = maps.list(&ListParams::default().fields("metadata.name=m1")).await.unwrap();
    assert_eq!(one.items.len(), 1);
    assert_eq!(code(maps.list(&ListParams::default().fields("data.v=x")).await.unwrap_err()), 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_lists_then_follows() {
    let world = World::start().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(world.client().await);
    maps.create(&PostParams::default(), &config_map("a", "1")).await.unwrap();
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let mut events = std::pin::pin!(watcher(maps.clone(), config));
        let mut names = Vec::new();
        loop {
            match next(&mut events).await.unwrap() {
                watcher::Event::InitApply(map) => names.push(map.metadata.name.unwrap()),
                watcher::Event::InitDone => break,
                watcher::Event::Init | watcher::Event::Apply(_) | watcher::Event::Delete(_) => {}
            }
        }
        assert!(names.contains(&"a".to_owned()), "{names:?}");
        maps.create(&PostParams::default(), &config_map("b", "1")).await.unwrap();
        assert!(matches!(next(&mut events).await.unwrap(), watcher::Event::Apply(_)));
        maps.delete("b", &DeleteParams::default()).await.unwrap();
        assert!(matches!(next(&mut events).await.unwrap(), watcher::Event::Delete(_)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_resumes_from_any_revision_and_is_told_when_it_is_too_old() {
    let world = World::start().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(world.client().await);
    let first = maps.create(&PostParams::default(), &config_map("a", "1")).await.unwrap();
    maps.create(&PostParams::default(), &config_map("b", "1")).await.unwrap();
    maps.delete("a", &DeleteParams::default()).await.unwrap();
    let version = first.metadata.resource_version.unwrap();
    let parameters = WatchParams::default().timeout(10);
    let mut events = std::pin::pin!(maps.watch(&parameters, &version).await.unwrap());
    assert!(
        matches!(next(&mut events).await.unwrap(), WatchEvent::Added(map) if map.metadata.name.as_deref() == Some("b"))
    );
    assert!(
        matches!(next(&mut events).await.unwrap(), WatchEvent::Deleted(map) if map.metadata.name.as_deref() == Some("a"))
    );
    let late = apiserver::clock::now() + Duration::from_secs(60);
    world.api.store.compact(late).await.unwrap();
    let mut events = std::pin::pin!(maps.watch(&parameters, &version).await.unwrap());
    assert!(
        matches!(next(&mut events).await.unwrap(), WatchEvent::Error(status) if status.code == 410)
    );
    let end = tokio::time::timeout(PATIENCE, events.next()).await.unwrap();
    assert!(end.is_none(), "the stream ends after the error");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_ends_cleanly_after_its_timeout_with_a_bookmark() {
    let world = World::start().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(world.client().await);
    let version =
        maps.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let nodes: Api<Node> = Api::all(world.client().await);
    let node = serde_json::from_value(json!({"metadata": {"name": "n"}})).unwrap();
    nodes.create(&PostParams::default(), &node).await.unwrap();
    let started = apiserver::clock::instant();
    let events = maps.watch(&WatchParams::default().timeout(3), &version).await.unwrap();
    let events: Vec<_> = events.try_collect().await.unwrap();
    assert!((2..6).contains(&started.elapsed().as_secs()));
    let WatchEvent::Bookmark(bookmark) = &events[0] else { panic!("{events:?}") };
    let seen: u64 = bookmark.metadata.resource_version.parse().unwrap();
    assert!(seen > version.parse().unwrap(), "changes of other kinds count");
    assert_eq!(events.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_lives_through_a_restart_of_the_server() {
    let world = World::start().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(world.client().await);
    let made = maps.create(&PostParams::default(), &config_map("kept", "1")).await.unwrap();
    let version: u64 = made.metadata.resource_version.clone().unwrap().parse().unwrap();
    drop(maps);
    let dir = world.stop().await;
    let world = World::start_in(dir).await;
    let maps: Api<ConfigMap> = Api::default_namespaced(world.client().await);
    let kept = maps.get("kept").await.unwrap();
    assert_eq!(kept.metadata.resource_version, made.metadata.resource_version);
    let parameters = WatchParams::default().timeout(10);
    let mut events = std::pin::pin!(maps.watch(&parameters, &version.to_string()).await.unwrap());
    let after = maps.create(&PostParams::default(), &config_map("after", "1")).await.unwrap();
    assert!(after.metadata.resource_version.unwrap().parse::<u64>().unwrap() > version);
    assert!(matches!(next(&mut events).await.unwrap(), WatchEvent::Added(_)), "the log survived");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_with_a_finalizer_sees_an_object_from_birth_to_death() {
    let world = World::start().await;
    world.define("widgets-crd.yaml").await;
    let client = world.client().await;
    let widgets = world.widgets(client.clone());
    let (applied, cleaned) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counters = Arc::new((applied.clone(), cleaned.clone(), widgets.clone()));
    let kind = resource("golden.example.com", "v1", "Widget");
    let controller = Controller::new_with(widgets.clone(), watcher::Config::default(), kind)
        .run(
            |widget: Arc<DynamicObject>,
             context: Arc<(Arc<AtomicUsize>, Arc<AtomicUsize>, Api<DynamicObject>)>| async move {
                let api = context.2.clone();
                finalizer(&api, "example.com/tests", widget, |event| async move {
                    match event {
                        Finalizer::Apply(_) => context.0.fetch_add(1, Ordering::Relaxed),
                        Finalizer::Cleanup(_) => context.1.fetch_add(1, Ordering::Relaxed),
                    };
                    Ok::<_, std::convert::Infallible>(Action::await_change())
                })
                .await
            },
            |_, _, _| Action::requeue(Duration::from_millis(100)),
            counters,
        )
        .for_each(async |_| {});
    let controller = tokio::spawn(controller);
    let widget: DynamicObject = yaml("widget.yaml");
    widgets.create(&PostParams::default(), &widget).await.unwrap();
    eventually("the controller applied", async || applied.load(Ordering::Relaxed) > 0).await;
    let held = widgets.get("w1").await.unwrap();
    assert_eq!(held.metadata.finalizers.unwrap(), ["example.com/tests"]);
    widgets.delete("w1", &DeleteParams::default()).await.unwrap();
    eventually("the widget is gone", async || widgets.get_opt("w1").await.unwrap().is_none()).await;
    assert_eq!(cleaned.load(Ordering::Relaxed), 1);
    controller.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_renewed_by_its_holder_only() {
    let world = World::start().await;
    let leases: Api<Lease> = Api::namespaced(world.client().await, "kube-node-lease");
    let lease: Lease = serde_json::from_value(json!({"metadata": {"name": "gw"}, "spec": {
        "holderIdentity": "a", "leaseDurationSeconds": 40,
        "renewTime": "2026-01-02T03:04:05.000006Z"}}))
    .unwrap();
    let mine = leases.create(&PostParams::default(), &lease).await.unwrap();
    let stolen = json!({"spec": {"holderIdentity": "b"}});
    leases.patch("gw", &PatchParams::default(), &Patch::Merge(stolen)).await.unwrap();
    let renewed = leases.replace("gw", &PostParams::default(), &mine).await;
    assert_eq!(code(renewed.unwrap_err()), 409);
    let apply = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "gw"}, "spec": {"holderIdentity": "c"}});
    let conflict = leases.patch("gw", &PatchParams::apply("me"), &Patch::Apply(&apply)).await;
    assert_eq!(code(conflict.unwrap_err()), 409);
    let forced = PatchParams::apply("me").force();
    let lease = leases.patch("gw", &forced, &Patch::Apply(&apply)).await.unwrap();
    assert_eq!(lease.spec.unwrap().holder_identity.as_deref(), Some("c"));
}

#[tokio::test(flavor = "multi_thread")]
async fn dependents_go_with_their_owner_or_stay_without_it() {
    let world = World::start().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(world.client().await);
    let family = async |suffix: &str| {
        let owner = maps
            .create(&PostParams::default(), &config_map(&format!("owner-{suffix}"), ""))
            .await
            .unwrap();
        let mut child = config_map(&format!("child-{suffix}"), "");
        child.metadata.owner_references = Some(
            serde_json::from_value(json!([{
            "apiVersion": "v1", "kind": "ConfigMap", "name": owner.metadata.name,
            "uid": owner.metadata.uid, "blockOwnerDeletion": true}]))
            .unwrap(),
        );
        maps.create(&PostParams::default(), &child).await.unwrap();
    };
    let gone = async |name: &str| maps.get_opt(name).await.unwrap().is_none();
    for (suffix, policy) in [("b", DeleteParams::background()), ("f", DeleteParams::foreground())] {
        family(suffix).await;
        maps.delete(&format!("owner-{suffix}"), &policy).await.unwrap();
        eventually("owner and child are gone", async || {
            gone(&format!("owner-{suffix}")).await && gone(&format!("child-{suffix}")).await
        })
        .await;
    }
    family("o").await;
    maps.delete("owner-o", &DeleteParams::orphan()).await.unwrap();
    eventually("the owner is gone", async || gone("owner-o").await).await;
    assert!(maps.get("child-o").await.unwrap().metadata.owner_references.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_takes_its_content_with_it() {
    let world = World::start().await;
    let client = world.client().await;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let lab: Namespace = serde_json::from_value(json!({"metadata": {"name": "lab"}})).unwrap();
    namespaces.create(&PostParams::default(), &lab).await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "lab");
    let mut held = config_map("held", "");
    held.metadata.finalizers = Some(vec!["example.com/hold".into()]);
    maps.create(&PostParams::default(), &held).await.unwrap();
    let secrets: Api<Secret> = Api::namespaced(client, "lab");
    let secret = serde_json::from_value(json!({"metadata": {"name": "s"}})).unwrap();
    secrets.create(&PostParams::default(), &secret).await.unwrap();
    namespaces.delete("lab", &DeleteParams::default()).await.unwrap();
    eventually("the secret is gone", async || secrets.get_opt("s").await.unwrap().is_none()).await;
    assert_eq!(
        code(maps.create(&PostParams::default(), &config_map("late", "")).await.unwrap_err()),
        403
    );
    let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    maps.patch("held", &PatchParams::default(), &free).await.unwrap();
    eventually("the namespace is gone", async || {
        namespaces.get_opt("lab").await.unwrap().is_none()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_patches_all_succeed() {
    let world = World::start().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(world.client().await);
    maps.create(&PostParams::default(), &config_map("a", "1")).await.unwrap();
    let patches = (0..8).map(|index| {
        let maps = maps.clone();
        async move {
            let patch = Patch::Merge(json!({"data": {format!("k{index}"): "v"}}));
            maps.patch("a", &PatchParams::default(), &patch).await.unwrap();
        }
    });
    futures_util::future::join_all(patches).await;
    assert_eq!(maps.get("a").await.unwrap().data.unwrap().len(), 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_leave_nothing_behind_when_their_clients_go() {
    let world = World::start().await;
    let map = apiserver::kinds::resource_name("", "configmaps");
    let before = world.api.store.watchers(&map);
    let client = world.client().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let mut streams = Vec::new();
    for _ in 0..10 {
        streams.push(Box::pin(maps.watch(&WatchParams::default(), "0").await.unwrap()));
    }
    for stream in &mut streams {
        next(stream).await.unwrap();
    }
    assert_eq!(world.api.store.watchers(&map), before + 10);
    drop(streams);
    eventually("no watcher is left", async || world.api.store.watchers(&map) == before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_kept_out_and_probes_are_not() {
    let world = World::start().await;
    let kubeconfig = kube::config::Kubeconfig::read_from(&world.kubeconfig).unwrap();
    let options = kube::config::KubeConfigOptions::default();
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
    config.auth_info = kube::config::AuthInfo::default();
    let stranger = kube::Client::try_from(config.clone()).unwrap();
    let get = |path: &str| http::Request::get(path).body(Vec::new()).unwrap();
    assert_eq!(stranger.request_text(get("/readyz")).await.unwrap(), "ok");
    assert_eq!(stranger.apiserver_version().await.unwrap().major, "1");
    let maps: Api<ConfigMap> = Api::default_namespaced(stranger);
    assert_eq!(code(maps.list(&ListParams::default()).await.unwrap_err()), 401);
    let token = std::fs::read_to_string(world.dir.path().join("data/pki/admin.token")).unwrap();
    config.auth_info.token = Some(token.into());
    let admin: Api<ConfigMap> = Api::default_namespaced(kube::Client::try_from(config).unwrap());
    admin.list(&ListParams::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_three_mebibytes_is_refused() {
    let world = World::start().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(world.client().await);
    let big = config_map("big", &"x".repeat(3 * 1024 * 1024));
    assert_eq!(code(maps.create(&PostParams::default(), &big).await.unwrap_err()), 413);
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_a_definition_deletes_its_objects_and_ends_their_watches() {
    let world = World::start().await;
    world.define("widgets-crd.yaml").await;
    let client = world.client().await;
    let widgets = world.widgets(client.clone());
    widgets.create(&PostParams::default(), &yaml("widget.yaml")).await.unwrap();
    let mut events = std::pin::pin!(widgets.watch(&WatchParams::default(), "0").await.unwrap());
    assert!(matches!(next(&mut events).await.unwrap(), WatchEvent::Added(_)));
    let definitions: Api<DynamicObject> =
        Api::all_with(client, &resource("apiextensions.k8s.io", "v1", "CustomResourceDefinition"));
    definitions.delete("widgets.golden.example.com", &DeleteParams::default()).await.unwrap();
    let rest = tokio::time::timeout(PATIENCE, events.collect::<Vec<_>>()).await.unwrap();
    assert!(rest.iter().any(|event| matches!(event, Ok(WatchEvent::Deleted(_)))), "{rest:?}");
    eventually("the definition is gone", async || {
        definitions.get_opt("widgets.golden.example.com").await.unwrap().is_none()
    })
    .await;
}
