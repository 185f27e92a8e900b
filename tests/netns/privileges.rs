//! What a process may still do once it mirrors: proc(5) tells, and frames go on arriving.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::process::Command;

use crate::daemon::{Daemon, session, write};
use crate::farspan::{Farspan, binary, run};
use crate::judge::{Capture, KernelVxlan};
use crate::lab::{Lab, await_that, succeed};
use crate::traffic;

/// Nobody, with neither groups nor capabilities.
const NOBODY: u32 = 65_534;

/// Bits of linux/capability.h.
const DAC_OVERRIDE: u64 = 1 << 1;
const NET_ADMIN: u64 = 1 << 12;
const NET_RAW: u64 = 1 << 13;
const IPC_LOCK: u64 = 1 << 14;
const BPF: u64 = 1 << 39;

/// The lines of every thread's `status` that speak of privileges.
fn threads(process: u32) -> Vec<BTreeMap<String, String>> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).expect("farspan runs");
    // One that opened something may end meanwhile.
    let status = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("status")).ok()?;
        let lines = text.lines().filter_map(|line| line.split_once(":\t"));
        Some(lines.map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
    };
    tasks.filter_map(|task| status(task.expect("a thread"))).collect()
}

/// Threads that write what others read: they have no capability at all.
const WRITERS: [&str; 4] = ["standard-error", "standard-output", "journal", "notify"];

/// That every thread of the process has exactly these capabilities, can get no others, and is filtered or not. Those that write
/// output have none.
fn assert_has_exactly(process: u32, capabilities: u64, filtered: bool, what: &str) {
    // One that opened something has said so before it ends.
    await_that("a worker beside the control plane, and nobody else", || {
        let threads = threads(process);
        let of_name = |name: &str| threads.iter().filter(|thread| thread["Name"] == name).count();
        // A writer is followed by one with fewer rights.
        let works = threads.iter().any(|thread| thread["Name"].starts_with("worker-"));
        works && of_name("opening") == 0 && WRITERS.iter().all(|writer| of_name(writer) <= 1)
    });
    for thread in threads(process) {
        let mask = |key: &str| u64::from_str_radix(&thread[key], 16).expect("a mask");
        let capabilities = if WRITERS.contains(&thread["Name"].as_str()) { 0 } else { capabilities };
        for (set, expected) in
            [("CapPrm", capabilities), ("CapEff", capabilities), ("CapInh", 0), ("CapAmb", 0), ("CapBnd", 0)]
        {
            assert_eq!(mask(set), expected, "{what}: {set} of {}", thread["Name"]);
        }
        assert_eq!(thread["NoNewPrivs"], "1", "{what}");
        assert_eq!(thread["Seccomp"], if filtered { "2" } else { "0" }, "{what}");
    }
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn root_keeps_exactly_what_the_plan_goes_on_to_need() {
    let lab = Lab::with_underlay_mtu(1600);
    let (vxlan, gre) = ("vxlan://192.0.2.2?vni=1", "gre://192.0.2.2");
    for (arguments, capabilities) in [
        (&["--to", vxlan][..], 0),
        (&["--to", gre], 0),
        (&["--to", gre, "--to", "erspan3://192.0.2.2?session=1", "--workers", "2"], 0),
        (&["--to", vxlan, "--transmit", "xdp"], NET_RAW | IPC_LOCK),
        (&["--to", vxlan, "--transmit", "xdp-zerocopy"], NET_RAW | NET_ADMIN | IPC_LOCK | BPF),
        (&["--to", "tap:ids0"], NET_ADMIN),
    ] {
        let arguments = [&["-i", "h0"], arguments].concat();
        let farspan = Farspan::mirror_as_told(&lab, &arguments);
        assert_has_exactly(farspan.id(), capabilities, true, &arguments.join(" "));
        traffic::send(&lab, &[traffic::udp_frame(0, 1, 100)], "--pps=1000");
        farspan.stop().assert_lossless();
    }
    let farspan = Farspan::mirror_as_told(&lab, &["-i", "h0", "--to", vxlan, "--sandbox", "off"]);
    assert_has_exactly(farspan.id(), 0, false, "--sandbox off");
    farspan.stop();
    let farspan = Farspan::receive(&lab, &lab.analyzer, &["--from", "gre://0.0.0.0", "--to", "pcap:/dev/null"]);
    assert_has_exactly(farspan.id(), 0, true, "receive");
    farspan.stop();
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn the_next_capture_file_is_begun_in_the_directory_of_another_user() {
    let lab = Lab::new();
    for (owner, capabilities) in [(0, 0), (NOBODY, DAC_OVERRIDE)] {
        let directory = lab.path(&format!("captures-{owner}"));
        fs::create_dir(&directory).expect("the folder is writable");
        chown(&directory, Some(owner), Some(owner)).expect("root may give it away");
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).expect("it is ours");
        let to = format!("pcap:{}/{{number}}.pcap?rotate_size=64KiB", directory.display());
        let farspan = Farspan::mirror_as_told(&lab, &["-i", "h0", "--to", &to]);
        assert_has_exactly(farspan.id(), capabilities, true, &to);
        let frames: Vec<_> = (0..200).map(|number| traffic::udp_frame(number, 4, 1400)).collect();
        traffic::send(&lab, &frames, "--pps=5000");
        await_that("several files", || fs::read_dir(&directory).expect("it is there").count() > 3);
        farspan.stop().assert_lossless();
    }
}

/// The program where everybody may run it: the tests' own folder is root's.
fn program_for_everybody(lab: &Lab) -> PathBuf {
    let program = lab.path("farspan");
    // By another program: what this one has open for writing, a child that another test starts has open too, and then
    // the kernel does not run it.
    succeed(Command::new("cp").arg(binary()).arg(&program));
    let folder = program.parent().expect("the lab's folder");
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("the folder is ours");
    program
}

/// Runs farspan as nobody, with these capabilities as a systemd unit gives them, where everybody may open
/// `/dev/net/tun`, as everywhere but in containers.
fn as_nobody(lab: &Lab, capabilities: &str, arguments: &[&str]) -> Command {
    // `ip netns exec` has given the process a mount namespace of its own.
    const DEVICE: &str = "mount -t tmpfs none /dev/net && mknod -m 666 /dev/net/tun c 10 200 && exec setpriv \"$@\"";
    let names: Vec<String> = capabilities.split_whitespace().map(|name| format!("+{name}")).collect();
    let set = [&["-all".to_owned()], names.as_slice()].concat().join(",");
    let mut command = lab.host.command("sh");
    command.args(["-c", DEVICE, "sh", "--clear-groups"]);
    command.args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"), format!("--bounding-set={set}")]);
    command.args([format!("--inh-caps={set}"), format!("--ambient-caps={set}")]);
    command.arg(program_for_everybody(lab)).args(arguments);
    command
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn without_a_capability_its_name_and_two_ways_to_give_it_are_said() {
    let lab = Lab::new();
    let file = lab.write("frames.pcap", traffic::capture_file(&[traffic::udp_frame(0, 1, 100)]));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("the file is ours");
    let file = file.to_str().expect("a plain name");
    for (capability, arguments) in [
        ("CAP_NET_RAW", &["mirror", "-i", "h0", "--to", "pcap:/dev/null"][..]),
        ("CAP_NET_RAW", &["mirror", "-i", "h0", "--engine", "pcap", "--to", "pcap:/dev/null"]),
        ("CAP_NET_RAW", &["mirror", "-r", file, "--to", "erspan1://192.0.2.2"]),
        ("CAP_NET_RAW", &["mirror", "-r", file, "--to", "vxlan://192.0.2.2?vni=1&transmit=xdp"]),
        ("CAP_NET_RAW", &["receive", "--from", "gre://0.0.0.0", "--to", "pcap:/dev/null"]),
        ("CAP_NET_ADMIN", &["mirror", "-r", file, "--to", "tap:ids0"]),
    ] {
        let refused = run(&mut as_nobody(&lab, "", arguments));
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(77), "{arguments:?}\n{said}");
        let setcap = format!("sudo setcap {}=ep ", capability.to_lowercase());
        for words in [capability, &setcap, &format!("AmbientCapabilities={capability}")] {
            assert!(said.contains(words), "{words} is missing for {arguments:?}:\n{said}");
        }
        // With it and no other the same works.
        let name = capability.trim_start_matches("CAP_").to_lowercase();
        let ends = if arguments[1] == "-r" { &[][..] } else { &["--for", "100ms"] };
        let done = run(&mut as_nobody(&lab, &name, &[arguments, ends].concat()));
        assert!(done.status.success(), "{arguments:?}\n{}", String::from_utf8_lossy(&done.stderr));
    }
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn nobody_with_the_capability_to_capture_mirrors_every_frame() {
    let lab = Lab::with_underlay_mtu(1600);
    let arriving = Capture::start(&lab, &lab.analyzer, "a0", "udp dst port 4789");
    let arguments = ["mirror", "--json", "-i", "h0", "--to", "vxlan://192.0.2.2?vni=1"];
    let farspan = Farspan::start_command(&lab, ["mirror", "mirroring "], as_nobody(&lab, "net_raw", &arguments));
    let frames: Vec<_> = (0..40).map(|number| traffic::udp_frame(number, 4, 200)).collect();
    traffic::send(&lab, &frames, "--pps=1000");
    arriving.await_frames(frames.len());
    farspan.stop().assert_lossless();
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_file_that_permits_more_than_its_container_has_runs_with_what_there_is() {
    let lab = Lab::new();
    let program = program_for_everybody(&lab);
    succeed(Command::new("setcap").arg("cap_net_raw,cap_net_admin,cap_bpf=p").arg(&program));
    let contained = |bounds: &str, arguments: &[&str]| {
        let mut command = lab.host.command("setpriv");
        command.args(["--clear-groups".to_owned(), format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")]);
        run(command.arg(format!("--bounding-set={bounds}")).arg(&program).args(arguments))
    };
    let mirror = ["mirror", "-i", "h0", "--for", "100ms", "--to", "pcap:/dev/null"];
    let done = contained("-all,+net_raw", &mirror);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let refused = contained("-all", &mirror);
    assert_eq!(refused.status.code(), Some(77), "{}", String::from_utf8_lossy(&refused.stderr));
    assert!(contained("-all", &["generate", "config"]).status.success());
}

const VXLAN_42: &str = "vxlan://192.0.2.2?vni=42";

/// Ten frames from the client, and all of them at the analyzer.
fn assert_mirrors(lab: &Lab, delivered: &Capture, from: u32) {
    let before = traffic::of_stranger(delivered.frames()).len();
    let frames: Vec<_> = (from..from + 10).map(|number| traffic::udp_frame(number, 2, 200)).collect();
    traffic::send(lab, &frames, "--pps=1000");
    await_that("every frame", || traffic::of_stranger(delivered.frames()).len() >= before + frames.len());
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn the_daemon_keeps_what_its_sessions_need_and_refuses_a_reload_that_needs_more() {
    let lab = Lab::with_underlay_mtu(1600);
    let delivered = KernelVxlan::start(&lab, 42, false);
    let one = session("one", "h0", VXLAN_42);
    let two = session("two", "h0", "tap:ids0");
    let daemon = Daemon::start(&lab, &one);
    assert_has_exactly(daemon.id(), NET_RAW, true, "one session");
    daemon.reload(&lab, &[one.as_str(), &two].concat(), "not reloaded, everything runs on as it did");
    daemon.await_words("needs CAP_NET_ADMIN (a TAP device that is made again when somebody deletes it)");
    assert_mirrors(&lab, &delivered, 0);
    let file = session("two", "h0", "pcap:/usr/copy.pcap");
    daemon.reload(&lab, &[one.as_str(), &file].concat(), "not reloaded, everything runs on as it did");
    daemon.await_words("writes to /usr, where farspan may not write any more");
    daemon.stop();

    let asked = "[privileges]\ncapabilities = [\"CAP_NET_ADMIN\"]\n";
    let daemon = Daemon::start(&lab, &[asked, one.as_str()].concat());
    assert_has_exactly(daemon.id(), NET_RAW | NET_ADMIN, true, "one session and what was asked for");
    daemon.reload(&lab, &[asked, one.as_str(), &two].concat(), "reloaded: added two");
    await_that("the device", || lab.host.run("ip -o link").contains(" ids0: "));
    assert_mirrors(&lab, &delivered, 100);
    daemon.stop();
}

/// `farspan check` says beforehand what /proc shows afterwards.
#[test]
#[ignore = "needs root: run scripts/test"]
fn check_says_which_capabilities_stay_and_why() {
    let lab = Lab::with_underlay_mtu(1600);
    let check = |arguments: &[&str]| {
        let checked = run(lab.host.command(binary()).arg("check").args(arguments));
        let said = String::from_utf8_lossy(&checked.stdout).into_owned();
        assert!(checked.status.success(), "{said}{}", String::from_utf8_lossy(&checked.stderr));
        said.split_once("capabilities, once everything is open\n").expect("its end is about that").1.to_owned()
    };
    let none = "  keeps    none: the plan opens nothing again that takes one\n  gives up CAP_DAC_OVERRIDE ";
    let said = check(&["-i", "h0", "--to", VXLAN_42]);
    assert!(said.starts_with(none), "{said}");

    let both = [session("one", "h*", VXLAN_42), session("two", "h0", "tap:ids0")].concat();
    let file = write(&lab, &both);
    let said = check(&["-C", file.to_str().expect("a plain name")]);
    let kept: Vec<&str> = said.lines().filter(|line| line.starts_with("  keeps ")).collect();
    assert_eq!(
        kept,
        [
            "  keeps    CAP_NET_ADMIN: a TAP device that is made again when somebody deletes it",
            "  keeps    CAP_NET_RAW: interfaces that come new or come back",
        ]
    );
    let daemon = Daemon::start(&lab, &both);
    assert_has_exactly(daemon.id(), NET_RAW | NET_ADMIN, true, "as it was said");
    daemon.stop();
}

/// A control socket anywhere: its directory stays writable, for the next socket there and for taking it away at the end.
#[test]
#[ignore = "needs root: run scripts/test"]
fn the_control_socket_lies_where_the_configuration_says_and_moves_within_its_directory() {
    let lab = Lab::with_underlay_mtu(1600);
    let folder = lab.path("doors");
    fs::create_dir(&folder).expect("the folder is writable");
    let configuration = |socket: &str| format!("[control]\nsocket = \"{socket}\"\n{}", session("one", "h0", VXLAN_42));
    let at = |name: &str| folder.join(name).display().to_string();
    let file = write(&lab, &configuration(&at("one.sock")));
    let mut command = lab.host.command(binary());
    command.args(["run", "--json", "-C"]).arg(file).env_remove("FARSPAN_CONTROL__SOCKET");
    let daemon = Daemon::start_command(&lab, command);
    assert_has_exactly(daemon.id(), NET_RAW, true, "a socket of its own");
    let answers = |socket: &str| run(Command::new(binary()).args(["status", "--socket", socket])).status.success();
    assert!(answers(&at("one.sock")));
    daemon.reload(&lab, &configuration(&at("two.sock")), "reloaded: ");
    await_that("the socket to move", || answers(&at("two.sock")) && !folder.join("one.sock").exists());
    daemon.reload(&lab, &configuration("/usr/farspan.sock"), "not reloaded, everything runs on as it did");
    daemon.await_words("writes to /usr, where farspan may not write any more");
    assert!(answers(&at("two.sock")), "the door is as it was");
    daemon.stop();
    assert!(!folder.join("two.sock").exists(), "the socket goes with the daemon");
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_daemon_of_root_becomes_its_user_and_reads_and_writes_as_that_one() {
    let lab = Lab::with_underlay_mtu(1600);
    let delivered = KernelVxlan::start(&lab, 42, false);
    let captures = lab.path("captures");
    fs::create_dir(&captures).expect("the folder is writable");
    chown(&captures, Some(NOBODY), Some(NOBODY)).expect("root may give it away");
    let folder = captures.parent().expect("the lab's folder");
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("the folder is ours");
    let record = format!("destination.file.to = \"pcap:{}/{{number}}.pcap?rotate_size=64KiB\"\n", captures.display());
    let user = "[privileges]\nuser = \"nobody\"\n";
    // The lab's folder is not that user's.
    let without_socket = [("FARSPAN_CONTROL__SOCKET", "off")];
    let daemon = Daemon::start_with(&lab, &[user, &session("one", "h0", VXLAN_42), &record].concat(), &without_socket);
    assert_has_exactly(daemon.id(), NET_RAW, true, "as nobody");
    for thread in threads(daemon.id()) {
        assert_eq!(thread["Uid"], [NOBODY.to_string().as_str(); 4].join("\t"));
        assert_eq!(thread["Groups"].trim(), "");
    }
    let frames: Vec<_> = (0..200).map(|number| traffic::udp_frame(number, 4, 1400)).collect();
    traffic::send(&lab, &frames, "--pps=5000");
    await_that("several files", || fs::read_dir(&captures).expect("it is there").count() > 3);
    let changed = session("other", "h0", "vxlan://192.0.2.2?vni=42&dscp=8");
    daemon.reload(&lab, &[user, &changed].concat(), "reloaded: added other; removed one");
    assert_mirrors(&lab, &delivered, 1000);
    daemon.stop();
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn nobody_with_the_unit_s_capabilities_runs_the_daemon_with_all_it_does() {
    let lab = Lab::with_underlay_mtu(1600);
    let delivered = KernelVxlan::start(&lab, 42, false);
    let both = [session("one", "h*", VXLAN_42), session("two", "h0", "tap:ids0")].concat();
    let file = write(&lab, &both);
    let arguments = ["run", "--json", "-C", file.to_str().expect("a plain name")];
    let mut command = as_nobody(&lab, "net_raw net_admin", &arguments);
    // The lab's folder is not nobody's.
    command.env("FARSPAN_CONTROL__SOCKET", "off");
    let daemon = Daemon::start_command(&lab, command);
    let mask = |key: &str| u64::from_str_radix(&threads(daemon.id())[0][key], 16).expect("a mask");
    assert_eq!([mask("CapEff"), mask("CapPrm")], [NET_RAW | NET_ADMIN; 2]);
    assert_mirrors(&lab, &delivered, 0);
    assert!(lab.host.run("ip -o link").contains(" ids0: "));

    let third = session("three", "late0", "gre://192.0.2.2");
    daemon.reload(&lab, &[both.as_str(), &third].concat(), "reloaded: added three");
    let late = Capture::start(&lab, &lab.analyzer, "a0", "ip proto 47");
    lab.host.run("ip link add late0 type veth peer name late1");
    lab.host.run("ip link set late1 addrgenmode none up");
    lab.host.run("ip link set late0 addrgenmode none up");
    await_that("a frame of the new interface", || {
        traffic::send_from(&lab, &lab.host, "late1", &[traffic::udp_frame(7, 1, 300)], "--pps=100");
        !late.frames().is_empty()
    });
    daemon.stop();
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_configuration_that_others_may_write_is_refused() {
    let lab = Lab::new();
    let file = write(&lab, &session("one", "h0", "pcap:/dev/null"));
    let answers = |command: &str| {
        let refused = run(lab.host.command(binary()).args([command, "-C"]).arg(&file));
        (refused.status.code(), String::from_utf8_lossy(&refused.stderr).into_owned())
    };
    let runs = || answers("run");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).expect("the file is ours");
    for command in ["run", "check"] {
        let (code, said) = answers(command);
        assert_eq!(code, Some(78), "{said}");
        assert!(said.contains("everybody may write") && said.contains("sudo chmod go-w "), "{said}");
    }
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("the file is ours");
    chown(&file, Some(NOBODY), None).expect("root may give it away");
    let (code, said) = runs();
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("belongs to nobody") && said.contains("sudo chown root "), "{said}");
}
