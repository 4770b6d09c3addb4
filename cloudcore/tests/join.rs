//! How a gateway gets its identity, over real HTTPS.

#![expect(clippy::unwrap_used, reason = "a test panics on what it did not expect")]

mod support;

use hub_proto::id::NodeName;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use support::World;
use support::edge::{Edge, Identity, ask, certificate_request, fetch_ca, http, join, tls};

fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

fn text(body: &[u8]) -> String {
    String::from_utf8_lossy(body).into_owned()
}

#[tokio::test]
async fn a_token_gets_a_certificate_and_everything_else_gets_a_reason() {
    let world = World::start().await;
    let identity = join(&world, "gw-1").await;
    let named = cloudcore::enrol::authority::node_of(&identity.certificate);
    assert_eq!(named, NodeName::parse("gw-1").ok());

    let ca = fetch_ca(&world).await;
    let token = world.token().await;
    let bearer = format!("Authorization: Bearer {}\r\n", token.split_once('.').unwrap().1);
    let request = certificate_request(&key(), "gw-2");
    for (node, authorization, body, status, reason) in [
        ("gw-2", "", &request[..], 401, "keadm gettoken"),
        (
            "gw-2",
            "Authorization: Bearer a.b.c\r\n",
            &request[..],
            401,
            "not one of this installation",
        ),
        ("Gw 2", &bearer, &request[..], 400, "node name"),
        ("gw-2", &bearer, b"junk", 400, "certificate request"),
        ("gw-2", &bearer, &[0; 20_000], 413, "bytes"),
    ] {
        let (found, answer) = ask(&world, &ca, node, authorization, None, body).await;
        assert_eq!(found, status, "{}", text(&answer));
        assert!(text(&answer).contains(reason), "{}", text(&answer));
    }
    let stream = tls(world.enrol, &ca, None).await.unwrap();
    assert_eq!(http(stream, "GET /readyz HTTP/1.1\r\n", &[]).await.unwrap().0, 200);
    let stream = tls(world.enrol, &ca, None).await.unwrap();
    assert_eq!(http(stream, "GET /node/gw-1 HTTP/1.1\r\n", &[]).await.unwrap().0, 404);
    let stream = tls(world.enrol, &ca, None).await.unwrap();
    assert_eq!(http(stream, "POST /edge.crt HTTP/1.1\r\n", &[]).await.unwrap().0, 405);

    let log = std::fs::read_to_string(world.directory.path().join("cloudcore.log")).unwrap();
    assert!(!log.contains(token.rsplit('.').next().unwrap()), "a token stands in the log");
    assert_eq!(world.metric("kedge_cloudcore_enrolments_total{outcome=\"joined\"}").await, 1);
}

#[tokio::test]
async fn a_certificate_renews_itself_and_nobody_else() {
    let world = World::start().await;
    let identity = join(&world, "gw-1").await;
    let fresh = key();
    let request = certificate_request(&fresh, "gw-1");
    let (status, certificate) =
        ask(&world, &identity.ca, "gw-1", "", Some(&identity), &request).await;
    assert_eq!(status, 200, "{}", text(&certificate));
    let renewed = Identity { ca: identity.ca.clone(), certificate, key: fresh };
    Edge::connect(&world, &renewed, "gw-1").await;

    let request = certificate_request(&key(), "gw-2");
    let (status, answer) = ask(&world, &identity.ca, "gw-2", "", Some(&identity), &request).await;
    assert_eq!(status, 401, "{}", text(&answer));
}

#[tokio::test]
async fn a_restart_keeps_the_authority_the_token_and_the_certificates() {
    let mut world = World::start().await;
    let identity = join(&world, "gw-1").await;
    let token = world.token().await;
    world.restart_cloudcore().await;
    assert_eq!(fetch_ca(&world).await, identity.ca);
    assert_eq!(world.token().await, token);
    Edge::connect(&world, &identity, "gw-1").await;
    join(&world, "gw-2").await;
}

#[tokio::test]
async fn replicas_that_start_together_agree_on_one_authority() {
    let world = World::start().await;
    // A namespace without Secrets, and four that want to make them at once.
    let replicas: Vec<_> = (0..4).map(|_| world.start_replica()).collect();
    let secrets: kube::Api<k8s_openapi::api::core::v1::Secret> =
        kube::Api::namespaced(world.client.clone(), "fresh");
    for (_, enrol) in &replicas {
        let served = support::eventually("the replica serves", async || {
            let ca = secrets.get("casecret").await.ok()?.data?["cadata"].0.clone();
            let stream = tls(*enrol, &ca, None).await.ok()?;
            http(stream, "GET /ca.crt HTTP/1.1\r\n", &[]).await.ok().filter(|(_, body)| *body == ca)
        });
        assert_eq!(served.await.0, 200);
    }
}

#[tokio::test]
async fn a_join_token_is_signed_anew_before_it_ends() {
    let mut world = World::start().await;
    let path = world.directory.path().join("cloudcore.yaml");
    let config = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, config.replace("enrol: { listen", "enrol: { tokenTtl: 6s, listen"))
        .unwrap();
    // The one that is stored is good for a day and would do.
    let secrets: kube::Api<k8s_openapi::api::core::v1::Secret> =
        kube::Api::namespaced(world.client.clone(), "kubeedge");
    secrets.delete("tokensecret", &kube::api::DeleteParams::default()).await.unwrap();
    world.restart_cloudcore().await;
    let first = world.token().await;
    support::eventually("a new token", async || {
        let token = world.token().await;
        (token != first).then_some(())
    })
    .await;
    join(&world, "gw-1").await;
}
