//! Capture files: what tshark and capinfos read in them, and what becomes of them when they are rotated or the disk is full.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sched::{CloneFlags, unshare};

use crate::farspan::{Farspan, binary, engine, replay, run};
use crate::judge::{frames_of, tshark};
use crate::lab::{HOST, Lab, await_that, succeed};
use crate::traffic;

#[test]
#[ignore = "needs root: run scripts/test"]
fn pcapng_keeps_interfaces_directions_and_nanoseconds() {
    let lab = Lab::new();
    let (ng, classic) = (lab.path("both.pcapng"), lab.path("both.pcap"));
    let (to_ng, to_classic) = (format!("pcap:{}", ng.display()), format!("pcap:{}", classic.display()));
    let farspan = Farspan::mirror(&lab, &["-i", "h0", "-i", "lo", "--to", &to_ng, "--to", &to_classic]);
    lab.host.run("ping -q -c 2 -i 0.02 127.0.0.1");
    lab.client.run(&format!("ping -q -c 5 -i 0.02 {HOST}"));
    await_that("the last answer", || tshark::count(&classic, "icmp.type == 0 && ip.src == 10.8.0.2") == 5);
    let ledger = farspan.stop();
    ledger.assert_lossless();

    let about = tshark::about(&ng);
    for line in [
        "File type:           Wireshark/... - pcapng",
        "File encapsulation:  Ethernet",
        "File timestamp precision:  nanoseconds (9)",
        "Capture application: farspan 0.1.0",
        "Number of interfaces in file: 2",
        "Name = h0",
        "Name = lo",
        "Time ticks per second = 1000000000",
        "Capture length = 262144",
    ] {
        assert!(about.contains(line), "{line} in\n{about}");
    }
    assert!(about.contains(&format!("Number of packets:   {}\n", ledger.destinations[0].sent)), "{about}");

    let fields = ["frame.time_epoch", "frame.len", "ip.id"];
    assert_eq!(tshark::fields(&ng, "frame", &fields), tshark::fields(&classic, "frame", &fields));
    let times = tshark::fields(&ng, "frame", &["frame.time_epoch"]);
    assert!(times.iter().any(|time| !time[0].ends_with("000")), "finer than microseconds: {times:?}");
    for (interface, count) in [("h0", 10), ("lo", 4)] {
        assert_eq!(
            tshark::count(&ng, &format!("frame.interface_name == \"{interface}\" && icmp")),
            count,
            "{interface}"
        );
    }
    let directions =
        tshark::fields(&ng, "icmp && frame.interface_name == \"h0\"", &["frame.packet_flags_direction", "icmp.type"]);
    // libpcap does not tell the direction.
    let is_known = !engine().iter().any(|engine| engine == "pcap");
    for fields in directions {
        let expected = match (is_known, fields[1].as_str()) {
            (false, _) => "",
            (true, "8") => "0x00000001",
            (true, _) => "0x00000002",
        };
        assert_eq!(fields[0], expected, "{fields:?}");
    }
    assert_eq!(frames_of(&ng), frames_of(&classic));

    // Read by farspan itself: nothing is lost on the way back.
    let back = lab.path("back.pcap");
    replay(&lab, &["-r", ng.to_str().expect("a plain name"), "--to", &format!("pcap:{}", back.display())]);
    assert_eq!(tshark::fields(&back, "frame", &fields), tshark::fields(&classic, "frame", &fields));
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_dry_run_of_several_tunnels_tells_them_apart_by_interface() {
    let lab = Lab::new();
    let frames: Vec<Vec<u8>> = (0..4).map(|number| traffic::udp_frame(number, 2, 200)).collect();
    let file = lab.write("frames.pcap", traffic::capture_file(&frames));
    let outer = lab.path("outer.pcapng");
    let transmit = format!("pcap:{}", outer.display());
    let arguments = ["-r", file.to_str().expect("a plain name"), "--transmit", &transmit];
    replay(
        &lab,
        &[&arguments[..], &["--to", "vxlan://192.0.2.2?vni=1&name=near", "--to", "erspan1://192.0.2.3?name=far"]]
            .concat(),
    );
    assert_eq!(tshark::count(&outer, "frame.interface_name == \"near\" && vxlan"), 4);
    assert_eq!(tshark::count(&outer, "frame.interface_name == \"far\" && erspan"), 4);
    assert!(tshark::about(&outer).contains("vxlan://192.0.2.2?vni=1&name=near"), "the URL is the comment");
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn rotated_files_of_two_workers_hold_every_frame_once_and_each_is_complete() {
    const FRAMES: u32 = 6000;
    for suffix in ["pcap", "pcapng"] {
        let lab = Lab::new();
        let folder = lab.path("files");
        fs::create_dir(&folder).expect("the folder is writable");
        fs::write(folder.join(format!("m-000006.{suffix}")), "of an earlier run").expect("the folder is writable");
        let to =
            format!("pcap:{}/m-{{number}}.{suffix}?rotate_size=256KiB&rotate_time=1m&sync=rotate", folder.display());
        let farspan = Farspan::mirror(&lab, &["-i", "h0", "--workers", "2", "-B", "64MiB", "--to", &to]);
        let sent: Vec<Vec<u8>> = (0..FRAMES).map(|number| traffic::udp_frame(number, 16, 400)).collect();
        traffic::send(&lab, &sent, "--mbps=100");
        lab.await_tapped("h0", FRAMES);
        let ledger = farspan.stop();
        ledger.assert_lossless();

        let files = files(&folder);
        let earlier = fs::read_to_string(&files[0]).expect("the earlier run's file stands");
        assert_eq!(earlier, "of an earlier run");
        let (mut frames, mut count) = (Vec::new(), 0);
        for file in &files[1..] {
            assert!(file.metadata().expect("a file").len() <= 256 << 10, "{}", file.display());
            // tshark fails where a file ends with half a record.
            count += tshark::count(file, "frame") as u64;
            frames.extend(traffic::of_stranger(frames_of(file)));
        }
        assert!(files.len() > 10, "{files:?}");
        assert!(files[1].ends_with(format!("m-000007.{suffix}")), "{files:?}");
        assert_eq!(count, ledger.only().sent);
        let each: BTreeSet<Vec<u8>> = frames.iter().cloned().collect();
        assert_eq!((frames.len(), each), (sent.len(), sent.into_iter().collect()), "every frame, once");
    }
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn time_begins_another_file_on_an_idle_link_too_and_only_some_are_kept() {
    let lab = Lab::new();
    let folder = lab.path("files");
    fs::create_dir(&folder).expect("the folder is writable");
    let to = format!("pcap:{}/m.pcap?rotate_time=1s&keep=2", folder.display());
    let farspan = Farspan::mirror(&lab, &["-i", "h0", "--to", &to]);
    for length in 20..24 {
        let before = newest(&folder);
        lab.client.run(&format!("ping -q -c 1 -s {length} {HOST}"));
        if length < 23 {
            // Pings until the time is over: it is a frame that begins another file.
            await_that("another file", || {
                lab.client.run(&format!("ping -q -c 1 -s {length} {HOST}"));
                newest(&folder) != before
            });
        }
    }
    let files = files(&folder);
    assert_eq!(files.len(), 2, "{files:?}");
    let ledger = farspan.stop();
    ledger.assert_lossless();
    let names: Vec<String> =
        files.iter().map(|file| file.file_name().expect("a name").to_string_lossy().into_owned()).collect();
    // m-20261124T203015.123Z.pcap
    assert!(
        names.iter().all(|name| name.len() == 27 && name.starts_with("m-20") && name.ends_with("Z.pcap")),
        "{names:?}"
    );
    assert!(
        tshark::count(files.last().expect("two files"), "icmp && ip.len == 51") == 2,
        "the last ping is in the newest file"
    );
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_full_disk_costs_frames_never_half_a_record_and_it_goes_on_when_there_is_room() {
    const BATCH: u32 = 1500;
    // A disk of 1 MiB that only this thread and what it starts sees.
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).expect("root may have mounts of its own");
    succeed(Command::new("mount").args(["--make-rprivate", "/"]));
    for (name, query) in [("one.pcap", ""), ("m-{number}.pcapng", "?rotate_size=128KiB")] {
        let lab = Lab::new();
        let disk = lab.path("disk");
        fs::create_dir(&disk).expect("the folder is writable");
        succeed(Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(&disk));
        let ballast = disk.join("ballast");
        fs::write(&ballast, vec![0; 600 << 10]).expect("there is room");
        let to = format!("pcap:{}/{name}{query}", disk.display());
        let farspan = Farspan::mirror(&lab, &["-i", "h0", "-B", "64MiB", "--to", &to]);
        let frame = |number| traffic::udp_frame(number, 4, 400);
        traffic::send(&lab, &(0..BATCH).map(frame).collect::<Vec<_>>(), "--mbps=100");
        await_that("the disk to be full", || farspan.log().contains("cannot write the capture file"));
        lab.await_tapped("h0", BATCH);
        // The last of them have had time to be lost when the first of the next ones is there.
        fs::remove_file(&ballast).expect("the ballast is there");
        let late = BATCH..BATCH + 500;
        await_that("a frame in the file again", || {
            traffic::send(&lab, &[frame(BATCH)], "--topspeed");
            frames_in(&disk).iter().any(|seen| *seen == frame(BATCH))
        });
        traffic::send(&lab, &late.clone().map(frame).collect::<Vec<_>>(), "--mbps=50");
        await_that("the last frame in the file", || frames_in(&disk).iter().any(|seen| *seen == frame(late.end - 1)));

        let (status, ledger) = farspan.stop_anyhow();
        assert_eq!(status.code(), Some(1), "frames are missing, and the exit code says so");
        let account = ledger.only();
        let lost = account.dropped.get("write_failed").copied().unwrap_or(0);
        assert!(lost > 0 && ledger.kernel_dropped == 0, "{ledger:#?}");
        let mut count = 0;
        for file in files(&disk) {
            tshark::assert_sound(&file);
            count += tshark::count(&file, "frame") as u64;
        }
        assert_eq!(count, account.sent, "what is counted as written can be read, to the last frame");
        let seen: BTreeSet<Vec<u8>> = frames_in(&disk).into_iter().collect();
        assert!(late.map(frame).all(|frame| seen.contains(&frame)), "nothing is lost while there is room");
        succeed(Command::new("umount").arg(&disk));
    }
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn the_stream_of_a_pipe_stays_pcap() {
    let lab = Lab::new();
    let frames = [traffic::udp_frame(1, 1, 100)];
    let file = lab.write("frames.pcap", traffic::capture_file(&frames));
    let piped = run(Command::new(binary()).args(["mirror", "-q", "-r"]).arg(file).args(["--to", "pcap:-"]));
    assert_eq!(piped.stdout[..4], [0x4d, 0x3c, 0xb2, 0xa1]);
    let stream = lab.write("stream", piped.stdout);
    assert_eq!(frames_of(&stream), frames);
}

/// The files of a folder in the order of their names.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        folder.read_dir().expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

fn newest(folder: &Path) -> Option<PathBuf> {
    files(folder).pop()
}

/// Every whole frame in the files of a folder, in order.
fn frames_in(folder: &Path) -> Vec<Vec<u8>> {
    files(folder).iter().flat_map(|file| frames_of(file)).collect()
}
