//! A TAP device of this host: inner frames as they are, for programs that sniff it.

use std::io::IoSlice;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::uio::writev;

use super::tap_device::{Attached, TapDevice, TapError};
use super::{Patience, Shared};
use crate::config::defaults::REPLAY_PATIENCE;
use crate::config::local_end::TapPlan;
use crate::frame::WireFrame;
use crate::ledger::{DestinationLedger, DropReason};
use crate::repeated::Rising;

/// How often a device that is gone is made again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Longest single wait for a device that takes nothing.
const NAP: Duration = Duration::from_millis(10);
/// What is said to the operator, at most once a minute each.
const SAID: [DropReason; 4] =
    [DropReason::Oversize, DropReason::DeviceBusy, DropReason::InterfaceDown, DropReason::WriteFailed];

/// A TAP device as one worker writes to it: each frame at once, with one system call and without a copy of ours.
#[derive(Debug)]
pub struct Tap {
    device: Arc<TapDevice>,
    attached: Attached,
    /// Whether the device was deleted, as a write found.
    is_gone: bool,
    /// Before this, it is not looked for again.
    look_again: Option<Instant>,
    patience: Patience,
    /// Whether a frame may wait for the device: no longer when one has waited in vain.
    may_wait: bool,
    notices: [Rising; SAID.len()],
}

impl Tap {
    /// Makes or finds the device, or joins those of the session who have done so.
    ///
    /// # Errors
    /// When the kernel does not let us have it.
    pub fn open(plan: &TapPlan, patience: Patience, shared: &mut Shared) -> Result<Self, TapError> {
        let device = shared.tap(plan)?;
        let attached = device.now();
        let notices = std::array::from_fn(|_| Rising::default());
        Ok(Self { device, attached, is_gone: false, look_again: None, patience, may_wait: true, notices })
    }

    /// Writes one frame.
    pub fn offer(&mut self, frame: &WireFrame<'_>, account: &mut DestinationLedger) {
        match self.write(frame) {
            Ok(()) => {
                account.sent += 1;
                account.bytes += frame.len() as u64;
            }
            Err(reason) => account.dropped[reason] += 1,
        }
    }

    /// Looks for a device that is gone, and says what went wrong.
    pub fn flush(&mut self, now: Instant, account: &DestinationLedger) {
        if self.is_gone && self.look_again.is_none_or(|again| again <= now) {
            match self.device.again(self.attached.generation) {
                Ok(attached) => {
                    self.attached = attached;
                    (self.is_gone, self.look_again) = (false, None);
                    tracing::info!("the TAP device {} is there again", self.device.name());
                }
                Err(error) => {
                    tracing::debug!("{error}; trying again");
                    self.look_again = Some(now + LOOK_AGAIN);
                }
            }
        }
        let (name, to) = (&account.name, &account.to);
        for (rising, reason) in self.notices.iter_mut().zip(SAID) {
            if let Some(frames) = rising.news(now, account.dropped[reason]) {
                let (sentence, remedy) = (reason.sentence(), reason.remedy());
                tracing::warn!("destination {name} ({to}): {frames} frames dropped: {sentence}; {remedy}");
            }
        }
    }

    /// When a device that is gone must be looked for.
    pub fn deadline(&self) -> Option<Instant> {
        self.look_again.filter(|_| self.is_gone)
    }

    fn write(&mut self, frame: &WireFrame<'_>) -> Result<(), DropReason> {
        // The device would take it, but programs that sniff have room for its MTU.
        if frame.len().saturating_sub(frame.layers.network) > self.attached.mtu {
            return Err(DropReason::Oversize);
        }
        let mut waited = Duration::ZERO;
        loop {
            let parts = [IoSlice::new(frame.head), IoSlice::new(frame.body)];
            match writev(&self.attached.file, &parts) {
                Ok(_) => {
                    self.may_wait = true;
                    return Ok(());
                }
                Err(error) => match fate(error) {
                    None => {}
                    Some(DropReason::DeviceBusy) if self.patience == Patience::Wait && self.may_wait => {
                        self.wait(&mut waited);
                    }
                    Some(reason) => {
                        self.is_gone |= error == Errno::EBADFD;
                        return Err(reason);
                    }
                },
            }
        }
    }

    /// Waits a moment for a device that takes nothing, and no longer when it has been too long.
    fn wait(&mut self, waited: &mut Duration) {
        let start = Instant::now();
        let timeout = PollTimeout::try_from(NAP).unwrap_or(PollTimeout::ZERO);
        let is_writable = poll(&mut [PollFd::new(self.attached.file.as_fd(), PollFlags::POLLOUT)], timeout);
        if is_writable.is_ok_and(|ready| ready > 0) {
            // Writable, and yet out of memory.
            std::thread::sleep(NAP / 10);
        }
        *waited += start.elapsed();
        self.may_wait = *waited < REPLAY_PATIENCE;
    }
}

/// What the kernel's refusal means for a frame (`tun_get_user` in drivers/net/tun.c); `None`: try again at once.
fn fate(error: Errno) -> Option<DropReason> {
    match error {
        Errno::EINTR => None,
        Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM => Some(DropReason::DeviceBusy),
        // Down, gone, gone while the frame was on its way.
        Errno::EIO | Errno::EBADFD | Errno::ENXIO => Some(DropReason::InterfaceDown),
        _ => Some(DropReason::WriteFailed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_refusals_have_fates() {
        assert_eq!(fate(Errno::EINTR), None);
        assert_eq!(fate(Errno::EAGAIN), Some(DropReason::DeviceBusy));
        assert_eq!(fate(Errno::ENOBUFS), Some(DropReason::DeviceBusy));
        assert_eq!(fate(Errno::EIO), Some(DropReason::InterfaceDown));
        assert_eq!(fate(Errno::EBADFD), Some(DropReason::InterfaceDown));
        assert_eq!(fate(Errno::EINVAL), Some(DropReason::WriteFailed));
    }
}
