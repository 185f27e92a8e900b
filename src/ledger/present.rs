//! How a ledger is shown: as a table for people and as one JSON object for programs.

use std::fmt;

use crate::escape::in_one_line;

use serde::{Serialize, Serializer};

use super::{
    Assignment, Decapsulated, Delays, DestinationLedger, Drops, IcmpReports, KernelDrops, Kind, Ledger, Rewritten,
    SenderLedger,
};

impl Ledger {
    /// One JSON object in one line. Its keys are a contract: scripts read them.
    ///
    /// `dropped` beside `captured` holds what ended in select and normalise; each destination has its own. Only
    /// reasons that occurred are listed.
    pub fn to_json(&self) -> String {
        // Numbers, strings and maps with string keys: nothing that JSON could refuse.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The table that stands at the end of a run.
    pub fn table(&self) -> impl fmt::Display + '_ {
        Table(self)
    }
}

impl Serialize for Ledger {
    /// The object of [`Ledger::to_json`].
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Json::of(self).serialize(serializer)
    }
}

/// The JSON object as it is documented in docs/METRICS.md.
#[derive(Serialize)]
struct Json<'a> {
    captured: u64,
    kernel_dropped: u64,
    /// Of `kernel_dropped`. Only where there are any.
    #[serde(skip_serializing_if = "is_zero")]
    kernel_untold: u64,
    /// Only where some were cut.
    #[serde(skip_serializing_if = "is_zero")]
    cut: u64,
    segments_added: u64,
    dropped: Drops,
    /// Only where not every destination gets every frame.
    #[serde(skip_serializing_if = "Assignment::is_each")]
    assignment: Assignment,
    rewritten: Rewritten,
    /// Only where something looked like a tunnel.
    #[serde(skip_serializing_if = "Decapsulated::is_none")]
    decapsulated: Decapsulated,
    icmp: IcmpReports,
    destinations: &'a [DestinationLedger],
    senders: &'a [SenderLedger],
    /// Only of live frames.
    #[serde(skip_serializing_if = "Delays::is_empty")]
    delay: Delays,
    /// Only while there is one.
    #[serde(skip_serializing_if = "is_zero")]
    loop_alarm: u64,
    /// Only where there were some.
    #[serde(skip_serializing_if = "is_zero")]
    refused_interfaces: u64,
}

impl<'a> Json<'a> {
    fn of(ledger: &'a Ledger) -> Self {
        Self {
            captured: ledger.captured,
            kernel_dropped: ledger.kernel.total(),
            kernel_untold: ledger.kernel.untold,
            cut: ledger.cut,
            segments_added: ledger.segments_added,
            dropped: ledger.dropped(),
            assignment: ledger.assignment,
            rewritten: ledger.rewritten,
            decapsulated: ledger.decapsulated,
            icmp: ledger.icmp(),
            destinations: &ledger.destinations,
            senders: ledger.senders.rows(),
            delay: ledger.delays,
            loop_alarm: ledger.loop_alarm,
            refused_interfaces: ledger.refused_interfaces,
        }
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference to the field")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// A ledger as lines: what, how many, and what it means.
struct Table<'a>(&'a Ledger);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ledger = self.0;
        line(f, "captured", ledger.captured, "")?;
        let KernelDrops { buffer_full, interface, untold } = ledger.kernel;
        some(f, "kernel dropped", buffer_full, "before farspan saw them; a larger --buffer holds more")?;
        some(f, "interface dropped", interface, "by the interface or its driver; `ip -s link` says more")?;
        some(
            f,
            "offload untold",
            untold,
            "the kernel cannot describe their offload to a packet ring; see docs/METRICS.md",
        )?;
        reasons(f, &ledger.dropped())?;
        some(f, "came cut", ledger.cut, "shorter than on the wire: an IDS ignores such packets")?;
        let Rewritten { super_frames, checksums, tags } = ledger.rewritten;
        some(f, "segments added", ledger.segments_added, &format!("out of {super_frames} super-frames"))?;
        some(f, "checksums finished", checksums, "the hardware would have done it")?;
        some(f, "VLAN tags put back", tags, "the kernel had taken them out")?;
        let Decapsulated { frames, left_on, fragments } = ledger.decapsulated;
        some(f, "decapsulated", frames, "frames that a tunnel was taken off")?;
        some(f, "tunnels left on", left_on, "frames that pass with what looks like a tunnel; see docs/METRICS.md")?;
        some(f, "fragments left", fragments, "frames that pass as IP fragments, perhaps of a tunnel")?;
        if let [Some(median), Some(most)] = [0.5, 0.99].map(|share| ledger.delays.quantile(share)) {
            let [median, most] = [median, most].map(|delay| format!("{:.1} ms", delay.as_secs_f64() * 1e3));
            writeln!(f, "  {:<20}{median:>12}  half of the frames at most; 99 of 100 at most {most}", "delay")?;
        }
        some(
            f,
            "interfaces refused",
            ledger.refused_interfaces,
            "not mirrored for want of memory, or by source.max_interfaces",
        )?;
        some(f, "LOOP ALARM", ledger.loop_alarm, "workers throttled: what the session sends comes back to it")?;
        for account in &ledger.destinations {
            destination(f, account)?;
        }
        senders(f, ledger.senders.rows())
    }
}

fn destination(f: &mut fmt::Formatter<'_>, account: &DestinationLedger) -> fmt::Result {
    writeln!(f, "\n{}: {}", in_one_line(&account.name), in_one_line(&account.to))?;
    some(f, "split added", account.split_added, "pieces of frames too long for the path")?;
    let volume = match account.datagrams {
        0 => format!("{} bytes", account.bytes),
        datagrams => format!("in {datagrams} datagrams, {} bytes", account.bytes),
    };
    line(f, "sent", account.sent, &volume)?;
    some(f, "truncated", account.truncated, "of those sent: cut to fit the path")?;
    some(f, "lost from file", account.lost_from_file, "of those sent: somebody cut or removed the capture file")?;
    some(f, "in flight", account.in_flight, "not settled yet")?;
    reasons(f, &account.dropped)?;
    let IcmpReports { port_unreachable, host_unreachable, too_big, other } = account.icmp;
    some(f, "port unreachable", port_unreachable, "ICMP: normal for an analyzer that only sniffs")?;
    some(f, "host unreachable", host_unreachable, "ICMP: the analyzer's network or host is not there")?;
    some(f, "packet too big", too_big, "ICMP: the path MTU was learnt from it")?;
    some(f, "other ICMP", other, "")
}

/// The senders, as many as a person reads.
fn senders(f: &mut fmt::Formatter<'_>, rows: &[SenderLedger]) -> fmt::Result {
    const MOST: usize = 40;
    if rows.is_empty() {
        return Ok(());
    }
    writeln!(f, "\nreceived from")?;
    for row in rows.iter().take(MOST) {
        let mut who = row.from.map_or_else(|| "others".to_owned(), |address| address.to_string());
        who.extend(row.encapsulation.map(|tunnel| format!(" {}", tunnel.label())));
        who.extend(row.id.map(|id| format!(" {id}")));
        let told = [
            (row.lost.unwrap_or(0), "lost"),
            (row.reordered, "reordered"),
            (row.duplicated, "duplicated"),
            (row.restarts, "restarts"),
            (row.reserved_bits, "with reserved bits"),
        ];
        let told: Vec<String> =
            told.into_iter().filter(|&(count, _)| count > 0).map(|(count, what)| format!("{count} {what}")).collect();
        line(f, &who, row.received, &told.join(", "))?;
    }
    match rows.len().saturating_sub(MOST) {
        0 => Ok(()),
        more => writeln!(f, "  and {more} more: --json has all of them"),
    }
}

/// The drops, each with what happened and, for losses, what to do.
fn reasons(f: &mut fmt::Formatter<'_>, drops: &Drops) -> fmt::Result {
    line(f, "dropped", drops.total(), "")?;
    for (reason, count) in drops.nonzero() {
        line(f, &format!("  {}", reason.label()), count, reason.sentence())?;
        if reason.kind() == Kind::Loss {
            writeln!(f, "{:36}{}", "", reason.remedy())?;
        }
    }
    Ok(())
}

/// A line that is only worth reading when there is something.
fn some(f: &mut fmt::Formatter<'_>, what: &str, count: u64, note: &str) -> fmt::Result {
    if count > 0 { line(f, what, count, note) } else { Ok(()) }
}

fn line(f: &mut fmt::Formatter<'_>, what: &str, count: u64, note: &str) -> fmt::Result {
    let gap = if note.is_empty() { "" } else { "  " };
    writeln!(f, "  {what:<20}{count:>12}{gap}{note}")
}

#[cfg(test)]
mod tests {
    use super::super::DropReason;
    use super::*;
    use crate::wire::decapsulate::Tunnel;

    fn busy() -> Ledger {
        let mut ledger = Ledger::new([("ids1", "vxlan://192.0.2.1?vni=1"), ("2", "pcap:a.pcap")]);
        ledger.captured = 12;
        ledger.not_selected[DropReason::OwnTraffic] = 2;
        ledger.not_normalised[DropReason::Unsegmentable] = 1;
        ledger.segments_added = 4;
        ledger.offered = 13;
        ledger.rewritten = Rewritten { super_frames: 1, checksums: 5, tags: 0 };
        ledger.kernel.buffer_full = 7;
        ledger.kernel.interface = 1;
        let ids = &mut ledger.destinations[0];
        (ids.assigned, ids.split_added, ids.sent, ids.datagrams, ids.bytes) = (13, 1, 13, 13, 9000);
        ids.dropped[DropReason::Unreachable] = 1;
        ids.icmp.port_unreachable = 3;
        let file = &mut ledger.destinations[1];
        (file.assigned, file.sent, file.bytes) = (13, 13, 8000);
        ledger
    }

    #[test]
    fn programs_read_the_documented_object() {
        let ledger = busy();
        ledger.balance().unwrap();
        assert_eq!(
            ledger.to_json(),
            r#"{"captured":12,"kernel_dropped":8,"segments_added":4,"dropped":{"own_traffic":2,"unsegmentable":1},"#
                .to_owned()
                + r#""rewritten":{"super_frames":1,"checksums":5,"tags":0},"#
                + r#""icmp":{"port_unreachable":3,"host_unreachable":0,"too_big":0,"other":0},"#
                + r#""destinations":[{"name":"ids1","to":"vxlan://192.0.2.1?vni=1","assigned":13,"split_added":1,"#
                + r#""sent":13,"in_flight":0,"truncated":0,"datagrams":13,"bytes":9000,"dropped":{"unreachable":1},"#
                + r#""icmp":{"port_unreachable":3,"host_unreachable":0,"too_big":0,"other":0}},"#
                + r#"{"name":"2","to":"pcap:a.pcap","assigned":13,"split_added":0,"sent":13,"in_flight":0,"#
                + r#""truncated":0,"datagrams":0,"bytes":8000,"dropped":{},"#
                + r#""icmp":{"port_unreachable":0,"host_unreachable":0,"too_big":0,"other":0}}],"senders":[]}"#
        );
    }

    #[test]
    fn senders_are_told_with_what_is_known_of_their_losses() {
        let numbered = SenderLedger {
            from: Some([192, 0, 2, 1].into()),
            encapsulation: Some(Tunnel::Erspan2),
            id: Some(7),
            received: 120,
            lost: Some(3),
            reordered: 2,
            duplicated: 0,
            restarts: 1,
            reserved_bits: 0,
        };
        let plain = SenderLedger {
            encapsulation: Some(Tunnel::Gre),
            id: None,
            lost: None,
            reordered: 0,
            restarts: 0,
            ..numbered
        };
        let others = SenderLedger { from: None, encapsulation: None, received: 5, reserved_bits: 1, ..plain };
        let mut ledger = Ledger::default();
        ledger.senders.update(|rows| rows.extend([numbered, plain, others]));

        let json = ledger.to_json();
        let senders = json.split_once(r#""senders":"#).unwrap().1;
        assert_eq!(
            senders,
            r#"[{"from":"192.0.2.1","encapsulation":"erspan2","id":7,"received":120,"lost":3,"reordered":2,"#
                .to_owned()
                + r#""duplicated":0,"restarts":1,"reserved_bits":0},{"from":"192.0.2.1","encapsulation":"gre","id":null,"#
                + r#""received":120,"lost":null,"reordered":0,"duplicated":0,"restarts":0,"reserved_bits":0},"#
                + r#"{"from":"others","encapsulation":null,"id":null,"received":5,"lost":null,"reordered":0,"#
                + r#""duplicated":0,"restarts":0,"reserved_bits":1}]}"#
        );
        let table = ledger.table().to_string();
        let senders = table.split_once("\nreceived from\n").unwrap().1;
        assert_eq!(
            senders,
            "  192.0.2.1 erspan2 7          120  3 lost, 2 reordered, 1 restarts\n  192.0.2.1 gre                120\n  \
             others                         5  1 with reserved bits\n"
        );
        ledger.senders.update(|rows| rows.extend([plain; 43]));
        assert!(ledger.table().to_string().ends_with("  and 3 more: --json has all of them\n"));
    }

    #[test]
    fn people_read_a_table_with_reasons_and_remedies() {
        let table = busy().table().to_string();
        let expected = "
  captured                      12
  kernel dropped                 7  before farspan saw them; a larger --buffer holds more
  interface dropped              1  by the interface or its driver; `ip -s link` says more
  dropped                        3
    own_traffic                  2  the frame carries one of farspan's own tunnels, or an ICMP error about one
    unsegmentable                1  a super-frame whose wire segments cannot be known
                                    capture with engine = \"ring\", or switch off the offload that made it: ethtool -K IF tx-udp-segmentation off gro off
  segments added                 4  out of 1 super-frames
  checksums finished             5  the hardware would have done it

ids1: vxlan://192.0.2.1?vni=1
  split added                    1  pieces of frames too long for the path
  sent                          13  in 13 datagrams, 9000 bytes
  dropped                        1
    unreachable                  1  there is no route to the destination, or its next hop does not answer
                                    check `ip route get` and `ip neigh` for the destination
  port unreachable               3  ICMP: normal for an analyzer that only sniffs

2: pcap:a.pcap
  sent                          13  8000 bytes
  dropped                        0
";
        assert_eq!(table, expected.trim_start_matches('\n'));
    }
}
