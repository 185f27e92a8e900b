//! Ethernet II and its VLAN tags (IEEE 802.3, 802.1Q).

/// Destination MAC, source MAC, `EtherType`.
pub const HEADER_LEN: usize = 14;
/// TPID and TCI.
pub const VLAN_TAG_LEN: usize = 4;

/// Whether `ethertype` is the TPID of a VLAN tag: 802.1Q, 802.1ad, and the two that came before 802.1ad.
pub const fn is_vlan(ethertype: u16) -> bool {
    matches!(ethertype, 0x8100 | 0x88a8 | 0x9100 | 0x9200)
}
