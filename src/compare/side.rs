//! One side of a comparison: reads its frames, one at a time.

use std::hash::RandomState;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;

use super::seen::{Group, Place, Seen};
use super::tunnel::{Nothing, Tunnel};
use crate::error::Explain;
use crate::frame::Frame;
use crate::source::{Readiness, Source};

/// What a side is asked to do with its frames.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    /// The hash that both sides share.
    pub hasher: RandomState,
    /// Compare at most so many bytes of each frame.
    pub keep: usize,
    /// Whether order is judged by flow.
    pub by_flow: bool,
}

/// One side.
pub(super) struct Side {
    source: Box<dyn Source>,
    has_ended: bool,
    front: Front,
    /// The latest frame, by ordinal, that has met its equal, and the equal's ordinal. Before the first frame are the
    /// beginnings of both files, which are equal.
    pub latest: (u64, u64),
}

/// What reading touches.
struct Front {
    reading: Reading,
    tunnel: Option<Tunnel>,
    head: Seen,
    has_head: bool,
    tally: Tally,
}

/// What was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Frames of the file.
    pub frames: u64,
    /// Frames that were compared.
    pub compared: u64,
    /// Of those, how many the capture has not to their ends: what it lacks could not be compared.
    pub cut: u64,
    /// Frames that are not Ethernet, and of which no Ethernet frame could be made.
    pub undecodable: u64,
    /// With a tunnel to be taken off: packets of the file that are no tunnel's.
    pub no_tunnel: u64,
    /// With a tunnel to be taken off: packets whose tunnel header is broken, and fragments that never became whole.
    pub broken_tunnel: u64,
}

impl Side {
    /// Reads from `source`, and takes the outermost tunnel off each frame if there is a `tunnel` to be understood.
    pub fn new(source: Box<dyn Source>, tunnel: Option<Tunnel>, reading: Reading) -> Self {
        let front = Front { reading, tunnel, head: Seen::default(), has_head: false, tally: Tally::default() };
        Self { source, has_ended: false, front, latest: (0, 0) }
    }

    /// Reads until there is a frame to look at, or none will come.
    ///
    /// # Errors
    /// When the source ends before its time.
    pub fn look(&mut self) -> Result<(), Box<dyn Explain>> {
        let now = Instant::now();
        while !self.front.has_head && !self.has_ended {
            match self.source.drain(now, 1, &mut |frame| self.front.take(frame))? {
                Readiness::Ended => {
                    self.has_ended = true;
                    self.front.finish();
                }
                Readiness::Waiting => self.wait(),
                Readiness::More | Readiness::Filling(_) | Readiness::Until(_) => {}
            }
        }
        Ok(())
    }

    /// Waits until the pipe that is read has more.
    fn wait(&self) {
        if let Some(descriptor) = self.source.descriptor() {
            // An interrupted wait only makes the next look come early.
            let _ = poll(&mut [PollFd::new(descriptor, PollFlags::POLLIN)], PollTimeout::NONE);
        }
    }

    /// The frame to look at.
    pub fn head(&self) -> Option<&Seen> {
        self.front.has_head.then_some(&self.front.head)
    }

    /// Lets that frame go: the next look is at the next one.
    pub fn advance(&mut self) {
        self.front.has_head = false;
    }

    /// How far the frame to look at is ahead of the latest one that has met its equal.
    pub fn lead(&self, latest: u64) -> u64 {
        self.front.head.place.ordinal.saturating_sub(latest)
    }

    /// What was read so far.
    pub fn tally(&self) -> Tally {
        self.front.tally
    }
}

impl Front {
    fn take(&mut self, frame: &Frame<'_>) {
        self.tally.frames += 1;
        if frame.bytes.is_empty() {
            self.tally.undecodable += 1;
            return;
        }
        let Self { reading, tunnel, head, tally, .. } = self;
        let (bytes, wire_len) = match tunnel {
            None => (frame.bytes, frame.wire_len),
            Some(tunnel) => match tunnel.take_off(frame) {
                Ok(inner) => inner,
                Err(Nothing::Yet) => return,
                Err(Nothing::NoTunnel) => {
                    tally.no_tunnel += 1;
                    return;
                }
                Err(Nothing::Broken) => {
                    tally.broken_tunnel += 1;
                    return;
                }
            },
        };
        head.fill(bytes, wire_len, frame.timestamp, reading.keep, &reading.hasher);
        tally.compared += 1;
        tally.cut += u64::from(bytes.len() < wire_len as usize);
        head.place = Place { ordinal: tally.compared, number: tally.frames };
        head.group = if reading.by_flow { Group::of_flow(&head.bytes) } else { Group::ALL };
        self.has_head = true;
    }

    /// No frame will come any more.
    fn finish(&mut self) {
        if let Some(tunnel) = &mut self.tunnel {
            self.tally.broken_tunnel += tunnel.never_whole();
        }
    }
}
