//! The seed of this installation: the key of the flow hash, for every session that has no `select.seed`.
//!
//! It is made once and stored with the state, so that the same flows are chosen after a restart. A host where it cannot
//! be read or stored within a second still mirrors: with a seed of the process alone.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;

use nix::unistd::Uid;

use crate::flow::FlowKey;

/// The file in the state directory.
const NAME: &str = "seed";
/// The state directory of the unit, the package and of root.
const STATE: &str = "/var/lib/farspan";
/// How long a disk may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// Bytes that are read of the file: more than a seed has.
const MOST: u64 = 64;

/// The seed, and where it is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    /// The key of the flow hash.
    pub key: FlowKey,
    /// Where it is stored, or why it is not.
    pub stored: Result<PathBuf, String>,
}

/// The seed of this installation; one of this process where none can be stored. The first call reads it, or makes and
/// stores it, and takes at most a second.
pub fn seed() -> &'static Seed {
    static SEED: OnceLock<Seed> = OnceLock::new();
    SEED.get_or_init(|| {
        let stored = in_time(|| read_or_make(&directories())).unwrap_or_else(|| Err("the disk does not answer".into()));
        match stored {
            Ok((key, path)) => Seed { key, stored: Ok(path) },
            Err(why) => Seed { key: FlowKey::from_bytes(random()), stored: Err(why) },
        }
    })
}

/// The seed that is stored; the file where the first start would store one; or why it cannot be read. Changes nothing.
///
/// # Errors
/// Why the stored one cannot be used.
pub fn look() -> Result<(Option<FlowKey>, PathBuf), String> {
    let looked = in_time(|| {
        let directories = directories();
        for directory in &directories {
            if let Some(key) = read(directory)? {
                return Ok((Some(key), directory.join(NAME)));
            }
        }
        directories.first().map(|first| (None, first.join(NAME))).ok_or_else(|| NOWHERE.to_owned())
    });
    looked.unwrap_or_else(|| Err("the disk does not answer".into()))
}

const NOWHERE: &str = "there is no state directory: neither STATE_DIRECTORY nor HOME is set";

/// The answer of `work`, unless it takes too long or there is no thread for it.
fn in_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (answer, answered) = sync_channel(1);
    thread::Builder::new().name("seed".into()).spawn(move || answer.send(work())).ok()?;
    answered.recv_timeout(PATIENCE).ok()
}

/// Where the state may be, the best place first: what systemd says; the system's; the user's.
fn directories() -> Vec<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    if let Some(named) = std::env::var_os("STATE_DIRECTORY") {
        // systemd.exec(5): several are separated by colons.
        let first = std::env::split_paths(&named).find(|path| path.is_absolute());
        if first.is_some() {
            return first.into_iter().collect();
        }
    }
    let users = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
    let users = users.map(|state| state.join("farspan")).filter(|_| !Uid::effective().is_root());
    [PathBuf::from(STATE)].into_iter().chain(users).collect()
}

/// The first seed that is there; else a new one, in the first directory that takes it.
fn read_or_make(directories: &[PathBuf]) -> Result<(FlowKey, PathBuf), String> {
    let mut refused = None;
    for directory in directories {
        match read(directory) {
            Ok(Some(key)) => return Ok((key, directory.join(NAME))),
            Ok(None) => {}
            // That of another user is none of this one's business; a broken one is.
            Err(why) => refused = Some(why),
        }
    }
    for directory in directories {
        match make(directory) {
            Ok(key) => return Ok((key, directory.join(NAME))),
            Err(why) => refused = refused.or_else(|| Some(format!("{}: {why}", directory.display()))),
        }
    }
    Err(refused.unwrap_or_else(|| NOWHERE.to_owned()))
}

/// The seed in this directory, if there is one.
fn read(directory: &Path) -> Result<Option<FlowKey>, String> {
    let path = directory.join(NAME);
    let refused = |why: &str| Err(format!("{}: {why}", path.display()));
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(&path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        // Another user's: root's on a host where this is none.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(None),
        Err(error) => return refused(&error.to_string()),
    };
    let about = file.metadata().map_err(|error| format!("{}: {error}", path.display()))?;
    let owners = [0, Uid::effective().as_raw(), fs::metadata(directory).map_or(0, |directory| directory.uid())];
    if !about.is_file() || !owners.contains(&about.uid()) || about.mode() & 0o022 != 0 {
        return refused("not a file that only its owner may write to");
    }
    let mut text = String::new();
    file.take(MOST).read_to_string(&mut text).map_err(|error| format!("{}: {error}", path.display()))?;
    text.trim_end().parse().map(Some).or_else(|error| refused(&format!("{error}")))
}

/// Makes a seed, and stores it as a whole or not at all. Where another process is faster, its seed is the answer.
fn make(directory: &Path) -> Result<FlowKey, String> {
    let text = |error: io::Error| error.to_string();
    DirBuilder::new().recursive(true).mode(0o750).create(directory).map_err(text)?;
    let key = random();
    let (path, partial) = (directory.join(NAME), directory.join(partial_name()));
    let stored = write(&partial, directory, key).and_then(|()| fs::hard_link(&partial, &path));
    let _ = fs::remove_file(&partial);
    match stored {
        Ok(()) => Ok(FlowKey::from_bytes(key)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            read(directory)?.ok_or_else(|| format!("{} cannot be read", path.display()))
        }
        Err(error) => Err(error.to_string()),
    }
}

/// A name that no other thread or process uses.
fn partial_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{NAME}.{}.{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

fn write(path: &Path, directory: &Path, key: [u8; FlowKey::LEN]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "{:032x}", u128::from_be_bytes(key))?;
    if Uid::effective().is_root() {
        // Root makes it for the daemon's user, who has the directory.
        let owner = fs::metadata(directory)?;
        fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
    }
    file.sync_all()
}

/// Bytes of the kernel's random number generator.
fn random() -> [u8; FlowKey::LEN] {
    let mut bytes = [0; FlowKey::LEN];
    let read = File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut bytes));
    if read.is_err() {
        // The standard library asks the kernel without a file, and gives no more than hashes away.
        for half in bytes.chunks_mut(8) {
            let word = RandomState::new().build_hasher().finish().to_le_bytes();
            half.iter_mut().zip(word).for_each(|(byte, random)| *byte = random);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn a06_a_seed_is_stored_once_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let directories = [folder.path().join("state")];
        let (key, path) = read_or_make(&directories).unwrap();
        assert_eq!(read_or_make(&directories).unwrap(), (key, path.clone()));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&directories[0]).unwrap().count(), 1, "nothing else is left");
        let other = [folder.path().join("other")];
        assert_ne!(read_or_make(&other).unwrap().0, key);
    }

    #[test]
    fn a06_several_processes_that_start_at_once_agree() {
        let folder = tempfile::tempdir().unwrap();
        let directories = [folder.path().to_owned()];
        let make = || {
            thread::scope(|scope| {
                let all: Vec<_> = (0..8).map(|_| scope.spawn(|| read_or_make(&directories))).collect();
                all.into_iter().map(|one| one.join().unwrap()).collect::<Vec<_>>()
            })
        };
        let found = make();
        assert!(found[0].is_ok() && found.iter().all(|one| one == &found[0]), "{found:?}");
    }

    #[test]
    fn a06_a_seed_that_others_may_have_written_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        let write = |text: &str, mode| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            read(folder.path())
        };
        let digits = "000102030405060708090a0b0c0d0e0f\n";
        assert_eq!(write(digits, 0o600), Ok(digits.trim().parse().ok()));
        assert!(write(digits, 0o620).unwrap_err().contains("only its owner"));
        assert!(write("", 0o600).unwrap_err().contains("32 hexadecimal digits"));
        fs::rename(&path, folder.path().join("elsewhere")).unwrap();
        symlink("elsewhere", &path).unwrap();
        assert!(read(folder.path()).is_err(), "links are not followed");
        fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(read(folder.path()).is_err(), "and it does not wait for a pipe");
    }

    #[test]
    fn a06_where_nothing_can_be_stored_the_reason_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(read_or_make(&[file.join("state")]).unwrap_err().contains("file/state: "));
        assert_eq!(read_or_make(&[]).unwrap_err(), NOWHERE);
    }
}
