//! How a comparison is shown: as a table for people and as one JSON object for programs.

use std::fmt;

use serde::Serialize;

use super::{Comparison, Counts, Difference, Kind, Order, Shift, Tally};

impl Comparison {
    /// One JSON object in one line. Its keys are a contract: scripts read them.
    pub fn to_json(&self) -> String {
        // Numbers, strings and maps with string keys: nothing that JSON could refuse.
        serde_json::to_string(&Json::of(self)).unwrap_or_default()
    }

    /// What was read, what differs, and the verdict in the last line.
    pub fn table(&self) -> impl fmt::Display + '_ {
        Table(self)
    }
}

/// The JSON object as it is documented in docs/OPERATIONS.md.
#[derive(Serialize)]
struct Json<'c> {
    same: bool,
    a: JsonSide<'c>,
    b: JsonSide<'c>,
    identical: u64,
    counts: &'c Counts,
    ignored: &'c [Kind],
    beyond_window: u64,
    shift: Option<Shift>,
    differences: &'c [Difference],
}

#[derive(Serialize)]
struct JsonSide<'c> {
    file: &'c str,
    #[serde(flatten)]
    tally: Tally,
}

impl<'c> Json<'c> {
    fn of(comparison: &'c Comparison) -> Self {
        let side = |side: usize| JsonSide { file: &comparison.names[side], tally: comparison.tallies[side] };
        Self {
            same: comparison.is_same(),
            a: side(0),
            b: side(1),
            identical: comparison.identical,
            counts: &comparison.counts,
            ignored: &comparison.rules.ignored,
            beyond_window: comparison.beyond_window,
            shift: comparison.shift,
            differences: &comparison.differences,
        }
    }
}

struct Table<'c>(&'c Comparison);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let comparison = self.0;
        for (letter, side) in [("A", 0), ("B", 1)] {
            let tally = &comparison.tallies[side];
            line(f, letter, tally.frames, &format!("frames in {}", comparison.names[side]))?;
            some(f, "  no tunnel", tally.no_tunnel, "packets that carry no frame: left out")?;
            some(f, "  broken tunnel", tally.broken_tunnel, "packets out of which no frame came: left out")?;
            some(f, "  undecodable", tally.undecodable, "of which no Ethernet frame can be made: left out")?;
            some(f, "  cut", tally.cut, "by the capture: what it lacks is not compared")?;
        }
        line(f, "identical", comparison.identical, &shift(comparison.shift))?;
        for (kind, count) in comparison.counts.nonzero() {
            let ignored = if comparison.rules.ignored.contains(&kind) { " (ignored)" } else { "" };
            line(f, kind.label(), count, &format!("{}{ignored}", kind.sentence()))?;
        }
        if !comparison.differences.is_empty() {
            writeln!(f, "\n  {:<14}{:>12}{:>12}", "", "frame in A", "frame in B")?;
            for difference in &comparison.differences {
                writeln!(f, "  {}", Line(difference))?;
            }
        }
        let found: u64 = comparison.counts.nonzero().map(|(_, count)| count).sum();
        let unlisted = found - comparison.differences.len() as u64;
        if unlisted > 0 {
            writeln!(f, "  and {unlisted} more: --most lists them")?;
        }
        writeln!(f)?;
        if comparison.beyond_window > 0 {
            let (count, window) = (comparison.beyond_window, bytesize::ByteSize(comparison.rules.window));
            writeln!(
                f,
                "the window of {window} was full: {count} of these differences may be frames that are only farther apart; \
                 a larger --window tells"
            )?;
        }
        f.write_str(&verdict(comparison, found))
    }
}

fn verdict(comparison: &Comparison, found: u64) -> String {
    let compared = comparison.tallies[0].compared;
    match (comparison.is_same(), found) {
        (true, 0) => {
            let order = match comparison.rules.order {
                Order::Global => ", in the same order",
                Order::Flow => ", in the same order in each flow",
                Order::None => "",
            };
            format!("same: {compared} frames, byte for byte{order}\n")
        }
        (true, _) => format!("same, but for {found} ignored differences\n"),
        (false, 1) => "different: 1 difference\n".to_owned(),
        (false, _) => format!("different: {found} differences\n"),
    }
}

/// How much later the frames of B were captured; nothing if they carry the same times.
fn shift(shift: Option<Shift>) -> String {
    let seconds = |nanos: i64| {
        let (sign, nanos) = (if nanos < 0 { '-' } else { '+' }, nanos.unsigned_abs());
        format!("{sign}{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000)
    };
    match shift {
        None | Some(Shift { least_ns: 0, most_ns: 0 }) => String::new(),
        Some(Shift { least_ns, most_ns }) if least_ns == most_ns => {
            format!("time in B less time in A: {} s", seconds(least_ns))
        }
        Some(Shift { least_ns, most_ns }) => {
            format!("time in B less time in A: {} to {} s", seconds(least_ns), seconds(most_ns))
        }
    }
}

/// One difference in a line.
struct Line<'d>(&'d Difference);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Difference { kind, a, b, at, field, note } = self.0;
        write!(f, "{:<14}{:>12}{:>12}", kind.label(), numbers(a), numbers(b))?;
        let at = at.map(|at| format!("from byte {at}"));
        let words: Vec<String> =
            at.into_iter().chain(field.clone()).chain((!note.is_empty()).then(|| note.clone())).collect();
        if words.is_empty() { Ok(()) } else { write!(f, "  {}", words.join(", ")) }
    }
}

/// Frame numbers, those in a row together: `17`, `17-20`, `17-19,22`.
fn numbers(frames: &[u64]) -> String {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for &number in frames {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let text = |&(first, last): &(u64, u64)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    if runs.is_empty() { "-".to_owned() } else { runs.iter().map(text).collect::<Vec<_>>().join(",") }
}

/// A line that is only worth reading when there is something.
fn some(f: &mut fmt::Formatter<'_>, what: &str, count: u64, note: &str) -> fmt::Result {
    if count > 0 { line(f, what, count, note) } else { Ok(()) }
}

fn line(f: &mut fmt::Formatter<'_>, what: &str, count: u64, note: &str) -> fmt::Result {
    let gap = if note.is_empty() { "" } else { "  " };
    writeln!(f, "  {what:<14}{count:>12}{gap}{note}")
}

#[cfg(test)]
mod tests {
    use super::super::findings::Findings;
    use super::super::{Comparing, Tally};
    use super::*;

    fn comparison() -> Comparison {
        let mut findings = Findings::listing(3);
        let plain = Difference::plain;
        findings.add(Difference {
            at: Some(54),
            field: Some("payload".into()),
            ..plain(Kind::Changed, vec![7], vec![8])
        });
        findings.add(Difference { note: "60 bytes".into(), ..plain(Kind::Missing, vec![3], vec![]) });
        findings
            .add(Difference { note: "2896 bytes of the stream".into(), ..plain(Kind::Split, vec![5], vec![4, 5, 7]) });
        findings.add(plain(Kind::Reordered, vec![9], vec![2]));
        let (counts, differences) = findings.into_parts();
        let tally = |frames, cut| Tally { frames, compared: frames, cut, ..Tally::default() };
        Comparison {
            names: ["a.pcap".to_owned(), "-".to_owned()],
            tallies: [tally(10, 0), Tally { no_tunnel: 2, ..tally(13, 1) }],
            identical: 7,
            counts,
            differences,
            beyond_window: 1,
            shift: Some(Shift { least_ns: -1_500, most_ns: 2_000_000_000 }),
            rules: Comparing { ignored: vec![Kind::Split], ..Comparing::default() },
        }
    }

    #[test]
    fn people_read_a_table_with_frame_numbers_and_the_verdict_last() {
        let expected = "
  A                       10  frames in a.pcap
  B                       13  frames in -
    no tunnel              2  packets that carry no frame: left out
    cut                    1  by the capture: what it lacks is not compared
  identical                7  time in B less time in A: -0.000001500 to +2.000000000 s
  missing                  1  in A and not in B
  reordered                1  at another place in B than in A
  split                    1  TCP segments that are more in B, with the same stream (ignored)
  changed                  1  other bytes than in A

                  frame in A  frame in B
  missing                  3           -  60 bytes
  split                    5       4-5,7  2896 bytes of the stream
  changed                  7           8  from byte 54, payload
  and 1 more: --most lists them

the window of 256.0 MiB was full: 1 of these differences may be frames that are only farther apart; a larger --window tells
different: 4 differences
";
        assert_eq!(comparison().table().to_string(), expected.trim_start_matches('\n'));
    }

    #[test]
    fn programs_read_one_object() {
        let json = comparison().to_json();
        let side = r#""cut":0,"undecodable":0,"no_tunnel":0,"broken_tunnel":0}"#;
        assert!(
            json.starts_with(&format!(r#"{{"same":false,"a":{{"file":"a.pcap","frames":10,"compared":10,{side},"b":"#)),
            "{json}"
        );
        assert!(json.contains(r#""counts":{"missing":1,"extra":0,"duplicated":0,"reordered":1,"cut":0,"#), "{json}");
        let changed = r#"{"kind":"changed","a":[7],"b":[8],"at":54,"field":"payload"}]}"#;
        assert!(json.ends_with(changed), "{json}");
        let essentials = r#""ignored":["split"],"beyond_window":1,"shift":{"least_ns":-1500,"most_ns":2000000000}"#;
        assert!(json.contains(essentials), "{json}");
    }
}
