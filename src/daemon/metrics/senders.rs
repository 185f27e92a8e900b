//! The senders of received tunnels as metrics: a bounded number of streams, each once.

use std::collections::HashMap;

use crate::ledger::SenderLedger;
use crate::wire::decapsulate::Tunnel;

/// How many streams of a session have metrics of their own. The others are one, `others`: whoever forges addresses must
/// not fill the database of metrics.
pub const MOST_SENDERS: usize = 100;

/// One stream, or all streams that have no metrics of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sender {
    /// Its address, or `others`.
    pub from: String,
    /// Its encapsulation; empty for the others.
    pub encapsulation: &'static str,
    /// VNI, key or session id; empty where there is none.
    pub id: String,
    /// As [`SenderLedger::received`].
    pub received: u64,
    /// As [`SenderLedger::lost`].
    pub lost: Option<u64>,
    /// As [`SenderLedger::reordered`].
    pub reordered: u64,
    /// As [`SenderLedger::duplicated`].
    pub duplicated: u64,
    /// As [`SenderLedger::restarts`].
    pub restarts: u64,
    /// As [`SenderLedger::reserved_bits`].
    pub reserved_bits: u64,
}

/// The streams of `rows`, those first that began first: `most` of them, and behind them the others as one, if there are
/// any. A stream that several sockets or several runs of the session have heard is one.
pub fn senders(rows: &[SenderLedger], most: usize) -> Vec<Sender> {
    let mut places = HashMap::new();
    let mut named: Vec<Sender> = Vec::new();
    let mut others: Option<Sender> = None;
    for row in rows {
        let sender = match row.from {
            Some(from) => {
                let key = (from, row.encapsulation.map(Tunnel::label), row.id);
                match places.get(&key) {
                    Some(&place) => named.get_mut(place),
                    None if named.len() < most => {
                        places.insert(key, named.len());
                        named.push(Sender {
                            from: from.to_string(),
                            encapsulation: key.1.unwrap_or_default(),
                            id: row.id.map_or_else(String::new, |id| id.to_string()),
                            ..Sender::default()
                        });
                        named.last_mut()
                    }
                    None => None,
                }
            }
            None => None,
        };
        let sender = match sender {
            Some(sender) => sender,
            None => others.get_or_insert_with(|| Sender { from: "others".to_owned(), ..Sender::default() }),
        };
        sender.count(row);
    }
    named.extend(others);
    named
}

impl Sender {
    fn count(&mut self, row: &SenderLedger) {
        self.received += row.received;
        self.lost = row.lost.map(|lost| lost + self.lost.unwrap_or(0)).or(self.lost);
        self.reordered += row.reordered;
        self.duplicated += row.duplicated;
        self.restarts += row.restarts;
        self.reserved_bits += row.reserved_bits;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(host: u8, received: u64, lost: Option<u64>) -> SenderLedger {
        SenderLedger {
            from: Some([192, 0, 2, host].into()),
            encapsulation: Some(Tunnel::Erspan2),
            id: Some(7),
            received,
            lost,
            reordered: 1,
            duplicated: 0,
            restarts: 0,
            reserved_bits: 0,
        }
    }

    #[test]
    fn a_stream_is_one_whoever_heard_it() {
        let heard = senders(&[row(1, 10, None), row(2, 1, Some(5)), row(1, 20, Some(2))], 10);
        assert_eq!(heard.len(), 2);
        assert_eq!(
            (heard[0].from.as_str(), heard[0].encapsulation, heard[0].id.as_str()),
            ("192.0.2.1", "erspan2", "7")
        );
        assert_eq!((heard[0].received, heard[0].lost, heard[0].reordered), (30, Some(2), 2));
    }

    #[test]
    fn beyond_the_bound_streams_are_the_others_with_those_that_were_others_before() {
        let nobody = SenderLedger { from: None, encapsulation: None, id: None, ..row(0, 1000, None) };
        let rows: Vec<SenderLedger> = std::iter::once(nobody).chain((0..5).map(|host| row(host, 1, Some(1)))).collect();
        let heard = senders(&rows, 3);
        let others = Sender { from: "others".into(), received: 1002, lost: Some(2), reordered: 3, ..Sender::default() };
        assert_eq!(heard.len(), 4);
        assert_eq!(heard.last(), Some(&others));
    }
}
