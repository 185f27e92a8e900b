//! `farspan run`: several sessions of one configuration, isolated from each other, changed while they run.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::thread;
use std::time::Duration;

use crate::farspan::{Farspan, Ledger, binary, engine, total};
use crate::judge::{Capture, KernelVxlan, frames_of, tshark};
use crate::lab::{Disturbed, HOST, Lab, Process, await_some, await_that, succeed, undisturbed};
use crate::traffic;

/// A running `farspan run`, whose configuration is a file in the lab's folder.
pub struct Daemon {
    process: Process,
    ledgers: PathBuf,
    log: PathBuf,
}

impl Daemon {
    /// Starts it on the tapped host and waits until it is ready.
    pub fn start(lab: &Lab, configuration: &str) -> Self {
        Self::start_with(lab, configuration, &[])
    }

    /// The same with these environment variables.
    pub fn start_with(lab: &Lab, configuration: &str, environment: &[(&str, &str)]) -> Self {
        let mut command = lab.host.command(binary());
        // The default control socket may be in use, by a daemon of this host or by another test's.
        command.env("FARSPAN_CONTROL__SOCKET", lab.path("control.sock"));
        command.args(["run", "--json", "-C"]).arg(write(lab, configuration)).envs(environment.iter().copied());
        Self::start_command(lab, command)
    }

    /// The same for whom `hosts` is /etc/hosts.
    fn start_knowing(lab: &Lab, configuration: &str, hosts: &Path) -> Self {
        // `ip netns exec` gives each program mounts of its own.
        let mut command = lab.host.command("sh");
        command.args(["-c", "mount --bind \"$0\" /etc/hosts && exec \"$@\""]).arg(hosts).arg(binary());
        command.args(["run", "--json", "-C"]).arg(write(lab, configuration));
        Self::start_command(lab, command)
    }

    /// Starts a command that becomes `farspan run --json`, and waits until it is ready.
    pub fn start_command(lab: &Lab, mut command: Command) -> Self {
        const CONTROL: &str = "FARSPAN_CONTROL__SOCKET";
        let (ledgers, log) = (lab.path("ledgers.json"), lab.path("daemon.log"));
        // The default one may be in use, by a daemon of this host or by another test's.
        if command.get_envs().all(|(name, _)| name != CONTROL) {
            command.env(CONTROL, lab.path("control.sock"));
        }
        command
            .stdout(File::create(&ledgers).expect("the folder is writable"))
            .stderr(File::create(&log).expect("the folder is writable"));
        let mut daemon = Self { process: Process::start(command), ledgers, log };
        await_that("the daemon's start line", || {
            if let Some(status) = daemon.process.ended() {
                panic!("the daemon ended at once: {status}\n{}", daemon.log());
            }
            daemon.log().contains("farspan: running ")
        });
        daemon
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// What it said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until it has said this.
    pub fn await_words(&self, words: &str) {
        let said = || self.log().contains(words);
        await_that(&format!("the daemon to say \"{words}\" in {}", self.log.display()), said);
    }

    /// Gives it another configuration and waits for what it says to that.
    pub fn reload(&self, lab: &Lab, configuration: &str, answer: &str) {
        write(lab, configuration);
        let before = self.log().matches(answer).count();
        self.signal("HUP");
        await_that(&format!("\"{answer}\" in {}", self.log.display()), || self.log().matches(answer).count() > before);
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: &str) {
        succeed(Command::new("kill").args([&format!("-{signal}"), &self.id().to_string()]));
    }

    /// Ends it with SIGTERM and returns the ledger of each session, all of them lawful.
    pub fn stop(self) -> BTreeMap<String, Ledger> {
        let log = self.log.clone();
        let (status, ledgers) = self.stop_anyhow();
        assert!(status.success(), "the daemon ended with {status}\n{}", fs::read_to_string(log).unwrap_or_default());
        ledgers
    }

    /// The same however it ends: its status too.
    pub fn stop_anyhow(mut self) -> (ExitStatus, BTreeMap<String, Ledger>) {
        self.signal("TERM");
        let status = await_some("the daemon to end after SIGTERM", || self.process.ended());
        let printed = fs::read_to_string(&self.ledgers).unwrap_or_default();
        let by_session: BTreeMap<String, serde_json::Value> =
            serde_json::from_str(&printed).unwrap_or_else(|why| panic!("no ledgers: {why}\n{printed}\n{}", self.log()));
        let lawful = |(name, ledger): (String, serde_json::Value)| (name, Ledger::lawful(&ledger.to_string()));
        (status, by_session.into_iter().map(lawful).collect())
    }
}

/// A socket in systemd's place, and its path for `NOTIFY_SOCKET`.
pub fn systemd(lab: &Lab) -> (UnixDatagram, String) {
    let path = lab.path("notify").display().to_string();
    let socket = UnixDatagram::bind(&path).expect("a socket of the test");
    socket.set_read_timeout(Some(Duration::from_secs(30))).expect("a socket has a timeout");
    (socket, path)
}

/// The next thing that systemd is told and that contains `wanted`.
pub fn told(socket: &UnixDatagram, wanted: &str) -> String {
    let mut buffer = [0; 4096];
    // The signs of life never end.
    for _ in 0..100 {
        let length = socket.recv(&mut buffer).unwrap_or_else(|why| panic!("nothing says {wanted}: {why}"));
        let told = String::from_utf8_lossy(&buffer[..length]).into_owned();
        if told.contains(wanted) {
            return told;
        }
    }
    panic!("nothing says {wanted}");
}

/// Writes the configuration of a lab's daemon.
pub fn write(lab: &Lab, configuration: &str) -> PathBuf {
    let file = lab.path("farspan.toml");
    // As a careful editor does: nobody reads half a file.
    fs::rename(lab.write("farspan.toml.new", configuration), &file).expect("the folder is writable");
    file
}

/// A session that mirrors `interface` to `to`.
pub fn session(name: &str, interface: &str, to: &str) -> String {
    let engine = engine().get(1).map_or_else(String::new, |engine| format!("source.engine = \"{engine}\"\n"));
    format!("[session.{name}]\nsource.interface = \"{interface}\"\n{engine}destination.ids.to = \"{to}\"\n")
}

const VXLAN_42: &str = "vxlan://192.0.2.2?vni=42";

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_session_without_its_interface_waits_for_it_and_the_other_does_not_notice() {
    let lab = Lab::with_underlay_mtu(1600);
    let delivered = KernelVxlan::start(&lab, 42, false);
    let late = Capture::start(&lab, &lab.analyzer, "a0", "ip proto 47");
    let daemon =
        Daemon::start(&lab, &[session("good", "h0", VXLAN_42), session("late", "late0", "gre://192.0.2.2")].concat());
    daemon.await_words("there is no interface `late0`");
    let frames: Vec<_> = (0..500).map(|number| traffic::udp_frame(number, 4, 200)).collect();
    traffic::send(&lab, &frames, "--pps=2000");
    await_that("every frame", || traffic::of_stranger(delivered.frames()).len() >= frames.len());

    lab.host.run("ip link add late0 type veth peer name late1");
    lab.host.run("ip link set late1 addrgenmode none up");
    lab.host.run("ip link set late0 addrgenmode none up");
    let one = [traffic::udp_frame(7, 1, 300)];
    await_that("a frame of the late interface", || {
        traffic::send_from(&lab, &lab.host, "late1", &one, "--pps=100");
        !late.frames().is_empty()
    });
    let ledgers = daemon.stop();
    ledgers["good"].assert_lossless();
    assert!(ledgers["good"].captured >= 500 && ledgers["late"].captured > 0, "{ledgers:#?}");
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn an_analyzer_whose_name_gets_another_address_is_followed_without_a_gap() {
    const FRAMES: u32 = 12_000;
    let lab = Lab::with_underlay_mtu(1600);
    lab.analyzer.run("ip address add 192.0.2.3/24 dev a0");
    let hosts = lab.write("hosts", "192.0.2.2 ids.example\n");
    let arriving = Capture::start(&lab, &lab.analyzer, "a0", "udp dst port 4789");
    let daemon = Daemon::start_knowing(&lab, &session("named", "h0", "vxlan://ids.example?vni=42&resolve=1s"), &hosts);
    let frames: Vec<_> = (0..FRAMES).map(|number| traffic::udp_frame(number, 1, 200)).collect();
    thread::scope(|scope| {
        scope.spawn(|| traffic::send(&lab, &frames, "--pps=3000"));
        arriving.await_frames(1000);
        // A name that is unknown for a while keeps its address.
        lab.write("hosts", "");
        daemon.await_words("frames still go to 192.0.2.2, its address until now");
        lab.write("hosts", "192.0.2.3 ids.example\n");
    });
    daemon.await_words("its name stands for 192.0.2.3 now; frames went to 192.0.2.2");
    arriving.await_frames(FRAMES as usize);
    let ledger = daemon.stop().remove("named").expect("the session has a ledger");
    ledger.assert_lossless();
    assert!(ledger.captured >= u64::from(FRAMES), "one account for both addresses: {ledger:#?}");
    let arrived = frames_of(&arriving.stop());
    let to = |last: u8| {
        let sent_there = arrived.iter().filter(move |frame| frame[30..34] == [192, 0, 2, last]);
        traffic::of_stranger(sent_there.map(|frame| frame[50..].to_vec()).collect())
    };
    let (before, after) = (to(2), to(3));
    assert!(before.len() >= 1000 && !after.is_empty(), "{} and {} frames", before.len(), after.len());
    assert!([before, after].concat() == frames, "each frame arrives once, in order, first there and then here");
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn counters_go_on_over_an_interface_that_was_deleted() {
    let lab = Lab::with_underlay_mtu(1600);
    let arriving = Capture::start(&lab, &lab.analyzer, "a0", "ip proto 47");
    let daemon = Daemon::start(&lab, &session("dmz", "v0", "gre://192.0.2.2?seq=on"));
    let frames = |first| (first..first + 100).map(|number| traffic::udp_frame(number, 4, 200)).collect::<Vec<_>>();
    for round in 0..2 {
        lab.host.run("ip link add v0 type veth peer name v1");
        lab.host.run("ip link set v1 addrgenmode none up");
        lab.host.run("ip link set v0 addrgenmode none up");
        let before = arriving.frames().len();
        await_that("the session to run", || {
            traffic::send_from(&lab, &lab.host, "v1", &frames(1000), "--topspeed");
            arriving.frames().len() > before
        });
        traffic::send_from(&lab, &lab.host, "v1", &frames(2000 + 100 * round), "--pps=1000");
        let last = format!("udp.dstport == 9 && frame contains {}", hex(2099 + 100 * round));
        await_that("the last frame", || tshark::count(arriving.file(), &last) == 1);
        lab.host.run("ip link delete v0");
    }
    await_that("the second end to be noticed", || daemon.log().matches("trying again").count() >= 1);
    let ledgers = daemon.stop();
    let arrived = arriving.stop();
    assert_eq!(ledgers["dmz"].only().sent, tshark::count(&arrived, "gre") as u64, "{ledgers:#?}");
    let numbers: Vec<u64> =
        tshark::values(&arrived, "gre", "gre.sequence_number").iter().map(|number| number.parse().unwrap()).collect();
    assert!(numbers.iter().zip(0..).all(|(&number, expected)| number == expected), "one series over both runs");
}

fn hex(number: u32) -> String {
    number.to_be_bytes().map(|byte| format!("{byte:02x}")).join(":")
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_file_with_a_mistake_changes_nothing_and_every_mistake_is_told() {
    let lab = Lab::with_underlay_mtu(1600);
    let delivered = KernelVxlan::start(&lab, 42, false);
    let good = session("dmz", "h0", VXLAN_42);
    let daemon = Daemon::start(&lab, &good);
    let bad = format!("{good}destination.ids.vnii = 4\nselect.filter = \"port banana\"\n[session.two]\n[limits]\n");
    daemon.reload(&lab, &bad, "not reloaded, everything runs on as it did");
    let log = daemon.log();
    assert!(log.contains("there is no key `limits` here"), "{log}");
    daemon.reload(&lab, &good.replace("ids.to", "ids.vnii = 4\ndestination.ids.to"), "there is no key `vnii` here");
    let broken = format!("{good}select.filter = \"port banana\"\n");
    daemon.reload(&lab, &broken, "not reloaded, everything runs on as it did: ");
    assert!(daemon.log().contains("session.dmz.select.filter"), "{}", daemon.log());
    let frames: Vec<_> = (0..100).map(|number| traffic::udp_frame(number, 4, 200)).collect();
    traffic::send(&lab, &frames, "--pps=2000");
    await_that("every frame", || traffic::of_stranger(delivered.frames()).len() >= frames.len());
    daemon.reload(&lab, &good, "reloaded: nothing changed; 1 session went on");
    daemon.stop()["dmz"].assert_lossless();

    for (text, code, words) in [
        ("[session.a]\nsource.interface = \"h0\"\n", 78, "no destination is given"),
        (
            "[session.a]\nsource.interface = \"h0\"\nselect.filter = \"prot 7\"\ndestination.x.to = \"pcap:x\"\n",
            78,
            "prot",
        ),
        ("]", 78, "farspan.toml:1:1"),
    ] {
        let output = crate::farspan::run(lab.host.command(binary()).args(["run", "-C"]).arg(write(&lab, text)));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(words), "{said}");
    }
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn what_two_sessions_must_not_both_have_is_a_mistake() {
    let lab = Lab::new();
    // Another namespace has interfaces of its own, whatever they are called.
    let elsewhere = [session("f", "*", "gre://192.0.2.2"), "source.netns = \"web1\"\n".to_owned()].concat();
    let text = [
        session("a", "h0", "tap:ids0"),
        session("b", "u0", "tap:ids0"),
        session("c", "ids*", "gre://192.0.2.2"),
        session("d", "h0", &format!("pcap:{}", lab.path("x.pcap").display())),
        session("e", "u0", &format!("pcap:{}", lab.path("./x.pcap").display())),
        elsewhere,
    ]
    .concat();
    let said = |command: &str| {
        let output = crate::farspan::run(lab.host.command(binary()).args([command, "-C"]).arg(write(&lab, &text)));
        assert_eq!(output.status.code(), Some(78));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    for command in ["run", "check"] {
        let said = said(command);
        for words in [
            "the sessions a and b both write to the TAP device ids0",
            "farspan.toml:6:22, session.b.destination.ids.to",
            "the session c would mirror the mirror of a: `ids*` captures on its TAP device ids0",
            "the sessions d and e both write to ",
        ] {
            assert!(said.contains(words) || !engine().is_empty(), "{words}\nis missing in\n{said}");
        }
        assert!(!said.contains("the session f would mirror"), "{said}");
    }
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn two_sessions_that_capture_the_underlay_do_not_mirror_each_other() {
    let lab = Lab::new();
    let seen = Capture::start(&lab, &lab.analyzer, "a0", "");
    let unmarked = "[tunnel]\nmark = \"off\"\n".to_owned();
    let (one, two) = (session("one", "u0", "gre://192.0.2.2?key=1"), session("two", "u0", "gre://192.0.2.2?key=2"));
    let text = [unmarked, one, two].concat();
    let daemon = Daemon::start(&lab, &text);
    lab.analyzer.run("ping -q -c 20 -i 0.02 -s 900 192.0.2.1");
    // A third one, that the others have to learn of.
    let text = format!("{text}{}", session("three", "u0", "gre://192.0.2.2?key=3"));
    daemon.reload(&lab, &text, "reloaded: added three; 2 sessions went on");
    lab.analyzer.run("ping -q -c 20 -i 0.02 -s 901 192.0.2.1");
    lab.analyzer.run("ping -q -c 1 -s 25 192.0.2.1");
    await_that("the copies of the last ping", || {
        tshark::count(seen.file(), "gre && icmp.type == 0 && ip.len == 53") >= 3
    });
    let ledgers = daemon.stop();
    let capture = seen.stop();
    assert!(ledgers.values().all(|ledger| ledger.dropped["own_traffic"] > 0), "{ledgers:#?}");
    assert_eq!(tshark::count(&capture, "gre.key#2"), 0, "no mirror is mirrored");
    for (key, pings) in [(1, 41), (2, 41), (3, 21)] {
        let requests = format!("gre.key == {key} && icmp.type == 8 && ip.proto#2 == 1");
        assert_eq!(tshark::count(&capture, &requests), pings, "session {key}");
    }
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn killed_and_started_again_it_goes_on() {
    let lab = Lab::with_underlay_mtu(1600);
    let delivered = KernelVxlan::start(&lab, 42, false);
    let text = session("dmz", "h0", VXLAN_42);
    for round in 1..=2 {
        let daemon = Daemon::start(&lab, &text);
        let frames: Vec<_> = (0..100).map(|number| traffic::udp_frame(number, 4, 200)).collect();
        traffic::send(&lab, &frames, "--pps=2000");
        await_that("every frame", || traffic::of_stranger(delivered.frames()).len() >= round * frames.len());
        if round == 1 {
            daemon.signal("KILL");
        } else {
            daemon.stop()["dmz"].assert_lossless();
        }
    }
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn systemd_is_told_of_start_reload_life_and_end() {
    let lab = Lab::new();
    let (socket, path) = systemd(&lab);
    let environment = [("NOTIFY_SOCKET", path.as_str()), ("WATCHDOG_USEC", "400000")];
    let text = session("dmz", "h0", VXLAN_42);
    let daemon = Daemon::start_with(&lab, &text, &environment);
    let next = |wanted: &str| told(&socket, wanted);
    assert!(next("READY=1").contains("STATUS=1 session: 1 running"));
    (0..3).for_each(|_| drop(next("WATCHDOG=1")));
    daemon.signal("HUP");
    let reloading = next("RELOADING=1");
    let told: u64 = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")?.parse().ok()).unwrap();
    let uptime = fs::read_to_string("/proc/uptime").unwrap();
    let now: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
    #[allow(clippy::cast_precision_loss, reason = "a test's clock")]
    let age = now - told as f64 / 1e6;
    assert!((-1.0..20.0).contains(&age), "MONOTONIC_USEC is this moment: {age}");
    next("READY=1");
    daemon.signal("TERM");
    next("STOPPING=1");
    daemon.stop();
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_changed_file_is_noticed_where_that_is_wanted() {
    let lab = Lab::new();
    let text = format!("[reload]\nwatch = true\n{}", session("dmz", "h0", VXLAN_42));
    let daemon = Daemon::start(&lab, &text);
    daemon.await_words("for changes");
    write(&lab, &format!("{text}{}", session("second", "u0", "gre://192.0.2.2")));
    daemon.await_words("reloaded: added second; 1 session went on");
    fs::create_dir(lab.path("conf.d")).unwrap();
    lab.write("conf.d/10-less.toml", "session.second.select.filter = \"tcp\"\n");
    daemon.await_words("reloaded: changed second; 1 session went on");
    assert_eq!(daemon.stop().len(), 2);
}

/// Reads a pipe so slowly that a session which ends has to give up, and steadily, so that it does so late.
const SLOW_READER: &str = "
import os, sys, time
pipe = os.open(sys.argv[1], os.O_RDONLY)
while True:
    os.read(pipe, 4096)
    time.sleep(0.3)
";

/// A daemon whose session `stuck` writes a pipe that is read slowly, beside a session `good`; and who reads the pipe.
fn hanging(lab: &Lab) -> (Daemon, Process) {
    let pipe = lab.path("pipe");
    lab.host.run(&format!("mkfifo {}", pipe.display()));
    let script = lab.write("slow.py", SLOW_READER);
    let line = format!("python3 {} {}", script.display(), pipe.display());
    let reader = lab.host.start(&line, &lab.path("slow.log"));
    let stuck = format!("{}source.buffer = \"4MiB\"\n", session("stuck", "h0", &format!("pcap:{}", pipe.display())));
    let text = [stuck, session("good", "u0", VXLAN_42)].concat();
    let daemon = Daemon::start(lab, &text);
    lab.client.run(&format!("ping -q -c 200 -i 0.002 -s 1400 {HOST}"));
    await_that("the queue in front of the pipe to be full", || {
        lab.client.run(&format!("ping -q -c 500 -i 0.002 -s 1400 {HOST}"));
        daemon.log().contains("slower than the mirror")
    });
    (daemon, reader)
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_session_that_hangs_keeps_no_other_from_its_account() {
    let lab = Lab::new();
    let (daemon, reader) = hanging(&lab);
    let ledgers = daemon.stop();
    assert!(ledgers["good"].captured < u64::MAX && total(&ledgers["good"].dropped) <= ledgers["good"].captured);
    drop(reader);
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_second_signal_does_not_wait_for_a_session_that_hangs() {
    let lab = Lab::new();
    let (daemon, reader) = hanging(&lab);
    daemon.signal("TERM");
    daemon.await_words("a second signal ends the daemon at once");
    let log = daemon.log.clone();
    let (status, ledgers) = daemon.stop_anyhow();
    let said = fs::read_to_string(log).unwrap_or_default();
    assert_eq!((status.code(), ledgers.len()), (Some(1), 2), "{said}");
    assert!(said.contains("ended before every session had"), "{said}");
    drop(reader);
}

/// Sends numbered frames, 50,000 a second, while one of two sessions is changed.
#[test]
#[ignore = "needs root: run scripts/test"]
fn a_reload_costs_an_unchanged_session_no_frame() {
    undisturbed(reload_under_traffic);
}

/// Two reloads while frames come to a session that they change, and to one that they do not.
fn reload_under_traffic(slower: u32) -> Result<(), Disturbed> {
    // Three seconds of them, or twelve where they come slowly.
    let count = 150_000 / (slower / 4).max(1);
    let lab = Lab::with_underlay_mtu(1600);
    let arrived = lab.path("arrived.pcap");
    let to = format!("pcap:{}", arrived.display());
    let receiver =
        Farspan::receive(&lab, &lab.analyzer, &["--from", "erspan2://0.0.0.0", "--buffer", "64MiB", "--to", &to]);
    let session = |name: &str, id: u32, more: &str| {
        let to = format!("erspan2://192.0.2.2?session={id}");
        format!("{}source.buffer = \"64MiB\"\nselect.filter = \"udp port 9\"\n{more}", session(name, "h0", &to))
    };
    let configuration = |more: &str| [session("kept", 1, ""), session("changed", 2, more)].concat();
    let daemon = Daemon::start(&lab, &configuration(""));
    let frames: Vec<_> = (0..count).map(|number| traffic::udp_frame(number, 16, 100)).collect();
    let file = lab.write("sent.pcap", traffic::capture_file(&frames));
    let rate = 50_000 / slower;
    let mut sender =
        lab.client.start(&format!("tcpreplay -q -i c0 --pps={rate} {}", file.display()), &lab.path("tcpreplay.log"));
    // A change of what is sent, then one of what is captured.
    await_that("the traffic to flow", || fs::metadata(&arrived).is_ok_and(|file| file.len() > 1 << 20));
    daemon.reload(&lab, &configuration("normalise.truncate = 90\n"), "reloaded: changed changed; 1 session went on");
    daemon.reload(&lab, &configuration("source.delay = \"3ms\"\n"), "reloaded: changed changed; 1 session went on");
    let ended_before = sender.ended().is_some();
    // A busy machine lets the sender have less than its rate.
    let deadline = std::time::Instant::now() + Duration::from_mins(2);
    while sender.ended().is_none() && std::time::Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(100));
    }
    await_that("the end of the traffic", || sender.ended().is_some());
    // What is left in a buffer when its session is stopped is not read for ever: a worker that others keep from its processor
    // may need long for it.
    let has_all = || {
        let mut command = lab.host.command(binary());
        command.args(["status", "--json"]).env("FARSPAN_CONTROL__SOCKET", lab.path("control.sock"));
        let view: serde_json::Value =
            serde_json::from_str(&succeed(&mut command)).expect("`status --json` prints JSON");
        let kept = view["sessions"].as_array().and_then(|all| all.iter().find(|session| session["name"] == "kept"));
        let count_of = |key: &str| kept.and_then(|kept| kept["ledger"][key].as_u64()).unwrap_or(0);
        count_of("captured") + count_of("kernel_dropped") >= u64::from(count)
    };
    let deadline = std::time::Instant::now() + Duration::from_mins(2);
    while !has_all() && std::time::Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(100));
    }
    await_that("the last frames", || {
        let size = || fs::metadata(&arrived).map_or(0, |file| file.len());
        let before = size();
        std::thread::sleep(Duration::from_secs(2));
        size() == before
    });
    if !has_all() {
        return Err(Disturbed("the session that was kept has not captured every frame within two minutes".into()));
    }
    let ledgers = daemon.stop();
    let account = receiver.stop();
    let dropped = [&ledgers["kept"], &ledgers["changed"], &account].map(|ledger| ledger.kernel_dropped);
    if ended_before || dropped != [0; 3] {
        return Err(Disturbed(format!("kernel_dropped {dropped:?}, traffic ended before the reloads: {ended_before}")));
    }
    ledgers["kept"].assert_lossless();
    assert_eq!(ledgers["kept"].captured, u64::from(count), "{ledgers:#?}");
    let kept = account.senders.iter().find(|sender| sender.id == Some(1)).expect("a stream of the kept session");
    assert_eq!((kept.received, kept.lost, kept.restarts), (u64::from(count), Some(0), 0), "{account:#?}");

    // Of the changed one: no frame is lost, and none comes twice, but for those of the very moment of the change.
    let changed: Vec<_> = account.senders.iter().filter(|sender| sender.id == Some(2)).collect();
    let came: u64 = changed.iter().map(|sender| sender.received).sum();
    // Where the host keeps a worker from its processor past that moment, those of some milliseconds: fewer at a lower pace.
    if came.abs_diff(u64::from(count)) > 1500 {
        return Err(Disturbed(format!("{came} frames of the changed session, {count} were sent: {account:#?}")));
    }
    Ok(())
}

/// How many worker threads the process has.
fn workers(process: u32) -> usize {
    let names = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    names
        .filter_map(|task| fs::read_to_string(task.path().join("comm")).ok())
        .filter(|name| name.starts_with("worker-"))
        .count()
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_reload_takes_turns_where_both_cannot_be_open() {
    let lab = Lab::with_underlay_mtu(1600);
    let arriving = Capture::start(&lab, &lab.analyzer, "a0", "udp dst port 4789");
    let one_port = session("dmz", "h0", "vxlan://192.0.2.2?vni=42&ports=50000");
    let daemon = Daemon::start(&lab, &one_port);
    let frames: Vec<_> = (0..100).map(|number| traffic::udp_frame(number, 4, 200)).collect();
    traffic::send(&lab, &frames, "--pps=2000");
    arriving.await_frames(100);
    // A session of another name with the same port, and the old one gone.
    daemon.reload(&lab, &one_port.replace("dmz", "lan"), "reloaded: added lan; removed dmz; 0 sessions went on");
    await_that("the new session to mirror", || {
        traffic::send(&lab, &frames[..1], "--pps=2000");
        arriving.frames().len() > 100
    });
    // One that cannot be opened: everything is as before.
    let broken = one_port.replace("dmz", "lan").replace("vni=42", "vni=42&device=nowhere");
    daemon.reload(&lab, &broken, "not reloaded, everything runs on as it did: ");
    let before = arriving.frames().len();
    await_that("the old session to mirror on", || {
        traffic::send(&lab, &frames[..1], "--pps=2000");
        arriving.frames().len() > before
    });
    // What had been opened for another session by then is closed again.
    let both = format!("{one_port}{}", session("other", "u0", "gre://192.0.2.2")).replace("dmz", "lan");
    daemon.reload(&lab, &both, "reloaded: added other; 1 session went on");
    await_that("a worker for each", || workers(daemon.id()) == 2);
    let broken =
        both.replace("gre://192.0.2.2", "gre://192.0.2.2?device=nowhere").replace("ids.to = \"vxlan", "b.to = \"vxlan");
    daemon.reload(&lab, &broken, "could not be opened under its new plan");
    await_that("no worker but the old ones", || workers(daemon.id()) == 2);
    let ledgers = daemon.stop();
    assert_eq!(ledgers.keys().collect::<Vec<_>>(), ["lan", "other"]);
    assert_eq!(
        tshark::count(&arriving.stop(), "udp.srcport == 50000"),
        tshark::count(&lab.path("a0.pcap"), "udp.dstport == 4789")
    );
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_reload_changes_a_tap_device_and_gives_it_to_another_session() {
    let lab = Lab::with_underlay_mtu(1600);
    let to = |name: &str, mtu: u32| {
        format!("{}select.filter = \"udp port 9\"\n", session(name, "h0", &format!("tap:ids0?mtu={mtu}")))
    };
    let daemon = Daemon::start(&lab, &to("one", 1500));
    daemon.reload(&lab, &to("one", 1400), "reloaded: changed one; 0 sessions went on");
    assert!(lab.host.run("ip -o link show ids0").contains("mtu 1400"));
    daemon.reload(&lab, &to("two", 1400), "reloaded: added two; removed one; 0 sessions went on");
    let arriving = Capture::start(&lab, &lab.host, "ids0", "udp port 9");
    let frames: Vec<_> = (0..100).map(|number| traffic::udp_frame(number, 4, 200)).collect();
    traffic::send(&lab, &frames, "--pps=2000");
    arriving.await_frames(100);
    let ledger = daemon.stop().remove("two").expect("it has a ledger");
    assert_eq!((ledger.captured, ledger.only().sent), (100, 100), "{ledger:#?}");
}
