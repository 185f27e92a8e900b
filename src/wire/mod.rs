//! Byte layouts: pure, no I/O, nothing but slices in and bytes out.
//!
//! What we build (`vxlan`, `geneve`, `gre`, `erspan`) is a plain struct of typed fields with `LEN` or `header_len()`, a
//! `write` that cannot fail, and a `parse`; [`outer`] and [`outer_template`] write what the kernel writes on sockets. What
//! we edit in place is [`edit`], with [`segment`] and [`ip_fragment`] on top. What we only read is [`layers`], and other
//! people's tunnels: [`decapsulate`], with [`reassembly`] before it and [`inner`] behind it, and [`sniffed`] for frames of
//! which only some carry one. How our own tunnels are recognised on the underlay is
//! [`carrier`].

pub mod carrier;
pub mod checksum;
pub mod decapsulate;
pub mod edit;
pub mod erspan;
pub mod ethernet;
pub mod geneve;
pub mod gre;
pub mod hp_erm;
pub mod inner;
pub mod ip_fragment;
pub mod jmirror;
pub mod layers;
pub mod nested;
pub mod nesting;
#[cfg(test)]
pub(crate) mod oracle;
pub mod outer;
pub mod outer_template;
pub mod pcap;
pub mod pcapng;
mod pseudo_header;
pub mod reassembly;
pub mod segment;
pub mod sequence;
pub mod shim;
pub mod sniffed;
pub mod tzsp;
pub mod vxlan;

/// Why bytes are not the header they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// The bytes end before the header does.
    #[error("a {header} header has {needed} bytes, here are {had}")]
    TooShort {
        /// The format.
        header: &'static str,
        /// Length of the header, as far as it is known, in bytes.
        needed: usize,
        /// Length of what is there, in bytes.
        had: usize,
    },
    /// A field holds what this format, or farspan, does not know.
    #[error("{header} header: {field} is {had:#x}, not {needed:#x}")]
    Unexpected {
        /// The format.
        header: &'static str,
        /// The field, in the words of its RFC.
        field: &'static str,
        /// The value that was expected.
        needed: u32,
        /// The value that is there.
        had: u32,
    },
}

/// The first `N` bytes, and what follows them.
fn split_header<'a, const N: usize>(
    header: &'static str,
    bytes: &'a [u8],
) -> Result<(&'a [u8; N], &'a [u8]), ParseError> {
    bytes.split_first_chunk().ok_or(ParseError::TooShort { header, needed: N, had: bytes.len() })
}
