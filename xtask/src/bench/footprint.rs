//! How big the programs are: on disk (stripped, as the release profile leaves them), and in memory
//! (resident set) with one device and nothing to do.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;

use super::Findings;
use super::demo_stack::DemoStack;
use crate::{cargo, say};

/// Until caches and pools are as they will be.
const SETTLE: Duration = Duration::from_secs(10);
const SAMPLES: u32 = 40;
const BETWEEN: Duration = Duration::from_millis(500);

/// Measures.
///
/// # Errors
/// The build or the demo fails.
pub fn measure() -> anyhow::Result<Findings> {
    say::step("building optimised binaries");
    let dir = cargo::build_product(true)?;
    let size = |name: &str| -> anyhow::Result<u64> {
        let path = dir.join(name);
        Ok(path.metadata().with_context(|| format!("reading {}", path.display()))?.len())
    };
    let (edgecore, cloudcore, keadm) = (size("edgecore")?, size("cloudcore")?, size("keadm")?);

    say::step("running them with one device, 30 s");
    let stack = DemoStack::start(&dir, SETTLE + BETWEEN * SAMPLES + Duration::from_secs(2))?;
    std::thread::sleep(SETTLE);
    let (mut edge, mut cloud) = (Vec::new(), Vec::new());
    for _ in 0..SAMPLES {
        edge.push(resident(stack.pid("edgecore")?)?);
        cloud.push(resident(stack.pid("cloudcore")?)?);
        std::thread::sleep(BETWEEN);
    }
    stack.finish()?;
    let (edge, cloud) = (median(edge), median(cloud));

    let mb = |bytes: u64| format!("{}.{:02} MB", bytes / 1_000_000, bytes % 1_000_000 / 10_000);
    let table = format!(
        "{:<10} {:>12} {:>12}\n{:<10} {:>12} {:>12}\n{:<10} {:>12} {:>12}\n{:<10} {:>12} {:>12}",
        "",
        "binary",
        "idle RSS",
        "edgecore",
        mb(edgecore),
        mb(edge),
        "cloudcore",
        mb(cloudcore),
        mb(cloud),
        "keadm",
        mb(keadm),
        "-",
    );
    let json = json!({
        "edgecore_binary_bytes": edgecore,
        "edgecore_rss_idle_bytes": edge,
        "cloudcore_binary_bytes": cloudcore,
        "cloudcore_rss_idle_bytes": cloud,
        "keadm_binary_bytes": keadm,
    });
    Ok(Findings { table, json })
}

/// The resident set of a process, in bytes.
fn resident(pid: u64) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text =
        std::fs::read_to_string(Path::new(&path)).with_context(|| format!("reading {path}"))?;
    vm_rss(&text).with_context(|| format!("{path} has no VmRSS"))
}

fn vm_rss(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

fn median(mut samples: Vec<u64>) -> u64 {
    samples.sort_unstable();
    samples.get(samples.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resident_set_is_read_in_bytes() {
        assert_eq!(vm_rss("Name:\tx\nVmRSS:\t    9216 kB\nThreads:\t1\n"), Some(9_437_184));
        assert_eq!(vm_rss("Name:\tx\n"), None);
        assert!(resident(std::process::id().into()).unwrap() > 0);
    }

    #[test]
    fn the_median_ignores_a_peak() {
        assert_eq!(median(vec![5, 1, 100]), 5);
        assert_eq!(median(Vec::new()), 0);
    }
}
