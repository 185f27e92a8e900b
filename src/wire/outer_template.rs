//! Outer headers that are written once and completed for each datagram: for engines that send whole frames.
//!
//! Of everything in front of a datagram only two lengths, two checksums and the source port differ from one to the next.
//! [`Outer`] writes all the rest, once.

use super::checksum::Sum;
use super::edit::{as_sent, put, saturated};
use super::ethernet;
use super::layers::UDP;
use super::outer::{Addresses, Outer, Transport};

/// Ethernet, IPv6 and UDP.
const MOST: usize = ethernet::HEADER_LEN + 40 + 8;

/// Where the IP header begins.
const IP: usize = ethernet::HEADER_LEN;

/// The outer headers of one tunnel.
#[derive(Clone, Copy, Debug)]
pub struct OuterTemplate {
    bytes: [u8; MOST],
    len: usize,
    /// Where the transport header, or the datagram, begins.
    transport: usize,
    ip: IpLength,
    udp: Option<Checksum>,
}

/// The field of the IP header that differs.
#[derive(Clone, Copy, Debug)]
enum IpLength {
    /// Total length, and a checksum over the header: this is the sum of everything else in it.
    V4(Sum),
    /// Payload length.
    V6,
}

/// The outer UDP checksum.
#[derive(Clone, Copy, Debug)]
enum Checksum {
    Zero,
    /// Computed: this is the sum of the pseudo header without the length.
    Computed(Sum),
}

impl OuterTemplate {
    /// The headers that `outer` writes, for datagrams of any length. They are not to be fragmented: `outer`'s
    /// identification stands in all of them.
    pub fn new(outer: &Outer) -> Self {
        let mut written = Vec::with_capacity(MOST);
        // A datagram without a byte fits every IP packet.
        let _ = outer.write(&[], &mut written);
        let mut bytes = [0; MOST];
        let len = written.len().min(MOST);
        bytes[..len].copy_from_slice(&written[..len]);

        let (transport, ip, addresses) = match outer.addresses {
            Addresses::V4 { .. } => {
                put(&mut bytes, IP + 2, 0);
                put(&mut bytes, IP + 10, 0);
                (IP + 20, IpLength::V4(Sum::of(&bytes[IP..IP + 20])), IP + 12..IP + 20)
            }
            Addresses::V6 { .. } => (IP + 40, IpLength::V6, IP + 8..IP + 40),
        };
        let udp = match outer.transport {
            Transport::Gre => None,
            Transport::Udp { checksum: false, .. } => Some(Checksum::Zero),
            Transport::Udp { checksum: true, .. } => {
                Some(Checksum::Computed(Sum::of(&bytes[addresses]).then_bytes(&[0, UDP])))
            }
        };
        Self { bytes, len, transport, ip, udp }
    }

    /// Length of the headers in bytes: Ethernet, IP, and UDP where there is UDP.
    #[allow(clippy::len_without_is_empty, reason = "headers are never empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The link-layer addresses from now on.
    pub fn set_ethernet(&mut self, source: [u8; 6], destination: [u8; 6]) {
        self.bytes[..6].copy_from_slice(&destination);
        self.bytes[6..12].copy_from_slice(&source);
    }

    /// Writes the headers into the first [`len`](Self::len) bytes of `frame`, behind which stands the datagram to its end.
    /// `source_port` is for UDP. A frame that is shorter than the headers, or longer than an IP packet can be, is left
    /// alone.
    pub fn write(&self, source_port: u16, frame: &mut [u8]) {
        let Ok(packet) = u16::try_from(frame.len().saturating_sub(IP)) else { return };
        let frame_len = frame.len();
        let Some((headers, datagram)) = frame.split_at_mut_checked(self.len) else { return };
        headers.copy_from_slice(&self.bytes[..self.len]);
        match self.ip {
            IpLength::V4(sum) => {
                put(headers, IP + 2, packet);
                put(headers, IP + 10, sum.then_bytes(&packet.to_be_bytes()).checksum());
            }
            IpLength::V6 => put(headers, IP + 4, packet - 40),
        }
        if let Some(checksum) = self.udp {
            let length = saturated(frame_len - self.transport);
            let header = &mut headers[self.transport..];
            put(header, 0, source_port);
            put(header, 4, length);
            if let Checksum::Computed(pseudo_header) = checksum {
                put(header, 6, 0);
                let sum = pseudo_header.then_bytes(&length.to_be_bytes()).then_bytes(header).then_bytes(datagram);
                put(header, 6, as_sent(UDP, sum.checksum()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::quantity::{Dscp, Ttl};

    fn outers() -> impl Strategy<Value = Outer> {
        let addresses = prop_oneof![
            any::<([u8; 4], [u8; 4])>().prop_map(|(source, destination)| Addresses::V4 {
                source: source.into(),
                destination: destination.into()
            }),
            any::<([u8; 16], [u8; 16])>().prop_map(|(source, destination)| Addresses::V6 {
                source: source.into(),
                destination: destination.into()
            }),
        ];
        let transport = prop_oneof![
            Just(Transport::Gre),
            any::<(u16, u16, bool)>().prop_map(|(source_port, destination_port, checksum)| Transport::Udp {
                source_port,
                destination_port,
                checksum
            }),
        ];
        (addresses, transport, any::<([u8; 6], [u8; 6])>(), 0..64_u64, 1..=255_u64).prop_map(
            |(addresses, transport, (source_mac, destination_mac), dscp, ttl)| Outer {
                source_mac,
                destination_mac,
                addresses,
                dscp: Dscp::new(dscp).unwrap(),
                ttl: Ttl::new(ttl).unwrap(),
                identification: 0,
                dont_fragment: true,
                transport,
            },
        )
    }

    proptest! {
        /// The slow twin writes every header anew, with another crate's code.
        #[test]
        fn a_completed_template_is_what_outer_writes(
            outer in outers(),
            macs in any::<([u8; 6], [u8; 6])>(),
            port in any::<u16>(),
            datagram in vec(any::<u8>(), 0..3000),
        ) {
            let mut template = OuterTemplate::new(&outer);
            template.set_ethernet(macs.0, macs.1);
            let mut frame = vec![0xee; template.len()];
            frame.extend_from_slice(&datagram);
            template.write(port, &mut frame);

            let transport = match outer.transport {
                Transport::Gre => Transport::Gre,
                Transport::Udp { destination_port, checksum, .. } => {
                    Transport::Udp { source_port: port, destination_port, checksum }
                }
            };
            let outer = Outer { source_mac: macs.0, destination_mac: macs.1, transport, ..outer };
            let mut expected = Vec::new();
            outer.write(&datagram, &mut expected).unwrap();
            prop_assert_eq!(frame, expected);
        }
    }

    #[test]
    fn what_does_not_fit_is_left_alone() {
        let addresses = Addresses::V4 { source: [192, 0, 2, 1].into(), destination: [192, 0, 2, 2].into() };
        let outer = Outer {
            source_mac: [2; 6],
            destination_mac: [4; 6],
            addresses,
            dscp: Dscp::DEFAULT,
            ttl: Ttl::DEFAULT,
            identification: 0,
            dont_fragment: true,
            transport: Transport::Gre,
        };
        for len in [0, 33, 14 + 65_536] {
            let mut frame = vec![7; len];
            OuterTemplate::new(&outer).write(0, &mut frame);
            assert!(frame.iter().all(|&byte| byte == 7));
        }
    }
}
