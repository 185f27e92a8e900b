//! Zero-copy mode of AF_XDP, where the driver offers it: the network card reads frames where they were written.
//!
//! It is not free for the host. The queue's receive side gets this memory too, most drivers send so only while an XDP
//! program is attached to the interface, and they may reset the interface to attach one. So it is asked for by name, and
//! wherever it is not to be had, frames are copied and the log says why.

use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::xdp_queue::{Memo, bind, name, of_chunks};
use crate::kernel::capabilities::{ZERO_COPY, setcap_line};
use crate::quantity::{Ifindex, Mtu};
use crate::sys::xdp_program::{Attached, PassProgram};
use crate::sys::xsk::{CHUNK, LARGE_CHUNK, Shape, Slot, Socket};
use crate::wire::ethernet;

/// Chunks for what the interface receives: the largest receive ring of most drivers. They come back to the driver by
/// themselves, because what the program lets pass is copied out of them.
const RECEPTION: usize = 4096;
/// What a chunk holds beside a received frame: the kernel's headroom (`XDP_PACKET_HEADROOM`), two VLAN tags and the frame's
/// checksum, which drivers count in.
const AROUND_RECEIVED: usize = 256 + 2 * 4 + 4;

/// A socket in zero-copy mode with its memory, and the program that it needs if we attached that.
type Opened = (Socket<Memo>, Vec<Slot>, Option<Arc<Attached>>);

/// Which interfaces a session sends through in zero-copy mode; shared by its workers.
#[derive(Debug, Default)]
pub struct ZeroCopy {
    /// Interfaces that were asked in vain.
    refused: Vec<Ifindex>,
    /// Our programs: one an interface, however many queues of it are ours.
    attached: Vec<(Ifindex, Weak<Attached>)>,
}

/// Why frames are copied all the same.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("its memory cannot be had ({0}): raise `ulimit -l`, or give farspan CAP_IPC_LOCK")]
    Memory(io::Error),
    #[error("the driver does not offer it ({0})")]
    Bind(io::Error),
    #[error(
        "CAP_BPF and CAP_NET_ADMIN are needed for the XDP program: run as root, or once: {}",
        setcap_line(&ZERO_COPY)
    )]
    NotPermitted,
    #[error("the XDP program cannot be attached ({0})")]
    Program(io::Error),
    #[error("the driver does not send ({0})")]
    Wakeup(io::Error),
}

impl ZeroCopy {
    /// Opens queue `queue` of `device`; `None` when zero-copy mode is not to be had, which is said once.
    ///
    /// # Errors
    /// `EBUSY` when another socket has the queue, for longer than `patience`.
    pub(super) fn open(
        &mut self,
        device: Ifindex,
        mtu: Mtu,
        queue: u32,
        patience: Duration,
    ) -> io::Result<Option<Opened>> {
        if self.refused.contains(&device) {
            return Ok(None);
        }
        match self.try_open(device, mtu, queue, patience) {
            Ok(opened) => {
                tracing::info!("{}: queue {queue} sends in zero-copy mode", name(device));
                Ok(Some(opened))
            }
            Err(Refusal::Bind(cause)) if cause.raw_os_error() == Some(libc::EBUSY) => Err(cause),
            Err(refusal) => {
                tracing::info!("{}: no zero-copy mode, frames are copied: {refusal}", name(device));
                self.refused.push(device);
                Ok(None)
            }
        }
    }

    fn try_open(&mut self, device: Ifindex, mtu: Mtu, queue: u32, patience: Duration) -> Result<Opened, Refusal> {
        let (mut socket, slots) = Socket::open(shape(mtu)).map_err(Refusal::Memory)?;
        // A driver without zero-copy mode says so here, and nothing was done to the interface.
        bind(&socket, device, queue, patience).map_err(Refusal::Bind)?;
        let program = self.program(device)?;
        // Nothing is to be sent yet: the driver only says whether it would.
        match socket.kick() {
            Err(error) if !matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY)) => {
                Err(Refusal::Wakeup(error))
            }
            _ => Ok((socket, slots, program)),
        }
    }

    /// Our program on `device`, unless somebody else's is there already: that one does as well.
    fn program(&mut self, device: Ifindex) -> Result<Option<Arc<Attached>>, Refusal> {
        self.attached.retain(|(_, program)| program.strong_count() > 0);
        let known = self.attached.iter().find(|&&(known, _)| known == device).and_then(|(_, known)| known.upgrade());
        if known.is_some() {
            return Ok(known);
        }
        match PassProgram::load().and_then(|program| program.attach(device)) {
            Ok(attached) => {
                let attached = Arc::new(attached);
                self.attached.push((device, Arc::downgrade(&attached)));
                Ok(Some(attached))
            }
            Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST)) => {
                tracing::info!("{} has an XDP program already: it stays, and has to do", name(device));
                Ok(None)
            }
            Err(error) => Err(Refusal::program(error)),
        }
    }
}

impl Refusal {
    fn program(error: io::Error) -> Self {
        if error.raw_os_error() == Some(libc::EPERM) { Self::NotPermitted } else { Self::Program(error) }
    }
}

/// Memory for frames of an interface with this MTU, sent and received.
fn shape(mtu: Mtu) -> Shape {
    let largest = ethernet::HEADER_LEN + mtu.value() as usize;
    let chunk = if largest + AROUND_RECEIVED <= CHUNK { CHUNK } else { LARGE_CHUNK };
    Shape { reception: RECEPTION, ..of_chunks(chunk, largest) }
}

#[cfg(test)]
mod tests {
    use super::super::xdp_queue::mtu;
    use super::*;
    use crate::kernel::testing::{TestNamespace, index_of};

    #[test]
    fn a_received_frame_fits_its_chunk_with_all_that_is_around_it() {
        let chunk = |mtu| shape(Mtu::new(mtu).unwrap()).chunk;
        assert_eq!([1500, 1766, 1767, 9216].map(chunk), [CHUNK, CHUNK, LARGE_CHUNK, LARGE_CHUNK]);
    }

    #[test]
    fn a_missing_privilege_is_said_with_the_command_that_gives_it() {
        let words = Refusal::program(io::Error::from_raw_os_error(libc::EPERM)).to_string();
        assert!(words.contains("CAP_BPF") && words.contains("setcap ") && words.contains("cap_bpf=ep"), "{words}");
    }

    #[test]
    #[ignore = "needs root: run scripts/test"]
    fn a_veth_offers_no_zero_copy_mode_and_is_left_alone() {
        let (near, _far) = TestNamespace::pair();
        let refused = near.run(|| {
            let (mut zero_copy, device) = (ZeroCopy::default(), index_of("fke0"));
            let mtu = mtu(device).unwrap();
            let refusal = zero_copy.try_open(device, mtu, 0, Duration::ZERO).map(drop).unwrap_err();
            assert!(zero_copy.open(device, mtu, 0, Duration::from_secs(1)).unwrap().is_none());
            assert_eq!(zero_copy.refused, [device]);
            refusal
        });
        assert!(
            matches!(&refused, Refusal::Bind(cause) if cause.raw_os_error() == Some(libc::EOPNOTSUPP)),
            "{refused:?}"
        );
        assert!(!near.output("ip -d link show dev fke0").contains("xdp"));
    }

    #[test]
    #[ignore = "needs root: run scripts/test"]
    fn workers_share_one_program_and_somebody_elses_stays() {
        let (near, _far) = TestNamespace::pair();
        near.run(|| {
            let (mut ours, mut theirs, device) = (ZeroCopy::default(), ZeroCopy::default(), index_of("fke0"));
            let first = ours.program(device).unwrap().unwrap();
            let second = ours.program(device).unwrap().unwrap();
            assert!(Arc::ptr_eq(&first, &second));
            assert!(theirs.program(device).unwrap().is_none());
            drop(first);
            assert!(theirs.program(device).unwrap().is_none());
            drop(second);
            assert!(theirs.program(device).unwrap().is_some());
        });
    }
}
