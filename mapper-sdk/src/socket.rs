//! The mapper's own Unix socket: appears complete, replaces a stale one, leaves nothing behind.

use std::{
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use tokio::net::UnixListener;

/// A bound socket file, removed on drop unless somebody else took its path meanwhile.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    inode: u64,
}

/// Binds `path`: makes its directory (mode 0750) if need be, listens on a temporary name and renames
/// it into place, so that whoever sees the path can connect to it.
pub(crate) fn bind(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    let name_it = |error: io::Error| {
        io::Error::new(error.kind(), format!("cannot listen on {}: {error}", path.display()))
    };
    if let Some(directory) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(directory)
            .map_err(name_it)?;
    }
    let mut temporary = path.as_os_str().to_owned();
    temporary.push("~");
    let temporary = PathBuf::from(temporary);
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(name_it(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&temporary).map_err(name_it)?;
    let inode = std::fs::metadata(&temporary).map_err(name_it)?.ino();
    std::fs::rename(&temporary, path).map_err(name_it)?;
    Ok((listener, SocketFile { path: path.to_owned(), inode }))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = std::fs::metadata(&self.path).is_ok_and(|file| file.ino() == self.inode);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove own socket");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[tokio::test]
    async fn a_socket_replaces_a_stale_one_and_goes_with_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/er/m.sock");
        let (first, first_file) = bind(&path).unwrap();
        drop(first);
        let mode = std::fs::metadata(path.parent().unwrap()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o750);
        let (_second, second_file) = bind(&path).unwrap();
        drop(first_file);
        assert!(path.exists(), "the first owner must not remove the second one's socket");
        drop(second_file);
        assert!(!path.exists());
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);
    }
}
