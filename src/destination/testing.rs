//! Frames and plans for the tests of this module.

use std::net::IpAddr;
use std::sync::Arc;

use crate::config::defaults::{GENEVE_PORT, VXLAN_PORT};
use crate::config::plan::{DestinationPlan, Encapsulation, End, Fit, Host, Ids, TunnelPlan};
use crate::flow::FlowKey;
use crate::frame::{InterfaceId, WireFrame};
use crate::kernel::underlay::{NextHop, Underlay};
use crate::ledger::Ledger;
use crate::quantity::{ErspanIndex, ErspanSessionId, GreKey, Mtu, Timestamp, Vni, Weight};
use crate::wire::layers::Layers;

/// A whole, untouched frame of these bytes.
pub fn frame(bytes: &[u8]) -> WireFrame<'_> {
    let layers = Layers::parse(bytes);
    WireFrame {
        head: &[],
        body: bytes,
        wire_len: u32::try_from(bytes.len()).unwrap(),
        layers,
        flow: FlowKey::PUBLIC.flow(bytes, &layers),
        timestamp: Timestamp::from_nanos(1_700_000_000_123_456_789),
        direction: None,
        interface: InterfaceId(0),
        origin: None,
    }
}

/// A UDP packet over IPv4 in an Ethernet frame, made by another encoder.
pub fn udp_frame(source_port: u16, payload_len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4([192, 0, 2, 1], [198, 51, 100, 1], 64)
        .udp(source_port, 53)
        .write(&mut bytes, &vec![0x5a; payload_len])
        .unwrap();
    bytes
}

/// VXLAN with VNI 42.
pub fn vxlan(port: u16) -> Encapsulation {
    Encapsulation::Vxlan { vni: Ids::all(Vni::new(42).unwrap()), port }
}

/// A destination through sockets with every default.
pub fn plan(encapsulation: Encapsulation, remote: IpAddr, fit: Fit) -> (DestinationPlan, TunnelPlan) {
    let tunnel = TunnelPlan { fit, ..TunnelPlan::with_defaults(encapsulation, Host::Address(remote)) };
    let destination = DestinationPlan {
        name: "1".into(),
        to: "test".into(),
        weight: Weight::default(),
        end: End::Tunnel(tunnel.clone()),
    };
    (destination, tunnel)
}

/// An empty ledger for `destinations` destinations.
pub fn ledger(destinations: usize) -> Ledger {
    Ledger::new(std::iter::repeat_n(("1", "test"), destinations))
}

/// A way from `address` to itself.
pub fn underlay(address: &str, mtu: u64, next_hop: NextHop) -> Arc<Underlay> {
    way(address, address, mtu, next_hop)
}

/// A way from `local` to `remote`.
pub fn way(local: &str, remote: &str, mtu: u64, next_hop: NextHop) -> Arc<Underlay> {
    let (local, remote) = (local.parse().unwrap(), remote.parse().unwrap());
    Arc::new(Underlay::new(remote, local, None, Mtu::new(mtu).unwrap(), next_hop))
}

/// Every encapsulation, with every field that can be there.
pub fn encapsulations() -> Vec<Encapsulation> {
    let vni = || Ids::all(Vni::new(42).unwrap());
    let key = || Some(Ids::all(GreKey::new(7).unwrap()));
    let session = || Ids::all(ErspanSessionId::new(5).unwrap());
    vec![
        Encapsulation::Vxlan { vni: vni(), port: VXLAN_PORT },
        Encapsulation::Geneve { vni: vni(), port: GENEVE_PORT },
        Encapsulation::Gre { key: None, sequence: false },
        Encapsulation::Gre { key: key(), sequence: false },
        Encapsulation::Gre { key: None, sequence: true },
        Encapsulation::Gre { key: key(), sequence: true },
        Encapsulation::Erspan1,
        Encapsulation::Erspan2 { session: session(), index: ErspanIndex::new(3).unwrap() },
        Encapsulation::Erspan3 { session: session() },
    ]
}
