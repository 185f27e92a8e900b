//! The kernel as the judge: what normalise makes of the frames that a tap shows, and what Linux's own segmentation and
//! checksumming make of the very same frames.

use super::*;
use crate::frame::testing;
use crate::kernel::testing::await_some;
use crate::quantity::Mtu;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

/// A client whose veth leaves everything to the hardware, a wire that segments and sums in software, and a server.
const NETWORK: &str = "
    ip netns add $P-c; ip netns add $P-w; ip netns add $P-s
    ip link add $P-c0 netns $P-c type veth peer name $P-w0 netns $P-w
    ip link add $P-s0 netns $P-s type veth peer name $P-w1 netns $P-w
    for end in w0:w1 w1:w0; do
        ip -n $P-w link set $P-${end%:*} up
        tc -n $P-w qdisc add dev $P-${end%:*} ingress
        tc -n $P-w filter add dev $P-${end%:*} parent ffff: protocol all u32 match u32 0 0 \
            action mirred egress redirect dev $P-${end#*:}
    done
    ip netns exec $P-w ethtool -K $P-w1 tx off tso off gso off
    ip -n $P-c addr add 192.0.2.1/24 dev $P-c0; ip -n $P-c addr add 2001:db8::1/64 dev $P-c0 nodad
    ip -n $P-s addr add 192.0.2.2/24 dev $P-s0; ip -n $P-s addr add 2001:db8::2/64 dev $P-s0 nodad
    ip -n $P-c link set $P-c0 up; ip -n $P-s link set $P-s0 up
";
const TUNNEL: &str = "
    ip -n $P-c link add vxlan0 type vxlan id 42 local 192.0.2.1 remote 192.0.2.2 dstport 4789 udpcsum dev $P-c0
    ip -n $P-s link add vxlan0 type vxlan id 42 local 192.0.2.2 remote 192.0.2.1 dstport 4789 udpcsum dev $P-s0
    ip -n $P-c addr add 198.51.100.1/24 dev vxlan0; ip -n $P-c link set vxlan0 up
    ip -n $P-s addr add 198.51.100.2/24 dev vxlan0; ip -n $P-s link set vxlan0 up
";

#[test]
#[ignore = "needs root: run scripts/test"]
fn wire_frames_are_what_linux_puts_on_the_wire() {
    let network = Network::new();
    let tap = network.capture("c", "c0", "out");
    let wire = network.capture("s", "s0", "in");
    network.shell(TUNNEL);
    // On one processor, because two may overtake each other between the tap and the wire; and little enough that no
    // queue in between overflows.
    for server in ["192.0.2.2", "2001:db8::2", "198.51.100.2"] {
        let _server = network.start(
            "s",
            "Server listening",
            &["taskset", "-c", "0", "iperf3", "--server", "--one-off", "--forceflush"],
        );
        network.shell(&format!("ip netns exec $P-c taskset -c 0 iperf3 --client {server} --bytes 500K"));
    }
    // The last frame of all: when it is in both captures, so is everything before it.
    network.shell("ip netns exec $P-c taskset -c 0 ping -c 1 -p feed -W 5 192.0.2.2");
    let (tapped, expected) = (tap.frames(), wire.frames());

    let (mut frames, mut rewritten) = (Vec::new(), Rewritten::default());
    let mut normaliser = Normaliser::new(None);
    for bytes in &tapped {
        let frame = Frame { offload: Offload::Unknown { mtu: Mtu::ETHERNET }, ..testing::frame(bytes) };
        let keep = |wire: &WireFrame<'_>| {
            frames.push([wire.head, wire.body].concat());
            ControlFlow::Continue(())
        };
        normaliser.apply(&frame, &Layers::parse(bytes), FlowHash(0), &mut rewritten, keep).unwrap();
    }
    assert!(rewritten.super_frames > 20, "{rewritten:?}");
    assert!(rewritten.checksums > 0, "{rewritten:?}");
    assert_eq!(frames.len(), expected.len());
    for (position, (ours, linux)) in frames.iter().zip(&expected).enumerate() {
        assert_eq!(ours, linux, "frame {position}");
    }
}

/// Three namespaces, gone with this value.
struct Network {
    prefix: String,
    directory: tempfile::TempDir,
}

impl Network {
    fn new() -> Self {
        let prefix = format!("fs{}", std::process::id());
        let network = Self { prefix, directory: tempfile::tempdir().unwrap() };
        network.shell(NETWORK);
        network
    }

    fn shell(&self, script: &str) {
        let output = Command::new("sh").args(["-ec", script]).env("P", &self.prefix).output().unwrap();
        assert!(output.status.success(), "{script}\n{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Starts a program and waits until it says `ready`.
    fn start(&self, end: &str, ready: &str, command: &[&str]) -> Running {
        let namespace = format!("{}-{end}", self.prefix);
        let both_outputs = ["netns", "exec", &namespace, "sh", "-c", "exec \"$@\" 2>&1", "sh"];
        let mut child = Command::new("ip").args(both_outputs).args(command).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut said = String::new();
        while !said.contains(ready) {
            let more = output.read_line(&mut said).unwrap();
            assert!(more > 0, "{command:?} ended after saying {said:?}");
        }
        Running { child, _output: output }
    }

    /// Captures on an interface, in a direction; not what the kernel says on its own when an interface comes up.
    fn capture(&self, end: &str, interface: &str, direction: &str) -> Capture {
        let (interface, file) = (format!("{}-{interface}", self.prefix), self.directory.path().join(interface));
        let path = file.to_str().unwrap();
        let options =
            ["-Q", direction, "--immediate-mode", "-U", "-B", "65536", "-s", "0", "-Z", "root", "tcp or udp or icmp"];
        let command = [&["tcpdump", "-i", &interface, "-w", path], options.as_slice()].concat();
        Capture { _tcpdump: self.start(end, "listening on", &command), file }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for end in ["c", "w", "s"] {
            let name = format!("{}-{end}", self.prefix);
            let _ = Command::new("ip").args(["netns", "del", &name]).status();
        }
    }
}

/// A program that ends with this value.
struct Running {
    child: Child,
    /// Kept open: what the program says further has room there.
    _output: BufReader<ChildStdout>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running capture.
struct Capture {
    file: PathBuf,
    _tcpdump: Running,
}

impl Capture {
    /// Every frame up to the last ping, once that is there.
    fn frames(&self) -> Vec<Vec<u8>> {
        await_some("the last frame", || up_to_ping(&self.file))
    }
}

/// The frames of a capture file up to a ping with the pattern `feed`.
fn up_to_ping(file: &Path) -> Option<Vec<Vec<u8>>> {
    let mut capture = pcap::Capture::from_file(file).ok()?;
    let mut frames = Vec::new();
    while let Ok(packet) = capture.next_packet() {
        frames.push(packet.data.to_vec());
        if packet.data.ends_with(&[0xfe, 0xed].repeat(16)) {
            return Some(frames);
        }
    }
    None
}
