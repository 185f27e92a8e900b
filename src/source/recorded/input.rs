//! The bytes of a file or pipe, decompressed where they are compressed. A read never waits for a pipe.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, BufReader, Cursor, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::config::plan::FilePath;

/// Bytes as they come.
pub(super) struct Input {
    file: Arc<File>,
    kind: FileKind,
    /// Bytes that were read from the file, before they were decompressed.
    taken: Arc<AtomicU64>,
    bytes: Bytes,
}

/// What a read has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filled {
    /// So many bytes; at least one.
    Bytes(usize),
    /// Nothing yet: wait until the descriptor is readable.
    Waiting,
    /// There will be no more.
    End,
}

/// What a descriptor leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileKind {
    /// A file of so many bytes, or a block device: a read returns at once.
    Regular(u64),
    /// A pipe, socket or terminal, which can be polled.
    Pipe,
}

enum Bytes {
    Plain(Ahead),
    Gzip(Box<MultiGzDecoder<BufReader<Ahead>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, BufReader<Ahead>>>),
    /// Between two states.
    Nothing,
}

/// Bytes that were looked at, and then the file.
type Ahead = io::Chain<Cursor<Vec<u8>>, Raw>;

/// The file. A read that would wait for a pipe is `WouldBlock` instead.
struct Raw {
    file: Arc<File>,
    kind: FileKind,
    taken: Arc<AtomicU64>,
}

/// How compressed bytes begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Compression {
    /// By the first four bytes: a zstd file may begin with a skippable frame.
    pub fn of(first: [u8; 4]) -> Option<Self> {
        match first {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => Some(Self::Zstd),
            _ => None,
        }
    }
}

impl Input {
    /// Opens a path, or standard input. A named pipe without a writer is open at once, and has nothing until one comes.
    pub fn open(path: &FilePath) -> io::Result<Self> {
        let file = match path {
            FilePath::Standard => File::from(io::stdin().as_fd().try_clone_to_owned()?),
            FilePath::Path(path) => File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?,
        };
        let metadata = file.metadata()?;
        let kind = match metadata.file_type() {
            kind if kind.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
            kind if kind.is_fifo() || kind.is_socket() => FileKind::Pipe,
            kind if kind.is_char_device() && io::IsTerminal::is_terminal(&file) => FileKind::Pipe,
            _ => FileKind::Regular(metadata.len()),
        };
        Ok(Self::of(Arc::new(file), kind))
    }

    fn of(file: Arc<File>, kind: FileKind) -> Self {
        let taken = Arc::default();
        let raw = Raw { file: Arc::clone(&file), kind, taken: Arc::clone(&taken) };
        Self { file, kind, taken, bytes: Bytes::Plain(Cursor::new(Vec::new()).chain(raw)) }
    }

    /// Reads on with `seen`, which was read already, as the first bytes of compressed ones.
    ///
    /// # Errors
    /// When the decompressor cannot be set up, or there is one already.
    pub fn decompress(&mut self, compression: Compression, seen: Vec<u8>) -> io::Result<()> {
        /// The largest window of zstd's levels: 2^27 bytes. `--long` with more needs more memory than is given to a file.
        const LARGEST_WINDOW_LOG: u32 = 27;
        const COMPRESSED_AT_ONCE: usize = 64 * 1024;

        let Bytes::Plain(ahead) = std::mem::replace(&mut self.bytes, Bytes::Nothing) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is compressed twice"));
        };
        let (_, raw) = ahead.into_inner();
        let compressed = BufReader::with_capacity(COMPRESSED_AT_ONCE, Cursor::new(seen).chain(raw));
        self.bytes = match compression {
            Compression::Gzip => Bytes::Gzip(Box::new(MultiGzDecoder::new(compressed))),
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(compressed)?;
                decoder.window_log_max(LARGEST_WINDOW_LOG)?;
                Bytes::Zstd(Box::new(decoder))
            }
        };
        Ok(())
    }

    /// Whether what it reads is compressed.
    pub fn is_compressed(&self) -> bool {
        !matches!(self.bytes, Bytes::Plain(_))
    }

    /// Reads into `room`, which is not empty.
    pub fn fill(&mut self, room: &mut [u8]) -> io::Result<Filled> {
        loop {
            let read = match &mut self.bytes {
                Bytes::Plain(bytes) => bytes.read(room),
                Bytes::Gzip(bytes) => bytes.read(room),
                Bytes::Zstd(bytes) => bytes.read(room),
                Bytes::Nothing => Ok(0),
            };
            return match read {
                Ok(0) => Ok(Filled::End),
                Ok(read) => Ok(Filled::Bytes(read)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Filled::Waiting),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
        }
    }

    /// Waits until there is something to read, or the other end has closed.
    ///
    /// # Errors
    /// The kernel's; [`ErrorKind::TimedOut`](io::ErrorKind::TimedOut) when [`while_wanted`] says that nobody wants it any more.
    pub fn wait(&self) -> io::Result<()> {
        /// How soon that is seen.
        const LOOK: u16 = 100;
        loop {
            let mut polled = [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)];
            match poll(&mut polled, LOOK) {
                Ok(0) if !is_wanted() => return Err(io::ErrorKind::TimedOut.into()),
                Ok(0) | Err(nix::Error::EINTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The descriptor that becomes readable when [`Filled::Waiting`] is over; none for a regular file, which never waits.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        (self.kind == FileKind::Pipe).then(|| self.file.as_fd())
    }

    /// Size of a regular file in bytes.
    pub fn size(&self) -> Option<u64> {
        match self.kind {
            FileKind::Regular(size) => Some(size),
            FileKind::Pipe => None,
        }
    }

    /// Bytes that were read from the file.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }
}

/// Says whether somebody still waits for what this thread opens.
type IsWanted = Box<dyn Fn() -> bool>;

thread_local! {
    static IS_WANTED: RefCell<Option<IsWanted>> = const { RefCell::new(None) };
}

/// Does `work` on this thread, in which a wait for a pipe ends when `is_wanted` says that nobody waits for the result any more.
/// The pipe may stay silent for ever.
pub fn while_wanted<T>(is_wanted: impl Fn() -> bool + 'static, work: impl FnOnce() -> T) -> T {
    IS_WANTED.set(Some(Box::new(is_wanted)));
    let done = work();
    IS_WANTED.set(None);
    done
}

fn is_wanted() -> bool {
    IS_WANTED.with_borrow(|is_wanted| is_wanted.as_ref().is_none_or(|is_wanted| is_wanted()))
}

impl Read for Raw {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        if self.kind == FileKind::Pipe {
            let mut polled = [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)];
            if poll(&mut polled, PollTimeout::ZERO)? == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
        }
        let read = (&*self.file).read(room)?;
        self.taken.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}
