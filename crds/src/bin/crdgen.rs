//! Writes `crds/manifests/*.yaml`. A test fails when they are stale.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests");
    for (name, yaml) in crds::manifests::files()? {
        std::fs::write(folder.join(name), yaml)?;
    }
    Ok(())
}
