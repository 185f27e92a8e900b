//! The control socket itself: made for its owner and perhaps a group, and nobody else's credentials are good there.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::config::daemon::ControlPlan;
use crate::error::{ExitCode, Explain};
use crate::sys::peer_groups::peer_groups;

/// A listening control socket. Its file goes when it does.
#[derive(Debug)]
pub(super) struct ControlSocket {
    pub(super) listener: UnixListener,
    /// Where it is to be.
    path: PathBuf,
    /// Where it is.
    place: PathBuf,
    identity: (u64, u64),
    group: Option<u32>,
}

/// What is appended to the name of a socket until it has its owner and its mode.
const NEW: &str = ".new";

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another daemon answers there.
    #[error("another farspan answers at the control socket {}", .0.display())]
    Taken(PathBuf),
    /// Something else stands in its place.
    #[error("{} is there, and is no socket", .0.display())]
    NoSocket(PathBuf),
    /// The kernel does not give it.
    #[error("cannot make the control socket {}", path.display())]
    Refused {
        /// Where.
        path: PathBuf,
        /// The kernel's words.
        #[source]
        cause: io::Error,
    },
}

impl Explain for SocketError {
    fn place(&self) -> Option<String> {
        Some("control.socket".to_owned())
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Taken(_) => "give this one a socket of its own: [control] socket = \"…\"".to_owned(),
            Self::NoSocket(_) => "remove it, or choose another path".to_owned(),
            Self::Refused { cause, .. } if cause.raw_os_error() == Some(libc::EPERM) => {
                "the socket is given to a group at the start, while the daemon still may: restart it, as a user who may give \
                 files to that group"
                    .to_owned()
            }
            Self::Refused { path, .. } => format!(
                "{} must be there and writable for this user; [control] socket = \"off\" does without",
                path.parent().unwrap_or(Path::new("/")).display()
            ),
        })
    }

    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Refused { cause, .. } if cause.kind() == ErrorKind::PermissionDenied => ExitCode::NotPermitted,
            Self::Taken(_) | Self::NoSocket(_) | Self::Refused { .. } => ExitCode::Failed,
        }
    }
}

impl ControlSocket {
    /// Makes the socket of `plan` for `path`, and the directory that it lies in. There may be one there that a daemon left
    /// behind when it was killed, and this daemon's own when `is_mine`: it stays until [`take_place`](Self::take_place).
    ///
    /// # Errors
    /// When the path is taken, or the kernel refuses.
    pub(super) fn open(path: &Path, plan: &ControlPlan, is_mine: bool) -> Result<Self, SocketError> {
        let refused = |cause| SocketError::Refused { path: path.to_owned(), cause };
        if let Some(directory) = path.parent().filter(|directory| !directory.exists()) {
            DirBuilder::new().mode(0o755).create(directory).map_err(refused)?;
        }
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => return Err(SocketError::NoSocket(path.to_owned())),
            Ok(_) if !is_mine && is_answered(path).map_err(refused)? => {
                return Err(SocketError::Taken(path.to_owned()));
            }
            Err(cause) if cause.kind() != ErrorKind::NotFound => return Err(refused(cause)),
            Ok(_) | Err(_) => {}
        }
        let mut new = path.as_os_str().to_owned();
        new.push(NEW);
        let new = PathBuf::from(new);
        match fs::remove_file(&new) {
            Err(cause) if cause.kind() != ErrorKind::NotFound => return Err(refused(cause)),
            _ => {}
        }
        let listener = UnixListener::bind(&new).map_err(refused)?;
        listener.set_nonblocking(true).map_err(refused)?;
        if let Some(group) = plan.group {
            chown(&new, None, Some(group)).map_err(refused)?;
        }
        let mode = if plan.group.is_some() { 0o660 } else { 0o600 };
        fs::set_permissions(&new, Permissions::from_mode(mode)).map_err(refused)?;
        let identity = identity(&new).map_err(refused)?;
        Ok(Self { listener, path: path.to_owned(), place: new, identity, group: plan.group })
    }

    /// Puts the socket where it is looked for, in one step: no moment is without one.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn take_place(&mut self) -> Result<(), SocketError> {
        let refused = |cause| SocketError::Refused { path: self.path.clone(), cause };
        fs::rename(&self.place, &self.path).map_err(refused)?;
        self.place.clone_from(&self.path);
        Ok(())
    }

    /// Whether whoever is at the other end of `stream` may ask: root, this daemon's own user, and members of the group.
    pub(super) fn admits(group: Option<u32>, stream: &tokio::net::UnixStream) -> bool {
        let Ok(peer) = stream.peer_cred() else { return false };
        let is_member =
            |group| peer.gid() == group || peer_groups(stream.as_fd()).is_ok_and(|groups| groups.contains(&group));
        peer.uid() == 0 || peer.uid() == geteuid().as_raw() || group.is_some_and(is_member)
    }

    /// The group whose members may ask.
    pub(super) fn group(&self) -> Option<u32> {
        self.group
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // Another socket may have its place by now. One that is left behind, where the directory is no longer writable, is
        // replaced by the next daemon's.
        if identity(&self.place).is_ok_and(|there| there == self.identity) {
            let _ = fs::remove_file(&self.place);
        }
    }
}

/// Device and inode: what a file is, whatever its name.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

/// Whether a program listens at `path`.
fn is_answered(path: &Path) -> io::Result<bool> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A program that takes no connection has the path all the same, and is not waited for.
    socket.set_nonblocking(true)?;
    match socket.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(false),
        Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
        Ok(()) | Err(_) => Ok(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(path: &Path, group: Option<u32>) -> ControlPlan {
        ControlPlan { socket: Some(path.to_owned()), is_wanted: true, group }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn in_place(path: &Path, group: Option<u32>, is_mine: bool) -> ControlSocket {
        let mut socket = ControlSocket::open(path, &plan(path, group), is_mine).unwrap();
        socket.take_place().unwrap();
        socket
    }

    #[test]
    fn the_socket_is_for_its_owner_or_for_a_group_too_and_goes_with_the_daemon() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/control.sock");
        let socket = in_place(&path, None, false);
        assert_eq!(mode(&path), 0o600);
        assert!(matches!(ControlSocket::open(&path, &plan(&path, None), false), Err(SocketError::Taken(_))));
        let own_group = nix::unistd::getegid().as_raw();
        drop(ControlSocket::open(&path, &plan(&path, Some(own_group)), true).unwrap());
        assert_eq!(mode(&path), 0o600, "nobody wanted the other one in the end");
        let next = in_place(&path, Some(own_group), true);
        drop(socket);
        assert_eq!(mode(&path), 0o660, "the next one has its place");
        drop(next);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);
    }

    #[test]
    fn what_a_killed_daemon_left_behind_is_replaced_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(in_place(&path, None, false));
        fs::write(&path, "precious").unwrap();
        assert!(matches!(ControlSocket::open(&path, &plan(&path, None), false), Err(SocketError::NoSocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        let nowhere = folder.path().join("a/b/control.sock");
        let refused = ControlSocket::open(&nowhere, &plan(&nowhere, None), false).unwrap_err();
        assert!(matches!(refused, SocketError::Refused { .. }) && refused.hint().is_some());
    }
}
