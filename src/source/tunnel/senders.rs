//! The table of senders: what came from whom, in bounded memory.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::frame::{InterfaceId, Origin};
use crate::ledger::SenderLedger;
use crate::quantity::Prefix;
use crate::wire::decapsulate::{Decapsulated, Tunnel};
use crate::wire::sequence::Stream;

/// Most streams of one endpoint that have a row. Those that come later are counted together: a table that forgot old
/// rows would let whoever forges addresses erase the account of everybody else.
pub const MOST: usize = 1024;

/// What a stream's full-size packets have at least, in bytes: the MTU of Ethernet.
const ETHERNET_MTU: u16 = 1500;

/// Where several networks are allowed, each has its part of half the rows to itself: whoever forges addresses of one cannot
/// fill the table for the others.
const RESERVED: usize = MOST / 2;

/// What one sender numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    from: IpAddr,
    tunnel: Tunnel,
    id: Option<u32>,
}

/// One stream's account.
#[derive(Clone, Debug)]
struct Row {
    origin: Origin,
    received: u64,
    reserved_bits: u64,
    /// The longest packet that came unmerged, in bytes.
    full_size: u16,
    /// Whether its datagrams have sequence numbers.
    is_numbered: bool,
    stream: Stream,
}

impl Row {
    fn key(&self) -> Key {
        let Origin { sender: from, encapsulation: tunnel, id, .. } = self.origin;
        Key { from, tunnel, id }
    }
}

/// Every stream of one endpoint. Its memory is claimed at start.
#[derive(Debug)]
pub struct SenderTable {
    /// The endpoint's place among the session's.
    endpoint: InterfaceId,
    rows: Vec<Row>,
    by_key: HashMap<Key, usize>,
    /// The row of the last datagram: the next one is mostly of the same stream.
    latest: usize,
    /// What found no room.
    others: u64,
    others_reserved: u64,
    /// The networks that may send, and how many rows each has.
    allowed: Vec<(Prefix, usize)>,
    /// Rows that are nobody's part.
    common: usize,
}

impl SenderTable {
    /// An empty table for the endpoint that is this interface of the session; only senders of the `allow`ed networks are
    /// counted in it, where there are some.
    pub fn new(endpoint: InterfaceId, allow: &[Prefix]) -> Self {
        Self {
            endpoint,
            rows: Vec::with_capacity(MOST),
            by_key: HashMap::with_capacity(MOST),
            latest: 0,
            others: 0,
            others_reserved: 0,
            allowed: allow.iter().map(|&prefix| (prefix, 0)).collect(),
            common: 0,
        }
    }

    /// Counts a datagram from `from`. Returns the stream's row, if it has one.
    pub fn count(&mut self, from: IpAddr, taken: &Decapsulated<'_>) -> Option<usize> {
        let key = Key { from, tunnel: taken.tunnel, id: taken.id };
        let Some(number) = self.row_of(key) else {
            self.others += 1;
            self.others_reserved += u64::from(taken.notes.reserved_bits);
            return None;
        };
        self.latest = number;
        let row = &mut self.rows[number];
        row.received += 1;
        row.reserved_bits += u64::from(taken.notes.reserved_bits);
        if let Some(sequence) = taken.sequence {
            row.is_numbered = true;
            row.stream.receive(sequence);
        }
        Some(number)
    }

    /// The length of the longest packet that a row's stream has sent unmerged, in bytes, IP header included.
    pub fn full_size(&self, row: Option<usize>) -> u16 {
        row.and_then(|row| self.rows.get(row)).map_or(ETHERNET_MTU, |row| row.full_size)
    }

    /// Takes note of an unmerged packet of so many bytes.
    pub fn note_size(&mut self, row: Option<usize>, length: usize) {
        if let Some(row) = row.and_then(|row| self.rows.get_mut(row)) {
            row.full_size = row.full_size.max(u16::try_from(length).unwrap_or(u16::MAX));
        }
    }

    /// Counts so many more datagrams of a row: GRO has merged them with one that was counted.
    pub fn count_merged(&mut self, row: Option<usize>, datagrams: u64) {
        match row.and_then(|row| self.rows.get_mut(row)) {
            Some(row) => row.received += datagrams,
            None => self.others += datagrams,
        }
    }

    /// Whose frames a row counts.
    pub fn origin(&self, row: usize) -> Option<&Origin> {
        self.rows.get(row).map(|row| &row.origin)
    }

    fn row_of(&mut self, key: Key) -> Option<usize> {
        if self.rows.get(self.latest).is_some_and(|row| row.key() == key) {
            return Some(self.latest);
        }
        if let Some(&number) = self.by_key.get(&key) {
            return Some(number);
        }
        if !self.has_room_for(key.from) {
            return None;
        }
        let number = usize::from(self.endpoint.0) * MOST + self.rows.len();
        let Key { from, tunnel, id } = key;
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        let origin = Origin { number, sender: from, encapsulation: tunnel, id };
        let row = Row {
            origin,
            received: 0,
            reserved_bits: 0,
            full_size: ETHERNET_MTU,
            is_numbered: false,
            stream: Stream::default(),
        };
        self.rows.push(row);
        self.by_key.insert(key, self.rows.len() - 1);
        Some(self.rows.len() - 1)
    }

    /// Takes room for another row of this sender, if there is any: of its network's part, else of what is common.
    fn has_room_for(&mut self, from: IpAddr) -> bool {
        let part = RESERVED.checked_div(self.allowed.len()).unwrap_or(0);
        let common = MOST - part * self.allowed.len();
        let of_sender = self.allowed.iter_mut().filter(|(prefix, _)| prefix.contains(from));
        // The narrowest network is the sender's.
        let network = of_sender.max_by_key(|(prefix, _)| prefix.length());
        if let Some((_, rows)) = network.filter(|(_, rows)| *rows < part) {
            *rows += 1;
            return true;
        }
        let has_room = self.common < common;
        if has_room {
            self.common += 1;
        } else if self.others == 0 {
            let remedy = if self.allowed.is_empty() { "; --allow CIDR keeps strangers out of it" } else { "" };
            tracing::warn!(
                "the table of senders is full: those that come later are counted together, without losses and order{remedy}"
            );
        }
        has_room
    }

    /// Nothing more will come: what is missing is lost.
    pub fn settle(&mut self) {
        self.rows.iter_mut().for_each(|row| row.stream.settle());
    }

    /// Appends every row to `all`, and one for those without a row, if there are any.
    pub fn write(&self, all: &mut Vec<SenderLedger>) {
        all.extend(self.rows.iter().map(|row| {
            let counts = row.stream.counts();
            SenderLedger {
                from: Some(row.origin.sender),
                encapsulation: Some(row.origin.encapsulation),
                id: row.origin.id,
                received: row.received,
                lost: row.is_numbered.then_some(counts.lost),
                reordered: counts.reordered,
                duplicated: counts.duplicated,
                restarts: counts.restarts,
                reserved_bits: row.reserved_bits,
            }
        }));
        all.extend((self.others > 0).then_some(SenderLedger {
            from: None,
            encapsulation: None,
            id: None,
            received: self.others,
            lost: None,
            reordered: 0,
            duplicated: 0,
            restarts: 0,
            reserved_bits: self.others_reserved,
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::decapsulate::Rules;

    /// A GRE packet with this key and sequence number.
    fn gre(key: u8, sequence: u8) -> Vec<u8> {
        vec![0x30, 0, 0x65, 0x58, 0, 0, 0, key, 0, 0, 0, sequence]
    }

    fn count(table: &mut SenderTable, from: u32, packet: &[u8]) -> Option<usize> {
        let taken = Rules::default().take_from_gre(packet, 0).unwrap();
        table.count(std::net::Ipv4Addr::from_bits(from).into(), &taken)
    }

    fn rows(table: &SenderTable) -> Vec<SenderLedger> {
        let mut rows = Vec::new();
        table.write(&mut rows);
        rows
    }

    #[test]
    fn each_stream_has_its_own_account() {
        let mut table = SenderTable::new(InterfaceId(2), &[]);
        for (from, key, sequence) in [(1, 7, 0), (1, 7, 2), (2, 7, 9), (1, 8, 0), (1, 7, 1), (1, 7, 5)] {
            count(&mut table, from, &gre(key, sequence));
        }
        let plain = [0, 0, 0x65, 0x58];
        count(&mut table, 1, &plain);
        table.settle();
        let seen: Vec<_> = rows(&table).iter().map(|row| (row.id, row.received, row.lost, row.reordered)).collect();
        assert_eq!(
            seen,
            [(Some(7), 4, Some(2), 1), (Some(7), 1, Some(0), 0), (Some(8), 1, Some(0), 0), (None, 1, None, 0)]
        );
    }

    #[test]
    fn a23_a_flood_of_one_network_leaves_rows_to_the_other_allowed_ones() {
        let allow = ["10.0.0.0/8", "10.1.0.0/16", "192.0.2.0/24"].map(|network| network.parse().unwrap());
        let mut table = SenderTable::new(InterfaceId(0), &allow);
        // 10.2.0.0 and on: forged.
        for from in 0..5000 {
            count(&mut table, 0x0a02_0000 + from, &gre(7, 0));
        }
        let part = RESERVED / 3;
        assert_eq!(table.rows.len(), MOST - 2 * part);
        for network in [0x0a01_0000, 0xc000_0200] {
            for from in 0..200 {
                assert_eq!(count(&mut table, network + from, &gre(7, 0)).is_some(), from < part.try_into().unwrap());
            }
        }
        assert_eq!(table.rows.len(), MOST);
    }

    #[test]
    fn a_flood_of_senders_costs_no_memory_and_hides_nobody() {
        let mut table = SenderTable::new(InterfaceId(2), &[]);
        let first = count(&mut table, 0, &gre(7, 0));
        let capacity = (table.rows.capacity(), table.by_key.capacity());
        for from in 1..5000 {
            count(&mut table, from, &gre(7, 0));
        }
        assert_eq!(count(&mut table, 0, &gre(7, 1)), first);
        let rows = rows(&table);
        assert_eq!(rows.len(), MOST + 1);
        assert_eq!(rows[0].received, 2);
        let numbers: Vec<u32> = (0..MOST).map(|row| table.origin(row).unwrap().number).collect();
        assert_eq!(numbers, (2 * 1024..3 * 1024).collect::<Vec<u32>>(), "no other endpoint's");
        assert_eq!(table.origin(MOST), None);
        assert_eq!((rows[MOST].from, rows[MOST].received), (None, 5000 - MOST as u64));
        assert_eq!((table.rows.capacity(), table.by_key.capacity()), capacity);
    }
}
