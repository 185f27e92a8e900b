//! Ethernet II and its VLAN tags (IEEE 802.3, 802.1Q).

/// Destination MAC, source MAC, `EtherType`.
pub const HEADER_LEN: usize = 14;
/// TPID and TCI.
pub const VLAN_TAG_LEN: usize = 4;

/// Most bytes behind a packet that its frame can explain: padding to the least length of a frame (46 bytes), a frame check
/// sequence, a trailer with the time at which a switch saw the frame.
pub const MOST_TRAILER: usize = 64;

/// Stands for this host where its address is not known: locally administered.
pub const HOST: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
/// Stands for the other end where its address is not known: locally administered.
pub const PEER: [u8; 6] = [0x02, 0, 0, 0, 0, 0x02];

/// A header for a packet that came without one.
pub fn header(destination: [u8; 6], source: [u8; 6], ethertype: u16) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    header[..6].copy_from_slice(&destination);
    header[6..12].copy_from_slice(&source);
    header[12..].copy_from_slice(&ethertype.to_be_bytes());
    header
}

/// Whether `ethertype` is the TPID of a VLAN tag: 802.1Q, 802.1ad, and the two that came before 802.1ad.
pub const fn is_vlan(ethertype: u16) -> bool {
    matches!(ethertype, 0x8100 | 0x88a8 | 0x9100 | 0x9200)
}
