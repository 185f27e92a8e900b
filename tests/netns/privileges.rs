//! What a process may still do once it mirrors: proc(5) tells, and frames go on arriving.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::process::Command;

use crate::farspan::{Farspan, binary, run};
use crate::judge::Capture;
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
    let status = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("status")).expect("the thread lives");
        text.lines()
            .filter_map(|line| line.split_once(":\t"))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    };
    tasks.map(|task| status(task.expect("a thread"))).collect()
}

/// That every thread of `farspan` has exactly these capabilities, can get no others, and is filtered or not.
fn assert_has_exactly(farspan: &Farspan, capabilities: u64, filtered: bool, what: &str) {
    let threads = threads(farspan.id());
    assert!(threads.len() > 1, "{what}: a worker runs beside the control plane");
    for thread in threads {
        let mask = |key: &str| u64::from_str_radix(&thread[key], 16).expect("a mask");
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
        assert_has_exactly(&farspan, capabilities, true, &arguments.join(" "));
        traffic::send(&lab, &[traffic::udp_frame(0, 1, 100)], "--pps=1000");
        farspan.stop().assert_lossless();
    }
    let farspan = Farspan::mirror_as_told(&lab, &["-i", "h0", "--to", vxlan, "--sandbox", "off"]);
    assert_has_exactly(&farspan, 0, false, "--sandbox off");
    farspan.stop();
    let farspan = Farspan::receive(&lab, &lab.analyzer, &["--from", "gre://0.0.0.0", "--to", "pcap:/dev/null"]);
    assert_has_exactly(&farspan, 0, true, "receive");
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
        assert_has_exactly(&farspan, capabilities, true, &to);
        let frames: Vec<_> = (0..200).map(|number| traffic::udp_frame(number, 4, 1400)).collect();
        traffic::send(&lab, &frames, "--pps=5000");
        await_that("several files", || fs::read_dir(&directory).expect("it is there").count() > 3);
        farspan.stop().assert_lossless();
    }
}

/// The program where everybody may run it: the tests' own folder is root's.
fn program_for_everybody(lab: &Lab) -> PathBuf {
    let program = lab.path("farspan");
    fs::copy(binary(), &program).expect("the folder is writable");
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
