//! Destinations on this host: a TAP device, a capture file.

use std::str::FromStr;
use std::time::Duration;

use nix::unistd::User;

use super::keys::{Keys, Mistakes};
use super::mistake::What;
use super::plan::FilePath;
use super::words;
use crate::quantity::{Mtu, QuantityError};

/// A TAP device that programs of this host sniff.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TapPlan {
    /// Its name.
    pub device: String,
    /// Number of the user who may use the device without `CAP_NET_ADMIN`, if it is to have one.
    pub owner: Option<u32>,
    /// Its MTU in bytes; unless given, the largest of what is mirrored.
    pub mtu: Option<Mtu>,
}

/// A capture file of inner frames, or a series of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptureFilePlan {
    /// Its name, which may hold `{time}` and `{number}`, or standard output.
    pub file: FilePath,
    /// When it is followed by the next one.
    pub rotation: Rotation,
    /// When it must be on the disk.
    pub sync: Sync,
    /// Who may read it.
    pub mode: FileMode,
}

/// The permissions of a capture file: octal digits, such as 0640. The owner can always read and write it, and nobody can
/// execute it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMode(u32);

impl FileMode {
    /// For nobody but its owner.
    pub const DEFAULT: Self = Self(0o600);

    /// As chmod(2) takes it.
    pub fn bits(self) -> u32 {
        self.0
    }
}

impl Default for FileMode {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl FromStr for FileMode {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let is_octal = (3..=4).contains(&text.len()) && text.bytes().all(|digit| digit.is_ascii_digit());
        match u32::from_str_radix(text, 8) {
            Ok(bits) if is_octal && bits & 0o600 == 0o600 && bits & !0o666 == 0 => Ok(Self(bits)),
            _ => Err(words::unreadable("file mode", text, "octal digits from 0600 to 0666, such as 0640")),
        }
    }
}

/// When a capture file is followed by the next one: whatever comes first. By default never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rotation {
    /// Before the file becomes larger than this, in bytes.
    pub size: Option<u64>,
    /// After this time.
    pub time: Option<Duration>,
    /// How many of the files stay, the newest ones; all unless given.
    pub keep: Option<usize>,
}

/// When what was written must be on the disk (fsync(2)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sync {
    /// When the kernel likes.
    #[default]
    Off,
    /// When a file is complete.
    Rotate,
    /// After every batch.
    Flush,
}

impl CaptureFilePlan {
    /// A file that is never rotated.
    pub fn plain(file: FilePath) -> Self {
        Self { file, rotation: Rotation::default(), sync: Sync::Off, mode: FileMode::DEFAULT }
    }
}

impl Rotation {
    /// Whether there will be a next file.
    pub fn is_on(&self) -> bool {
        self.size.is_some() || self.time.is_some()
    }
}

/// Reads the keys of a TAP device.
pub(super) fn tap(keys: &Keys<'_>, device: String, mistakes: &mut Mistakes) -> TapPlan {
    let owner = keys.read("owner", mistakes, user);
    TapPlan { device, owner, mtu: keys.read("mtu", mistakes, words::tap_mtu) }
}

/// A user by name or number.
fn user(text: &str) -> Result<u32, What> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    match User::from_name(text) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        Ok(None) | Err(_) => Err(What::NoSuchUser(text.to_owned())),
    }
}

/// Reads the keys of a capture file.
pub(super) fn capture_file(keys: &Keys<'_>, file: FilePath, mistakes: &mut Mistakes) -> CaptureFilePlan {
    let rotation = Rotation {
        size: keys.read("rotate_size", mistakes, words::rotate_size),
        time: keys.read("rotate_time", mistakes, words::rotate_time),
        keep: keys.read("keep", mistakes, words::keep),
    };
    let sync = keys.read("sync", mistakes, str::parse).unwrap_or_default();
    let mode = keys.read("mode", mistakes, str::parse).unwrap_or_default();
    if file == FilePath::Standard {
        let foreign = ["rotate_size", "rotate_time", "keep", "sync", "mode"].into_iter();
        mistakes.extend(
            foreign.filter(|key| keys.written(key).is_some()).map(|key| keys.mistake(key, What::RotatedStream(key))),
        );
    } else if rotation.keep.is_some() && keys.written("rotate_size").or(keys.written("rotate_time")).is_none() {
        mistakes.push(keys.mistake("keep", What::KeepWithoutRotation));
    }
    CaptureFilePlan { file, rotation, sync, mode }
}
