#!/usr/bin/env python3
"""What farspan costs, measured against the plainest tap there is; called by scripts/bench, as root.

Three namespaces wired with veth, as in the tests: client - tapped host - analyzer. The datagrams go
to nobody's MAC address, so that the analyzer's kernel counts and drops them and answers nothing. "CPU per frame" is the
CPU time of all the tap's threads (schedstat of proc(5), exact to the nanosecond) over the datagrams that the analyzer's
interface counted; on veth it includes the receiver's share of
the kernel, for both taps alike. Runs of baseline and farspan alternate; tables show medians.
"""
import argparse
import json
import os
import random
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
HOST, ANALYZER = "10.8.0.2", "192.0.2.2"
# The baseline knows the first word; what follows the comma is farspan's.
URLS = {
    "vxlan": f"vxlan://{ANALYZER}?vni=42",
    "vxlan, gso off": f"vxlan://{ANALYZER}?vni=42&gso=off",
    "gre": f"gre://{ANALYZER}",
}
SIZES = ["64", "imix", "1514"]
PACE = 200_000  # frames a second: loss-free for both taps, so that both pay for the same frames


def run(*command):
    return subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout


def soon(what, look, patience=10.0):
    """Waits until look() is true."""
    deadline = time.monotonic() + patience
    while not look():
        if time.monotonic() > deadline:
            sys.exit(f"waited in vain for {what}")
        time.sleep(0.02)


class Lab:
    """The namespaces; deleted at the end."""

    def __enter__(self):
        try:
            self.build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def build(self):
        self.names = {role: f"fpr{os.getpid()}-{role}" for role in ("client", "host", "analyzer")}
        for name in self.names.values():
            run("ip", "netns", "add", name)
        for left, near, right, far, mtu in (("client", "c0", "host", "h0", 1500), ("host", "u0", "analyzer", "a0", 9000)):
            run("ip", "link", "add", near, "netns", self.names[left], "mtu", mtu,
                "type", "veth", "peer", "name", far, "netns", self.names[right], "mtu", mtu)
        for role, link, address in (("client", "c0", "10.8.0.1/24"), ("host", "h0", f"{HOST}/24"),
                                    ("host", "u0", "192.0.2.1/24"), ("analyzer", "a0", None)):
            self.on(role, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
            if address:
                self.on(role, "ip", "address", "add", address, "dev", link)
            self.on(role, "ip", "link", "set", link, "up")
        for role, link in (("host", "u0"), ("analyzer", "a0")):
            self.on(role, "ethtool", "-K", link, "tx", "off", "tso", "off", "gso", "off", "gro", "off")
        # What leaves is what a wire would carry: a veth would hand runs of datagrams on uncut.
        self.on("host", "ethtool", "-K", "u0", "tx-udp-segmentation", "off")
        # Nobody's address: the analyzer's kernel counts a frame that is not for it and drops it at once, as it does
        # beside a sniffing IDS, instead of looking for a route.
        self.on("host", "ip", "neigh", "replace", ANALYZER, "lladdr", "02:00:00:00:00:99", "dev", "u0", "nud", "permanent")

    def __exit__(self, *_):
        for name in self.names.values():
            subprocess.run(["ip", "netns", "delete", name], check=False)

    def inside(self, role, *command):
        return ["ip", "netns", "exec", self.names[role], *map(str, command)]

    def on(self, role, *command):
        return run(*self.inside(role, *command))

    def arrived(self):
        """Frames that the analyzer's interface has received."""
        return int(self.on("analyzer", "cat", "/sys/class/net/a0/statistics/rx_packets"))

    def settled(self):
        """The same, once no more arrive."""
        last = -1
        while (count := self.arrived()) != last:
            last = count
            time.sleep(0.1)
        return count

    def offloads(self, state):
        for role, link in (("client", "c0"), ("host", "h0")):
            self.on(role, "ethtool", "-K", link, "tx", state, "tso", state, "gso", state)


class Tap:
    """A running tap on the tapped host."""

    def __init__(self, lab, which, encapsulation):
        self.log = tempfile.TemporaryFile("w+")
        command = {
            "baseline": [HERE.parent.parent / "target/bench/baseline", "h0", encapsulation.split(",")[0], ANALYZER],
            "farspan": [os.environ["FARSPAN_BINARY"], "mirror", "-i", "h0", "--to", URLS[encapsulation], "--json"],
        }[which]
        self.process = subprocess.Popen(lab.inside("host", *command), stdout=subprocess.PIPE, stderr=self.log, text=True)
        soon(f"{which} to start", lambda: "mirroring" in self.words())

    def words(self):
        self.log.seek(0)
        return self.log.read()

    def cpu(self):
        """CPU time of all its threads so far, in nanoseconds."""
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks)

    def memory(self):
        """Largest resident memory so far, in KiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0])

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        printed, _ = self.process.communicate(timeout=30)
        return json.loads(printed)


def cost(lab, which, encapsulation, traffic):
    """Lets traffic() pass a tap; returns CPU ns, datagrams that arrived, and what the kernel dropped before the tap."""
    tap = Tap(lab, which, encapsulation)
    frames, cpu = lab.settled(), tap.cpu()
    traffic()
    frames, cpu = lab.settled() - frames, tap.cpu() - cpu
    return cpu, frames, tap.stop()["kernel_dropped"]


def interleaved(lab, rounds, encapsulation, traffic, unit=None):
    """Medians of both taps over alternating rounds; `unit` divides instead of the datagrams that arrived."""
    samples = {"baseline": [], "farspan": []}
    dropped = {"baseline": 0, "farspan": 0}
    for number in range(rounds):
        order = ("baseline", "farspan") if number % 2 == 0 else ("farspan", "baseline")
        for which in order:
            cpu, frames, lost = cost(lab, which, encapsulation, traffic)
            samples[which].append(cpu / (unit or max(frames, 1)))
            dropped[which] += lost
    medians = {which: statistics.median(values) for which, values in samples.items()}
    return {**medians, "ratio": medians["farspan"] / medians["baseline"], "dropped": dropped, "samples": samples}


def bulk(lab, megabytes):
    """Real TCP: iperf3 from the tapped host to the client."""
    server = subprocess.Popen(lab.inside("client", "iperf3", "-s", "-1"), stdout=subprocess.DEVNULL)
    soon("iperf3", lambda: ":5201 " in lab.on("client", "ss", "-Hlnt"))
    lab.on("host", "iperf3", "-c", "10.8.0.1", "-n", f"{megabytes}M", "-b", "800M")
    server.wait()


def delays(lab, count):
    """Milliseconds from a ping's passing the tapped interface to its copy's arrival at the analyzer."""
    with tempfile.TemporaryDirectory() as folder:
        watchers = []
        for role, link, what in (("host", "h0", "icmp"), ("analyzer", "a0", "udp dst port 4789")):
            log = open(f"{folder}/{link}.log", "w+")
            watchers.append(subprocess.Popen(lab.inside(
                role, "tcpdump", "-i", link, "-w", f"{folder}/{link}", "-U", "--immediate-mode", "-Z", "root",
                "--time-stamp-precision=nano", *what.split()), stderr=log))
            soon("tcpdump", lambda: "listening" in Path(log.name).read_text())
        tap = Tap(lab, "farspan", "vxlan")
        lab.on("client", sys.executable, __file__, "--ping", count)
        lab.settled()
        tap.stop()
        for watcher in watchers:
            watcher.send_signal(signal.SIGINT)
            watcher.wait()
        seen = {frame: when for when, frame in records(f"{folder}/h0")}
        copies = {frame[50:]: when for when, frame in records(f"{folder}/a0")}
    return sorted((copies[frame] - when) / 1e6 for frame, when in seen.items() if frame in copies), len(seen)


def records(path):
    """(nanoseconds, frame) of a classic capture file with nanoseconds in this machine's byte order."""
    data = Path(path).read_bytes()
    at = 24
    while at + 16 <= len(data):
        seconds, nanoseconds, length, _ = struct.unpack_from("IIII", data, at)
        yield seconds * 10**9 + nanoseconds, data[at + 16:at + 16 + length]
        at += 16 + length


def ping(count):
    """Echo requests at random intervals, 2 to 30 ms; runs inside the client's namespace."""
    out = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    for number in range(count):
        body = struct.pack("!BBHHH", 8, 0, 0, os.getpid() & 0xFFFF, number & 0xFFFF) + random.randbytes(48)
        total = sum(struct.unpack(f"!{len(body) // 2}H", body))
        total = (total & 0xFFFF) + (total >> 16)
        total = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
        out.sendto(body[:2] + struct.pack("!H", total) + body[4:], (HOST, 0))
        time.sleep(random.uniform(0.002, 0.030))


def idle(lab, seconds):
    """CPU of an idle farspan in percent of a core, and its resident memory in KiB."""
    tap = Tap(lab, "farspan", "vxlan")
    time.sleep(1)
    cpu = tap.cpu()
    time.sleep(seconds)
    used, memory = tap.cpu() - cpu, tap.memory()
    tap.stop()
    return {"cpu_percent": used / seconds / 1e7, "memory_kib": memory}


def measure(quick):
    rounds, seconds, pings = (3, 0.5, 200) if quick else (7, 1.0, 1000)
    results = {"cpu_ns_per_frame": {}, "cpu_ns_per_wire_segment": {}}
    with Lab() as lab:
        for encapsulation in URLS:
            for size in SIZES:
                generate = [HERE.parent.parent / "target/bench/generate", "c0", size, PACE, seconds]
                row = interleaved(lab, rounds, encapsulation, lambda: lab.on("client", *generate))
                results["cpu_ns_per_frame"][f"{encapsulation} {size}"] = row
                print_row(f"{encapsulation} {size}", row)
            megabytes = 50 if quick else 200
            for state in ("on", "off"):
                lab.offloads(state)
                segments = megabytes * 2**20 / 1448
                row = interleaved(lab, rounds, encapsulation, lambda: bulk(lab, megabytes), segments)
                results["cpu_ns_per_wire_segment"][f"{encapsulation} TCP, offloads {state}"] = row
                print_row(f"{encapsulation} TCP, offloads {state} *", row)
            lab.offloads("on")
        delay, sent = delays(lab, pings)
        results["delay_ms"] = {
            "p50": delay[len(delay) // 2], "p99": delay[len(delay) * 99 // 100], "max": delay[-1],
            "mirrored": len(delay), "of": sent,
        }
        results["idle"] = idle(lab, 5 if quick else 20)
    return results


def print_row(name, row):
    lost = " ".join(f"{which} lost {count}" for which, count in row["dropped"].items() if count)
    print(f"{name:30}{row['baseline']:10.0f}{row['farspan']:10.0f}{row['ratio']:10.2f}  {lost}", file=sys.stderr)


def main():
    arguments = argparse.ArgumentParser(prog="scripts/bench", description="what farspan costs, against a baseline")
    arguments.add_argument("--quick", action="store_true", help="fewer and shorter rounds: under five minutes")
    arguments.add_argument("--json", action="store_true", help="every sample as JSON on standard output")
    arguments.add_argument("--ping", type=int, help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    if chosen.ping:
        return ping(chosen.ping)
    print(f"{'CPU ns per frame':30}{'baseline':>10}{'farspan':>10}{'ratio':>10}", file=sys.stderr)
    results = measure(chosen.quick)
    print("* per 1448 bytes of payload; with offloads on the baseline sends super-frames that no analyzer can use",
          file=sys.stderr)
    delay, still = results["delay_ms"], results["idle"]
    print(f"ping mirrored after: p50 {delay['p50']:.2f} ms, p99 {delay['p99']:.2f} ms "
          f"({delay['mirrored']} of {delay['of']})", file=sys.stderr)
    print(f"idle: {still['cpu_percent']:.3f} % of a core, {still['memory_kib'] / 1024:.1f} MiB resident", file=sys.stderr)
    if chosen.json:
        json.dump(results, sys.stdout, indent=1)
        print()


if __name__ == "__main__":
    main()
