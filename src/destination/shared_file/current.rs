//! The file that is being written: how far it is whole, and what somebody else did to it.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::super::output_file::{self, Identity};

/// The file at hand.
#[derive(Debug)]
pub(super) struct Current {
    pub(super) file: File,
    /// Where it is and what it is; `None` for what cannot be cut: a pipe, standard output.
    pub(super) place: Option<(PathBuf, Identity)>,
    /// Length of the file up to its last whole record; `None` for what cannot be cut.
    pub(super) whole: Option<u64>,
    /// How many records it has.
    pub(super) records: u64,
    pub(super) since: Instant,
}

/// What somebody else did to the file at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Harm {
    /// It is shorter than what was written.
    Cut,
    /// It has no name.
    Removed,
    /// It has another name: nothing is lost.
    Moved,
}

impl Current {
    /// Length in bytes, as far as it is known.
    pub(super) fn len(&self) -> u64 {
        self.whole.unwrap_or(0)
    }

    /// Writes a block that is no record. What stands of it after an error is to be taken back.
    pub(super) fn write_block(&mut self, block: &[u8]) -> io::Result<()> {
        let (_, result) = write_as_much_as_possible(&mut self.file, block);
        if result.is_ok() {
            self.whole = self.whole.map(|whole| whole + block.len() as u64);
        }
        result
    }

    /// Takes back what stands behind the last whole record. The next write goes to the end of the file.
    pub(super) fn take_back(&mut self) -> io::Result<()> {
        let whole = self.whole.ok_or(ErrorKind::Unsupported)?;
        // One that somebody cut is not made longer.
        if self.file.metadata()?.len() > whole { self.file.set_len(whole) } else { Ok(()) }
    }

    /// What somebody else did to the file. Two system calls.
    pub(super) fn harm(&self) -> Option<Harm> {
        let (path, identity) = self.place.as_ref()?;
        let found = self.file.metadata().ok()?;
        if found.len() < self.len() {
            return Some(Harm::Cut);
        }
        // A file that cannot be looked at is written on: another one could not be begun in its place either.
        let is_gone = output_file::is_at(path, *identity) == Some(false);
        is_gone.then_some(if found.nlink() == 0 { Harm::Removed } else { Harm::Moved })
    }
}

/// Writes until everything is written or the kernel refuses; tells how many bytes it took.
pub(super) fn write_as_much_as_possible(file: &mut File, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while written < bytes.len() {
        match file.write(&bytes[written..]) {
            Ok(0) => return (written, Err(ErrorKind::WriteZero.into())),
            Ok(more) => written += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Somebody else made the pipe at standard output non-blocking; waiting for its reader is still right.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let _ = poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE);
            }
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}
