//! Where the other programs are: beside keadm, or on PATH.

use std::path::{Path, PathBuf};

use crate::exit::{Exit, Failure};

/// Finds a program.
///
/// # Errors
/// It is neither beside keadm nor on PATH.
pub fn find(name: &str) -> anyhow::Result<PathBuf> {
    let beside = std::env::current_exe()
        .ok()
        .and_then(|keadm| keadm.canonicalize().ok())
        .and_then(|keadm| Some(keadm.parent()?.to_path_buf()));
    let path = std::env::var_os("PATH").unwrap_or_default();
    find_in(name, beside.into_iter().chain(std::env::split_paths(&path))).ok_or_else(|| {
        Failure::new(Exit::Usage, format!("finding {name}: neither beside keadm nor on PATH"))
            .next(format!("put the {name} binary beside keadm (developers: cargo build -p {name})"))
            .into()
    })
}

fn find_in(name: &str, dirs: impl Iterator<Item = PathBuf>) -> Option<PathBuf> {
    dirs.map(|dir| dir.join(name)).find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_executable_file_wins() {
        let dir = tempfile::tempdir().unwrap();
        let (plain, program) = (dir.path().join("plain"), dir.path().join("program"));
        for place in [&plain, &program] {
            std::fs::create_dir(place).unwrap();
        }
        crate::files::write(&plain.join("tool"), "", 0o644).unwrap();
        crate::files::write(&program.join("tool"), "", 0o755).unwrap();
        let found = find_in("tool", [plain, program.clone()].into_iter());
        assert_eq!(found, Some(program.join("tool")));
    }
}
