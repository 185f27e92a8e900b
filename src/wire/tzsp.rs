//! TZSP, the `TaZmen` Sniffer Protocol: UDP to port 37008, this header, the frame. `MikroTik` routers mirror with it.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |   Version=1   |     Type      |     Encapsulated protocol     |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |  Tagged fields: tag (8), length (8), data; 0 is padding and   |
//! ~  1 the end of the list, both without a length                 ~
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```
//!
//! There is no standard. Source: <https://en.wikipedia.org/wiki/TZSP>, and Wireshark's `packet-tzsp.c` for the tags.

use super::{ParseError, split_header};

/// UDP destination port.
pub const PORT: u16 = 37008;

/// A TZSP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// The frame's length before the sender cut it, in bytes, if the header says (tag 41).
    pub original_length: Option<u16>,
    /// Whether this is a message between sensor and controller, which carries no frame: configuration, keepalive, port opener.
    pub is_control: bool,
}

impl Received {
    /// Reads a header and returns what follows.
    ///
    /// # Errors
    /// When the header or its tags are cut, the version is not 1, or another protocol than Ethernet is encapsulated.
    pub fn parse(bytes: &[u8]) -> Result<(Self, &[u8]), ParseError> {
        /// "Received packet" and "packet for transmit".
        const WITH_FRAME: [u8; 2] = [0, 1];
        const ETHERNET: u16 = 1;
        let ([version, kind, p0, p1], rest) = split_header::<4>("TZSP", bytes)?;
        let unexpected = |field, needed: u16, had: u16| {
            Err(ParseError::Unexpected { header: "TZSP", field, needed: needed.into(), had: had.into() })
        };
        if *version != 1 {
            return unexpected("version", 1, (*version).into());
        }
        if !WITH_FRAME.contains(kind) {
            return Ok((Self { original_length: None, is_control: true }, rest));
        }
        match u16::from_be_bytes([*p0, *p1]) {
            ETHERNET => {}
            other => return unexpected("encapsulated protocol", ETHERNET, other),
        }
        let (original_length, frame) = skip_tags(bytes, rest)?;
        Ok((Self { original_length, is_control: false }, frame))
    }
}

fn skip_tags<'a>(all: &[u8], mut tags: &'a [u8]) -> Result<(Option<u16>, &'a [u8]), ParseError> {
    const PADDING: u8 = 0;
    const END: u8 = 1;
    const ORIGINAL_LENGTH: u8 = 41;
    let mut original_length = None;
    loop {
        tags = match tags {
            [END, frame @ ..] => return Ok((original_length, frame)),
            [PADDING, rest @ ..] => rest,
            [tag, length, rest @ ..] if usize::from(*length) <= rest.len() => {
                let (data, rest) = rest.split_at(usize::from(*length));
                if let (ORIGINAL_LENGTH, &[high, low]) = (*tag, data) {
                    original_length = Some(u16::from_be_bytes([high, low]));
                }
                rest
            }
            // At least the end of the list is missing.
            _ => return Err(ParseError::TooShort { header: "TZSP", needed: all.len() + 1, had: all.len() }),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_skipped_up_to_the_end_tag() {
        let plain = Received { original_length: None, is_control: false };
        let cut = Received { original_length: Some(1514), ..plain };
        for (datagram, expected) in [
            (&[1, 0, 0, 1, 1, 7][..], plain),
            (&[1, 1, 0, 1, 0, 0, 1, 7], plain),
            (&[1, 0, 0, 1, 41, 2, 5, 0xea, 10, 1, 99, 1, 7], cut),
        ] {
            assert_eq!(Received::parse(datagram), Ok((expected, &[7][..])), "{datagram:?}");
        }
        let keepalive = Received { is_control: true, ..plain };
        assert_eq!(Received::parse(&[1, 4, 0, 0]), Ok((keepalive, &[][..])));
        for (datagram, error) in [
            (&[1, 0, 0][..], "a TZSP header has 4 bytes, here are 3"),
            (&[2, 0, 0, 1, 1], "TZSP header: version is 0x2, not 0x1"),
            (&[1, 0, 0, 18, 1], "TZSP header: encapsulated protocol is 0x12, not 0x1"),
            (&[1, 0, 0, 1, 41, 9, 1], "a TZSP header has 8 bytes, here are 7"),
            (&[1, 0, 0, 1], "a TZSP header has 5 bytes, here are 4"),
        ] {
            assert_eq!(Received::parse(datagram).unwrap_err().to_string(), error);
        }
    }
}
