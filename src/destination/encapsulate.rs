//! Tunnel headers for one destination: which id a frame gets, and the bytes in front of it.

use std::net::IpAddr;

use super::open_error::OpenError;
use super::sequence::{Counters, Numbering};
use super::transmit::Transmit;
use crate::config::plan::{Encapsulation, Ids};
use crate::frame::{InterfaceId, WireFrame};
use crate::quantity::{Direction, ErspanIndex, ErspanSessionId, GreKey, Vni};
use crate::wire::carrier::Carrier;
use crate::wire::erspan::{Erspan2, Erspan3};
use crate::wire::ethernet;
use crate::wire::geneve::Geneve;
use crate::wire::gre::{self, Gre};
use crate::wire::vxlan::Vxlan;

/// Bytes that `encapsulation` adds to a frame on the way to `remote`: outer IP, UDP where there is one, tunnel header.
pub fn overhead(encapsulation: &Encapsulation, remote: IpAddr) -> usize {
    outer_len(encapsulation, remote) + header_len(encapsulation)
}

/// Bytes of outer IP, and UDP where there is one: what stands in front of a datagram.
pub fn outer_len(encapsulation: &Encapsulation, remote: IpAddr) -> usize {
    const IPV4: usize = 20;
    const IPV6: usize = 40;
    const UDP: usize = 8;
    let ip = if remote.is_ipv4() { IPV4 } else { IPV6 };
    let udp = if encapsulation.udp_port().is_some() { UDP } else { 0 };
    ip + udp
}

/// Length of the tunnel header in bytes, without outer IP and UDP: the same for every frame of a destination.
pub fn header_len(encapsulation: &Encapsulation) -> usize {
    const GRE: usize = 4;
    const GRE_OPTION: usize = 4;
    match encapsulation {
        Encapsulation::Vxlan { .. } => Vxlan::LEN,
        Encapsulation::Geneve { .. } => Geneve::LEN,
        Encapsulation::Gre { key, sequence } => {
            GRE + GRE_OPTION * (usize::from(key.is_some()) + usize::from(*sequence))
        }
        Encapsulation::Erspan1 => GRE,
        Encapsulation::Erspan2 { .. } => GRE + GRE_OPTION + Erspan2::LEN,
        Encapsulation::Erspan3 { .. } => GRE + GRE_OPTION + Erspan3::LEN,
    }
}

/// Writes the tunnel headers of one destination.
#[derive(Debug)]
pub struct Encapsulator {
    format: Format,
    header_len: usize,
    /// Where the header has a sequence number.
    numbering: Option<Numbering>,
}

/// An encapsulation whose ids are resolved for the session's interfaces.
#[derive(Debug)]
enum Format {
    Vxlan { streams: Streams<Vni>, port: u16 },
    Geneve { streams: Streams<Vni>, port: u16 },
    Gre { streams: Streams<Option<GreKey>>, sequence: bool },
    Erspan1 { streams: Streams<()> },
    Erspan2 { streams: Streams<ErspanSessionId>, index: ErspanIndex },
    Erspan3 { streams: Streams<ErspanSessionId> },
}

impl Encapsulator {
    /// Resolves the ids of `encapsulation` for `interfaces`, the session's list.
    ///
    /// # Errors
    /// [`OpenError::NoId`] when an interface has no id.
    pub fn new(encapsulation: &Encapsulation, interfaces: &[String]) -> Result<Self, OpenError> {
        let format = match encapsulation {
            Encapsulation::Vxlan { vni, port } => {
                Format::Vxlan { streams: Streams::resolve(vni, "VNI", interfaces)?, port: *port }
            }
            Encapsulation::Geneve { vni, port } => {
                Format::Geneve { streams: Streams::resolve(vni, "VNI", interfaces)?, port: *port }
            }
            Encapsulation::Gre { key: Some(keys), sequence } => {
                let streams = Streams::resolve(keys, "GRE key", interfaces)?;
                Format::Gre { streams: streams.map(Some), sequence: *sequence }
            }
            Encapsulation::Gre { key: None, sequence } => {
                Format::Gre { streams: Streams::one(None, interfaces), sequence: *sequence }
            }
            Encapsulation::Erspan1 => Format::Erspan1 { streams: Streams::one((), interfaces) },
            Encapsulation::Erspan2 { session, index } => {
                Format::Erspan2 { streams: Streams::resolve(session, SESSION, interfaces)?, index: *index }
            }
            Encapsulation::Erspan3 { session } => {
                Format::Erspan3 { streams: Streams::resolve(session, SESSION, interfaces)? }
            }
        };
        let numbering = format.numbering();
        Ok(Self { format, header_len: header_len(encapsulation), numbering })
    }

    /// Resolves the ids for an interface that appeared while the session runs, or has another name now. Until then, and
    /// after an error, frames with this number belong to no stream.
    ///
    /// # Errors
    /// [`OpenError::NoId`] when it has none.
    pub(super) fn learn(&mut self, interface: InterfaceId, name: &str) -> Result<(), OpenError> {
        match &mut self.format {
            Format::Vxlan { streams, .. } | Format::Geneve { streams, .. } => streams.learn(interface, name),
            Format::Gre { streams, .. } => streams.learn(interface, name),
            Format::Erspan1 { streams } => streams.learn(interface, name),
            Format::Erspan2 { streams, .. } | Format::Erspan3 { streams } => streams.learn(interface, name),
        }
    }

    /// Whether an interface of this name has an id.
    pub(super) fn has_id_for(&self, name: &str) -> bool {
        match &self.format {
            Format::Vxlan { streams, .. } | Format::Geneve { streams, .. } => streams.positions_for(name).is_ok(),
            Format::Gre { streams, .. } => streams.positions_for(name).is_ok(),
            Format::Erspan1 { .. } => true,
            Format::Erspan2 { streams, .. } | Format::Erspan3 { streams } => streams.positions_for(name).is_ok(),
        }
    }

    /// Forgets an interface: frames with this number belong to no stream.
    pub(super) fn forget(&mut self, interface: InterfaceId) {
        match &mut self.format {
            Format::Vxlan { streams, .. } | Format::Geneve { streams, .. } => streams.set(interface, None),
            Format::Gre { streams, .. } => streams.set(interface, None),
            Format::Erspan1 { streams } => streams.set(interface, None),
            Format::Erspan2 { streams, .. } | Format::Erspan3 { streams } => streams.set(interface, None),
        }
    }

    /// The stream that `frame` belongs to; `None` when its interface is unknown. Two array accesses a frame.
    pub fn stream_of(&self, frame: &WireFrame<'_>) -> Option<Stream> {
        match &self.format {
            Format::Vxlan { streams, .. } | Format::Geneve { streams, .. } => streams.of(frame),
            Format::Gre { streams, .. } => streams.of(frame),
            Format::Erspan1 { streams } => streams.of(frame),
            Format::Erspan2 { streams, .. } | Format::Erspan3 { streams } => streams.of(frame),
        }
    }

    /// Counts sequence numbers together with the same destination of other workers: `counters` are those of the first.
    pub(super) fn share(&mut self, counters: &mut Option<Counters>) {
        if let Some(numbering) = &mut self.numbering {
            let own = numbering.counters();
            // An earlier run may have had another number of ids.
            let known = counters.take().filter(|known| known.ids() == own.ids());
            let counters = counters.insert(known.unwrap_or_else(|| own.clone()));
            numbering.share(counters.clone());
        }
    }

    /// What our datagrams have in common on the wire, sent from these UDP ports where there is UDP.
    pub fn carrier(&self, sources: Vec<u16>) -> Carrier {
        match &self.format {
            Format::Vxlan { streams, port } | Format::Geneve { streams, port } => {
                Carrier::Udp { sources, destination: *port, vnis: streams.ids().collect() }
            }
            Format::Gre { streams, sequence } => Carrier::Gre { keys: streams.ids().collect(), sequence: *sequence },
            Format::Erspan1 { .. } => Carrier::Erspan1,
            Format::Erspan2 { streams, .. } => Carrier::Erspan2 { sessions: streams.ids().collect() },
            Format::Erspan3 { streams } => Carrier::Erspan3 { sessions: streams.ids().collect() },
        }
    }

    /// Length of the tunnel header in bytes.
    pub fn header_len(&self) -> usize {
        self.header_len
    }

    /// Writes the header of `frame` to `out`, which is [`header_len`](Self::header_len) bytes long. A sequence number is
    /// missing until [`number`](Self::number). `stream` is what [`stream_of`](Self::stream_of) said of the frame.
    pub fn write(&mut self, frame: &WireFrame<'_>, stream: Stream, out: &mut [u8]) {
        let numbering = &mut self.numbering;
        let mut sequence = || numbering.as_mut().map(|numbering| numbering.ask(stream.0));
        match &self.format {
            Format::Vxlan { streams, .. } => Vxlan { vni: streams.id(stream) }.write(out),
            Format::Geneve { streams, .. } => Geneve { vni: streams.id(stream) }.write(out),
            Format::Gre { streams, .. } => {
                let key = streams.id(stream);
                Gre { protocol: gre::TRANSPARENT_ETHERNET, key, sequence: sequence() }.write(out);
            }
            Format::Erspan1 { .. } => Gre { protocol: gre::ERSPAN, key: None, sequence: None }.write(out),
            Format::Erspan2 { streams, index } => {
                let header = Erspan2 {
                    session: streams.id(stream),
                    index: *index,
                    truncated: frame.is_truncated(),
                    tagged: frame.layers.network > ethernet::HEADER_LEN,
                };
                header.write(behind_gre(gre::ERSPAN, sequence(), out));
            }
            Format::Erspan3 { streams } => {
                let header = Erspan3 {
                    session: streams.id(stream),
                    // The header cannot say "unknown"; a frame that only passed by was received.
                    direction: frame.direction.unwrap_or(Direction::In),
                    timestamp: frame.timestamp.into(),
                    truncated: frame.is_truncated(),
                };
                header.write(behind_gre(gre::ERSPAN_III, sequence(), out));
            }
        }
    }

    /// Gives every header that waits in `engine` its sequence number, where it has one.
    pub(super) fn number(&mut self, engine: &mut dyn Transmit) {
        if let Some(numbering) = &mut self.numbering {
            numbering.give_out();
            engine.each_header(&mut |header| numbering.number(header));
        }
    }
}

impl Format {
    /// Counters for every id, if headers of this format have a sequence number: the last field of the GRE header
    /// (RFC 2890 section 2).
    fn numbering(&self) -> Option<Numbering> {
        let (key, ids) = match self {
            Self::Vxlan { .. } | Self::Geneve { .. } | Self::Erspan1 { .. } | Self::Gre { sequence: false, .. } => {
                return None;
            }
            Self::Gre { streams, .. } => (streams.ids.first().copied().flatten(), streams.ids.len()),
            Self::Erspan2 { streams, .. } | Self::Erspan3 { streams } => (None, streams.ids.len()),
        };
        let header = Gre { protocol: 0, key, sequence: Some(0) };
        Some(Numbering::new(header.header_len() - size_of::<u32>(), Counters::new(ids)))
    }
}

const SESSION: &str = "ERSPAN session id";

/// Writes a GRE header and lends what lies behind it.
fn behind_gre(protocol: u16, sequence: Option<u32>, out: &mut [u8]) -> &mut [u8] {
    let header = Gre { protocol, key: None, sequence };
    header.write(out);
    &mut out[header.header_len()..]
}

/// The ids of a destination, each a stream with sequence numbers of its own, and which of them a frame gets.
#[derive(Debug)]
struct Streams<T> {
    /// What the ids are called.
    what: &'static str,
    /// Every id of the plan, also those of interfaces that may still come.
    ids: Vec<T>,
    /// The plan's patterns, each with the position of its id.
    positions: Ids<usize>,
    /// By interface: the position of the id of frames that came in, or whose direction is unknown, and of those that
    /// went out. `None` for numbers that no interface has, or one without an id.
    by_interface: Vec<Option<[usize; 2]>>,
}

/// A stream of one destination: the position of its id among those of the encapsulator that named it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream(usize);

impl<T: Copy + PartialEq> Streams<T> {
    /// Asks the patterns once for each interface and direction, so that no frame has to.
    fn resolve(ids: &Ids<T>, what: &'static str, interfaces: &[String]) -> Result<Self, OpenError> {
        let mut known = Vec::new();
        let positions = ids.map(|id| position_of(&mut known, id));
        let mut streams = Self { what, ids: known, positions, by_interface: Vec::with_capacity(interfaces.len()) };
        for interface in interfaces {
            streams.by_interface.push(Some(streams.positions_for(interface)?));
        }
        Ok(streams)
    }

    /// One id for everything.
    fn one(id: T, interfaces: &[String]) -> Self {
        Self { what: "id", ids: vec![id], positions: Ids::all(0), by_interface: vec![Some([0, 0]); interfaces.len()] }
    }

    /// Asks the patterns for an interface that was not there, or had another name.
    fn learn(&mut self, interface: InterfaceId, name: &str) -> Result<(), OpenError> {
        let positions = self.positions_for(name);
        self.set(interface, positions.as_ref().ok().copied());
        positions.map(drop)
    }

    fn set(&mut self, interface: InterfaceId, positions: Option<[usize; 2]>) {
        let at = usize::from(interface.0);
        if self.by_interface.len() <= at {
            self.by_interface.resize(at + 1, None);
        }
        if let Some(known) = self.by_interface.get_mut(at) {
            *known = positions;
        }
    }

    fn positions_for(&self, interface: &str) -> Result<[usize; 2], OpenError> {
        let both = [Direction::In, Direction::Out].map(|direction| self.positions.resolve(interface, Some(direction)));
        match both {
            [Some(in_or_unknown), Some(out)] => Ok([in_or_unknown, out]),
            _ => Err(OpenError::NoId {
                what: self.what,
                interface: interface.to_owned(),
                patterns: self.positions.by_interface.iter().map(|(pattern, _)| pattern.clone()).collect(),
            }),
        }
    }

    fn ids(&self) -> impl Iterator<Item = T> {
        self.ids.iter().copied()
    }

    fn map<U>(self, convert: impl Fn(T) -> U) -> Streams<U> {
        let Self { what, ids, positions, by_interface } = self;
        Streams { what, ids: ids.into_iter().map(convert).collect(), positions, by_interface }
    }

    /// The stream that `frame` belongs to; `None` when its interface is unknown.
    fn of(&self, frame: &WireFrame<'_>) -> Option<Stream> {
        let [in_or_unknown, out] = (*self.by_interface.get(usize::from(frame.interface.0))?)?;
        Some(Stream(if frame.direction == Some(Direction::Out) { out } else { in_or_unknown }))
    }

    /// The id of a stream that [`of`](Self::of) named: positions in `by_interface` are those of `ids`, which never shrinks.
    fn id(&self, stream: Stream) -> T {
        self.ids[stream.0]
    }
}

/// Where `id` stands among the `known` ones, to which it is added if it is new.
fn position_of<T: PartialEq>(known: &mut Vec<T>, id: T) -> usize {
    known.iter().position(|known| *known == id).unwrap_or_else(|| {
        known.push(id);
        known.len() - 1
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{encapsulations, frame, udp_frame};
    use super::*;

    fn interfaces() -> Vec<String> {
        ["eth0", "veth1", "veth2"].map(String::from).to_vec()
    }

    /// The header of a frame of `interface` that went `direction`.
    fn header(encapsulator: &mut Encapsulator, interface: u16, direction: Option<Direction>) -> Vec<u8> {
        let bytes = udp_frame(1, 10);
        let mut out = vec![0xee; encapsulator.header_len()];
        let frame = WireFrame { interface: InterfaceId(interface), direction, ..frame(&bytes) };
        let stream = encapsulator.stream_of(&frame).expect("a known interface");
        encapsulator.write(&frame, stream, &mut out);
        out
    }

    /// RFC 7348, 8926, 2784, 2890 and draft-foschiano-erspan: what each adds to a frame over IPv4; IPv6 adds 20 more.
    #[test]
    fn the_overhead_is_what_the_formats_say() {
        let expected = [36, 36, 24, 28, 28, 32, 24, 36, 40];
        for (encapsulation, expected) in encapsulations().iter().zip(expected) {
            let overhead = overhead(encapsulation, "192.0.2.1".parse().unwrap());
            assert_eq!(overhead, expected);
            assert_eq!(super::overhead(encapsulation, "2001:db8::1".parse().unwrap()), overhead + 20);
            let written = Encapsulator::new(encapsulation, &interfaces()).unwrap();
            assert_eq!(written.header_len(), header_len(encapsulation));
        }
    }

    #[test]
    fn ids_go_by_interface_and_direction() {
        let vni = |value| Vni::new(value).unwrap();
        let vni = Ids {
            by_interface: vec![("eth0".into(), vni(10)), ("veth*".into(), vni(11))],
            out_by_interface: vec![("eth0".into(), vni(20))],
        };
        let mut encapsulator = Encapsulator::new(&Encapsulation::Vxlan { vni, port: 4789 }, &interfaces()).unwrap();
        let mut id = |interface, direction| header(&mut encapsulator, interface, direction)[6];
        assert_eq!([id(0, None), id(0, Some(Direction::In)), id(0, Some(Direction::Out))], [10, 10, 20]);
        assert_eq!([id(1, None), id(2, Some(Direction::Out))], [11, 11]);
    }

    #[test]
    fn an_interface_that_appears_gets_the_id_of_its_name() {
        let vni = |value| Vni::new(value).unwrap();
        let by_interface = vec![("eth0".into(), vni(10)), ("veth*".into(), vni(11))];
        let vni = Ids { by_interface, out_by_interface: Vec::new() };
        let mut encapsulator = Encapsulator::new(&Encapsulation::Vxlan { vni, port: 4789 }, &[]).unwrap();
        encapsulator.learn(InterfaceId(2), "veth9").unwrap();
        encapsulator.learn(InterfaceId(0), "eth0").unwrap();
        assert_eq!([2, 0].map(|number| header(&mut encapsulator, number, None)[6]), [11, 10]);
        encapsulator.learn(InterfaceId(2), "eth0").unwrap();
        assert_eq!(header(&mut encapsulator, 2, None)[6], 10, "it has another name now");
        let refused = encapsulator.learn(InterfaceId(1), "tap0").unwrap_err();
        assert!(matches!(refused, OpenError::NoId { what: "VNI", interface, .. } if interface == "tap0"));
    }

    #[test]
    fn a02_a_number_that_no_interface_has_belongs_to_no_stream() {
        for encapsulation in encapsulations() {
            let mut encapsulator = Encapsulator::new(&encapsulation, &interfaces()).unwrap();
            let bytes = udp_frame(1, 10);
            let known = |encapsulator: &Encapsulator, interface| {
                encapsulator.stream_of(&WireFrame { interface: InterfaceId(interface), ..frame(&bytes) }).is_some()
            };
            assert_eq!([0, 2, 3, u16::MAX].map(|number| known(&encapsulator, number)), [true, true, false, false]);
            encapsulator.learn(InterfaceId(5), "veth5").unwrap();
            assert_eq!([4, 5].map(|number| known(&encapsulator, number)), [false, true], "4 was not learnt");
            encapsulator.forget(InterfaceId(5));
            encapsulator.forget(InterfaceId(900));
            assert_eq!([2, 5, 900].map(|number| known(&encapsulator, number)), [true, false, false]);
        }
    }

    #[test]
    fn a01_a_name_without_an_id_does_not_keep_the_id_of_the_name_before() {
        let vni = Ids { by_interface: vec![("eth0".into(), Vni::new(10).unwrap())], out_by_interface: Vec::new() };
        let mut encapsulator = Encapsulator::new(&Encapsulation::Vxlan { vni, port: 4789 }, &["eth0".into()]).unwrap();
        let bytes = udp_frame(1, 10);
        assert!(encapsulator.stream_of(&frame(&bytes)).is_some());
        assert!(encapsulator.learn(InterfaceId(0), "tap0").is_err());
        assert_eq!(encapsulator.stream_of(&frame(&bytes)), None);
    }

    #[test]
    fn each_id_has_its_own_sequence() {
        let key = |value| GreKey::new(value).unwrap();
        let keys =
            Ids { by_interface: vec![("eth0".into(), key(1)), ("*".into(), key(2))], out_by_interface: Vec::new() };
        let gre = Encapsulation::Gre { key: Some(keys), sequence: true };
        let mut encapsulator = Encapsulator::new(&gre, &interfaces()).unwrap();
        let headers = [0, 1, 2, 0, 1].map(|interface| header(&mut encapsulator, interface, None));
        let numbering = encapsulator.numbering.as_mut().unwrap();
        numbering.give_out();
        // veth1 and veth2 share a key, so they share its sequence.
        let sequences = headers.map(|mut header| {
            numbering.number(&mut header);
            <[u8; 4]>::try_from(&header[8..]).unwrap()
        });
        assert_eq!(sequences, [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 2]]);
    }

    #[test]
    fn erspan_says_truncated_tagged_and_which_way() {
        let [.., erspan2, erspan3] = &encapsulations()[..] else { panic!("two of them") };
        let mut tagged = udp_frame(1, 10);
        tagged.splice(12..12, [0x81, 0, 0, 100]);
        let cut = WireFrame { wire_len: 1000, direction: Some(Direction::Out), ..frame(&tagged) };

        let mut out = vec![0; 16];
        let mut encapsulator = Encapsulator::new(erspan2, &interfaces()).unwrap();
        let stream = encapsulator.stream_of(&cut).unwrap();
        encapsulator.write(&cut, stream, &mut out);
        // GRE with sequence 0, then version 1, VLAN 0, En 11, T 1, session 5, index 3.
        assert_eq!(out, [0x10, 0, 0x88, 0xbe, 0, 0, 0, 0, 0x10, 0, 0x1c, 5, 0, 0, 0, 3]);

        let mut out = vec![0; 20];
        let mut encapsulator = Encapsulator::new(erspan3, &interfaces()).unwrap();
        let stream = encapsulator.stream_of(&cut).unwrap();
        encapsulator.write(&cut, stream, &mut out);
        // 1,700,000,000.123456789 s in units of 100 µs, the low 32 bits.
        let ticks = u32::try_from(17_000_000_001_234_u64 % (1 << 32)).unwrap().to_be_bytes();
        assert_eq!(out[..12], [0x10, 0, 0x22, 0xeb, 0, 0, 0, 0, 0x20, 0, 0x04, 5]);
        assert_eq!(out[12..16], ticks);
        // No security group, P 1, D 1 (egress), Gra 00, O 0.
        assert_eq!(out[16..], [0, 0, 0x80, 0x08]);
    }
}
