//! The two programs as processes: what they print, and how they end.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use mapper_sdk::testing::{FakeEdge, device, model, property, with};
use serde_json::{Value, json};

/// Ends with the test, however that ends.
struct Process(Child);

impl Process {
    fn start(program: &str, arguments: &[&str]) -> Self {
        let child = Command::new(program)
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        Self(child)
    }

    /// SIGTERM, then the exit code; panics past 5 s.
    fn terminate(&mut self) -> Option<i32> {
        let id = self.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().expect("kill runs").success());
        #[expect(clippy::disallowed_methods, reason = "a deadline of real time for a real process")]
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            if let Some(status) = self.0.try_wait().expect("the process can be waited for") {
                return status.code();
            }
            #[expect(clippy::disallowed_methods, reason = "see above")]
            let now = Instant::now();
            assert!(now < deadline, "still running 5 s after SIGTERM");
            std::thread::yield_now();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn configuration(directory: &Path) -> String {
    let text = format!(
        "grpc_server: {{ socket_path: {0}/own/m.sock }}\n\
         common: {{ name: modbus-mapper, protocol: modbus, edgecore_sock: {0}/dmi.sock, http_port: 7777 }}\n\
         dev_init: {{ mode: register }}\n",
        directory.display()
    );
    let path = directory.join("config.yaml");
    std::fs::write(&path, text).expect("the temp dir can be written");
    path.display().to_string()
}

#[tokio::test]
async fn mapper_and_boiler_speak_as_documented_and_end_on_sigterm() {
    let directory = tempfile::tempdir().unwrap();
    let mut boiler = Process::start(env!("CARGO_BIN_EXE_boiler"), &["--listen", "127.0.0.1:0"]);
    let mut lines = BufReader::new(boiler.0.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    let address = next()["listening"].as_str().unwrap().to_owned();
    let (ip, port) = address.split_once(':').unwrap();

    let edge = FakeEdge::start(directory.path());
    edge.know_model(model("boiler", &[("setpoint", "FLOAT", "ReadWrite", "", "")]));
    let visitor = json!({"register": "HoldingRegister", "offset": 0, "limit": 1, "scale": 0.1});
    edge.know_device(with(
        device("b1", "boiler", "modbus", &json!({"ip": ip, "port": port})),
        vec![property("setpoint", Some("65"), 50, &visitor)],
    ));
    let config = configuration(directory.path());
    let mut mapper = Process::start(
        env!("CARGO_BIN_EXE_mapper-modbus"),
        &["--config-file", &config, "--v", "4"],
    );
    edge.until("the setpoint", |record| record.value("b1", "setpoint") == Some("65")).await;
    let write = json!({"write": {"table": "holding", "address": 0, "value": 650}});
    assert_eq!(next(), write);
    assert_eq!(mapper.terminate(), Some(0));
    assert!(!directory.path().join("own/m.sock").exists());
    assert_eq!(boiler.terminate(), Some(0));
}

#[test]
fn a_configuration_that_cannot_be_used_is_exit_code_2() {
    let mut mapper =
        Process::start(env!("CARGO_BIN_EXE_mapper-modbus"), &["--config-file", "/does/not/exist"]);
    assert_eq!(mapper.0.wait().unwrap().code(), Some(2));
}
