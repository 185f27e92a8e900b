//! Who sends to us, and what arrives of it: reports beside the law.

use std::collections::HashMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize, Serializer};

use super::read;
use crate::wire::decapsulate::Tunnel;

/// One stream: what one sender puts into one tunnel with one id. Its fields are keys of the JSON object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SenderLedger {
    /// Its address; `None` for all streams together that found no room in the table: `others`.
    #[serde(serialize_with = "sender", deserialize_with = "read::sender")]
    pub from: Option<IpAddr>,
    /// The encapsulation; `None` for those others.
    #[serde(serialize_with = "encapsulation", deserialize_with = "read::encapsulation")]
    pub encapsulation: Option<Tunnel>,
    /// VNI, key or session id, where there is one.
    pub id: Option<u32>,
    /// Datagrams that came.
    pub received: u64,
    /// Datagrams that never came; `None` where they are not numbered.
    pub lost: Option<u64>,
    /// Datagrams that came after a later one.
    pub reordered: u64,
    /// Datagrams that came twice.
    pub duplicated: u64,
    /// How often the sender began to count anew.
    pub restarts: u64,
    /// Datagrams in whose headers reserved bits are set.
    pub reserved_bits: u64,
}

impl SenderLedger {
    /// Adds what an earlier run counted of the same stream.
    fn add(&mut self, earlier: &Self) {
        let Self { from: _, encapsulation: _, id: _, received, lost, reordered, duplicated, restarts, reserved_bits } =
            earlier;
        self.received += received;
        self.lost = match (self.lost, lost) {
            (Some(now), Some(before)) => Some(now + before),
            (now, before) => now.or(*before),
        };
        self.reordered += reordered;
        self.duplicated += duplicated;
        self.restarts += restarts;
        self.reserved_bits += reserved_bits;
    }
}

/// What is known of all streams. `edition` rises with every change, so that a copy knows whether it is one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Senders {
    rows: Vec<SenderLedger>,
    edition: u64,
}

impl Senders {
    /// The streams, source by source, each in the order in which its streams began.
    pub fn rows(&self) -> &[SenderLedger] {
        &self.rows
    }

    /// Takes the account anew: `write` appends every row.
    pub fn update(&mut self, write: impl FnOnce(&mut Vec<SenderLedger>)) {
        self.rows.clear();
        write(&mut self.rows);
        self.edition += 1;
    }

    /// The streams of another worker, which are its own, behind those of this one.
    pub fn append(&mut self, other: &Self) {
        self.rows.extend_from_slice(&other.rows);
    }

    /// Adds what an earlier run of the same session knew: streams that both know go on.
    pub fn go_on_from(&mut self, earlier: &Self) {
        if earlier.rows.is_empty() {
            return;
        }
        let place = |row: &SenderLedger| (row.from, row.encapsulation.map(Tunnel::label), row.id);
        let mut known: HashMap<_, usize> = self.rows.iter().enumerate().map(|(at, row)| (place(row), at)).collect();
        for row in &earlier.rows {
            let at = *known.entry(place(row)).or_insert(self.rows.len());
            match self.rows.get_mut(at) {
                Some(known) => known.add(row),
                None => self.rows.push(*row),
            }
        }
    }

    /// Becomes a copy of `other`, at no cost when it is one already. Allocates only for more rows than ever before.
    pub fn follow(&mut self, other: &Self) {
        if self.edition != other.edition {
            self.rows.clone_from(&other.rows);
            self.edition = other.edition;
        }
    }
}

#[allow(clippy::ref_option, reason = "serde gives a reference to the field")]
fn sender<S: Serializer>(from: &Option<IpAddr>, serializer: S) -> Result<S::Ok, S::Error> {
    match from {
        Some(address) => serializer.collect_str(address),
        None => serializer.serialize_str("others"),
    }
}

#[allow(clippy::ref_option, clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference to the field")]
fn encapsulation<S: Serializer>(tunnel: &Option<Tunnel>, serializer: S) -> Result<S::Ok, S::Error> {
    match tunnel {
        Some(tunnel) => serializer.serialize_str(tunnel.label()),
        None => serializer.serialize_none(),
    }
}
