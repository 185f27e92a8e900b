//! Byte layouts: pure, no I/O, nothing but slices in and bytes out.
//!
//! What we build (`vxlan`, `geneve`, `gre`, `erspan`, `outer`) is a plain struct of typed fields with `LEN` or
//! `len()`, a `write` that cannot fail, and a `parse`. What we edit is named byte ranges. What we only read is
//! [`layers`].

pub mod ethernet;
pub mod layers;
