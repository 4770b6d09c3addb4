//! Where the binaries, kubectl, Python and the cluster are: the one reader of the environment.

use std::path::{Path, PathBuf};

/// A cluster that is there already; without it each story starts an API of its own.
#[must_use]
pub fn shared_cluster() -> Option<PathBuf> {
    read("KEDGE_E2E_KUBECONFIG").map(PathBuf::from)
}

/// `$KUBECTL`, or `kubectl` from the path.
#[must_use]
pub fn kubectl() -> PathBuf {
    read("KUBECTL").unwrap_or_else(|| "kubectl".into()).into()
}

/// A Python with the packages of `device/requirements.txt`: `$KEDGE_PYTHON`, or `python3`.
#[must_use]
pub fn python() -> PathBuf {
    read("KEDGE_PYTHON").unwrap_or_else(|| "python3".into()).into()
}

/// One of our binaries, in `$KEDGE_BIN_DIR` or where this test was built.
///
/// # Panics
/// When it is not there, with the command that builds it.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let folder = read("KEDGE_BIN_DIR").map_or_else(built_here, PathBuf::from);
    let binary = folder.join(name);
    assert!(
        binary.is_file(),
        "{} is not there; build it: cargo build --bins -p apiserver -p cloudcore -p edgecore \
         -p mapper-modbus -p mapper-virtual -p keadm",
        binary.display()
    );
    binary
}

/// Whether the folder of a world is kept for a look into it.
#[must_use]
pub fn keep() -> bool {
    read("KEDGE_E2E_KEEP").is_some()
}

/// The seed of everything random: `$KEDGE_E2E_SEED`, or a new one each time. Never 0.
#[must_use]
pub fn seed() -> u64 {
    read("KEDGE_E2E_SEED").and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
        let nanoseconds = jiff::Timestamp::now().as_nanosecond().unsigned_abs();
        u64::try_from(nanoseconds).unwrap_or(1)
    }) | 1
}

/// How often the story of the cut link cuts it: `$KEDGE_E2E_CUTS`, or few enough for every day.
#[must_use]
pub fn cuts() -> u64 {
    read("KEDGE_E2E_CUTS").and_then(|cuts| cuts.parse().ok()).unwrap_or(6)
}

/// The repository.
#[must_use]
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"))
}

/// A test runs from `target/PROFILE/deps`.
fn built_here() -> PathBuf {
    let test = std::env::current_exe().unwrap_or_default();
    test.ancestors().nth(2).map(Path::to_owned).unwrap_or_default()
}

fn read(name: &str) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "this file is the configuration of the stories")]
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
