//! What others control keeps neither the frames nor the control plane: readers that read nothing, signals, limits of the
//! process, configuration files that do not answer.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};

use crate::daemon::{Daemon, session, write};
use crate::farspan::{Farspan, Ledger, binary, run, total};
use crate::judge::{Capture, tshark};
use crate::lab::{Lab, Process, await_some, await_that, succeed};
use crate::traffic;

const VXLAN: &str = "vxlan://192.0.2.2?vni=42";
const TUNNEL: &str = "udp dst port 4789";
/// The test's own frames and nothing else.
const ONLY_OURS: &str = "select.filter = \"udp dst port 9\"\n";
/// The smallest pipe there is.
const SMALL_PIPE: i32 = 4096;

/// A pipe of 4096 bytes.
fn small_pipe() -> (io::PipeReader, OwnedFd) {
    let (reader, writer) = io::pipe().expect("a pipe");
    fcntl(writer.as_fd(), FcntlArg::F_SETPIPE_SZ(SMALL_PIPE)).expect("a pipe can be small");
    (reader, writer.into())
}

fn frames(numbers: std::ops::Range<u32>) -> Vec<Vec<u8>> {
    numbers.map(|number| traffic::udp_frame(number, 16, 300)).collect()
}

fn signal(process: u32, signal: &str) {
    succeed(Command::new("kill").args([&format!("-{signal}"), &process.to_string()]));
}

/// The daemon of a lab whose output goes elsewhere than the lab's own daemon's.
struct Quiet {
    process: Process,
    ledgers: PathBuf,
    socket: PathBuf,
}

impl Quiet {
    /// Starts it on the tapped host, with `standard_error`, and waits until its control socket answers.
    fn start(lab: &Lab, configuration: &str, standard_error: Stdio) -> Self {
        let (ledgers, socket) = (lab.path("ledgers.json"), lab.path("control.sock"));
        let mut command = lab.host.command(binary());
        command.env("FARSPAN_CONTROL__SOCKET", &socket).args(["run", "--json", "-C"]).arg(write(lab, configuration));
        command.stdout(File::create(&ledgers).expect("the folder is writable")).stderr(standard_error);
        let quiet = Self { process: Process::start(command), ledgers, socket };
        await_that("the daemon to answer", || quiet.status().is_some_and(|said| said.contains("running for")));
        quiet
    }

    /// What `farspan status` prints, if the daemon answers.
    fn status(&self) -> Option<String> {
        let answer = run(Command::new(binary()).arg("status").arg("--socket").arg(&self.socket));
        answer.status.success().then(|| String::from_utf8_lossy(&answer.stdout).into_owned())
    }

    fn stop(mut self, session: &str) -> (ExitStatus, Ledger) {
        signal(self.process.id(), "TERM");
        let status = await_some("the daemon to end after SIGTERM", || self.process.ended());
        let printed = fs::read_to_string(&self.ledgers).expect("the daemon has printed");
        let ledgers: serde_json::Value =
            serde_json::from_str(&printed).unwrap_or_else(|why| panic!("{why}: {printed}"));
        (status, Ledger::lawful(&ledgers[session].to_string()))
    }
}

/// A3: exactly the attack. The judges are curl, a capture at the analyzer and the exit code.
#[test]
#[ignore = "needs root: run scripts/test"]
fn a03_a_log_that_nobody_reads_stops_neither_the_daemon_nor_the_mirror() {
    let lab = Lab::with_underlay_mtu(1600);
    let (reader, writer) = small_pipe();
    let arriving = Capture::start(&lab, &lab.analyzer, "a0", TUNNEL);
    let metrics = "[metrics]\nlisten = \"127.0.0.1:9469\"\n";
    let configuration = [metrics, &session("dmz", "h0", VXLAN), ONLY_OURS].concat();
    let daemon = Quiet::start(&lab, &configuration, writer.into());
    for _ in 0..60 {
        signal(daemon.process.id(), "HUP");
        thread::sleep(Duration::from_millis(100));
    }
    await_that("60 reloads", || daemon.status().is_some_and(|said| said.contains("reloaded")));
    lab.host.run("curl -sS --fail --max-time 30 http://127.0.0.1:9469/healthz");
    lab.host.run("ip link set h0 down");
    thread::sleep(Duration::from_millis(1500));
    lab.host.run("ip link set h0 up");
    lab.host.await_link("h0");
    lab.client.await_link("c0");
    traffic::send(&lab, &frames(0..1499), "--pps=1000");
    arriving.await_frames(1499);
    let page = lab.host.run("curl -sS --fail --max-time 30 http://127.0.0.1:9469/metrics");
    assert!(page.contains("\nfarspan_log_lines_dropped_total "), "{page}");
    let (status, ledger) = daemon.stop("dmz");
    assert!(status.success(), "{status}");
    assert_eq!(ledger.captured + ledger.kernel_dropped, 1499, "{ledger:#?}");
    assert_eq!(ledger.only().sent, 1499, "{ledger:#?}");
    assert_eq!(tshark::count(&arriving.stop(), "vxlan"), 1499);
    drop(reader);
}

/// A3: the log overflows, and its counter says so. The judges are curl and a capture at the analyzer.
#[test]
#[ignore = "needs root: run scripts/test"]
fn a03_log_lines_that_nobody_reads_are_counted_and_no_frame_is_lost() {
    let lab = Lab::with_underlay_mtu(1600);
    let (reader, writer) = small_pipe();
    let arriving = Capture::start(&lab, &lab.analyzer, "a0", TUNNEL);
    let metrics = "[metrics]\nlisten = \"127.0.0.1:9469\"\n";
    let configuration = [metrics, &session("dmz", "h0", VXLAN), ONLY_OURS].concat();
    let daemon = Quiet::start(&lab, &configuration, writer.into());
    let dropped = || -> u64 {
        let page = lab.host.run("curl -sS --fail --max-time 5 http://127.0.0.1:9469/metrics");
        let count = page.lines().find_map(|line| line.strip_prefix("farspan_log_lines_dropped_total "));
        count.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("a number: {page}"))
    };
    assert_eq!(dropped(), 0);
    // A reload that fails names every mistake.
    let mistakes = (0..2000).map(|number| format!("no_such_key_{number} = 1")).collect::<Vec<_>>().join("\n") + "\n";
    write(&lab, &[&mistakes, &configuration[..]].concat());
    let mut sent = 0;
    await_that("a counter that rises", || {
        signal(daemon.process.id(), "HUP");
        traffic::send(&lab, &frames(sent..sent + 50), "--pps=1000");
        sent += 50;
        dropped() > 0
    });
    arriving.await_frames(sent as usize);
    let (status, ledger) = daemon.stop("dmz");
    assert!(status.success(), "{status}");
    assert_eq!((ledger.captured, ledger.only().sent), (u64::from(sent), u64::from(sent)), "{ledger:#?}");
    drop(reader);
}

/// The ledgers of many sessions are larger than the pipe, whose reader begins late and reads little by little.
#[test]
#[ignore = "needs root: run scripts/test"]
fn a03_a_slow_reader_gets_the_whole_result_and_one_that_reads_nothing_does_not_keep_the_end() {
    const SESSIONS: usize = 40;
    let lab = Lab::new();
    let capture = lab.write("one.pcap", traffic::capture_file(&frames(0..1)));
    let one = |number| {
        format!(
            "[session.s{number}]\nsource.file = \"{}\"\ndestination.out.to = \"pcap:{}\"\n",
            capture.display(),
            lab.path(&format!("s{number}.pcap")).display()
        )
    };
    let configuration: String = (0..SESSIONS).map(one).collect();
    for reads in [true, false] {
        let (mut reader, writer) = small_pipe();
        let mut command = lab.host.command(binary());
        command.env("FARSPAN_CONTROL__SOCKET", lab.path("control.sock"));
        command.args(["run", "--json", "-C"]).arg(write(&lab, &configuration)).stdout(writer);
        let log = lab.path("daemon.log");
        command.stderr(File::create(&log).expect("the folder is writable"));
        let mut daemon = Process::start(command);
        await_that("the start line", || fs::read_to_string(&log).is_ok_and(|said| said.contains("farspan: running ")));
        signal(daemon.id(), "TERM");
        let mut printed = Vec::new();
        if reads {
            let mut piece = [0; 1000];
            loop {
                match reader.read(&mut piece).expect("a pipe can be read") {
                    0 => break,
                    length => printed.extend_from_slice(&piece[..length]),
                }
                thread::sleep(Duration::from_millis(5));
            }
        }
        let status = await_some("the daemon to end", || daemon.ended());
        let said = fs::read_to_string(&log).unwrap_or_default();
        if reads {
            assert!(status.success(), "{status}\n{said}");
            let ledgers: serde_json::Value = serde_json::from_slice(&printed).expect("the whole JSON");
            assert_eq!(ledgers.as_object().map(serde_json::Map::len), Some(SESSIONS));
        } else {
            assert_eq!(status.code(), Some(1), "{said}");
            assert!(said.contains("the result was not printed"), "{said}");
        }
    }
}

/// O6 and A16: signals whose default action ends a process.
#[test]
#[ignore = "needs root: run scripts/test"]
fn a16_a_foreground_session_lives_through_signals_prints_at_usr1_and_ends_in_order_at_hup_and_quit() {
    for last in ["HUP", "QUIT"] {
        let lab = Lab::new();
        let file = lab.path("all.pcapng");
        let to = format!("pcap:{}", file.display());
        let mirror = Farspan::mirror(&lab, &["-i", "h0", "--to", &to, "udp dst port 9"]);
        let printed = || fs::read_to_string(lab.path("mirror.json")).unwrap_or_default();
        traffic::send(&lab, &frames(0..300), "--pps=3000");
        let mut asked = 0;
        await_that("300 frames in the ledger that SIGUSR1 asks for", || {
            let printed = printed();
            // One ledger for each signal: none is under way when the session is told to end.
            if printed.lines().count() < asked {
                return false;
            }
            let has_all = printed.lines().last().is_some_and(|line| line.contains("\"captured\":300"));
            if !has_all {
                signal(mirror.id(), "USR1");
                asked += 1;
            }
            has_all
        });
        for harmless in
            ["USR2", "ALRM", "VTALRM", "PROF", "IO", "PWR", "STKFLT", "XCPU", "XFSZ", "PIPE", "TTOU", "34", "64"]
        {
            signal(mirror.id(), harmless);
        }
        traffic::send(&lab, &frames(300..499), "--pps=3000");
        lab.await_tapped("h0", 499);
        let before = printed().lines().count();
        let mut process = mirror.into_process();
        signal(process.id(), last);
        let status = await_some("the session to end", || process.ended());
        assert_eq!((status.code(), status.signal()), (Some(0), None), "after SIG{last}");
        let printed = printed();
        assert_eq!(printed.lines().count(), before + 1, "{printed}");
        let ledger = Ledger::lawful(printed.lines().last().expect("a ledger"));
        ledger.assert_lossless();
        assert_eq!((ledger.captured, tshark::count(&file, "udp.dstport == 9")), (499, 499));
    }
}

/// A signal set of proc(5), `SigBlk` and its like.
fn signals_of(process: u32, set: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(set)).unwrap_or_default();
    u64::from_str_radix(line.trim_start_matches(':').trim(), 16).unwrap_or(0)
}

/// A16: a session that is being opened, here because its pipe gives nothing, and one that nohup started.
#[test]
fn a16_an_early_hup_ends_in_order_and_under_nohup_it_is_ignored() {
    const HUP: u64 = 1;
    const TERM: u64 = 1 << 14;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let to = format!("pcap:{}", folder.path().join("out.pcap").display());
    let start = |mut command: Command, ledger: &Path| {
        let (reader, writer) = io::pipe().expect("a pipe");
        command.args(["mirror", "--json", "-r", "-", "--to", &to]).stderr(Stdio::null());
        command.stdout(File::create(ledger).expect("the folder is writable"));
        (Process::start_reading(command, reader.into()), writer)
    };
    let ledger = folder.path().join("ledger");
    let (mut early, _nothing_comes) = start(Command::new(binary()), &ledger);
    await_that("it to wait for signals", || {
        (signals_of(early.id(), "SigBlk") | signals_of(early.id(), "SigCgt")) & HUP != 0
    });
    signal(early.id(), "HUP");
    let status = await_some("the session to end", || early.ended());
    assert_eq!((status.code(), status.signal()), (Some(0), None));
    let printed = fs::read_to_string(&ledger).expect("there is a ledger");
    assert_eq!(Ledger::lawful(&printed).captured, 0);

    let mut nohup = Command::new("nohup");
    nohup.arg(binary());
    let (mut kept, _nothing_comes) = start(nohup, &ledger);
    await_that("it to hear signals", || signals_of(kept.id(), "SigCgt") & TERM != 0);
    signal(kept.id(), "HUP");
    assert_ne!(signals_of(kept.id(), "SigIgn") & HUP, 0, "what nohup ignores stays ignored");
    signal(kept.id(), "TERM");
    let status = await_some("the session to end", || kept.ended());
    assert_eq!((status.code(), status.signal()), (Some(0), None));
}

/// A5: SIGXFSZ ends nothing: the limit is the file's `write_failed`, and the tunnel beside it loses nothing.
#[test]
#[ignore = "needs root: run scripts/test"]
fn a05_a_limit_of_file_sizes_costs_one_destination_frames_and_ends_no_session() {
    let lab = Lab::with_underlay_mtu(1600);
    let file = lab.path("limited.pcapng");
    let arriving = Capture::start(&lab, &lab.analyzer, "a0", TUNNEL);
    let both = [
        session("tunnel", "h0", VXLAN),
        ONLY_OURS.to_owned(),
        session("record", "h0", &format!("pcap:{}", file.display())),
        ONLY_OURS.to_owned(),
    ];
    let mut command = lab.host.command("prlimit");
    command.args(["--fsize=65536", "--"]).arg(binary()).args(["run", "--json", "-C"]).arg(write(&lab, &both.concat()));
    let daemon = Daemon::start_command(&lab, command);
    traffic::send(&lab, &frames(0..1000), "--pps=2000");
    arriving.await_frames(1000);
    daemon.await_words("cannot write the capture file");
    let ledgers = daemon.stop();
    let (tunnel, record) = (&ledgers["tunnel"], &ledgers["record"]);
    tunnel.assert_lossless();
    assert_eq!(tunnel.captured, 1000, "{tunnel:#?}");
    let account = record.only();
    assert_eq!(account.dropped.get("write_failed"), Some(&total(&account.dropped)), "{record:#?}");
    assert_eq!(account.sent + total(&account.dropped), 1000, "{record:#?}");
    assert_eq!(tshark::count(&file, "udp.dstport == 9") as u64, account.sent, "whole records, as many as were sent");
}

/// A10: a pipe in the configuration's place gives nothing, like a file on a disk that hangs.
#[test]
#[ignore = "needs root: run scripts/test"]
fn a10_a_configuration_that_gives_nothing_fails_the_reload_and_keeps_nothing_else() {
    let lab = Lab::with_underlay_mtu(1600);
    let arriving = Capture::start(&lab, &lab.analyzer, "a0", TUNNEL);
    let configuration = [&session("dmz", "h0", VXLAN), ONLY_OURS].concat();
    let daemon = Quiet::start(&lab, &configuration, Stdio::null());
    let file = lab.path("farspan.toml");
    for place in ["farspan.toml", "conf.d/10-pipe.toml"] {
        fs::create_dir_all(lab.path("conf.d")).expect("the folder is writable");
        let pipe = lab.path(place);
        let _ = fs::remove_file(&pipe);
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).expect("a pipe");
        let mut reload = Command::new(binary());
        reload.args(["reload", "--socket"]).arg(&daemon.socket).stdin(Stdio::null());
        let reload = reload.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("farspan can be run");
        // It is under way now, or has failed: both let the daemon answer.
        for _ in 0..5 {
            let mut status = Command::new("timeout");
            status.arg("5").arg(binary()).arg("status").arg("--socket").arg(&daemon.socket);
            assert!(run(&mut status).status.success(), "status answers while {place} is read");
            thread::sleep(Duration::from_millis(100));
        }
        let reload = reload.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&reload.stderr);
        assert_eq!(reload.status.code(), Some(78), "{said}");
        assert!(said.contains("was not read within") && said.contains(place), "{said}");
        fs::remove_file(&pipe).expect("the folder is writable");
        write(&lab, &configuration);
    }
    traffic::send(&lab, &frames(0..500), "--pps=2000");
    arriving.await_frames(500);
    fs::remove_file(&file).expect("the folder is writable");
    nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRUSR).expect("a pipe");
    signal(daemon.process.id(), "HUP");
    let (status, ledger) = daemon.stop("dmz");
    assert!(status.success(), "{status}");
    ledger.assert_lossless();
    assert_eq!(ledger.captured, 500);

    let start = run(Command::new("timeout").arg("20").arg(binary()).args(["run", "-C"]).arg(&file));
    let said = String::from_utf8_lossy(&start.stderr);
    assert_eq!(start.status.code(), Some(78), "{said}");
    assert!(said.contains("was not read within") && said.contains("hint: "), "{said}");
}

/// A11: as a `ConfigMap` of Kubernetes or a deployment with releases has it, under Landlock.
#[test]
#[ignore = "needs root: run scripts/test"]
fn a11_a_configuration_behind_links_is_read_again_when_they_lead_elsewhere() {
    let lab = Lab::with_underlay_mtu(1600);
    let link = |target: &str, name: &str| {
        let new = lab.path("link.new");
        std::os::unix::fs::symlink(target, &new).expect("the folder is writable");
        fs::rename(new, lab.path(name)).expect("the folder is writable");
    };
    for (release, vni) in [("1", 42), ("2", 43)] {
        let folder = lab.path(&format!("releases/{release}/conf.d"));
        fs::create_dir_all(&folder).expect("the folder is writable");
        let text = session("dmz", "h0", &format!("vxlan://192.0.2.2?vni={vni}"));
        fs::write(folder.join("../farspan.toml"), text).expect("the folder is writable");
        fs::write(folder.join("10.toml"), ["[session.dmz]\n", ONLY_OURS].concat()).expect("the folder is writable");
    }
    link("1", "releases/current");
    fs::create_dir(lab.path("etc")).expect("the folder is writable");
    link("../releases/current/farspan.toml", "etc/farspan.toml");
    link("../releases/current/conf.d", "etc/conf.d");
    let mut command = lab.host.command(binary());
    command.args(["run", "--json", "-C"]).arg(lab.path("etc/farspan.toml"));
    let daemon = Daemon::start_command(&lab, command);
    let arriving = Capture::start(&lab, &lab.analyzer, "a0", TUNNEL);
    link("2", "releases/current");
    daemon.signal("HUP");
    daemon.await_words("reloaded: changed dmz");
    traffic::send(&lab, &frames(0..100), "--pps=2000");
    arriving.await_frames(100);
    daemon.stop()["dmz"].assert_lossless();
    assert_eq!(tshark::count(&arriving.stop(), "vxlan.vni == 43"), 100);
}

/// A9: each arrangement in which somebody else decides what a command of root reads.
#[test]
#[ignore = "needs root: run scripts/test"]
fn a09_a_configuration_that_others_may_change_is_refused_by_every_command() {
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
    const NOBODY: u32 = 65_534;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| folder.path().join(name);
    let text = "[session.a]\nsource.interface = \"lo\"\ndestination.b.to = \"pcap:/dev/null\"\n";
    let make = |name: &str, mode: u32, owner: u32| {
        fs::create_dir_all(at(name)).expect("the folder is writable");
        fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).expect("root may");
        chown(at(name), Some(owner), None).expect("root may");
    };
    let put = |name: &str, mode: u32, owner: u32| {
        fs::write(at(name), text).expect("the folder is writable");
        fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).expect("root may");
        chown(at(name), Some(owner), None).expect("root may");
    };
    let mut arrangements = Vec::new();
    for (name, mode, owner) in [("everybody", 0o777, 0), ("foreign", 0o755, NOBODY)] {
        // A directory above the file's own.
        make(name, 0o755, 0);
        make(&format!("{name}/sub"), 0o755, 0);
        put(&format!("{name}/sub/f.toml"), 0o644, 0);
        make(name, mode, owner);
        arrangements.push(format!("{name}/sub/f.toml"));
        // A link to a file of root there.
        make(&format!("{name}-link"), 0o755, 0);
        symlink(format!("../{name}/sub/f.toml"), at(&format!("{name}-link/f.toml"))).expect("the folder is writable");
        arrangements.push(format!("{name}-link/f.toml"));
        // Drop-ins that are links there, and a directory of drop-ins that is one.
        make(&format!("{name}-drop/conf.d"), 0o755, 0);
        put(&format!("{name}-drop/f.toml"), 0o644, 0);
        symlink(at(name).join("sub/f.toml"), at(&format!("{name}-drop/conf.d/1.toml")))
            .expect("the folder is writable");
        arrangements.push(format!("{name}-drop/f.toml"));
        make(&format!("{name}-drops"), 0o755, 0);
        put(&format!("{name}-drops/f.toml"), 0o644, 0);
        symlink(at(name).join("sub"), at(&format!("{name}-drops/conf.d"))).expect("the folder is writable");
        arrangements.push(format!("{name}-drops/f.toml"));
    }
    // The file itself, and a link of somebody else in a sticky directory.
    make("own", 0o755, 0);
    put("own/written.toml", 0o666, 0);
    put("own/foreign.toml", 0o666, NOBODY);
    put("own/good.toml", 0o644, 0);
    make("sticky", 0o1777, 0);
    symlink("../own/good.toml", at("sticky/f.toml")).expect("the folder is writable");
    std::os::unix::fs::lchown(at("sticky/f.toml"), Some(NOBODY), None).expect("root may");
    arrangements.extend(["own/written.toml", "own/foreign.toml", "sticky/f.toml"].map(str::to_owned));
    for command in ["run", "mirror", "check"] {
        for arrangement in &arrangements {
            let tried = run(Command::new("timeout").arg("20").arg(binary()).args([command, "-C"]).arg(at(arrangement)));
            let said = String::from_utf8_lossy(&tried.stderr);
            assert_eq!(tried.status.code(), Some(78), "{command} -C {arrangement}: {said}");
            let why = said.contains("may write to the configuration") || said.contains("belongs to nobody");
            assert!(why && said.contains("hint: "), "{command} -C {arrangement}: {said}");
        }
    }
    let good = run(Command::new(binary()).args(["check", "-C"]).arg(at("own/good.toml")));
    assert_ne!(good.status.code(), Some(78), "{}", String::from_utf8_lossy(&good.stderr));
}

/// A15 and A21: names that a tenant chooses, one with the escape sequence that sets a terminal's title, one that is no UTF-8.
#[test]
#[ignore = "needs root: run scripts/test"]
fn a15_a21_strange_interface_names_are_escaped_and_keep_no_other_from_being_mirrored() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    let lab = Lab::with_underlay_mtu(1600);
    for (number, name) in [b"hx\x1b]0;P\x07".as_slice(), b"hx\xff\xfe".as_slice()].into_iter().enumerate() {
        let mut add = lab.host.command("ip");
        add.args(["link", "add", "name"]).arg(OsStr::from_bytes(name));
        succeed(add.args(["type", "veth", "peer", "name", &format!("peer{number}")]));
        let mut up = lab.host.command("ip");
        succeed(up.args(["link", "set", "dev"]).arg(OsStr::from_bytes(name)).args(["addrgenmode", "none", "up"]));
        lab.host.run(&format!("ip link set peer{number} addrgenmode none up"));
    }
    let assert_plain = |what: &str, said: &[u8], name: &str| {
        let text = String::from_utf8_lossy(said);
        assert!(text.contains(name), "{what}: {text}");
        assert!(said.iter().all(|&byte| byte >= b' ' && byte != 0x7f || byte == b'\n'), "{what}: {text:?}");
    };
    let escaped = r"hx\x1b]0;P\x07";
    let arriving = Capture::start(&lab, &lab.analyzer, "a0", TUNNEL);
    let to = "vxlan://192.0.2.2?vni=42";
    let mirror = Farspan::mirror(&lab, &["-i", "h0", "-i", "hx*", "--to", to, "udp dst port 9"]);
    traffic::send(&lab, &frames(0..100), "--pps=2000");
    arriving.await_frames(100);
    let said = mirror.log();
    assert_plain("the start line", said.as_bytes(), escaped);
    assert!(said.contains("its name is no UTF-8"), "{said}");
    mirror.stop().assert_lossless();

    let check = run(lab.host.command(binary()).args(["check", "-i", "hx*", "--to", to]));
    assert_plain("check", &check.stdout, escaped);
    let configuration = session("dmz", "hx*", to);
    let daemon = Daemon::start(&lab, &configuration);
    let status = await_some("the interface in the status", || {
        let status = run(Command::new(binary()).arg("status").arg("--socket").arg(lab.path("control.sock")));
        status.stdout.windows(3).any(|bytes| bytes == b"hx\\").then_some(status)
    });
    assert_plain("status", &status.stdout, escaped);
    daemon.stop();
}

/// A22: the number behind the largest one. The judge is the folder, and tshark.
#[test]
fn a22_a_file_with_the_largest_number_does_not_make_a_series_begin_again_at_zero() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let capture = folder.path().join("one.pcap");
    fs::write(&capture, traffic::capture_file(&frames(0..7))).expect("the folder is writable");
    for number in ["18446744073709551615", "000003"] {
        fs::write(folder.path().join(format!("m-{number}.pcap")), "").expect("the folder is writable");
    }
    let to = format!("pcap:{}?rotate_size=64KiB", folder.path().join("m-{number}.pcap").display());
    let mirror = run(Command::new(binary()).args(["mirror", "-r"]).arg(&capture).args(["--to", &to]));
    assert!(mirror.status.success(), "{}", String::from_utf8_lossy(&mirror.stderr));
    assert_eq!(tshark::count(&folder.path().join("m-000004.pcap"), "udp"), 7);
    assert!(!folder.path().join("m-000000.pcap").exists());
}

/// A20: the `config` crate descends a level for each part of a variable's name.
#[test]
fn a20_an_environment_that_nests_tables_deeply_is_refused() {
    let deep = format!("FARSPAN_{}", vec!["A"; 40_000].join("__"));
    for command in ["run", "check"] {
        let tried = run(Command::new(binary()).args([command, "-C", "/dev/null"]).env(&deep, "1"));
        let said = String::from_utf8_lossy(&tried.stderr);
        assert_eq!((tried.status.code(), tried.status.signal()), (Some(78), None), "{said}");
        assert!(said.contains("is no key of the configuration") && said.len() < 2000, "{said}");
    }
}

/// A program that is asked for every opening of a file (fanotify(7), `FAN_OPEN_PERM`) and never answers: to whoever opens it,
/// the file is on a disk that hangs.
const HANGING_DISK: &str = r#"
import ctypes, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
FAN_CLASS_CONTENT, FAN_MARK_ADD, FAN_OPEN_PERM, AT_FDCWD = 4, 1, 0x10000, -100
group = libc.fanotify_init(FAN_CLASS_CONTENT, os.O_RDONLY)
marked = libc.fanotify_mark(group, FAN_MARK_ADD, ctypes.c_uint64(FAN_OPEN_PERM), AT_FDCWD, sys.argv[1].encode())
assert group >= 0 and marked == 0, os.strerror(ctypes.get_errno())
print("hangs", flush=True)
time.sleep(120)
"#;

/// A10: the file itself does not answer.
#[test]
#[ignore = "needs root: run scripts/test"]
fn a10_a_configuration_on_a_disk_that_hangs_keeps_neither_status_nor_the_end() {
    let lab = Lab::with_underlay_mtu(1600);
    let arriving = Capture::start(&lab, &lab.analyzer, "a0", TUNNEL);
    let daemon = Quiet::start(&lab, &[&session("dmz", "h0", VXLAN), ONLY_OURS].concat(), Stdio::null());
    let said = lab.path("disk.log");
    let mut disk = Command::new("python3");
    disk.args(["-c", HANGING_DISK]).arg(lab.path("farspan.toml"));
    let disk = Process::start({
        disk.stdout(File::create(&said).expect("the folder is writable"));
        disk
    });
    await_that("the disk to hang", || fs::read_to_string(&said).is_ok_and(|said| said.contains("hangs")));
    let mut reload = Command::new(binary());
    reload.args(["reload", "--socket"]).arg(&daemon.socket).stdin(Stdio::null());
    let reload = reload.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("farspan can be run");
    // More requests come than are carried out.
    (0..20).for_each(|_| signal(daemon.process.id(), "HUP"));
    traffic::send(&lab, &frames(0..500), "--pps=2000");
    arriving.await_frames(500);
    for _ in 0..5 {
        let mut status = Command::new("timeout");
        let status = run(status.arg("5").arg(binary()).arg("status").arg("--socket").arg(&daemon.socket));
        assert!(status.status.success(), "status answers while the disk hangs");
    }
    let reload = reload.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&reload.stderr);
    assert_eq!(reload.status.code(), Some(78), "{said}");
    assert!(said.contains("could not be read within 10 s"), "{said}");
    let threads = fs::read_dir(format!("/proc/{}/task", daemon.process.id())).expect("the daemon runs").flatten();
    let names = threads.filter_map(|thread| fs::read_to_string(thread.path().join("comm")).ok());
    let reading = names.filter(|name| name.trim() == "configuration").count();
    assert!(reading <= 1, "{reading} threads wait for the disk");
    // The signals that came meanwhile are one request.
    drop(disk);
    let again = run(Command::new(binary()).args(["reload", "--socket"]).arg(&daemon.socket));
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    let (status, ledger) = daemon.stop("dmz");
    assert!(status.success(), "{status}");
    ledger.assert_lossless();
    assert_eq!(ledger.captured, 500);
}
