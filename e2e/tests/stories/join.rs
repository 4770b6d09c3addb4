//! Who may join, and as whom.

use std::process::Command;

use e2e::boiler::{self, cell};
use e2e::device::{Device, Table};
use e2e::world::World;
use e2e::{port, setting, wait};

#[test]
fn a_wrong_token_is_refused_and_both_sides_say_so() {
    let mut world = World::new();
    let edge = world.edge.clone();
    world.start("cloudcore");
    let token = world.token();
    // The hash of the CA is right, so the edge trusts the cloud; the signature is not.
    let forged: String = {
        let (head, signature) = token.rsplit_once('.').unwrap();
        let flipped: String = signature.chars().map(|c| if c == 'A' { 'B' } else { 'A' }).collect();
        format!("{head}.{flipped}")
    };
    std::fs::write(&edge.token, &forged).unwrap();
    world.start(&edge.edgecore);
    wait::until("the edge says that its token was refused", || {
        let log = world.process("edgecore").log().to_lowercase();
        if log.contains("401") && log.contains("join token") { Ok(()) } else { Err(log) }
    });
    wait::until("the cloud says that it refused a token", || {
        let log = world.process("cloudcore").log().to_lowercase();
        if log.contains("token") && log.contains("refused") { Ok(()) } else { Err(log) }
    });
    assert!(!world.process("edgecore").log().contains(&token), "a token in a log");
    assert!(!world.process("cloudcore").log().contains(&forged), "a token in a log");
    assert!(world.cluster.node_ready(&edge.node).is_err(), "a node that never joined");
    assert!(!edge.data.join("pki/node.crt").exists());

    // With the right one it joins, without being started again.
    std::fs::write(&edge.token, &token).unwrap();
    world.cluster.await_node(&edge.node, "True");
}

#[test]
fn a_token_for_another_cloud_is_never_sent() {
    let mut world = World::new();
    let edge = world.edge.clone();
    world.start("cloudcore");
    let token = world.token();
    let (_, jwt) = token.split_once('.').unwrap();
    std::fs::write(&edge.token, format!("{}.{jwt}", "ab".repeat(32))).unwrap();
    world.start(&edge.edgecore);
    wait::until("the edge says that this is not its cloud", || {
        let log = world.process("edgecore").log();
        if log.contains("CA") && log.contains("token") { Ok(()) } else { Err(log) }
    });
    assert!(world.cluster.node_ready(&edge.node).is_err(), "a node that never joined");
}

#[test]
fn the_token_is_not_needed_once_the_node_has_joined() {
    let (mut world, device) = World::new().with_a_boiler();
    std::fs::remove_file(&world.edge.token).unwrap();
    world.restart("edgecore");
    world.restart("cloudcore");
    world.kubectl.desire("boiler-1", "41");
    device.await_cells(Table::Holding, cell::SETPOINT, &[41]);
}

#[test]
fn a_node_is_only_itself() {
    let (mut world, device) = World::new().with_a_boiler();
    let (hub, _) = world.cloud_ports();
    let edge = world.edge.clone();
    let pki = edge.data.join("pki").to_string_lossy().into_owned();
    let other = "gw-other";
    world.kubectl.apply(&boiler::device("not-yours", other, device.port(), "1"));

    let knock = |pki: &str, node: &str| {
        let script = setting::repository().join("e2e/intruder/knock.py");
        let output = Command::new(setting::python())
            .arg(script)
            .args([&hub.to_string(), pki, node])
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let (as_other, as_nobody) = (knock(&pki, other), knock("none", &edge.node));
    assert!(as_other.contains("403") || as_other.contains("401"), "{as_other}");
    assert!(!as_nobody.contains("101") && !as_nobody.is_empty(), "{as_nobody}");
    // The same certificate under its own name is welcome, so it was the name that was refused.
    world.stop("edgecore");
    let as_itself = knock(&pki, &edge.node);
    assert!(as_itself.contains("101"), "{as_itself}");

    // Nor does an edgecore get anywhere that was given another node's identity.
    let thief = world.add_edge("thief");
    std::fs::create_dir_all(&thief.data).unwrap();
    let copied = Command::new("cp").arg("-a").args([&pki]).arg(&thief.data).status().unwrap();
    assert!(copied.success());
    world.start(&thief.edgecore);
    wait::until("the thief says what is wrong", || {
        let log = world.process(&thief.edgecore).log();
        if log.contains(&edge.node) && log.contains("certificate") { Ok(()) } else { Err(log) }
    });
    assert!(world.cluster.node_ready(&thief.node).is_err(), "a node that never joined");
    assert!(world.cluster.node_ready(other).is_err(), "a node that never joined");
    world.start("edgecore");
    world.kubectl.desire("boiler-1", "42");
    device.await_cells(Table::Holding, cell::SETPOINT, &[42]);
}

#[test]
fn keys_and_tokens_are_readable_by_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let (world, _device) = World::new().with_a_boiler();
    let mode = |path: &str| {
        std::fs::metadata(world.edge.data.join(path)).unwrap().permissions().mode() & 0o777
    };
    assert_eq!(mode("pki/node.key"), 0o600);
    let log = std::fs::read_dir(world.folder()).unwrap().map(|entry| entry.unwrap().path());
    let token = std::fs::read_to_string(&world.edge.token).unwrap();
    for file in log.filter(|path| path.extension().is_some_and(|end| end == "log")) {
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(!text.contains(token.trim()), "{} holds the token", file.display());
        assert!(!text.contains("PRIVATE KEY"), "{} holds a key", file.display());
    }
}

/// The operator's way: everything that `keadm` prints is what is run.
#[test]
fn keadm_takes_a_gateway_from_nothing_to_a_value_and_back_to_nothing() {
    if setting::shared_cluster().is_some() {
        return; // `reset cloud` takes every gateway of a cluster with it
    }
    let mut world = World::new();
    let folder = world.folder().to_owned();
    let place = |name: &str| folder.join(name).to_string_lossy().into_owned();
    let (cloud, cloud_data) = (place("etc-cloud"), place("lib-cloud"));
    let (etc, lib, run) = (place("etc"), place("lib"), place("run"));
    let kubeconfig = place("kubeconfig");
    let namespace = format!("{}-keadm", world.namespace());
    let (hub, enrol, ops) = (port::free(), port::free(), port::free());

    let init = keadm(&[
        "init",
        "--kube-config",
        &kubeconfig,
        "--config-dir",
        &cloud,
        "--data-dir",
        &cloud_data,
        "--namespace",
        &namespace,
        "--supervisor",
        "none",
    ]);
    // Ports of its own, as an operator would change them: several worlds share this machine.
    let config = format!("{cloud}/cloudcore.yaml");
    let written = std::fs::read_to_string(&config).unwrap();
    let enrol_section = format!("enrol:\n  listen: 127.0.0.1:{enrol}\n");
    let moved = written.replace("enrol:\n", &enrol_section)
        + &format!("hub: {{listen: 127.0.0.1:{hub}}}\nops: {{listen: 127.0.0.1:{ops}}}\n");
    assert_ne!(moved.len(), written.len() + enrol_section.len(), "{written}");
    std::fs::write(&config, moved).unwrap();
    start_printed(&mut world, "keadm-cloudcore", "cloudcore", &init);

    let token = keadm(&[
        "gettoken",
        "--kube-config",
        &kubeconfig,
        "--namespace",
        &namespace,
        "--timeout",
        "30",
    ]);
    let token_file = place("keadm-token");
    std::fs::write(&token_file, &token).unwrap();
    let node = format!("{}-keadm", world.edge.node);
    let hub = format!("127.0.0.1:{hub}");
    let (enrol, ops) = (enrol.to_string(), format!("127.0.0.1:{}", port::free()));
    let places = ["--config-dir", &etc, "--data-dir", &lib, "--run-dir", &run];
    let join = keadm(
        &[
            &["join", "-e", &hub, "-s", &enrol, "-i", &node, "--token-file", &token_file][..],
            &["--ops-listen", &ops, "--supervisor", "none"],
            &places,
        ]
        .concat(),
    );
    start_printed(&mut world, "keadm-edgecore", "edgecore", &join);
    world.cluster.await_node(&node, "True");

    let device = Device::start(port::free());
    let mapper = format!("{run}/mapper.yaml");
    std::fs::write(
        &mapper,
        format!(
            "grpc_server: {{socket_path: {run}/modbus.sock}}\ncommon: {{name: modbus-mapper, \
             version: v0.1.0, api_version: v1.0.0, protocol: modbus, address: 127.0.0.1, \
             edgecore_sock: {run}/dmi.sock, http_port: \"{}\"}}\n",
            port::free()
        ),
    )
    .unwrap();
    world.add_process("keadm-mapper", "mapper-modbus", &["--config-file", &mapper]);
    world.start("keadm-mapper");
    world.kubectl.apply(&boiler::model());
    world.kubectl.apply(&boiler::device("boiler-1", &node, device.port(), "40"));
    device.await_cells(Table::Holding, cell::SETPOINT, &[40]);
    world.cluster.await_reported("boiler-1", "setpoint", "40");

    for name in ["keadm-mapper", "keadm-edgecore", "keadm-cloudcore"] {
        world.stop(name);
    }
    std::fs::remove_file(&mapper).unwrap();
    keadm(&[&["reset", "edge", "--force", "--supervisor", "none"][..], &places].concat());
    let kube = ["--kube-config", &kubeconfig, "--namespace", &namespace, "--config-dir", &cloud];
    keadm(&[&["reset", "cloud", "--force", "--all", "--supervisor", "none"][..], &kube].concat());
    for left in [&cloud, &cloud_data, &etc, &lib, &run] {
        assert!(!std::path::Path::new(left).exists(), "{left} is left: {:?}", tree(left));
    }
    wait::until("the cluster is as it was", || {
        let namespaces = world.kubectl.ok(&["get", "namespaces", "-o", "name"]);
        let definitions = world.kubectl.ok(&["get", "crds", "-o", "name"]);
        let nodes = world.kubectl.ok(&["get", "nodes", "-o", "name"]);
        let all = format!("{namespaces}{definitions}{nodes}");
        let left = |word: &str| all.contains(word);
        if left(&namespace) || left("kubeedge.io") || left(&node) { Err(all) } else { Ok(()) }
    });
}

/// Runs keadm to its end and returns what it printed.
#[track_caller]
fn keadm(arguments: &[&str]) -> String {
    let output = Command::new(setting::binary("keadm")).args(arguments).output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "keadm {arguments:?}:\n{stdout}{stderr}");
    stdout
}

/// Starts the command line that keadm printed for a daemon.
#[track_caller]
fn start_printed(world: &mut World, name: &str, binary: &str, printed: &str) {
    let line = printed
        .lines()
        .map(str::trim)
        .find(|line| line.contains(&format!("{binary} --config")))
        .unwrap_or_else(|| panic!("no command line for {binary} in:\n{printed}"));
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words[0], setting::binary(binary).to_string_lossy());
    world.add_process(name, binary, &words[1..]);
    world.start(name);
}

/// What is left below a folder.
fn tree(folder: &str) -> String {
    let output = Command::new("find").arg(folder).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}
