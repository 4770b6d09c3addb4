//! The wire is cut in the middle of messages, and stalls without a word.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use support::cloud::Cloud;
use support::mapper::Mapper;
use support::node::Node;
use support::{device, model, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A wire that ends each connection after its budget of bytes, or holds everything back.
#[derive(Clone, Default)]
struct Wire {
    budget: Arc<AtomicUsize>,
    stalled: Arc<AtomicBool>,
    cuts: Arc<AtomicUsize>,
}

impl Wire {
    async fn start(&self, to: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let wire = self.clone();
        tokio::spawn(async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let Ok(far) = TcpStream::connect(to).await else { continue };
                tokio::spawn(wire.clone().carry(near, far));
            }
        });
        address
    }

    async fn carry(self, mut near: TcpStream, mut far: TcpStream) {
        let mut left = self.budget.load(Ordering::Relaxed);
        let (mut up, mut down) = (vec![0; 1500], vec![0; 1500]);
        loop {
            let (count, bytes, to) = tokio::select! {
                count = near.read(&mut up) => (count, &up, &mut far),
                count = far.read(&mut down) => (count, &down, &mut near),
            };
            let count = count.unwrap_or(0);
            while self.stalled.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let carried = count.min(left);
            if to.write_all(&bytes[..carried]).await.is_err() || carried < count || count == 0 {
                self.cuts.fetch_add(1, Ordering::Relaxed);
                return;
            }
            left -= carried;
        }
    }
}

#[tokio::test]
async fn cuts_in_the_middle_of_messages_lose_nothing_and_turn_nothing_back() {
    let cloud = Cloud::start().await;
    let wire = Wire::default();
    wire.budget.store(usize::MAX, Ordering::Relaxed);
    let hub = wire.start(cloud.hub).await;
    cloud.put(model("m", 1));
    cloud.put(device("a", "m", "0", 2));
    let mut node = Node::start_via(&cloud, hub).await;
    until("objects are acked", || cloud.all_acked()).await;
    let mut mapper = Mapper::start(node.path(), &node.socket(), "v");
    mapper.register().await;
    // Enough for the handshake, and then somewhere.
    wire.budget.store(3000, Ordering::Relaxed);
    cloud.cut();
    let mut revision = 2;
    for round in 0..400_u64 {
        wire.budget.store(2500 + usize::try_from(round * 997 % 9000).unwrap(), Ordering::Relaxed);
        revision += 1;
        cloud.put(device(&format!("d{}", round % 20), "m", &(round % 100).to_string(), revision));
        mapper.report("a", "n", &round.to_string(), "").await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    wire.budget.store(usize::MAX, Ordering::Relaxed);
    cloud.cut();
    until("all objects are acked", || cloud.all_acked()).await;
    until("last value arrives", || cloud.reported("dev/a", "n").as_deref() == Some("399")).await;
    let values: Vec<u64> = {
        let state = cloud.state();
        let of_n = state.value_log.iter().filter(|(_, property, _)| property == "n");
        of_n.map(|(_, _, value)| value.parse().unwrap()).collect()
    };
    assert!(values.is_sorted(), "a value went back: {values:?}");
    let last = |device: &str| {
        let state = cloud.state();
        let key = hub_proto::id::ObjectKey::new(hub_proto::id::ObjectKind::Device, "dev", device);
        state.objects[&key.unwrap()].1["spec"]["properties"][0]["desired"]["value"].clone()
    };
    until("mapper has every last desired value", || {
        (0..20).all(|index| {
            let name = format!("d{index}");
            mapper.desired(&format!("dev/{name}"), "t").as_deref() == last(&name).as_str()
        })
    })
    .await;
    assert!(wire.cuts.load(Ordering::Relaxed) > 3, "the wire was cut");
    assert!(node.is_running());
}

#[tokio::test]
async fn a_wire_that_stalls_without_a_word_is_noticed_within_two_heartbeats() {
    let cloud = Cloud::start().await;
    let wire = Wire::default();
    wire.budget.store(usize::MAX, Ordering::Relaxed);
    let hub = wire.start(cloud.hub).await;
    let node = Node::start_via(&cloud, hub).await;
    support::wait_for("node is here", async || {
        (node.status().await["link"]["connected"] == true).then_some(())
    })
    .await;
    wire.stalled.store(true, Ordering::Relaxed);
    let noticed = support::wait_for("the stall is noticed", async || {
        (node.status().await["link"]["connected"] == false).then_some(())
    });
    // The heartbeat of these tests is 2 s.
    tokio::time::timeout(Duration::from_secs(5), noticed).await.unwrap();
    wire.stalled.store(false, Ordering::Relaxed);
    until("node is back", || cloud.state().connects >= 2).await;
}
