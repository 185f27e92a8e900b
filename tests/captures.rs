//! Real captures of other people's mirrors, where they are there (`FARSPAN_CAPTURES`, see scripts/test): what we take
//! out of each tunnel is what another program took out of it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

/// `scripts/test` skips these by name where there are no captures; without it they are ignored.
mod captures {
    use std::collections::BTreeMap;
    use std::fmt::Write as _;
    use std::path::{Path, PathBuf};
    use std::process::Command;

    use farspan::quantity::Timestamp;
    use farspan::wire::decapsulate::{DecapsulateError, Decapsulated, Rules, Tunnel};
    use farspan::wire::layers::{Fragment, Layers};
    use farspan::wire::reassembly::Reassembly;
    use serde_json::Value;

    /// A frame that another program took out of a tunnel.
    #[derive(Debug)]
    struct Golden {
        frame: usize,
        kind: String,
        length: usize,
        sha256: String,
    }

    #[test]
    #[ignore = "needs real captures: FARSPAN_CAPTURES"]
    fn every_golden_frame_comes_out_of_its_outermost_tunnel() {
        let folder = folder();
        let directory = tempfile::tempdir().unwrap();
        let (mut expected, mut frames) = (String::new(), 0);
        for (file, golden) in golden(&folder) {
            let taken = take_all(&folder.join(&file));
            for vector in golden {
                let (kind, bytes) =
                    taken.get(&vector.frame).unwrap_or_else(|| panic!("{file}: nothing came out of {vector:?}"));
                assert_eq!(kind, &vector.kind, "{file}: frame {}", vector.frame);
                assert_eq!(bytes.len(), vector.length, "{file}: frame {}", vector.frame);
                let name = format!("{}-{frames}", Path::new(&file).file_name().unwrap().display());
                std::fs::write(directory.path().join(&name), bytes).unwrap();
                writeln!(expected, "{}  {name}", vector.sha256).unwrap();
                frames += 1;
            }
        }
        assert_eq!(frames, 1459);
        assert_sums(directory.path(), &expected);
    }

    /// Lets sha256sum(1) compare the files of a folder with the sums of the golden vectors.
    fn assert_sums(folder: &Path, sums: &str) {
        std::fs::write(folder.join("SHA256SUMS"), sums).unwrap();
        let judged = Command::new("sha256sum")
            .args(["--check", "--quiet", "SHA256SUMS"])
            .current_dir(folder)
            .output()
            .expect("sha256sum runs");
        assert!(judged.status.success(), "{}", String::from_utf8_lossy(&judged.stdout));
    }

    /// What `mirror --decap 1` makes of the whole files: the frames inside, and every other frame as it is.
    #[test]
    #[ignore = "needs real captures: FARSPAN_CAPTURES"]
    fn r09_every_golden_frame_comes_out_of_a_mirrored_file() {
        let folder = folder();
        let directory = tempfile::tempdir().unwrap();
        let (mut expected, mut frames, mut fragments, mut left_on) = (String::new(), 0, 0, 0);
        for (file, golden) in golden(&folder) {
            let (path, mirrored) = (folder.join(&file), directory.path().join("mirrored.pcap"));
            let to = format!("pcap:{}", mirrored.display());
            let run = Command::new(env!("CARGO_BIN_EXE_farspan"))
                .args(["mirror", "--decap", "1", "--to", &to, "-r"])
                .arg(&path)
                .output()
                .unwrap();
            assert!(run.status.success(), "{file}: {}", String::from_utf8_lossy(&run.stderr));
            let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
            each_frame(&path, |number, frame, _| drop(before.insert(number, frame.to_vec())));
            each_frame(&mirrored, |number, frame, _| drop(after.insert(number, frame.to_vec())));
            assert_eq!(before.len(), after.len(), "{file}: every frame goes on");
            for vector in golden {
                let (outer, inner) = (&before[&vector.frame], &after[&vector.frame]);
                if Layers::parse(outer).ip.is_some_and(|packet| packet.fragment != Fragment::Whole) {
                    assert_eq!(outer, inner, "{file}: fragment {}", vector.frame);
                    fragments += 1;
                    continue;
                }
                // An ERSPAN header of 4 bytes that says it has 8: what follows is no frame, so that it stays on.
                if outer == inner {
                    left_on += 1;
                    continue;
                }
                // The vectors lack the tags that ERSPAN II senders took out (encapsulation 2), and that are put back.
                let has_tag = Rules::default().take_from_frame(outer).unwrap().1.removed_tag.is_some();
                let inner = if has_tag { [&inner[..12], &inner[16..]].concat() } else { inner.clone() };
                let name = format!("{}-{frames}", Path::new(&file).file_name().unwrap().display());
                std::fs::write(directory.path().join(&name), inner).unwrap();
                writeln!(expected, "{}  {name}", vector.sha256).unwrap();
                frames += 1;
            }
        }
        assert_eq!((frames, fragments, left_on), (1442, 16, 1));
        assert_sums(directory.path(), &expected);
    }

    #[test]
    #[ignore = "needs real captures: FARSPAN_CAPTURES"]
    fn no_capture_makes_it_stumble() {
        let rules = Rules::default();
        let mut files = 0;
        for entry in std::fs::read_dir(folder().join("pcaps")).unwrap() {
            let path = entry.unwrap().path();
            each_frame(&path, |_, frame, _| {
                // Whatever it is, and wherever it is cut.
                for length in (0..frame.len().min(200)).chain([frame.len()]) {
                    if let Ok((_, taken)) = rules.take_from_frame(&frame[..length]) {
                        assert!(taken.bytes.len() < length);
                    }
                }
            });
            files += 1;
        }
        assert!(files > 50, "{files} captures");
    }

    /// What comes out of each frame of a capture file, by number; of a fragmented datagram, out of its last fragment.
    fn take_all(path: &Path) -> BTreeMap<usize, (String, Vec<u8>)> {
        let (rules, mut reassembly, mut taken) = (Rules::default(), Reassembly::default(), BTreeMap::new());
        each_frame(path, |number, frame, timestamp| {
            let whole = match rules.take_from_frame(frame) {
                Ok((_, inner)) => Some(inner),
                Err(DecapsulateError::Fragment) => {
                    let outer = Layers::parse(frame).ip.unwrap();
                    let packet = reassembly.add(frame, &outer, timestamp).unwrap_or_default();
                    packet.and_then(|(bytes, packet)| rules.take_from_packet(bytes, &packet).ok())
                }
                Err(_) => None,
            };
            if let Some(inner) = whole {
                let mut bytes = Vec::new();
                inner.write(&mut bytes);
                taken.insert(number, (kind(&inner), bytes));
            }
        });
        taken
    }

    /// The vectors' name for what carried a frame.
    fn kind(taken: &Decapsulated<'_>) -> String {
        let name = match taken.tunnel {
            Tunnel::Vxlan => "VXLAN",
            Tunnel::Geneve => "Geneve",
            Tunnel::Gre if taken.id.is_some() => "GRE-TEB+key",
            Tunnel::Gre => "GRE-TEB",
            Tunnel::Erspan1 => "ERSPAN I",
            Tunnel::Erspan2 => "ERSPAN II",
            Tunnel::Erspan3 => "ERSPAN III",
            // The vectors have none of these.
            Tunnel::Tzsp | Tunnel::HpErm | Tunnel::Jmirror => taken.tunnel.label(),
        };
        name.to_owned()
    }

    /// Reads a capture file with libpcap, as far as it goes: number from 1, bytes and time of each frame.
    fn each_frame(path: &Path, mut each: impl FnMut(usize, &[u8], Timestamp)) {
        let converted = tempfile::NamedTempFile::new().unwrap();
        // libpcap stops where a pcapng file goes on with an interface of another snaplen.
        let pcapng = path.extension().is_some_and(|suffix| suffix == "pcapng");
        let editcap = || Command::new("editcap").args(["-F", "pcap"]).arg(path).arg(converted.path()).output();
        let path = if pcapng && editcap().expect("editcap runs").status.success() { converted.path() } else { path };
        let Ok(mut capture) = pcap::Capture::from_file(path) else { return };
        let mut number = 0;
        while let Ok(packet) = capture.next_packet() {
            number += 1;
            let seconds = u64::try_from(packet.header.ts.tv_sec).unwrap_or(0);
            let micros = u64::try_from(packet.header.ts.tv_usec).unwrap_or(0);
            each(number, packet.data, Timestamp::from_nanos(seconds * 1_000_000_000 + micros * 1000));
        }
    }

    /// The vectors by capture file.
    fn golden(folder: &Path) -> BTreeMap<String, Vec<Golden>> {
        let mut files: BTreeMap<String, Vec<Golden>> = BTreeMap::new();
        let text = std::fs::read_to_string(folder.join("golden-decap.jsonl")).unwrap();
        for line in text.lines() {
            let vector: Value = serde_json::from_str(line).unwrap();
            let number = |key: &str| usize::try_from(vector[key].as_u64().unwrap()).unwrap();
            let word = |key: &str| vector[key].as_str().unwrap().to_owned();
            files.entry(word("file")).or_default().push(Golden {
                frame: number("frame"),
                kind: word("kind"),
                length: number("len"),
                sha256: word("sha256"),
            });
        }
        files
    }

    /// Where the captures are.
    fn folder() -> PathBuf {
        let folder = std::env::var_os("FARSPAN_CAPTURES")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/captures"), PathBuf::from);
        let vectors = folder.join("golden-decap.jsonl");
        assert!(vectors.is_file(), "{} is not there: set FARSPAN_CAPTURES, or skip captures::", vectors.display());
        folder
    }
}
