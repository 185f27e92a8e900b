//! Capture files of every shape, read by the program as it is installed. The judges are tshark, editcap, mergecap, gzip and
//! zstd; the files are written by Python or here, byte by byte.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod files;
mod judge;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use files::{Folder, epb, ethernet, idb, pcap, pcap_file, section};
use judge::{Frame, farspan, frames, mirror, refused, succeed};
use serde_json::Value;

/// What tshark reads out of random pcapng files is what the mirror of them has.
#[test]
#[ignore = "needs tshark: run scripts/test"]
fn r04_r05_random_pcapng_files_are_read_as_tshark_reads_them() {
    let folder = Folder::new();
    for seed in 0..3 {
        let (random, mirrored) = (folder.path("random.pcapng"), folder.path("mirrored.pcapng"));
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/capture_formats/random_pcapng.py");
        let names = succeed(Command::new("python3").args([script, &seed.to_string(), "1200"]).arg(&random));
        mirror(&[&random], &mirrored, &[]);
        let (expected, found) = (frames(&random), frames(&mirrored));
        assert!(expected.len() > 800, "{} frames", expected.len());
        assert_eq!(found.len(), expected.len(), "seed {seed}");
        assert_eq!(names.lines().count(), expected.len());
        for (number, ((expected, found), name)) in expected.iter().zip(&found).zip(names.lines()).enumerate() {
            // tshark 4.0 mixes up the names of several sections. A frame whose interface has no name belongs to the file.
            let name = Some(name).filter(|name| !name.is_empty());
            let interface = Some(name.map_or_else(|| random.display().to_string(), str::to_owned));
            assert_eq!(*found, Frame { interface, ..expected.clone() }, "seed {seed}, frame {}", number + 1);
        }
    }
}

/// Each interface has a link type of its own, and a packet becomes the same Ethernet frame as out of a file of its own.
#[test]
#[ignore = "needs tshark: run scripts/test"]
fn r04_every_link_type_of_one_file_becomes_ethernet() {
    let folder = Folder::new();
    let packet = &ethernet(7)[14..];
    let with = |header: &[u8]| [header, packet].concat();
    let kinds: [(u16, Vec<u8>); 13] = [
        (1, ethernet(7)),
        (101, packet.to_vec()),
        (228, packet.to_vec()),
        (113, with(&[0, 4, 0, 1, 0, 6, 2, 0, 0, 0, 0, 9, 0, 0, 8, 0])),
        (276, with(&[8, 0, 0, 0, 0, 0, 0, 3, 0, 1, 4, 6, 2, 0, 0, 0, 0, 9, 0, 0])),
        (0, with(&[2, 0, 0, 0])),
        (108, with(&[0, 0, 0, 2])),
        (9, with(&[0xff, 3, 0, 0x21])),
        (9, with(&[0, 0x21])),
        (50, with(&[0x0f, 0, 8, 0])),
        (51, with(&[0x11, 0, 0, 1, 0, 38, 0, 0x21])),
        (104, with(&[0x0f, 0, 8, 0])),
        (204, with(&[0, 0xff, 3, 0, 0x21])),
    ];
    for big in [false, true] {
        let mut file = section(big);
        for (kind, _) in &kinds {
            file.extend(idb(big, *kind, 262_144, &[]));
        }
        for (number, (_, bytes)) in (0..).zip(&kinds) {
            file.extend(epb(big, number, 1_700_000_000_000_000 + u64::from(number), bytes, &[]));
        }
        let (mixed, mirrored) = (folder.write("mixed.pcapng", &file), folder.path("out.pcap"));
        mirror(&[&mixed], &mirrored, &[]);
        assert_eq!(
            judge::field(&mixed, "udp.dstport"),
            vec!["9"; kinds.len()],
            "tshark sees the packet in each of them"
        );
        assert_eq!(judge::field(&mirrored, "udp.dstport"), vec!["9"; kinds.len()]);
        assert_eq!(judge::field(&mirrored, "frame.encap_type"), vec!["1"; kinds.len()]);
        assert_eq!(judge::field(&mirrored, "ip.id"), judge::field(&mixed, "ip.id"));
        // Which tshark does not take apart: pppd's, with the direction where the address was.
        let pppd = [section(big), idb(big, 166, 262_144, &[]), epb(big, 0, 1, &with(&[1, 3, 0, 0x21]), &[])].concat();
        let out = folder.path("pppd.pcapng");
        mirror(&[&folder.write("pppd-in.pcapng", &pppd)], &out, &[]);
        assert_eq!(judge::field(&out, "udp.dstport"), ["9"]);
        assert_eq!(judge::field(&out, "frame.packet_flags_direction"), ["0x00000002"]);
        // compare reads it in the same manner.
        let same = farspan().arg("compare").args([&mixed, &mirrored]).output().unwrap();
        assert_eq!(same.status.code(), Some(0), "{}", String::from_utf8_lossy(&same.stdout));
    }
}

/// What Wireshark's own programs write: merged files keep every interface, and `-r` of both files gives the same frames.
#[test]
#[ignore = "needs tshark: run scripts/test"]
fn r05_several_files_are_merged_as_mergecap_merges_them() {
    let folder = Folder::new();
    let one =
        folder.write("one.pcap", &pcap(&[(1, 0, ethernet(1)), (3, 0, ethernet(2)), (3, 5, ethernet(3))], 65_535, 1));
    let two =
        folder.write("two.pcap", &pcap(&[(2, 0, ethernet(4)), (3, 2, ethernet(5)), (9, 0, ethernet(6))], 262_144, 1));
    let (merged, from_merged, from_both) =
        (folder.path("merged.pcapng"), folder.path("from_merged.pcap"), folder.path("from_both.pcap"));
    succeed(Command::new("mergecap").arg("-w").args([&merged, &one, &two]));
    mirror(&[&merged], &from_merged, &[]);
    mirror(&[&one, &two], &from_both, &[]);
    let ids = |file: &Path| judge::field(file, "ip.id");
    assert_eq!(ids(&from_both), ids(&merged));
    assert_eq!(ids(&from_merged), ids(&merged));
    assert_eq!(ids(&from_both), ["0x0001", "0x0004", "0x0002", "0x0005", "0x0003", "0x0006"]);
    // Of frames with one timestamp, those of the file that is named first come first.
    let same_times = folder.write("same.pcap", &pcap(&[(1, 0, ethernet(7)), (3, 0, ethernet(8))], 262_144, 1));
    mirror(&[&one, &same_times], &from_both, &[]);
    assert_eq!(ids(&from_both), ["0x0001", "0x0007", "0x0002", "0x0008", "0x0003"]);
    mirror(&[&same_times, &one], &from_both, &[]);
    assert_eq!(ids(&from_both), ["0x0007", "0x0001", "0x0008", "0x0002", "0x0003"]);
}

/// Compressed by gzip and zstd themselves: by path, through a pipe that gives single bytes, two members behind each other,
/// and one beside an uncompressed file.
#[test]
#[ignore = "needs tshark: run scripts/test"]
fn r05_compressed_files_and_pipes_are_read() {
    let folder = Folder::new();
    let records: Vec<_> = (0..300).map(|number| (u32::from(number), 0, ethernet(number))).collect();
    let plain = folder.write("plain.pcap", &pcap(&records, 65_535, 1));
    let out = folder.path("out.pcap");
    for (program, suffix) in [("gzip", "gz"), ("zstd", "zst")] {
        let compressed = folder.path(&format!("plain.pcap.{suffix}"));
        let write = |input: &[u8], append: bool| {
            let file =
                File::options().create(true).append(append).write(true).truncate(!append).open(&compressed).unwrap();
            let mut child = Command::new(program).arg("-c").stdin(Stdio::piped()).stdout(file).spawn().unwrap();
            child.stdin.take().unwrap().write_all(input).unwrap();
            assert!(child.wait().unwrap().success());
        };
        let bytes = fs::read(&plain).unwrap();
        write(&bytes[..5000], false);
        write(&bytes[5000..], true);
        mirror(&[&compressed], &out, &[]);
        assert_eq!(fs::read(&out).unwrap()[24..].len(), bytes[24..].len(), "{program}");
        assert_eq!(judge::field(&out, "ip.id"), judge::field(&plain, "ip.id"), "{program}");
        mirror(&[&compressed, &plain], &out, &[]);
        assert_eq!(judge::field(&out, "ip.id").len(), 600);
        let compared = farspan().arg("compare").args([&plain, &compressed]).output().unwrap();
        assert_eq!(compared.status.code(), Some(0));

        let mut child = farspan()
            .args(["mirror", "-r", "-", "--to", &format!("pcap:{}", out.display())])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut pipe = child.stdin.take().unwrap();
        for piece in fs::read(&compressed).unwrap().chunks(7) {
            pipe.write_all(piece).unwrap();
        }
        drop(pipe);
        assert!(child.wait().unwrap().success());
        assert_eq!(judge::field(&out, "ip.id"), judge::field(&plain, "ip.id"), "{program}, through a pipe");

        // What breaks off gives its whole frames, and says so.
        let whole = fs::read(&compressed).unwrap();
        let broken = folder.write(&format!("broken.{suffix}"), &whole[..whole.len() * 3 / 4]);
        let ended = farspan().args(["mirror", "-r"]).arg(&broken).args(["--to", "pcap:-", "--json"]).output().unwrap();
        assert_eq!(ended.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&ended.stderr).contains("is damaged after frame"), "{program}");
        // The first member is whole.
        assert!(ended.stdout.len() > 4500, "{program}: {} bytes", ended.stdout.len());
    }
}

/// A file of 256 MiB of zeros between two frames does not need its size in memory.
#[test]
#[ignore = "needs tshark: run scripts/test"]
fn r05_a_decompression_bomb_needs_little_memory() {
    const LENGTH: u32 = (1 << 28) + 12;
    let folder = Folder::new();
    let bomb = folder.path("bomb.pcapng.zst");
    let mut zstd = Command::new("zstd")
        .args(["-q", "-1", "-c"])
        .stdin(Stdio::piped())
        .stdout(File::create(&bomb).unwrap())
        .spawn()
        .unwrap();
    let mut pipe = zstd.stdin.take().unwrap();
    pipe.write_all(&[section(false), idb(false, 1, 0, &[]), epb(false, 0, 1, &ethernet(1), &[])].concat()).unwrap();
    // A block of a type that nobody knows.
    pipe.write_all(&[0xbad_u32.to_le_bytes(), LENGTH.to_le_bytes()].concat()).unwrap();
    let zeros = vec![0; 1 << 20];
    (0..256).for_each(|_| pipe.write_all(&zeros).unwrap());
    pipe.write_all(&LENGTH.to_le_bytes()).unwrap();
    pipe.write_all(&epb(false, 0, 2, &ethernet(2), &[])).unwrap();
    drop(pipe);
    assert!(zstd.wait().unwrap().success());
    let out = folder.path("out.pcap");
    // Python tells the most memory that its children had, in KiB.
    let measure = "import resource, subprocess, sys; subprocess.check_call(sys.argv[1:], stdout=subprocess.DEVNULL); \
                   print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)";
    let mut measured = Command::new("python3");
    measured.args(["-c", measure, env!("CARGO_BIN_EXE_farspan"), "mirror", "-r"]).arg(&bomb);
    let most: u64 = succeed(measured.args(["--to", &pcap_file(&out)])).trim().parse().unwrap();
    assert!(most < 120 * 1024, "{most} KiB");
    assert_eq!(judge::field(&out, "ip.id"), ["0x0001", "0x0002"]);
}

/// Everything before the damage is mirrored, the exit status is 1, and the message says where the damage is.
#[test]
#[ignore = "needs tshark: run scripts/test"]
fn r04_a_damaged_pcapng_gives_its_whole_frames_and_says_where_it_is_damaged() {
    let folder = Folder::new();
    let sound = [section(false), idb(false, 1, 0, &[]), epb(false, 0, 1, &ethernet(1), &[])].concat();
    let at = sound.len();
    let next = epb(false, 0, 2, &ethernet(2), &[]);
    let changed = |place: usize, value: u32| {
        let mut block = next.clone();
        block[place..place + 4].copy_from_slice(&value.to_le_bytes());
        block
    };
    for (damage, words) in [
        (next[..next.len() - 3].to_vec(), format!("record that begins at byte {at}")),
        (next[..5].to_vec(), format!("record that begins at byte {at}")),
        (changed(4, 0xffff_fffc), format!("record that begins at byte {at}")),
        (changed(4, 6), format!("block at byte {at} claims a length of 6")),
        (changed(8, 9), format!("frame at byte {at} belongs to interface 9")),
        (changed(20, 300_000), format!("frame at byte {at} claims 300000 bytes")),
        (changed(20, 1000), format!("frame at byte {at} claims 1000 bytes")),
        (changed(next.len() - 4, 4), format!("ends at byte {}", at + next.len())),
        ([&section(false)[..8], &[1, 2, 3, 4, 1, 0, 0, 0, 0, 0, 0, 0]].concat(), "byte-order magic".to_owned()),
    ] {
        let (file, out) = (folder.write("damaged.pcapng", &[&sound[..], &damage].concat()), folder.path("out.pcap"));
        let ended = farspan().args(["mirror", "-r"]).arg(&file).args(["--to", &pcap_file(&out)]).output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(1), "{said}");
        assert!(said.contains("is damaged after frame 1") && said.contains(&words), "{words}: {said}");
        assert_eq!(judge::field(&out, "ip.id"), ["0x0001"]);
        let compared = farspan().arg("compare").args([&file, &out]).output().unwrap();
        assert_eq!(compared.status.code(), Some(2), "compare has no verdict");
    }
}

/// The hint of every kind of file that is not read holds commands that work.
#[test]
#[ignore = "needs tshark: run scripts/test"]
fn r06_commands_in_hints_do_what_they_promise() {
    let folder = Folder::new();
    let plain = folder.write("it's plain.pcap", &pcap(&[(1, 0, ethernet(1)), (2, 0, ethernet(2))], 65_535, 1));
    let snoop = folder.path("it's snoop");
    succeed(Command::new("editcap").args(["-F", "snoop"]).args([&plain, &snoop]));
    let hint = refused(&["mirror", "-r", snoop.to_str().unwrap(), "--to", "pcap:-"]);
    let command = hint.split_once("snoop capture: ").expect(&hint).1.trim();
    succeed(Command::new("sh").args(["-c", command]).current_dir(folder.directory()));
    mirror(&[&folder.path("converted.pcap")], &folder.path("out.pcap"), &[]);
    assert_eq!(judge::field(&folder.path("out.pcap"), "ip.id"), ["0x0001", "0x0002"]);

    for program in ["xz", "bzip2"] {
        let compressed = folder.path(&format!("it's {program}"));
        let output = File::create(&compressed).unwrap();
        assert!(Command::new(program).arg("-c").arg(&plain).stdout(output).status().unwrap().success());
        let hint = refused(&["mirror", "-r", compressed.to_str().unwrap(), "--to", "pcap:-"]);
        let command = hint.split_once("decompressed here: ").expect(&hint).1.trim();
        succeed(Command::new("sh").args(["-c", command]).current_dir(folder.directory()));
        mirror(&[&folder.path("decompressed.pcap")], &folder.path("out.pcap"), &[]);
        assert_eq!(judge::field(&folder.path("out.pcap"), "ip.id"), ["0x0001", "0x0002"]);
    }

    let hint = refused(&["mirror", "-r", plain.to_str().unwrap(), "--to", "pcap:out.pcap.gz"]);
    let command = hint.split_once("complete, or ").expect(&hint).1.trim();
    let quoted = format!("'{}'", plain.display().to_string().replace('\'', "'\\''"));
    let command = format!("{} mirror -r {quoted} {command}", env!("CARGO_BIN_EXE_farspan"));
    succeed(Command::new("sh").args(["-c", &command]).current_dir(folder.directory()));
    assert_eq!(judge::field(&folder.path("out.pcap.gz"), "ip.id"), ["0x0001", "0x0002"]);
}

/// The filter asks the Ethernet frame that is mirrored, and what only the capture's link type knows as it was captured.
#[test]
#[ignore = "needs tshark: run scripts/test"]
fn r12_filters_ask_the_frame_that_is_sent() {
    let folder = Folder::new();
    let ip = &ethernet(1)[14..];
    let tagged = [&[0, 4, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0, 0x81, 0, 0, 5, 8, 0], ip].concat();
    let plain = [&[0, 0, 0, 1, 0, 6, 2, 0, 0, 0, 0, 2, 0, 0, 8, 0], ip].concat();
    let cooked = folder.write("sll.pcap", &pcap(&[(1, 0, tagged), (2, 0, plain)], 65_535, 113));
    let out = folder.path("out.pcap");
    for (filter, kept) in [
        ("vlan", vec!["1.000000000"]),
        ("vlan 5 and udp port 9", vec!["1.000000000"]),
        ("vlan 6", vec![]),
        ("not vlan", vec!["2.000000000"]),
        ("ether src 02:00:00:00:00:02", vec!["2.000000000"]),
        ("ether[12:2] = 0x8100", vec!["1.000000000"]),
        ("udp port 9", vec!["2.000000000"]),
        ("inbound", vec!["2.000000000"]),
        ("outbound", vec!["1.000000000"]),
    ] {
        mirror(&[&cooked], &out, &[filter]);
        assert_eq!(judge::field(&out, "frame.time_epoch"), kept, "{filter}");
    }
    // A cut frame is asked for the length that it had.
    let mut cut = pcap(&[(1, 0, ethernet(1))], 65_535, 1);
    cut[36..40].copy_from_slice(&1500_u32.to_le_bytes());
    let cut = folder.write("cut.pcap", &cut);
    mirror(&[&cut], &out, &["greater 1000"]);
    assert_eq!(judge::field(&out, "frame.len"), ["1500"]);
    for wrong in ["vlan and and udp", "ether hosts 02:00:00:00:00:02", "inbounds"] {
        let hint = refused(&["mirror", "-r", cooked.to_str().unwrap(), "--to", "pcap:-", wrong]);
        assert!(hint.contains("not understood from here on"), "{wrong}: {hint}");
    }
    // Ethernet knows no direction.
    let hint = refused(&["mirror", "-r", cut.to_str().unwrap(), "--to", "pcap:-", "inbound"]);
    assert!(hint.contains("filter `inbound` is wrong"), "{hint}");
}

/// Frames that came cut are counted, and said once where an IDS gets them through a tunnel.
#[test]
#[ignore = "needs tshark: run scripts/test"]
fn r13_frames_that_came_cut_are_counted_and_told_once() {
    let folder = Folder::new();
    let mut records = vec![(1, 0, ethernet(1)), (2, 0, ethernet(2)), (3, 0, ethernet(3))];
    // One is shorter than its IP packet, one is shorter than its record says.
    records[1].2.truncate(40);
    let mut file = pcap(&records, 65_535, 1);
    let last = file.len() - records[2].2.len() - 4;
    file[last..last + 4].copy_from_slice(&1514_u32.to_le_bytes());
    let file = folder.write("cut.pcap", &file);
    let run = |to: &[&str]| {
        let output = farspan().args(["mirror", "--json", "-r"]).arg(&file).args(to).output().unwrap();
        let ledger: Value = serde_json::from_slice(&output.stdout).unwrap();
        let said = String::from_utf8_lossy(&output.stderr).matches("frames come cut").count();
        (output.status.code(), ledger["captured"].clone(), ledger["cut"].clone(), said)
    };
    let (outer, inner) = (pcap_file(&folder.path("outer.pcap")), pcap_file(&folder.path("inner.pcap")));
    let tunnel = ["--to", "vxlan://127.0.0.1?vni=1", "--transmit", &outer];
    assert_eq!(run(&tunnel), (Some(0), 3.into(), 2.into(), 1));
    assert_eq!(run(&["--to", &inner]), (Some(0), 3.into(), 2.into(), 0));
}

/// A pause of two years is told, and a longest pause makes an end of it.
#[test]
#[ignore = "needs tshark: run scripts/test"]
fn r14_a_long_pause_is_told_and_can_be_shortened() {
    let folder = Folder::new();
    let year = 365 * 24 * 3600;
    let file = folder.write("gap.pcap", &pcap(&[(1, 0, ethernet(1)), (2 * year, 0, ethernet(2))], 65_535, 1));
    let arguments = ["mirror", "--pace", "recorded", "--to", "pcap:-", "-r", file.to_str().unwrap()];
    let waits = farspan().args(arguments).args(["--for", "1s"]).output().unwrap();
    let said = String::from_utf8_lossy(&waits.stderr).into_owned();
    assert_eq!(said.matches("the replay waits").count(), 1, "{said}");
    assert!(said.contains("1year 11months") || said.contains("2years") || said.contains("1year"), "{said}");
    let out = folder.path("out.pcap");
    mirror(&[&file], &out, &["--pace", "recorded", "--max-pause", "20ms"]);
    assert_eq!(judge::field(&out, "ip.id"), ["0x0001", "0x0002"]);
    let hint = refused(&["mirror", "-r", file.to_str().unwrap(), "--max-pause", "1s", "--to", "pcap:-"]);
    assert!(hint.contains("--pace recorded"), "{hint}");
}

/// A frame check sequence that the file tells of is taken off; bytes behind a packet that are no padding are a trailer.
#[test]
#[ignore = "needs tshark: run scripts/test"]
fn r15_a_frame_check_sequence_is_taken_off_and_a_trailer_is_no_padding() {
    let folder = Folder::new();
    let frame = ethernet(1);
    let with_fcs = [&frame[..], &[0xde, 0xad, 0xbe, 0xef]].concat();
    let told = |link_type: u32| folder.write("fcs.pcap", &pcap(&[(1, 0, with_fcs.clone())], 65_535, link_type));
    let out = folder.path("out.pcap");
    for link_type in [1 | 1 << 26 | 2 << 28, 1 | 1 << 26 | 4 << 28] {
        let file = told(link_type);
        assert_eq!(judge::field(&file, "eth.fcs"), ["0xdeadbeef"], "tshark takes it for one");
        mirror(&[&file], &out, &[]);
        assert_eq!(judge::field(&out, "frame.len"), [frame.len().to_string()]);
    }
    let in_blocks = [
        section(false),
        idb(false, 1, 0, &[(13, vec![4])]),
        epb(false, 0, 1, &with_fcs, &[]),
        idb(false, 1, 0, &[]),
        epb(false, 1, 2, &with_fcs, &[(2, (4_u32 << 5).to_le_bytes().to_vec())]),
        epb(false, 1, 3, &with_fcs, &[]),
    ];
    let file = folder.write("fcs.pcapng", &in_blocks.concat());
    mirror(&[&file], &out, &[]);
    let [short, long] = [frame.len(), with_fcs.len()].map(|length| length.to_string());
    assert_eq!(judge::field(&out, "frame.len"), [short.clone(), short, long]);

    let (a, b) = (told(1), folder.write("without.pcap", &pcap(&[(1, 0, frame.clone())], 65_535, 1)));
    let said = |a: &Path, b: &Path| {
        let output = farspan().arg("compare").args([a, b]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let words = said(&a, &b);
    assert!(words.contains("a trailer of 4 bytes") && !words.contains("padding"), "{words}");
    let padded = folder.write("padded.pcap", &pcap(&[(1, 0, [&frame[..], &[0; 4]].concat())], 65_535, 1));
    let words = said(&padded, &b);
    assert!(words.contains("only padding is gone"), "{words}");
}

/// A pipe that has nothing for now neither ends the session nor keeps it from ending.
#[test]
#[ignore = "needs tshark: run scripts/test"]
fn r05_a_silent_pipe_does_not_keep_a_session_from_ending() {
    let folder = Folder::new();
    let file = pcap(&[(1, 0, ethernet(1))], 65_535, 1);
    let out = folder.path("out.pcap");
    let mut child = farspan()
        .args(["mirror", "-r", "-", "--to", &pcap_file(&out)])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut pipe = child.stdin.take().unwrap();
    // One frame and half of the next.
    pipe.write_all(&[&file[..], &file[24..50]].concat()).unwrap();
    judge::until("the first frame arrived", || fs::metadata(&out).is_ok_and(|about| about.len() > 24));
    succeed(Command::new("kill").args(["-TERM", &child.id().to_string()]));
    judge::until("the session ended", || child.try_wait().unwrap().is_some());
    drop(pipe);
    assert_eq!(judge::field(&out, "ip.id"), ["0x0001"]);
}
