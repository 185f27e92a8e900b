//! A TAP device: made or found, set up for mirrored frames, and made again when somebody deletes it.
//!
//! It is meant for eyes only. The device has no address, asks nobody (ARP and IPv6 are off) and its host takes nothing that
//! comes out of it for real: what the analyzer sees there is what was mirrored and nothing else.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex, PoisonError};

use nix::net::if_::if_nametoindex;

use crate::config::local_end::TapPlan;
use crate::error::{ExitCode, Explain};
use crate::kernel::capabilities::{Capability, remedy};
use crate::let_go::{LET_GO, until_let_go};
use crate::quantity::Mtu;
use crate::sys::interface;
use crate::sys::tun::{self, Queues};

/// A TAP device that all workers of a session write to. It has one queue: each flow has one worker, and a write(2) hands
/// its frame over before it returns, so that the order inside a flow is the workers' order.
#[derive(Debug)]
pub(super) struct TapDevice {
    plan: TapPlan,
    /// The MTU that fits what is mirrored.
    wanted: Mtu,
    attached: Mutex<Attached>,
}

/// The device as it is now.
#[derive(Clone, Debug)]
pub(super) struct Attached {
    /// What frames are written to.
    pub(super) file: Arc<File>,
    /// Its MTU in bytes.
    pub(super) mtu: usize,
    /// How often it was made again.
    pub(super) generation: u64,
}

/// Why there is no TAP device.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// This kernel, or this container, has none.
    #[error("there are no TAP devices here: {} cannot be opened", tun::CLONE_DEVICE)]
    NoCloneDevice(#[source] io::Error),
    /// The file's mode forbids it.
    #[error("not permitted to open {}", tun::CLONE_DEVICE)]
    ClosedCloneDevice(#[source] io::Error),
    /// Without `CAP_NET_ADMIN`.
    #[error("not permitted to {doing} the TAP device {device}")]
    NotPermitted {
        /// "create or use", "bring up".
        doing: &'static str,
        /// Its name.
        device: String,
        /// The kernel's words.
        #[source]
        cause: io::Error,
    },
    /// Somebody has it open.
    #[error("another program has the TAP device {device}")]
    Busy {
        /// Its name.
        device: String,
        /// The kernel's words.
        #[source]
        cause: io::Error,
    },
    /// An interface of another kind has the name.
    #[error("the interface {device} is no TAP device")]
    Foreign {
        /// Its name.
        device: String,
        /// The kernel's words.
        #[source]
        cause: io::Error,
    },
    /// Anything else that the kernel refuses.
    #[error("cannot {doing} the TAP device {device}")]
    Refused {
        /// What was being done.
        doing: &'static str,
        /// Its name.
        device: String,
        /// The kernel's words.
        #[source]
        cause: io::Error,
    },
}

impl TapDevice {
    /// Makes or finds the device and sets it up for frames of links with this MTU.
    pub(super) fn open(plan: &TapPlan, mtu: Mtu) -> Result<Self, TapError> {
        let wanted = plan.mtu.unwrap_or(mtu);
        let attached =
            until_let_go(LET_GO, || attach(plan, wanted, 0), |error| matches!(error, TapError::Busy { .. }))?;
        Ok(Self { plan: plan.clone(), wanted, attached: Mutex::new(attached) })
    }

    /// Its name.
    pub(super) fn name(&self) -> &str {
        &self.plan.device
    }

    /// Whether it has this name.
    pub(super) fn is_named(&self, name: &str) -> bool {
        self.plan.device == name
    }

    /// Whether it was made for this plan.
    pub(super) fn has_plan(&self, plan: &TapPlan) -> bool {
        self.plan == *plan
    }

    /// The device as it is now.
    pub(super) fn now(&self) -> Attached {
        self.lock().clone()
    }

    /// The device after that of this generation is gone: what another worker made meanwhile, or made again.
    pub(super) fn again(&self, gone: u64) -> Result<Attached, TapError> {
        let mut attached = self.lock();
        if attached.generation == gone {
            *attached = attach(&self.plan, self.wanted, gone + 1)?;
        }
        Ok(attached.clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Attached> {
        // Always a whole device.
        self.attached.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes or finds the device of `plan` and sets it up.
fn attach(plan: &TapPlan, wanted: Mtu, generation: u64) -> Result<Attached, TapError> {
    let name = plan.device.as_str();
    let is_new = if_nametoindex(name).is_err();
    let file = open(name)?;
    let refused = |doing| move |cause| refused(doing, name, cause);
    if let Some(user) = plan.owner {
        tun::set_owner(file.as_fd(), user).map_err(refused("give an owner to"))?;
    }
    tun::clear_offloads(file.as_fd()).map_err(refused("clear the offloads of"))?;
    let mtu = set_up(plan, wanted, is_new).map_err(|(doing, cause)| refused(doing)(cause))?;
    Ok(Attached { file: Arc::new(file), mtu: mtu as usize, generation })
}

/// Opens the device, whichever way a persistent one was made.
fn open(name: &str) -> Result<File, TapError> {
    let file = tun::open().map_err(|cause| match cause.kind() {
        ErrorKind::PermissionDenied => TapError::ClosedCloneDevice(cause),
        _ => TapError::NoCloneDevice(cause),
    })?;
    let attached = tun::attach(&file, name, Queues::One).or_else(|error| match error.kind() {
        ErrorKind::InvalidInput => tun::attach(&file, name, Queues::Several),
        _ => Err(error),
    });
    attached.map_err(|cause| {
        let device = name.to_owned();
        match cause.kind() {
            ErrorKind::PermissionDenied => TapError::NotPermitted { doing: "create or use", device, cause },
            ErrorKind::ResourceBusy => TapError::Busy { device, cause },
            ErrorKind::InvalidInput => TapError::Foreign { device, cause },
            _ => TapError::Refused { doing: "create", device, cause },
        }
    })?;
    Ok(file)
}

/// Quiet, large enough, and up; returns the MTU. Somebody else may have done all this to a device that existed: then it
/// takes no privilege.
fn set_up(plan: &TapPlan, wanted: Mtu, is_new: bool) -> Result<u32, (&'static str, io::Error)> {
    const QUIET_AND_UP: libc::c_int = libc::IFF_UP | libc::IFF_NOARP;

    let name = plan.device.as_str();
    let doing = |doing| move |cause| (doing, cause);
    quieten(name);
    let socket = UnixDatagram::unbound().map_err(doing("ask about"))?;
    let socket = socket.as_fd();
    let mut mtu = interface::mtu(socket, name).map_err(doing("ask for the MTU of"))?;
    if mtu < wanted.value() || (mtu != wanted.value() && (is_new || plan.mtu.is_some())) {
        match interface::set_mtu(socket, name, wanted.value()) {
            Ok(()) => mtu = wanted.value(),
            Err(error) if !is_new && error.kind() == ErrorKind::PermissionDenied => {
                tracing::warn!(
                    "the TAP device {name} keeps its MTU of {mtu}, and frames of MTU {wanted} are mirrored: {error}"
                );
            }
            Err(error) => return Err(("set the MTU of", error)),
        }
    }
    let flags = interface::flags(socket, name).map_err(doing("ask for the state of"))?;
    if flags & QUIET_AND_UP != QUIET_AND_UP {
        match interface::set_flags(socket, name, flags | QUIET_AND_UP) {
            Err(error) if error.kind() == ErrorKind::PermissionDenied && flags & libc::IFF_UP != 0 => {
                tracing::warn!("ARP stays on for the TAP device {name}: {error}");
            }
            outcome => outcome.map_err(doing("bring up"))?,
        }
    }
    Ok(mtu)
}

/// Keeps this host out of the device: no IPv6 address, so no router solicitations among the mirrored frames, and no
/// mirrored IPv4 packet taken for one that arrived.
fn quieten(name: &str) {
    for (setting, harm) in [
        (format!("net/ipv6/conf/{name}/disable_ipv6"), "its own router solicitations are among the mirrored frames"),
        (format!("net/ipv4/conf/{name}/rp_filter"), "broadcast packets of the mirror reach programs of this host"),
    ] {
        // The settings of this thread's network namespace, wherever /proc was mounted.
        let path = format!("/proc/sys/{setting}");
        let outcome = match fs::read_to_string(&path) {
            Ok(value) if value.trim() == "1" => Ok(()),
            // A kernel without IPv6 needs no silence.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            _ => fs::write(&path, "1"),
        };
        if let Err(error) = outcome {
            tracing::warn!("cannot set {} = 1, so that {harm}: {error}", setting.replace('/', "."));
        }
    }
}

fn refused(doing: &'static str, name: &str, cause: io::Error) -> TapError {
    let device = name.to_owned();
    match cause.kind() {
        ErrorKind::PermissionDenied => TapError::NotPermitted { doing, device, cause },
        _ => TapError::Refused { doing, device, cause },
    }
}

impl Explain for TapError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::NoCloneDevice(_) => Some(
                "load the module: modprobe tun; a container must be given the device: --device /dev/net/tun".to_owned(),
            ),
            Self::ClosedCloneDevice(_) => {
                Some("run as root, or let everybody open it: chmod 0666 /dev/net/tun".to_owned())
            }
            Self::NotPermitted { device, .. } => Some(format!(
                "CAP_NET_ADMIN is missing: {}\nor make the device for this user: \
                 ip tuntap add {device} mode tap user $USER && ip link set {device} arp off up",
                remedy(&[Capability::CAP_NET_ADMIN])
            )),
            Self::Busy { .. } => Some("choose another name, or end that program: fuser -v /dev/net/tun".to_owned()),
            Self::Foreign { .. } => Some("choose a name that `ip link` does not list".to_owned()),
            Self::Refused { .. } => None,
        }
    }

    fn exit_code(&self) -> ExitCode {
        match self {
            Self::ClosedCloneDevice(_) | Self::NotPermitted { .. } => ExitCode::NotPermitted,
            Self::NoCloneDevice(_) | Self::Foreign { .. } => ExitCode::NoInput,
            Self::Busy { .. } | Self::Refused { .. } => ExitCode::Failed,
        }
    }
}
