"""What foreign traffic may do to a mirror, and what it costs to look for mirror loops."""
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from daemon import Daemon
from lab import ANALYZERS, soon
from measure import watched
from tap import Tap

VNET = Path(__file__).resolve().parent.parent / "lab/vnet.py"
# Super-frames of 60,000 bytes, a second, and the sizes of their segments.
ATTACK, SEGMENTS = 200, (1, 8, 48, 120)
HONEST = 1000  # frames a second beside them
# Of a mirrored frame at the analyzer: the inner IP protocol is UDP. The super-frames are TCP.
UDP_INSIDE = "udp port 4789 and ether[73] = 17"
# The inner source port of such a frame.
SOURCE_PORT = 50 + 34
FLOWS, FLOOD, LIMIT = 2000, 10_000, 1000
SETTLES = 2.0  # seconds after which a limit holds
# Local addresses that the search for relays looks for beside the mirror's own.
MORE_ADDRESSES = 16


def ethernet_ipv4(protocol, source, payload):
    """A frame to nobody's MAC address, with a right IPv4 header checksum."""
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 7, 0, 64, protocol, 0, bytes(source), bytes([10, 8, 0, 200]))
    total = sum(struct.unpack("!10H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    header = header[:10] + struct.pack("!H", 0xFFFF ^ total) + header[12:]
    return b"\x02\xfa\0\0\0\x02\x02\xfa\0\0\0\x01\x08\0" + header + payload


def super_frame(segment):
    """A virtio_net_hdr (TCP over IPv4, partial checksum) and 60,000 bytes that it wants cut into such segments."""
    tcp = struct.pack("!HHIIBBHHH", 40_000, 80, 1, 1, 0x50, 0x10, 60_000, 0, 0)
    frame = ethernet_ipv4(6, [10, 8, 0, 100], tcp + b"x" * 60_000)
    return struct.pack("<BBHHHH", 1, 1, 54, segment, 34, 16) + frame


def udp_frame(flow):
    """An empty virtio_net_hdr and a frame of one flow among many."""
    udp = struct.pack("!HHHH", 10_000 + flow, 9, 8 + 60, 0)
    return bytes(10) + ethernet_ipv4(17, [10, 8, 0, 100 + flow % 16], udp + bytes(60))


class Sender:
    """Sends these frames over and over from the client; each begins with its virtio_net_hdr."""

    def __init__(self, lab, frames, rate, seconds):
        self.file = tempfile.NamedTemporaryFile()
        self.file.write(b"".join(struct.pack("<I", len(frame)) + frame for frame in frames))
        self.file.flush()
        command = lab.inside("client", sys.executable, VNET, "packet", "c0", self.file.name, rate, seconds)
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.file.close()

    def sent(self):
        """Waits for the end, and says how many were sent."""
        for line in self.process.stdout:
            if line.startswith("sent "):
                return int(line.split()[1])
        return 0


def beside_super_frames(lab, seconds):
    """The part of honest frames that arrive beside super-frames of tiny segments."""
    with watched(lab, UDP_INSIDE, 128) as copies:
        with Tap(lab, "socket-gso") as tap, Sender(lab, [super_frame(size) for size in SEGMENTS], ATTACK, seconds) as sender:
            honest = lab.generate("64", HONEST, seconds)["sent"]
            attack = sender.sent()
            lab.settled("veth")
            ledger = tap.stop()
    return {"honest": honest, "arrived": len(copies), "part": len(copies) / honest, "attack": attack,
            "dropped": ledger["dropped"], "segments": ledger["segments_added"], "kernel_dropped": ledger["kernel_dropped"]}


def limited(lab, flows, limit, seconds):
    """What arrives of a flood of these flows over a limit, after the limit has had its time: frames a second, and the flows."""
    configuration = (f'[session.bench]\nsource.interface = "h0"\nselect.filter = "udp port 9"\nlimit.rate = "{limit}pps"\n'
                     f'destination.ids.to = "vxlan://{ANALYZERS["veth"]}?vni=42"\n')
    with Daemon(lambda *command: lab.inside("host", *command), configuration):
        with Sender(lab, [udp_frame(flow) for flow in flows], FLOOD, SETTLES + seconds + 1) as sender:
            before = lab.received("host", "h0")
            soon("the flood", lambda: lab.received("host", "h0") > before)
            time.sleep(SETTLES)
            with watched(lab, UDP_INSIDE, 128) as copies:
                began, before, tapped = time.monotonic(), lab.arrived("veth"), lab.received("host", "h0")
                time.sleep(seconds)
                took, arrived = time.monotonic() - began, lab.arrived("veth") - before
                offered = (lab.received("host", "h0") - tapped) / took
            sender.sent()
    ports = {struct.unpack_from("!H", frame, SOURCE_PORT)[0] - 10_000 for _, frame in copies}
    return arrived / took, offered, sorted(ports)


def learnt_flows(lab, seconds):
    """A flood of random flows over a limit, then one of those flows only that were mirrored: how far the limit is exceeded."""
    random_rate, _, learnt = limited(lab, range(FLOWS), LIMIT // 2, seconds)
    rate, offered, _ = limited(lab, learnt, LIMIT, seconds)
    return {"limit": LIMIT, "offered": round(offered), "learnt": len(learnt), "flows": FLOWS,
            "times_random": round(random_rate / (LIMIT // 2), 3), "times": round(rate / LIMIT, 3)}


def many_addresses(lab, more, size, pace, seconds):
    """CPU ns a frame of a mirror beside sessions that have nothing to do, each with a tunnel from another local address."""
    wide = f"vxlan://{ANALYZERS['veth']}?vni={{}}&source={{}}"
    sessions = [('h0', 42, "192.0.2.1")] + [("d0", 100 + each, f"192.0.2.{100 + each}") for each in range(more)]
    configuration = "".join(f'[session.s{vni}]\nsource.interface = "{link}"\nselect.filter = "udp port 9"\n'
                            f'destination.ids.to = "{wide.format(vni, address)}"\n' for link, vni, address in sessions)
    with Daemon(lambda *command: lab.inside("host", *command), configuration) as daemon:
        time.sleep(0.3)
        before, cpu = lab.arrived("veth"), daemon.cpu()
        made = lab.generate(size, pace, seconds)
        arrived = lab.settled("veth", before + made["sent"]) - before
        return {"ns": (daemon.cpu() - cpu) / max(arrived, 1), "lost": made["sent"] - arrived}


def addresses(lab):
    """Gives the tapped host the addresses that many_addresses() uses."""
    for each in range(MORE_ADDRESSES):
        lab.on("host", "ip", "address", "replace", f"192.0.2.{100 + each}/24", "dev", "u0")
