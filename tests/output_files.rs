//! Files that are written, as an operator and other users of the host meet them: one writer, no links, nobody else's eyes, no
//! silent wait. The binary runs as a process; the judges are libpcap, the file system and the exit code.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Patience with everything that is awaited: far more than any of it takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A capture file of `count` frames, each of which begins with its number, a millisecond apart.
fn capture(path: &Path, count: u32) {
    let mut bytes = [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 1].map(u32::to_le_bytes).concat();
    for number in 0..count {
        bytes.extend([1_700_000_000 + number / 1000, number % 1000 * 1000, 60, 60].map(u32::to_le_bytes).concat());
        bytes.extend(number.to_be_bytes());
        bytes.extend([7; 56]);
    }
    fs::write(path, bytes).unwrap();
}

/// The numbers of the frames that libpcap reads, up to the end of the file or to what it cannot read.
fn numbers(path: &Path) -> Vec<u32> {
    let Ok(mut capture) = pcap::Capture::from_file(path) else { return Vec::new() };
    let mut numbers = Vec::new();
    while let Ok(packet) = capture.next_packet() {
        numbers.push(u32::from_be_bytes(packet.data[..4].try_into().unwrap()));
    }
    numbers
}

fn mirror(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_farspan"));
    command.current_dir(folder).args(["mirror", "--json", "-r", "in.pcap"]).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    mirror(folder, arguments).output().unwrap()
}

fn await_that(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A replay that takes long enough: it ends when it is told to.
struct Replay(Child);

impl Replay {
    fn start(folder: &Path, arguments: &[&str]) -> Self {
        Self(mirror(folder, &[&["--rate", "500pps"], arguments].concat()).spawn().unwrap())
    }

    fn stop(self) -> Output {
        let id = self.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        self.0.wait_with_output().unwrap()
    }
}

#[test]
fn a13_a_capture_file_has_one_writer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.pcap");
    capture(&folder.path().join("in.pcap"), 60_000);
    let first = Replay::start(folder.path(), &["--to", "pcap:x.pcap"]);
    await_that("frames in the file", || numbers(&path).len() > 10);
    let second = run(folder.path(), &["--to", "pcap:x.pcap"]);
    assert_eq!(second.status.code(), Some(1), "{}", said(&second));
    assert!(said(&second).contains("another session or process writes it"), "{}", said(&second));
    let twice = run(folder.path(), &["--to", "pcap:y.pcap", "--to", "pcap:./y.pcap"]);
    assert!(!twice.status.success(), "two destinations of one session: {}", said(&twice));
    let output = first.stop();
    let ledger: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let written = numbers(&path);
    assert_eq!(ledger["destinations"][0]["sent"], written.len());
    assert_eq!(written, (0..u32::try_from(written.len()).unwrap()).collect::<Vec<_>>(), "{}", said(&output));
}

#[test]
fn a13_a_file_that_is_removed_or_cut_is_begun_again_within_a_second_and_the_loss_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.pcap");
    capture(&folder.path().join("in.pcap"), 60_000);
    for what in ["removed", "cut"] {
        let replay = Replay::start(folder.path(), &["--to", "pcap:x.pcap"]);
        await_that("frames in the file", || numbers(&path).len() > 100);
        if what == "cut" {
            File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
        } else {
            fs::remove_file(&path).unwrap();
        }
        await_that("the next file", || numbers(&path).first().is_some_and(|&first| first > 100));
        let output = replay.stop();
        assert_eq!(output.status.code(), Some(1), "the file lacks frames: {}", said(&output));
        assert_eq!(said(&output).matches("it is begun again").count(), 1, "{}", said(&output));
        let ledger: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let account = &ledger["destinations"][0];
        let stand = numbers(&path);
        let lost = account["lost_from_file"].as_u64().unwrap();
        assert_eq!(account["sent"].as_u64().unwrap(), stand.len() as u64 + lost, "{what}: {ledger}");
        let end = stand[0] + u32::try_from(stand.len()).unwrap();
        assert_eq!(stand, (stand[0]..end).collect::<Vec<_>>(), "{what}: no frame is missing between");
    }
}

#[test]
fn a14_files_are_for_nobody_but_their_owner_and_links_are_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    capture(&at("in.pcap"), 10);
    fs::write(at("victim"), "as it was").unwrap();
    fs::set_permissions(at("victim"), fs::Permissions::from_mode(0o666)).unwrap();
    symlink("victim", at("symbolic.pcap")).unwrap();
    fs::hard_link(at("victim"), at("hard.pcap")).unwrap();
    let dry = "gre://192.0.2.1?transmit=pcap:";
    for to in ["pcap:symbolic.pcap", "pcap:hard.pcap", &format!("{dry}symbolic.pcap"), &format!("{dry}hard.pcap")] {
        let output = run(folder.path(), &["--to", to]);
        assert!(!output.status.success() && said(&output).contains("link"), "{to}: {}", said(&output));
    }
    assert_eq!(fs::read_to_string(at("victim")).unwrap(), "as it was");

    let mode = |name: &str| fs::metadata(at(name)).unwrap().mode() & 0o7777;
    let modes: [(&str, &str, u32); 5] = [
        ("pcap:a.pcap", "a.pcap", 0o600),
        ("pcap:b.pcapng?mode=0640", "b.pcapng", 0o640),
        ("pcap:c-{number}.pcap?rotate_size=64KiB", "c-000001.pcap", 0o600),
        ("pcap:d-{number}.pcap?rotate_size=64KiB&mode=0644", "d-000001.pcap", 0o644),
        (&format!("{dry}e.pcap"), "e.pcap", 0o600),
    ];
    for (to, name, expected) in modes {
        let output = run(folder.path(), &["--to", to]);
        assert!(output.status.success(), "{to}: {}", said(&output));
        assert_eq!(mode(name), expected, "{to}");
    }
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a14_root_does_not_write_another_user_s_file() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    capture(&at("in.pcap"), 10);
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::write(at("x.pcap"), "of nobody").unwrap();
    std::os::unix::fs::chown(at("x.pcap"), Some(65_534), Some(65_534)).unwrap();
    nix::unistd::mkfifo(&at("pipe.pcap"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::os::unix::fs::chown(at("pipe.pcap"), Some(65_534), Some(65_534)).unwrap();
    let _reader = File::options().read(true).write(true).open(at("pipe.pcap")).unwrap();
    for name in ["x.pcap", "pipe.pcap"] {
        let output = run(folder.path(), &["--to", &format!("pcap:{name}")]);
        assert!(said(&output).contains("belongs to the user with number 65534"), "{name}: {}", said(&output));
    }
    assert_eq!(fs::read_to_string(at("x.pcap")).unwrap(), "of nobody");
}

#[test]
fn a18_a_named_pipe_is_written_when_somebody_reads_it_and_refused_at_once_when_nobody_does() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    capture(&at("in.pcap"), 50);
    nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    for to in ["pcap:pipe", "gre://192.0.2.1?transmit=pcap:pipe"] {
        let output = run(folder.path(), &["--to", to]);
        assert_eq!(output.status.code(), Some(1), "{to}: {}", said(&output));
        assert!(said(&output).contains("nobody reads the named pipe"), "{to}: {}", said(&output));
    }
    let copy = File::create(at("copy.pcap")).unwrap();
    // Open for both, so that the reader is there before farspan is.
    let reading = File::options().read(true).write(true).open(at("pipe")).unwrap();
    let mut reader = Command::new("cat").stdin(File::open(at("pipe")).unwrap()).stdout(copy).spawn().unwrap();
    let output = run(folder.path(), &["--to", "pcap:pipe"]);
    assert!(output.status.success(), "{}", said(&output));
    drop(reading);
    assert!(reader.wait().unwrap().success());
    assert_eq!(numbers(&at("copy.pcap")), (0..50).collect::<Vec<_>>());
}

/// A19: the judges are the names of the files and libpcap. The clock is another one by a library in front of the C library.
#[test]
fn a19_a_clock_before_1970_or_far_ahead_ends_no_session_with_a_time_in_its_names() {
    const YEAR: i64 = 31_556_952;
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/netns/clock.c");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-O2", "-o"]).arg(at("clock.so")).arg(source).status();
    assert!(built.unwrap().success());
    capture(&at("in.pcap"), 5000);
    for (years, begins) in [(-63, "19700101T000000"), (-3000, "19700101T000000"), (8500, "99991230T235959")] {
        fs::write(at("clock"), (years * YEAR).to_ne_bytes()).unwrap();
        let series = format!("{years}");
        fs::create_dir(at(&series)).unwrap();
        let to = format!("pcap:{series}/{{time}}.pcap?rotate_size=64KiB");
        let mut command = mirror(folder.path(), &["--to", &to]);
        command.env("LD_PRELOAD", at("clock.so")).env("FARSPAN_TEST_CLOCK", at("clock"));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{years}: {}", said(&output));
        let mut files: Vec<_> = fs::read_dir(at(&series)).unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        assert!(files.len() > 3, "{files:?}");
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        assert!(name(&files[0]).starts_with(begins), "{files:?}");
        let mut all: Vec<u32> = files.iter().flat_map(|file| numbers(file)).collect();
        all.sort_unstable();
        assert_eq!(all, (0..5000).collect::<Vec<_>>(), "{years}: every frame, once");
    }
}

/// A22: the judges are the names of the files and libpcap.
#[test]
fn a22_a_file_with_the_largest_number_neither_ends_a_series_nor_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    capture(&at("in.pcap"), 5000);
    fs::create_dir(at("series")).unwrap();
    let foreign =
        ["18446744073709551615", "99999999999999999999999", "000041"].map(|number| format!("m-{number}.pcap"));
    for name in &foreign {
        fs::write(at("series").join(name), "of others").unwrap();
    }
    let output = run(folder.path(), &["--to", "pcap:series/m-{number}.pcap?rotate_size=64KiB"]);
    assert!(output.status.success(), "{}", said(&output));
    for name in &foreign {
        assert_eq!(fs::read(at("series").join(name)).unwrap(), b"of others", "{name}");
    }
    let (mut all, mut number) = (Vec::new(), 42);
    while at("series").join(format!("m-{number:06}.pcap")).exists() {
        all.extend(numbers(&at("series").join(format!("m-{number:06}.pcap"))));
        number += 1;
    }
    assert_eq!(all, (0..5000).collect::<Vec<_>>(), "every frame, in order, in the files from 42 on");
}

/// A11: the main file and its drop-ins, also one that is new, are read again by a daemon that is confined to its files. The
/// judges are the kernel's account of the process and libpcap.
#[test]
fn a11_drop_ins_are_read_again_by_a_confined_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    capture(&at("in.pcap"), 10);
    fs::create_dir(at("conf.d")).unwrap();
    fs::create_dir(at("out")).unwrap();
    let session = |name: &str, file: &str| {
        format!("[session.{name}]\nsource.file = \"in.pcap\"\ndestination.o.to = \"pcap:out/{file}.pcap\"\n")
    };
    fs::write(at("farspan.toml"), session("main", "main")).unwrap();
    fs::write(at("conf.d/10-first.toml"), session("first", "first")).unwrap();
    let log = at("log");
    let mut command = Command::new(env!("CARGO_BIN_EXE_farspan"));
    command.current_dir(folder.path()).args(["run", "--json", "-C", "farspan.toml"]).stdout(Stdio::piped());
    command.env("FARSPAN_CONTROL__SOCKET", at("control.sock")).stderr(File::create(&log).unwrap());
    let child = command.spawn().unwrap();
    let logged = || fs::read_to_string(&log).unwrap_or_default();
    await_that("the daemon to run", || logged().contains("farspan: running "));
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    assert!(status.lines().any(|line| line == "NoNewPrivs:\t1"), "{status}");
    assert!(logged().contains("files confined by Landlock"), "{}", logged());
    fs::write(at("farspan.toml"), session("main", "changed")).unwrap();
    fs::remove_file(at("conf.d/10-first.toml")).unwrap();
    fs::write(at("conf.d/20-second.toml"), session("second", "second")).unwrap();
    let signal = |signal: &str| {
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
    };
    signal("-HUP");
    await_that("the reload", || logged().contains("reloaded: "));
    for name in ["main", "first", "changed", "second"] {
        let path = at("out").join(format!("{name}.pcap"));
        await_that(&format!("{}: {}", path.display(), logged()), || numbers(&path).len() == 10);
    }
    signal("-TERM");
    let output = child.wait_with_output().unwrap();
    let ledgers: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(ledgers.as_object().unwrap().keys().collect::<Vec<_>>(), ["main", "second"]);
}
