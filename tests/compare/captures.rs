//! Real captures of other projects, damaged, and judged beside us by `pcapsame.py` of ../shared/tools.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use farspan::compare::{Comparing, Comparison, Kind, Order};

use crate::damage::{Damage, Recorded};
use crate::tunnels::{of_files, write};
use crate::{assert_found, in_order};

#[test]
#[ignore = "needs ../shared/captures: run scripts/test"]
fn a_capture_is_the_same_as_itself_for_both_judges() {
    let captures = comparable();
    assert!(captures.len() > 50, "there are captures to compare");
    for (capture, frames) in captures {
        let comparison = of_files([&capture, &capture], Comparing::default());
        assert!(comparison.is_same(), "{}\n{}", capture.display(), comparison.table());
        assert_eq!(comparison.identical, frames.len() as u64);
        assert!(Referee::judge(&capture, &capture, &[]).is_same, "{}", capture.display());
    }
}

#[test]
#[ignore = "needs ../shared/captures: run scripts/test"]
fn both_judges_name_each_damage_alike() {
    let folder = tempfile::tempdir().unwrap();
    let damaged_file = folder.path().join("damaged.pcap");
    let mut happened: BTreeMap<String, usize> = BTreeMap::new();
    for (capture, frames) in comparable() {
        for (turn, damage) in Damage::ALL.into_iter().enumerate() {
            // One frame in the middle, else the first one that it can happen to.
            let middle = frames.len() / 2;
            let mut places = (middle..frames.len()).chain(0..middle);
            let Some((damaged, expected)) = places.find_map(|index| damage.at(index, &frames)) else { continue };
            write(&damaged_file, &damaged);
            assert_found(&of_files([&capture, &damaged_file], in_order(Order::Global)), &expected);
            *happened.entry(format!("{damage:?}")).or_default() += 1;
            // The other judge takes long: it sees each capture with a few damages, and each damage in many captures.
            if (turn + frames.len()) % 4 != 0 || damage == Damage::CutByCapture {
                continue;
            }
            let order = [Order::Global, Order::Flow, Order::None][turn % 3];
            let ours = of_files([&capture, &damaged_file], in_order(order));
            let theirs = Referee::judge(&capture, &damaged_file, &["--order", word(order)]);
            let place = format!("{damage:?} in {}, order {order:?}", capture.display());
            assert_agreement(&ours, &theirs, expected.kind, &place);
        }
    }
    assert_eq!(happened.len(), Damage::ALL.len(), "every damage happened: {happened:?}");
}

#[test]
#[ignore = "needs ../shared/captures: run scripts/test"]
fn frames_out_of_order_are_counted_alike() {
    let folder = tempfile::tempdir().unwrap();
    let shuffled_file = folder.path().join("shuffled.pcap");
    for (capture, frames) in comparable() {
        // Every seventh frame comes three places later, every eleventh ten places earlier.
        let mut shuffled: Vec<(usize, &Recorded)> =
            frames.iter().enumerate().map(|(n, frame)| (10 * n, frame)).collect();
        for (index, (place, _)) in shuffled.iter_mut().enumerate() {
            *place = if index % 7 == 3 { *place + 35 } else { *place };
            *place = if index % 11 == 5 { place.saturating_sub(105) } else { *place };
        }
        shuffled.sort_by_key(|(place, _)| *place);
        let shuffled: Vec<Recorded> = shuffled.into_iter().map(|(_, frame)| frame.clone()).collect();
        write(&shuffled_file, &shuffled);
        let has_twins = frames.iter().any(|frame| frames.iter().filter(|other| *other == frame).count() > 1);
        let ours = of_files([&capture, &shuffled_file], in_order(Order::Global));
        let theirs = Referee::judge(&capture, &shuffled_file, &[]);
        assert_eq!(ours.is_same(), theirs.is_same, "{}", capture.display());
        // Which of two equal frames went where nobody knows; we look for the nearest place, the other for the first.
        if !has_twins {
            assert_eq!(ours.counts.of(Kind::Reordered), theirs.of("reordered"), "{}", capture.display());
        }
    }
}

#[test]
#[ignore = "needs ../shared/captures: run scripts/test"]
fn another_encapsulator_s_tunnels_are_taken_off() {
    let folder = tempfile::tempdir().unwrap();
    let outer = folder.path().join("outer.pcap");
    let encapsulator = shared().join("tools/encap.py");
    for (number, (capture, frames)) in comparable().into_iter().enumerate() {
        let modes = ["vxlan", "gretap", "nvgre", "erspan1", "erspan2", "erspan3"];
        let mode = modes[number % modes.len()];
        if frames.iter().any(|frame| frame.bytes.len() > 65_000) {
            continue;
        }
        let run = Command::new("python3").arg(&encapsulator).arg(mode).args([&capture, &outer]).output().unwrap();
        assert!(run.status.success(), "{mode} {}: {run:?}", capture.display());
        let rules = Comparing { decapsulate: [false, true], ..Comparing::default() };
        let comparison = of_files([&capture, &outer], rules);
        assert!(comparison.is_same(), "{mode} {}\n{}", capture.display(), comparison.table());
        assert!(Referee::judge(&capture, &outer, &["--decap"]).is_same, "{mode} {}", capture.display());
    }
}

/// The words of the other judge for what we call by one name.
fn assert_agreement(ours: &Comparison, theirs: &Referee, expected: Kind, place: &str) {
    assert_eq!(ours.is_same(), theirs.is_same, "{place}\n{}\n{:?}", ours.table(), theirs.counts);
    if matches!(expected, Kind::Merged | Kind::Split) {
        // It does not follow streams, and finds other frames.
        return;
    }
    for (kind, words) in [
        (Kind::Missing, &["missing"][..]),
        (Kind::Extra, &["extra"]),
        (Kind::Duplicated, &["duplicated"]),
        (Kind::Reordered, &["reordered"]),
        (Kind::Cut, &["cut"]),
        (Kind::Padded, &["padded", "fcs-added"]),
        (Kind::VlanLost, &["vlan-lost"]),
        (Kind::VlanAdded, &["vlan-added"]),
        (Kind::VlanChanged, &["vlan-changed"]),
        (Kind::Checksum, &["csum-changed"]),
        (Kind::Changed, &["mac-changed", "modified"]),
    ] {
        let theirs_of_kind: u64 = words.iter().map(|word| theirs.of(word)).sum();
        assert_eq!(ours.counts.of(kind), theirs_of_kind, "{kind}, {place}\n{}\n{:?}", ours.table(), theirs.counts);
    }
    assert_eq!(ours.identical, theirs.of("identical"), "{place}");
}

/// What the other judge says.
#[derive(serde::Deserialize)]
struct Referee {
    #[serde(rename = "same")]
    is_same: bool,
    counts: BTreeMap<String, u64>,
}

impl Referee {
    fn judge(a: &Path, b: &Path, options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let verdict = folder.path().join("verdict.json");
        let run = Command::new("python3")
            .arg(shared().join("tools/pcapsame.py"))
            .args(options)
            .arg("--json")
            .args([&verdict, a, b])
            .output()
            .unwrap();
        assert_ne!(run.status.code(), Some(2), "{} {}: {run:?}", a.display(), b.display());
        serde_json::from_slice(&std::fs::read(verdict).unwrap()).unwrap()
    }

    fn of(&self, word: &str) -> u64 {
        self.counts.get(word).copied().unwrap_or_default()
    }
}

fn word(order: Order) -> &'static str {
    match order {
        Order::Global => "global",
        Order::Flow => "flow",
        Order::None => "none",
    }
}

fn shared() -> PathBuf {
    let captures = std::env::var_os("FARSPAN_CAPTURES").expect("FARSPAN_CAPTURES names the folder of real captures");
    Path::new(&captures).parent().expect("captures stand beside the tools").to_owned()
}

/// Captures of whole Ethernet frames, with their frames.
fn comparable() -> Vec<(PathBuf, Vec<Recorded>)> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(shared().join("captures/pcaps")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().filter_map(|file| whole_frames(&file).map(|frames| (file, frames))).collect()
}

fn whole_frames(file: &Path) -> Option<Vec<Recorded>> {
    let mut capture = pcap::Capture::from_file(file).ok()?;
    let mut frames = Vec::new();
    loop {
        match capture.next_packet() {
            Ok(packet) if packet.header.caplen == packet.header.len && packet.data.len() >= 14 => {
                frames.push(Recorded::whole(packet.data.to_vec()));
            }
            Err(pcap::Error::NoMorePackets) => break,
            _ => return None,
        }
    }
    (capture.get_datalink() == pcap::Linktype::ETHERNET).then_some(frames)
}
