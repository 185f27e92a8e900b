//! Takes the outermost tunnel off the frames of one side, and puts outer fragments together before.

use crate::frame::Frame;
use crate::wire::decapsulate::{DecapsulateError, Decapsulated, Rules};
use crate::wire::layers::Layers;
use crate::wire::reassembly::Reassembly;

/// What taking tunnels off needs to remember.
#[derive(Debug)]
pub(super) struct Tunnel {
    rules: Rules,
    fragments: Reassembly,
    /// Where an Ethernet header is put before a packet that came without.
    scratch: Vec<u8>,
}

/// Why no frame came out of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nothing {
    /// It is a fragment, and others are still to come.
    Yet,
    /// It is no tunnel's.
    NoTunnel,
    /// Its headers are broken.
    Broken,
}

impl Tunnel {
    /// Takes off what `rules` know.
    pub fn new(rules: Rules) -> Self {
        Self { rules, fragments: Reassembly::default(), scratch: Vec::new() }
    }

    /// The frame inside `outer`, and its length before a capture cut it.
    pub fn take_off<'a>(&'a mut self, outer: &Frame<'a>) -> Result<(&'a [u8], u32), Nothing> {
        let Self { rules, fragments, scratch } = self;
        let packet = Layers::parse(outer.bytes).ip.ok_or(Nothing::NoTunnel)?;
        let taken = match rules.take_from_packet(outer.bytes, &packet) {
            Err(DecapsulateError::Fragment) => {
                let whole = fragments.add(outer.bytes, &packet, outer.timestamp).map_err(|_| Nothing::Broken)?;
                let (bytes, packet) = whole.ok_or(Nothing::Yet)?;
                rules.take_from_packet(bytes, &packet)
            }
            taken => taken,
        };
        match taken {
            Ok(inner) => Ok(frame_of(&inner, scratch)),
            Err(DecapsulateError::NoTunnel) => Err(Nothing::NoTunnel),
            Err(_) => Err(Nothing::Broken),
        }
    }

    /// How many fragmented packets never became whole; no more fragments will come.
    pub fn never_whole(&mut self) -> u64 {
        self.fragments.finish();
        self.fragments.given_up()
    }
}

fn frame_of<'a>(inner: &Decapsulated<'a>, scratch: &'a mut Vec<u8>) -> (&'a [u8], u32) {
    let bytes = if inner.bare.is_some() {
        scratch.clear();
        inner.write(scratch);
        scratch
    } else {
        inner.bytes
    };
    (bytes, u32::try_from(bytes.len() + inner.missing).unwrap_or(u32::MAX))
}
