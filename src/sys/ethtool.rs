//! Which offloads of an interface are on. The ioctl is the oldest part of the ethtool interface, which every driver
//! answers.

use std::io;
use std::os::fd::AsRawFd as _;

use socket2::{Domain, Socket, Type};

use super::interface::ifr_name;

/// An offload that makes the capture see frames that were never on a wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Offload {
    /// TCP segmentation by the device: `ETHTOOL_GTSO` in linux/ethtool.h.
    TcpSegmentation = 0x1e,
    /// Received segments joined by the kernel: `ETHTOOL_GGRO`.
    GenericReceive = 0x2b,
}

/// `struct ethtool_value` of linux/ethtool.h.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// Whether `offload` is on at `interface`.
///
/// # Errors
/// The kernel's: no such interface, or a driver that does not know. `InvalidInput` for a name that is too long.
pub fn is_on(interface: &str, offload: Offload) -> io::Result<bool> {
    let mut value = EthtoolValue { command: offload as u32, data: 0 };
    ask(interface, &mut value)?;
    Ok(value.data != 0)
}

/// How fast the link of `interface` is, in bits a second; `None` where the driver does not know or there is no link.
///
/// # Errors
/// The kernel's: no such interface, or one without a link (`EOPNOTSUPP`).
pub fn speed(interface: &str) -> io::Result<Option<u64>> {
    let mut settings = LinkSettings { command: ETHTOOL_GSET, ..LinkSettings::default() };
    ask(interface, &mut settings)?;
    let megabits = u32::from(settings.speed_high) << 16 | u32::from(settings.speed);
    // 0 and SPEED_UNKNOWN, which drivers cut to 16 bits or not.
    Ok(Some(megabits).filter(|speed| ![0, 0xffff, u32::MAX].contains(speed)).map(|speed| u64::from(speed) * 1_000_000))
}

/// Whether the feature `name`, as `ethtool -k` shows it, is on at `interface`.
///
/// # Errors
/// The kernel's: no such interface. `NotFound` for a feature that this kernel does not have; `InvalidData` when it has
/// more than there is room for here.
pub fn has_feature(interface: &str, name: &str) -> io::Result<bool> {
    let mut count = FeatureCount { command: ETHTOOL_GSSET_INFO, reserved: 0, sets: 1 << ETH_SS_FEATURES, count: 0 };
    ask(interface, &mut count)?;
    if count.sets == 0 || count.count > MOST_FEATURES {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let names = [[0; ETH_GSTRING_LEN]; MOST_FEATURES as usize];
    let mut names = FeatureNames { command: ETHTOOL_GSTRINGS, set: ETH_SS_FEATURES, count: count.count, names };
    ask(interface, &mut names)?;
    let is_it = |stored: &[u8; ETH_GSTRING_LEN]| stored.split(|&byte| byte == 0).next() == Some(name.as_bytes());
    let position = names.names.iter().position(is_it).ok_or(io::ErrorKind::NotFound)?;
    let mut features =
        Features { command: ETHTOOL_GFEATURES, blocks: FEATURE_BLOCKS, bits: [FeatureBlock::default(); _] };
    ask(interface, &mut features)?;
    let block = features.bits.get(position / 32).ok_or(io::ErrorKind::NotFound)?;
    Ok(block.active & (1 << (position % 32)) != 0)
}

/// The device cuts UDP datagrams that it gets in one (`NETIF_F_GSO_UDP_L4`).
pub const UDP_SEGMENTATION: &str = "tx-udp-segmentation";

// linux/ethtool.h.
const ETHTOOL_GSET: u32 = 0x01;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GFEATURES: u32 = 0x3a;
const ETH_SS_FEATURES: u32 = 4;
const ETH_GSTRING_LEN: usize = 32;

/// More than the kernel has (65 in Linux 6.18): `netdev_features_t` has 64 bits until then.
const MOST_FEATURES: u32 = 256;
const FEATURE_BLOCKS: u32 = MOST_FEATURES / 32;

/// `struct ethtool_sset_info` with room for the answer about one set of strings.
#[repr(C)]
struct FeatureCount {
    command: u32,
    reserved: u32,
    /// One bit for each set; the kernel clears those that it does not know.
    sets: u64,
    count: u32,
}

/// `struct ethtool_gstrings` with room for the names behind it.
#[repr(C)]
struct FeatureNames {
    command: u32,
    set: u32,
    count: u32,
    names: [[u8; ETH_GSTRING_LEN]; MOST_FEATURES as usize],
}

/// `struct ethtool_gfeatures` with room for the blocks behind it.
#[repr(C)]
struct Features {
    command: u32,
    /// How many blocks there is room for; the kernel writes no more.
    blocks: u32,
    bits: [FeatureBlock; FEATURE_BLOCKS as usize],
}

/// `struct ethtool_get_features_block`: a bit for each of 32 features.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct FeatureBlock {
    available: u32,
    requested: u32,
    active: u32,
    never_changed: u32,
}

/// `struct ethtool_cmd`: what the kernel says of a link. The newer `ETHTOOL_GLINKSETTINGS` tells the same speed.
#[repr(C)]
#[derive(Default)]
struct LinkSettings {
    command: u32,
    supported: u32,
    advertising: u32,
    /// Megabits a second, the low half.
    speed: u16,
    /// Duplex, port, PHY address, transceiver, autonegotiation, MDIO.
    link: [u8; 6],
    most_frames: [u32; 2],
    speed_high: u16,
    mdi: [u8; 2],
    partner: u32,
    reserved: [u32; 2],
}

/// A structure for `SIOCETHTOOL`: it begins with the command and holds all that the kernel writes for it.
trait Question {}

impl Question for EthtoolValue {}
/// The kernel writes a `struct ethtool_cmd`, of which this is a copy.
impl Question for LinkSettings {}
/// The kernel writes one `u32` for each bit of `sets`: one.
impl Question for FeatureCount {}
/// The kernel writes all its names whatever `count` says, and it is asked how many they are first: never more than
/// [`MOST_FEATURES`]. A running kernel has a constant number of them.
impl Question for FeatureNames {}
/// The kernel writes as many blocks as it has, and no more than `blocks`.
impl Question for Features {}

fn ask(interface: &str, question: &mut impl Question) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    let mut request = libc::ifreq {
        ifr_name: ifr_name(interface)?,
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: std::ptr::from_mut(question).cast() },
    };
    // SAFETY: netdevice(7): SIOCETHTOOL takes a pointer to a `struct ifreq` whose `ifr_data` points to a structure that
    // begins with the command (linux/ethtool.h); the kernel reads and writes no more of it than there is, as each
    // `Question` says of itself. It and `request` outlive the call, and `socket` is open. Neither socket2 nor nix wraps
    // this call.
    let outcome = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offload_is_read_as_ethtool_shows_it() {
        // Linux keeps TSO on at the loopback device: it has nothing to segment for.
        assert!(is_on("lo", Offload::TcpSegmentation).is_ok_and(|on| on));
        assert!(is_on("no-such-device0", Offload::TcpSegmentation).is_err());
        assert!(is_on("a-name-that-no-interface-can-have", Offload::GenericReceive).is_err());
    }

    #[test]
    fn the_loopback_device_has_no_speed() {
        assert_eq!(size_of::<LinkSettings>(), 44);
        assert_eq!(speed("lo").unwrap_err().raw_os_error(), Some(libc::EOPNOTSUPP));
        assert_eq!(speed("no-such-device0").unwrap_err().raw_os_error(), Some(libc::ENODEV));
    }

    #[test]
    fn a_feature_is_read_as_ethtool_shows_it() {
        // Fixed for the loopback device in every kernel (drivers/net/loopback.c).
        assert!(has_feature("lo", "loopback").is_ok_and(|on| on));
        assert!(has_feature("lo", UDP_SEGMENTATION).is_ok_and(|on| on));
        assert!(has_feature("lo", "rx-vlan-filter").is_ok_and(|on| !on));
        let unknown = has_feature("lo", "tx-of-another-kernel").unwrap_err();
        assert_eq!(unknown.kind(), io::ErrorKind::NotFound);
        assert!(has_feature("no-such-device0", UDP_SEGMENTATION).is_err());
    }
}
