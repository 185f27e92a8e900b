//! How files of the configuration are opened and read: through every directory and link on their path, without waiting for
//! what gives nothing, and never more than a configuration can have.
//!
//! Each directory is opened by its name in the one before (openat(2) with `O_NOFOLLOW`), and what is known of it comes from
//! its descriptor. So the file that is read is the file whose path was looked at, whatever is renamed meanwhile.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use nix::sys::statvfs::{FsFlags, fstatvfs};

use super::file::FileError;
use crate::error::{ExitCode, Explain, Problems};
use crate::sys::xattr;

/// How long a file may take: a pipe into which nothing is written ends there.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long all of it may take, with names of users and hosts that are looked up.
const LONGEST: Duration = Duration::from_secs(10);
/// Most bytes of one file.
const MOST_BYTES: u64 = 4 << 20;
/// Most drop-ins.
const MOST_DROP_INS: usize = 1024;
/// Most links on the path of one file, as the kernel has it (`path_resolution(7)`).
const MOST_LINKS: u32 = 40;
/// The size of a piece that is read.
const PIECE: usize = 8 << 10;

/// One directory, link or file that decides what is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its path, without links.
    pub path: PathBuf,
    /// What it has to do with the configuration.
    pub role: Role,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its type and mode.
    pub mode: u32,
    /// Users and groups that its access control list lets write (acl(5)). The mode does not show them: its group bits are
    /// the list's mask.
    pub writers: Vec<Writer>,
    /// Whether nobody can write there whatever the mode says: its file system is mounted read-only.
    pub is_read_only: bool,
}

/// A user or group that an access control list lets write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    /// The user with this number.
    User(u32),
    /// The members of the group with this number.
    Group(u32),
}

/// What something has to do with the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A file that is read, or a directory all of whose files are.
    Read,
    /// A directory on the path of one.
    Around,
    /// A symbolic link on it.
    Link,
}

/// What was read, and by what path.
#[derive(Clone, Debug, Default)]
pub struct Provenance {
    /// Everything on the paths, each once.
    pub seen: Vec<Seen>,
    /// The directories of files and of links, from which a reload reads again.
    pub directories: BTreeSet<PathBuf>,
    /// What is no regular file, such as a pipe: it can be read once.
    pub once: Vec<PathBuf>,
}

/// The text of a file.
pub(super) struct Text {
    pub(super) path: PathBuf,
    pub(super) text: String,
}

/// Reads `file` and the drop-ins beside it.
///
/// # Errors
/// Every file that cannot be read.
pub(super) fn read(file: &Path, provenance: &mut Provenance) -> Result<Vec<Text>, Vec<FileError>> {
    let deadline = Instant::now() + PATIENCE;
    let (mut texts, mut errors) = (Vec::new(), Vec::new());
    let mut note = |read: Result<Text, FileError>| match read {
        Ok(text) => texts.push(text),
        Err(error) => errors.push(error),
    };
    let whole = Walk::begin(file).and_then(Walk::finish);
    note(whole.map_err(|cause| unreadable(file, cause)).and_then(|end| end.read(file, deadline, provenance)));
    let directory = drop_in_directory(file);
    match drop_ins(&directory, provenance) {
        Ok(names) => {
            for (name, end) in names {
                let path = directory.join(name);
                note(
                    end.map_err(|cause| unreadable(&path, cause)).and_then(|end| end.read(&path, deadline, provenance)),
                );
            }
        }
        Err(cause) if cause.kind() == ErrorKind::NotFound => {}
        Err(cause) => errors.push(unreadable(&directory, cause)),
    }
    if errors.is_empty() { Ok(texts) } else { Err(errors) }
}

/// Where the drop-ins of `file` are.
pub(super) fn drop_in_directory(file: &Path) -> PathBuf {
    file.parent().unwrap_or(Path::new("")).join("conf.d")
}

/// The drop-ins in `directory` in the order of their names, each with the end of its path.
fn drop_ins(directory: &Path, provenance: &mut Provenance) -> io::Result<Vec<(OsString, io::Result<End>)>> {
    let end = Walk::begin(directory)?.finish()?;
    let opened = open_at(end.object.as_fd(), OsStr::new("."), OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
    let is_toml = |name: &OsStr| Path::new(name).extension().is_some_and(|extension| extension == "toml");
    let mut names = Vec::new();
    for entry in Dir::from_fd(opened)?.iter() {
        let name = OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned();
        if is_toml(&name) {
            names.push(name);
        }
        if names.len() > MOST_DROP_INS {
            return Err(io::Error::other(format!("there are more than {MOST_DROP_INS} drop-ins")));
        }
    }
    names.sort();
    end.note(Role::Read, provenance)?;
    let walked = |name: OsString| {
        let end = end.again().and_then(|walk| walk.on_to(&name).finish());
        (name, end)
    };
    Ok(names.into_iter().map(walked).collect())
}

fn unreadable(path: &Path, source: io::Error) -> FileError {
    FileError::Unreadable { path: path.to_owned(), source }
}

/// The way to a file, as far as it has been gone.
struct Walk {
    /// The directories above the present one, from the root on, each with its name.
    directories: Vec<Arc<(PathBuf, OwnedFd)>>,
    pending: VecDeque<OsString>,
    links: u32,
    seen: Vec<Seen>,
    link_directories: Vec<PathBuf>,
}

/// The end of a path.
struct End {
    walk: Walk,
    /// Its path without links.
    path: PathBuf,
    /// The name in the last directory.
    name: OsString,
    /// What is there, opened with `O_PATH`.
    object: OwnedFd,
    /// Whether `name` is a link of /proc that leads to an open descriptor.
    is_descriptor: bool,
}

impl Walk {
    /// At the root, with `path` before it.
    fn begin(path: &Path) -> io::Result<Self> {
        let path = std::path::absolute(path)?;
        let mut walk = Self::nowhere();
        walk.return_to_root()?;
        Ok(walk.on_to(path.as_os_str()))
    }

    fn return_to_root(&mut self) -> io::Result<()> {
        let root = nix::fcntl::open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        let metadata = File::from(root.try_clone()?).metadata()?;
        self.see(Path::new("/"), Role::Around, &metadata, root.as_fd());
        self.directories = vec![Arc::new((PathBuf::from("/"), root))];
        Ok(())
    }

    /// With `path` before what is left to be gone.
    fn on_to(mut self, path: &OsStr) -> Self {
        self.put_first(Path::new(path));
        self
    }

    fn put_first(&mut self, path: &Path) {
        for component in path.components().rev() {
            match component {
                Component::RootDir | Component::Prefix(_) | Component::CurDir => {}
                Component::ParentDir => self.pending.push_front("..".into()),
                Component::Normal(name) => self.pending.push_front(name.to_owned()),
            }
        }
    }

    fn see(&mut self, path: &Path, role: Role, metadata: &std::fs::Metadata, descriptor: BorrowedFd<'_>) {
        self.seen.push(Seen {
            path: path.to_owned(),
            role,
            uid: metadata.uid(),
            gid: metadata.gid(),
            mode: metadata.mode(),
            // The permissions of a link mean nothing (symlink(7)).
            writers: if role == Role::Link { Vec::new() } else { writers_of(descriptor) },
            is_read_only: fstatvfs(descriptor).is_ok_and(|system| system.flags().contains(FsFlags::ST_RDONLY)),
        });
    }

    /// Goes to the end of the path.
    fn finish(mut self) -> io::Result<End> {
        loop {
            let (Some(name), Some(here)) = (self.pending.pop_front(), self.directories.last().cloned()) else {
                // The path ends in a directory that was walked through: the root, or one by "..".
                let here = self.directories.last().cloned().ok_or(ErrorKind::NotFound)?;
                let object = here.1.try_clone()?;
                return Ok(End { path: here.0.clone(), name: ".".into(), object, walk: self, is_descriptor: false });
            };
            if name == ".." {
                if self.directories.len() > 1 {
                    self.directories.pop();
                }
                continue;
            }
            let path = here.0.join(&name);
            let object = open_at(here.1.as_fd(), &name, OFlag::O_PATH | OFlag::O_NOFOLLOW)?;
            let metadata = File::from(object.try_clone()?).metadata()?;
            if metadata.is_symlink() {
                self.links += 1;
                if self.links > MOST_LINKS {
                    return Err(Errno::ELOOP.into());
                }
                let is_in_proc = is_of_proc(&here.1);
                // The kernel's own links have whichever owner the user namespace gives them; those of a process are its user's.
                if !(is_in_proc && matches!(name.as_bytes(), b"self" | b"thread-self")) {
                    self.see(&path, Role::Link, &metadata, object.as_fd());
                }
                if is_in_proc && let Some(end) = self.through_descriptor(&here.1, &name)? {
                    return Ok(end);
                }
                self.link_directories.push(here.0.clone());
                let target = PathBuf::from(readlinkat(&here.1, name.as_os_str())?);
                if target.is_absolute() {
                    self.return_to_root()?;
                }
                self.put_first(&target);
            } else if metadata.is_dir() && !self.pending.is_empty() {
                // The kernel's own directories have whichever owner the namespace gives them, and nobody puts files there.
                if !is_of_proc(&object) {
                    self.see(&path, Role::Around, &metadata, object.as_fd());
                }
                self.directories.push(Arc::new((path, object)));
            } else if self.pending.is_empty() {
                return Ok(End { walk: self, path, name, object, is_descriptor: false });
            } else {
                return Err(ErrorKind::NotADirectory.into());
            }
        }
    }

    /// The file behind a link of /proc/self/fd, which leads to an open descriptor and not to a path. `None` where it leads to
    /// a path all the same.
    fn through_descriptor(&mut self, here: &OwnedFd, name: &OsStr) -> io::Result<Option<End>> {
        let target = PathBuf::from(readlinkat(here, name)?);
        let is_descriptor = name.as_bytes().iter().all(u8::is_ascii_digit) && self.pending.is_empty();
        if !is_descriptor || target.is_absolute() && target.exists() {
            return Ok(None);
        }
        let object = open_at(here.as_fd(), name, OFlag::O_PATH)?;
        // Whoever gave the descriptor to its process decides what is read, and whoever made the links that lead there.
        let (directories, seen) = (std::mem::take(&mut self.directories), std::mem::take(&mut self.seen));
        let walk = Self { directories, seen, ..Self::nowhere() };
        Ok(Some(End { walk, path: target, name: name.to_owned(), object, is_descriptor: true }))
    }
}

impl End {
    /// The same place, to go on from there.
    fn again(&self) -> io::Result<Walk> {
        let Walk { directories, links, .. } = &self.walk;
        let mut directories = directories.clone();
        directories.push(Arc::new((self.path.clone(), self.object.try_clone()?)));
        Ok(Walk { directories, links: *links, ..Walk::nowhere() })
    }

    /// Takes down what was seen on the path, and the end itself.
    fn note(&self, role: Role, provenance: &mut Provenance) -> io::Result<()> {
        let metadata = File::from(self.object.try_clone()?).metadata()?;
        self.note_as(role, &metadata, self.object.as_fd(), provenance);
        Ok(())
    }

    fn note_as(&self, role: Role, metadata: &std::fs::Metadata, at: BorrowedFd<'_>, provenance: &mut Provenance) {
        let mut all = Walk { seen: self.walk.seen.clone(), ..Walk::nowhere() };
        all.see(&self.path, role, metadata, at);
        for seen in all.seen {
            if !provenance.seen.contains(&seen) {
                provenance.seen.push(seen);
            }
        }
        let own = if metadata.is_dir() { Some(self.path.as_path()) } else { self.path.parent() };
        let directories = self.walk.link_directories.iter().map(PathBuf::as_path).chain(own);
        // The root would be everything.
        provenance.directories.extend(directories.filter(|path| path.parent().is_some()).map(Path::to_owned));
    }

    /// Reads the file, which messages call `path`.
    fn read(&self, path: &Path, deadline: Instant, provenance: &mut Provenance) -> Result<Text, FileError> {
        let cannot = |cause: io::Error| unreadable(path, cause);
        let mut file = self.open(deadline).map_err(cannot)?;
        let metadata = file.metadata().map_err(cannot)?;
        self.note_as(Role::Read, &metadata, file.as_fd(), provenance);
        let kind = metadata.file_type();
        if kind.is_dir() {
            return Err(FileError::NoFile { path: path.to_owned(), kind: "a directory" });
        }
        if kind.is_block_device() {
            return Err(FileError::NoFile { path: path.to_owned(), kind: "a block device" });
        }
        if !kind.is_file() {
            provenance.once.push(path.to_owned());
        }
        let mut bytes = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(FileError::NotInTime { path: path.to_owned(), patience: PATIENCE });
            }
            // What has nothing to be read yet, such as a pipe, is waited for.
            let patience = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            if poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLIN)], patience) == Ok(0) {
                continue;
            }
            let mut piece = [0; PIECE];
            match file.read(&mut piece) {
                Ok(0) => break,
                Ok(length) => bytes.extend_from_slice(&piece[..length]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => return Err(cannot(error)),
            }
            if bytes.len() as u64 > MOST_BYTES {
                return Err(FileError::TooLarge { path: path.to_owned(), most: MOST_BYTES });
            }
        }
        let text = String::from_utf8(bytes).map_err(|error| cannot(io::Error::new(ErrorKind::InvalidData, error)))?;
        Ok(Text { path: path.to_owned(), text })
    }

    /// Opens what is there for reading, without waiting for the other end of a pipe.
    fn open(&self, deadline: Instant) -> io::Result<File> {
        let here = self.walk.directories.last().ok_or(ErrorKind::NotFound)?;
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let flags = if self.is_descriptor { flags } else { flags | OFlag::O_NOFOLLOW };
        let expected = File::from(self.object.try_clone()?).metadata()?;
        loop {
            match open_at(here.1.as_fd(), &self.name, flags) {
                Ok(opened) => {
                    let file = File::from(opened);
                    let metadata = file.metadata()?;
                    if (metadata.dev(), metadata.ino()) == (expected.dev(), expected.ino()) {
                        return Ok(file);
                    }
                    return Err(io::Error::new(ErrorKind::Interrupted, "another file was put in its place"));
                }
                // Another program holds a lease on it (fcntl(2), F_SETLEASE), which the kernel asks back.
                Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(20));
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Walk {
    fn nowhere() -> Self {
        Self {
            directories: Vec::new(),
            pending: VecDeque::new(),
            links: 0,
            seen: Vec::new(),
            link_directories: Vec::new(),
        }
    }
}

fn is_of_proc(directory: impl AsFd) -> bool {
    fstatfs(directory).is_ok_and(|system| system.filesystem_type() == PROC_SUPER_MAGIC)
}

/// Who may write to what is open here by an access control list. File systems without lists let nobody else.
fn writers_of(descriptor: BorrowedFd<'_>) -> Vec<Writer> {
    let list = xattr::of(descriptor, c"system.posix_acl_access").ok().flatten().unwrap_or_default();
    writers_in(&list)
}

/// The named users and groups that may write, in a list as the kernel gives it: a version (4 bytes), then for each entry tag
/// (2 bytes), permissions (2) and number (4), little-endian (`linux/posix_acl_xattr.h`). The mask limits all of them.
fn writers_in(list: &[u8]) -> Vec<Writer> {
    const USER: u16 = 0x02;
    const GROUP: u16 = 0x08;
    const MASK: u16 = 0x10;
    const WRITE: u16 = 0x2;
    let (entries, _) = list.get(4..).unwrap_or_default().as_chunks::<8>();
    let entries = entries.iter().map(|&[t0, t1, p0, p1, n0, n1, n2, n3]| {
        (u16::from_le_bytes([t0, t1]), u16::from_le_bytes([p0, p1]), u32::from_le_bytes([n0, n1, n2, n3]))
    });
    let mask = entries.clone().find(|&(tag, ..)| tag == MASK).map_or(u16::MAX, |(_, mask, _)| mask);
    let writers = entries.filter(|&(_, permissions, _)| permissions & mask & WRITE != 0);
    writers
        .filter_map(|(tag, _, number)| match tag {
            USER => Some(Writer::User(number)),
            GROUP => Some(Writer::Group(number)),
            _ => None,
        })
        .collect()
}

fn open_at(directory: BorrowedFd<'_>, name: &OsStr, flags: OFlag) -> io::Result<OwnedFd> {
    Ok(openat(directory, name, flags | OFlag::O_CLOEXEC, Mode::empty())?)
}

/// A configuration that takes too long.
#[derive(Debug, thiserror::Error)]
#[error("the configuration {} could not be read within {} s", file.display(), patience.as_secs())]
pub struct NotInTime {
    /// Its file.
    pub file: PathBuf,
    /// How long was waited.
    pub patience: Duration,
}

impl Explain for NotInTime {
    fn hint(&self) -> Option<String> {
        Some(
            "look at the disk that it is on, and at the name servers if a filter or a user has to be looked up"
                .to_owned(),
        )
    }

    fn exit_code(&self) -> ExitCode {
        ExitCode::Config
    }
}

/// What is known of a reading that may not have ended.
pub struct Reading<T> {
    outcome: tokio::sync::oneshot::Receiver<Result<T, Problems>>,
    file: PathBuf,
}

/// Begins `work`, which reads `file`, on a thread of its own.
///
/// # Errors
/// When the kernel gives no thread.
pub fn begin<T: Send + 'static>(
    file: &Path,
    work: impl FnOnce() -> Result<T, Problems> + Send + 'static,
) -> Result<Reading<T>, Problems> {
    let (send, outcome) = tokio::sync::oneshot::channel();
    // Nobody may be waiting for it any more.
    let read = move || drop(send.send(work()));
    let started = thread::Builder::new().name("configuration".to_owned()).spawn(read);
    started.map_err(|cause| unreadable(file, cause))?;
    Ok(Reading { outcome, file: file.to_owned() })
}

impl<T> Reading<T> {
    /// Waits for the end of it, for [`LONGEST`] at most. Afterwards it can be waited for again.
    ///
    /// # Errors
    /// What it found, or that it takes too long.
    pub async fn ended(&mut self) -> Result<T, Problems> {
        match tokio::time::timeout(LONGEST, &mut self.outcome).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(unreadable(&self.file, ErrorKind::Interrupted.into()).into()),
            Err(_) => Err(NotInTime { file: self.file.clone(), patience: LONGEST }.into()),
        }
    }

    /// Whether it has not ended yet.
    pub fn is_under_way(&mut self) -> bool {
        matches!(self.outcome.try_recv(), Err(tokio::sync::oneshot::error::TryRecvError::Empty))
    }
}

/// Does `work`, which reads `file`, on a thread of its own, and waits for it for [`LONGEST`] at most.
///
/// # Errors
/// What it found, or that it takes too long.
pub fn within_time<T: Send + 'static>(
    file: &Path,
    work: impl FnOnce() -> Result<T, Problems> + Send + 'static,
) -> Result<T, Problems> {
    let (send, outcome) = channel();
    let read = move || drop(send.send(work()));
    let started = thread::Builder::new().name("configuration".to_owned()).spawn(read);
    started.map_err(|cause| unreadable(file, cause))?;
    match outcome.recv_timeout(LONGEST) {
        Ok(outcome) => outcome,
        Err(RecvTimeoutError::Timeout) => Err(NotInTime { file: file.to_owned(), patience: LONGEST }.into()),
        Err(RecvTimeoutError::Disconnected) => Err(unreadable(file, ErrorKind::Interrupted.into()).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The attribute that `setfacl -m u:1000:rw,u:1001:r,g:100:rw,m::MASK` makes of a file with mode 0640.
    fn list(mask: u16) -> Vec<u8> {
        let entries: [(u16, u16, u32); 7] = [
            (0x01, 6, u32::MAX),
            (0x02, 6, 1000),
            (0x02, 4, 1001),
            (0x04, 4, u32::MAX),
            (0x08, 6, 100),
            (0x10, mask, u32::MAX),
            (0x20, 0, u32::MAX),
        ];
        let bytes = entries.iter().flat_map(|(tag, permissions, number)| {
            [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &number.to_le_bytes()].concat()
        });
        2_u32.to_le_bytes().into_iter().chain(bytes).collect()
    }

    #[test]
    fn a09_an_access_control_list_says_who_else_writes() {
        assert_eq!(writers_in(&list(6)), [Writer::User(1000), Writer::Group(100)]);
        assert_eq!(writers_in(&list(4)), [], "the mask takes it from all of them");
        for length in 0..list(6).len() {
            writers_in(&list(6)[..length]);
        }
    }
}
