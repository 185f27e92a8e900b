//! Opens a file that is written: nobody else's, not by a link, and by one writer at a time.
//!
//! Frames are everybody's secrets, and the process may be root. So a path must not lead to a file that another user chose: its
//! last component is no symbolic link, a regular file has one name, and root or this user owns it. Other users of a directory
//! can still put something into the file's place; what is there is refused, not written.

use std::fs::{self, File, Metadata, OpenOptions, Permissions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::statfs::{PROC_SUPER_MAGIC, statfs};

use crate::config::local_end::FileMode;
use crate::error::Explain;

/// A file that is ready to be written from its beginning. What is written goes to its end, wherever that is by then: a file
/// that somebody cuts stays shorter than what was written, and gets no hole.
#[derive(Debug)]
pub(super) struct OutputFile {
    pub(super) file: File,
    /// What it is as long as it is open; `None` for what cannot be cut: a pipe, a terminal, `/dev/null`.
    pub(super) identity: Option<Identity>,
}

/// Device and inode of a regular file: no other one has them while it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity(u64, u64);

impl Identity {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self(metadata.dev(), metadata.ino())
    }
}

/// Why a path is not written although the kernel would.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    /// Its last component is a symbolic link.
    #[error("it is a symbolic link, which is not followed")]
    SymbolicLink,
    /// It is neither a regular file nor a pipe nor a character device.
    #[error("it is neither a file nor a named pipe")]
    NoFile,
    /// The file has other names.
    #[error("the file has {0} hard links")]
    HardLinks(u64),
    /// Somebody else owns it.
    #[error("it belongs to the user with number {owner}, and farspan runs as {user}")]
    AnotherOwner {
        /// Its owner.
        owner: u32,
        /// The user as who farspan runs.
        user: u32,
    },
    /// Another session or process writes it.
    #[error("another session or process writes it")]
    InUse,
    /// A named pipe that nobody has open for reading.
    #[error("nobody reads the named pipe")]
    NoReader,
    /// Somebody puts another file there each time.
    #[error("another file is there each time it is opened")]
    Restless,
}

impl Refused {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::InUse => ErrorKind::ResourceBusy,
            Self::NoReader => ErrorKind::NotConnected,
            _ => ErrorKind::PermissionDenied,
        }
    }

    /// The refusal that `error` tells, if it does.
    pub(super) fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

impl Explain for Refused {
    fn hint(&self) -> Option<String> {
        Some(
            match self {
                Self::SymbolicLink => "write the path that the link names; standard output is `pcap:-`",
                Self::NoFile => "choose a path at which there is nothing, or a capture file of an earlier run",
                Self::HardLinks(_) => {
                    "remove it, or choose a path at which there is nothing: the other names would change too"
                }
                Self::AnotherOwner { .. } => "remove it, or choose a path at which there is nothing",
                Self::InUse => "give each session a file of its own; `fuser` says which process writes it",
                Self::NoReader => "start its reader first, for example `tshark -i PIPE`",
                Self::Restless => "choose a directory in which nobody else may write",
            }
            .to_owned(),
        )
    }
}

impl From<Refused> for io::Error {
    fn from(refused: Refused) -> Self {
        Self::new(refused.kind(), refused)
    }
}

/// Creates the file at `path`, or begins the one anew that is there, with the permissions `mode`. Never blocks.
///
/// # Errors
/// The kernel's; or [`Refused`], as the source of an [`io::Error`].
pub(super) fn begin(path: &Path, mode: FileMode) -> io::Result<OutputFile> {
    /// Files that others may put there, or take away, meanwhile.
    const ATTEMPTS: u32 = 10;
    for _ in 0..ATTEMPTS {
        match create(path, mode) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            other => return other,
        }
        match open(path) {
            // It has gone meanwhile, or another one has taken its place.
            Ok(None) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Ok(Some(output)) => {
                if output.identity.is_some() {
                    output.file.set_len(0)?;
                    // Only the owner may: root's file that this user may write stays as root made it.
                    let _ = output.file.set_permissions(Permissions::from_mode(mode.bits()));
                }
                return Ok(output);
            }
            Err(error) => return Err(error),
        }
    }
    Err(Refused::Restless.into())
}

/// Creates the file at `path`, where nothing may be.
///
/// # Errors
/// The kernel's: [`ErrorKind::AlreadyExists`] where something is, also a link to nothing.
pub(super) fn create(path: &Path, mode: FileMode) -> io::Result<OutputFile> {
    let file = OpenOptions::new().append(true).create_new(true).mode(FileMode::DEFAULT.bits()).open(path)?;
    // Whatever the umask is.
    file.set_permissions(Permissions::from_mode(mode.bits()))?;
    lock(&file)?;
    let identity = Identity::of(&file.metadata()?);
    Ok(OutputFile { file, identity: Some(identity) })
}

/// What keeps the file that is at `path` from being written, as far as that can be told without opening it.
pub(super) fn in_the_way(path: &Path) -> Option<Refused> {
    let metadata = fs::symlink_metadata(path).ok()?;
    if metadata.is_symlink() && !is_of_proc(path) {
        return Some(Refused::SymbolicLink);
    }
    judge(&metadata).err().filter(|_| !metadata.is_symlink())
}

/// Opens what is at `path`, if it may be written. `None` when the path means something else by now.
fn open(path: &Path) -> io::Result<Option<OutputFile>> {
    let follow = if is_of_proc(path) { OFlag::empty() } else { OFlag::O_NOFOLLOW };
    // A named pipe without a reader answers at once.
    let flags = follow | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = match OpenOptions::new().append(true).custom_flags(flags.bits()).open(path) {
        Err(error) => return Err(refusal(path, error)),
        Ok(file) => file,
    };
    let metadata = file.metadata()?;
    judge(&metadata)?;
    if !metadata.is_file() {
        // It stays non-blocking: no other process has this open file description.
        return Ok(Some(OutputFile { file, identity: None }));
    }
    lock(&file)?;
    // Who had the lock before may have given the path to another file.
    let identity = Identity::of(&metadata);
    Ok((is_at(path, identity) == Some(true)).then_some(OutputFile { file, identity: Some(identity) }))
}

/// Whether the path still means that file. `None`: that cannot be known now, because a directory may not be searched or a
/// disk or server does not answer.
pub(super) fn is_at(path: &Path, identity: Identity) -> Option<bool> {
    let metadata = if is_of_proc(path) { fs::metadata(path) } else { fs::symlink_metadata(path) };
    match metadata {
        Ok(metadata) => Some(Identity::of(&metadata) == identity),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Some(false),
        Err(_) => None,
    }
}

/// What the kernel's refusal to open `path` means.
fn refusal(path: &Path, error: io::Error) -> io::Error {
    let is = |what: fn(&fs::FileType) -> bool| fs::symlink_metadata(path).is_ok_and(|found| what(&found.file_type()));
    match error.raw_os_error() {
        Some(libc::ELOOP) => Refused::SymbolicLink.into(),
        Some(libc::ENXIO) if is(FileTypeExt::is_fifo) => Refused::NoReader.into(),
        Some(libc::ENXIO) => Refused::NoFile.into(),
        _ => error,
    }
}

/// Whether what is there may be written by this user.
fn judge(found: &Metadata) -> Result<(), Refused> {
    let kind = found.file_type();
    if kind.is_dir() {
        // The kernel says so in its own words.
        return Ok(());
    }
    if !kind.is_file() && !kind.is_fifo() && !kind.is_char_device() {
        return Err(Refused::NoFile);
    }
    let user = nix::unistd::geteuid().as_raw();
    if ![0, user].contains(&found.uid()) {
        return Err(Refused::AnotherOwner { owner: found.uid(), user });
    }
    if kind.is_file() && found.nlink() != 1 {
        return Err(Refused::HardLinks(found.nlink()));
    }
    Ok(())
}

/// Whether `path` names a descriptor of this process, as a shell's `>(program)` does: `/dev/fd/63`. Such links are the kernel's.
fn is_of_proc(path: &Path) -> bool {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.is_some_and(|folder| statfs(folder).is_ok_and(|found| found.filesystem_type() == PROC_SUPER_MAGIC))
}

/// Locks the file for as long as it is open (flock(2)), against other processes and other sessions of this one. File systems
/// without locks have none.
fn lock(file: &File) -> io::Result<()> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(Refused::InUse.into()),
        Err(TryLockError::Error(error)) => {
            tracing::debug!("the file system has no locks: {error}");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::hard_link;
    use std::os::fd::AsFd;
    use std::os::unix::fs::symlink;

    use nix::fcntl::{FcntlArg, fcntl};

    use super::*;

    fn refused(path: &Path) -> Option<Refused> {
        let error = begin(path, FileMode::DEFAULT).err()?;
        Refused::of(&error).cloned()
    }

    #[test]
    fn a14_links_and_foreign_kinds_are_refused_and_left_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("victim"), "as it was").unwrap();
        symlink(at("victim"), at("symbolic")).unwrap();
        symlink(at("nothing"), at("dangling")).unwrap();
        symlink("/dev/null", at("null")).unwrap();
        hard_link(at("victim"), at("hard")).unwrap();
        for (name, expected) in [
            ("symbolic", Refused::SymbolicLink),
            ("dangling", Refused::SymbolicLink),
            ("null", Refused::SymbolicLink),
            ("hard", Refused::HardLinks(2)),
            ("victim", Refused::HardLinks(2)),
        ] {
            assert_eq!(refused(&at(name)), Some(expected.clone()), "{name}");
            assert_eq!(in_the_way(&at(name)), Some(expected), "{name}, as `check` says");
        }
        assert_eq!(fs::read_to_string(at("victim")).unwrap(), "as it was");
        assert!(!at("nothing").exists());
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        assert_eq!(refused(&at("socket")), Some(Refused::NoFile));
    }

    #[test]
    fn a14_permissions_are_the_mode_whatever_the_file_had() {
        let folder = tempfile::tempdir().unwrap();
        let mode = |name: &str| fs::metadata(folder.path().join(name)).unwrap().mode() & 0o7777;
        fs::write(folder.path().join("old"), "earlier").unwrap();
        fs::set_permissions(folder.path().join("old"), Permissions::from_mode(0o666)).unwrap();
        for (name, word, expected) in [("old", None, 0o600), ("new", None, 0o600), ("shared", Some("0640"), 0o640)] {
            let wanted = word.map_or(FileMode::DEFAULT, |word| word.parse().unwrap());
            begin(&folder.path().join(name), wanted).unwrap();
            assert_eq!(mode(name), expected, "{name}");
        }
        assert_eq!(fs::read(folder.path().join("old")).unwrap(), b"");
    }

    #[test]
    fn a13_a_file_has_one_writer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.pcap");
        let first = begin(&path, FileMode::DEFAULT).unwrap();
        assert_eq!(refused(&path), Some(Refused::InUse));
        fs::remove_file(&path).unwrap();
        let second = begin(&path, FileMode::DEFAULT).unwrap();
        assert_ne!(first.identity, second.identity);
        drop(second);
        assert_eq!(refused(&path), None);
    }

    #[test]
    fn a18_a_named_pipe_without_a_reader_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(refused(&path), Some(Refused::NoReader));
        let flags = OFlag::O_NONBLOCK.bits();
        let _reader = OpenOptions::new().read(true).custom_flags(flags).open(&path).unwrap();
        let output = begin(&path, FileMode::DEFAULT).unwrap();
        assert_eq!(output.identity, None);
        let flags = OFlag::from_bits_retain(fcntl(output.file.as_fd(), FcntlArg::F_GETFL).unwrap());
        assert!(flags.contains(OFlag::O_NONBLOCK), "a reader that takes nothing keeps no thread");
    }

    #[test]
    fn a_descriptor_of_this_process_is_no_foreign_link() {
        use std::os::fd::AsRawFd;
        let (_reader, writer) = io::pipe().unwrap();
        let path = format!("/proc/self/fd/{}", writer.as_raw_fd());
        assert_eq!(begin(Path::new(&path), FileMode::DEFAULT).unwrap().identity, None);
    }
}
