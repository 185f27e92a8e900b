//! Frames to be compared: what a network carries, made by etherparse, every frame another one.

use etherparse::{PacketBuilder, VlanId};
use proptest::prelude::*;

use crate::damage::Recorded;

/// A few conversations, their frames mixed.
pub fn captures() -> impl Strategy<Value = Vec<Recorded>> {
    proptest::collection::vec((0..4_u8, any::<bool>(), 1..400_usize, any::<u8>()), 12..60).prop_map(|choices| {
        let mut sequences = [[1_000_u32, u32::MAX - 500]; 4];
        let mut frames = Vec::new();
        for (number, (flow, is_back, length, fill)) in (0..).zip(choices) {
            let payload: Vec<u8> = (0..=250_u8).cycle().take(length).map(|byte| fill ^ byte ^ number).collect();
            let payload = &payload[..];
            frames.push(Recorded::whole(match flow {
                3 => udp(number, is_back, payload),
                tcp => {
                    let sequence = &mut sequences[usize::from(tcp)][usize::from(is_back)];
                    let frame = segment(tcp, is_back, *sequence, payload);
                    *sequence = sequence.wrapping_add(u32::try_from(payload.len()).expect("short"));
                    frame
                }
            }));
        }
        frames
    })
}

const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];

/// TCP over IPv4, over IPv6, or over IPv4 in a VLAN.
fn segment(flow: u8, is_back: bool, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let ([from, to], ports) = if is_back { ([1, 0], (80, 4000)) } else { ([0, 1], (4000, 80)) };
    let ethernet = PacketBuilder::ethernet2(MACS[from], MACS[to]);
    let v4 = |end| [192, 0, 2, u8::try_from(end).expect("0 or 1") + 1];
    let v6 = |end| [u8::try_from(end).expect("0 or 1") + 1; 16];
    let ip = match flow {
        0 => ethernet.ipv4(v4(from), v4(to), 64),
        1 => ethernet.ipv6(v6(from), v6(to), 64),
        _ => ethernet.single_vlan(VlanId::try_new(100).expect("12 bits")).ipv4(v4(from), v4(to), 64),
    };
    let mut frame = Vec::new();
    ip.tcp(ports.0, ports.1, sequence, 65_000).ack(7).write(&mut frame, payload).expect("memory takes it");
    frame
}

fn udp(number: u8, is_back: bool, payload: &[u8]) -> Vec<u8> {
    let [from, to] = if is_back { [1, 0] } else { [0, 1] };
    let builder = PacketBuilder::ethernet2(MACS[from], MACS[to]).ipv4([198, 51, 100, 1], [198, 51, 100, 2], 64);
    let mut frame = Vec::new();
    let port = 1024 + u16::from(number);
    builder.udp(port, 53).write(&mut frame, payload).expect("memory takes it");
    frame
}
