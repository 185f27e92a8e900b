"""Where the benchmark runs: three namespaces wired with veth, client - tapped host - analyzer, as in the tests.

The tapped host has two ways out. `veth` leads to the analyzer, whose receiving is charged to the sender. `ifb` leads to
an interface that drops whatever it is given: the cost of sending alone. Datagrams go to nobody's MAC address, so that
the analyzer's kernel counts and drops them, as it does beside a sniffing IDS, and answers nothing.
"""
import json
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

# What the benchmark shares with the soak, for all files beside this one.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lab"))
from namespaces import Namespaces, run, soon  # noqa: E402

TOOLS = Path(__file__).resolve().parent.parent.parent / "target/bench"
HOST = "10.8.0.2"
# The analyzer's address by the way that leads there.
ANALYZERS = {"veth": "192.0.2.2", "ifb": "198.51.100.2"}
# Which interface counts what arrives.
COUNTERS = {"veth": ("analyzer", "a0"), "ifb": ("host", "d0")}
SEGMENT = 1448  # bytes of payload in a full TCP segment with timestamps, MTU 1500
QUEUES = 2  # of the interfaces on the way out: AF_XDP wants one a worker


class Lab(Namespaces):
    """The namespaces; deleted at the end."""

    def __init__(self):
        super().__init__()
        self.keepers = {}

    def build(self):
        several = ("numtxqueues", QUEUES, "numrxqueues", QUEUES)
        self.wire("client", "c0", "host", "h0", 1500, *several)
        self.wire("host", "u0", "analyzer", "a0", 9000, *several)
        # Long enough for two workers that want the same queue at once.
        run("ip", "-n", self.names["host"], "link", "add", "d0", "mtu", 9000, "txqueuelen", 1000,
            *several, "type", "ifb")
        for role in self.names:
            self.on(role, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
        self.up("client", "c0", "10.8.0.1/24")
        self.up("host", "h0", f"{HOST}/24")
        self.up("host", "u0", "192.0.2.1/24")
        self.up("host", "d0", "198.51.100.1/24")
        self.up("analyzer", "a0")
        for link in ("u0", "d0"):
            # What leaves is what a wire would carry: a veth would hand runs of datagrams on uncut. Outer checksums stay
            # with the interface, as they do with any network card.
            self.on("host", "ethtool", "-K", link, "tx-udp-segmentation", "off")
        for sink, link in (("veth", "u0"), ("ifb", "d0")):
            self.on("host", "ip", "neigh", "replace", ANALYZERS[sink], "lladdr", "02:00:00:00:00:99", "dev", link,
                    "nud", "permanent")
        # Processes whose /proc/PID/net shows their namespace: counters are read without entering it.
        for role, link in COUNTERS.values():
            self.keepers[role] = keeper = subprocess.Popen(self.inside(role, "sleep", "infinity"))
            soon(link, lambda: f"{link}:" in Path(f"/proc/{keeper.pid}/net/dev").read_text())

    def __exit__(self, *_):
        for keeper in self.keepers.values():
            keeper.kill()
            keeper.wait()
        super().__exit__()

    def arrived(self, sink):
        """Frames that have come out of the host on this way."""
        return self.received(*COUNTERS[sink])

    def received(self, role, link):
        """Frames that an interface has received."""
        table = Path(f"/proc/{self.keepers[role].pid}/net/dev").read_text()
        return int(re.search(rf"\b{link}:\s*\d+\s+(\d+)", table)[1])

    def settled(self, sink, goal=None):
        """The same, once there are `goal` of them or no more have come for 0.3 s."""
        count, since = self.arrived(sink), time.monotonic()
        while count != goal and time.monotonic() - since < 0.3:
            time.sleep(0.005)
            if (now := self.arrived(sink)) != count:
                count, since = now, time.monotonic()
        return count

    def generate(self, size, pace, seconds):
        """Frames of 64 flows to the tapped interface; what tests/bench/generate.c says about them."""
        return json.loads(self.on("client", TOOLS / "generate", "c0", size, pace, seconds))

    def generating(self, size, pace, seconds):
        """The same, as a process that goes on beside."""
        command = self.inside("client", TOOLS / "generate", "c0", size, pace, seconds)
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def bulk(self, megabytes):
        """Real TCP with offloads on, iperf3 from the tapped host to the client; its segments and the CPU ns of both ends."""
        server = subprocess.Popen(self.inside("client", "iperf3", "-s", "-1"), stdout=subprocess.DEVNULL)
        soon("iperf3", lambda: ":5201 " in self.on("client", "ss", "-Hlnt"))
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.on("host", "iperf3", "-c", "10.8.0.1", "-n", f"{megabytes}M", "-b", "800M")
        server.wait()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime) * 1e9
        return {"segments": megabytes * 2**20 / SEGMENT, "cpu_ns": cpu}
