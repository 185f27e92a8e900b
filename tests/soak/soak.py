#!/usr/bin/env python3
"""A daemon for a long time, while everything around it changes; called by scripts/soak, as root.

`farspan run` mirrors four kinds of sessions in namespaces of its own: flows balanced over two analyzers, every pod's
interface by a pattern as ERSPAN, a ring of capture files, and a TAP device. Beside mixed traffic, each round starts and
deletes pods, reloads with other weights, pauses and resumes a session, and takes an analyzer away for a moment. Then all
is as it was before the round, and what the process holds must be what it held: memory, file descriptors, threads.
At the end the law of accounting must hold for every session.
"""
import argparse
import json
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lab"))
import program  # noqa: E402
from namespaces import Namespaces, soon  # noqa: E402

ROUND = 20.0  # seconds
PODS = 8
ODD_FRAMES = 600
# Rounds in which buffers grow to what they need, and allocators with them.
WARM_UP = 2
# What the memory that farspan allocated may grow by after the warm-up: fragments of the heap, not a leak. The rest of what is
# resident are the program and packet rings, whose pages count from the first time that they are read.
MOST_GROWTH_KIB = 1024

CONFIGURATION = """
[metrics]
listen = "127.0.0.1:9469"

[session.balance]
source.interface = "h0"
spread = "balance"
destination.first = {{ to = "vxlan://192.0.2.2?vni=1", weight = {weight}, probe = "icmp" }}
destination.second = {{ to = "vxlan://192.0.2.3?vni=1", probe = "icmp" }}

[session.pods]
source.interface = "pod*"
destination.ids.to = "erspan2://192.0.2.2?session=7"

[session.record]
source.interface = "h0"
select.filter = "udp or vlan or arp"
destination.files.to = "pcap:{folder}/record-{{number}}.pcapng?rotate_size=2MiB&keep=3"

[session.local]
source.interface = "h0"
select.filter = "tcp"
destination.ids.to = "tap:ids0"
"""


class Lab(Namespaces):
    """A client, the tapped host with its pods, and an analyzer with two addresses; deleted at the end."""

    def build(self):
        for role in self.names:
            self.up(role, "lo")
        self.wire("client", "c0", "host", "h0", 1500)
        self.wire("host", "u0", "analyzer", "a0", 1600)
        self.up("client", "c0", "10.8.0.1/24")
        self.up("host", "h0", "10.8.0.2/24")
        self.up("host", "u0", "192.0.2.1/24")
        self.up("analyzer", "a0", "192.0.2.2/24", "192.0.2.3/24")

    def start(self, role, *command):
        return subprocess.Popen(self.inside(role, *command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class Daemon(program.Daemon):
    """`farspan run`, and what is asked of it."""

    def __init__(self, lab, folder):
        super().__init__(lambda *command: lab.inside("host", *command), folder, configuration(folder, 1))

    def started(self):
        return self.alive() and super().started()

    def alive(self):
        if self.process.poll() is not None:
            sys.exit(f"the daemon ended with {self.process.returncode}:\n{self.said()}")
        return True

    def session(self, name):
        return next(each for each in self.sessions() if each["name"] == name)

    def interfaces(self, session):
        return len(self.session(session)["interfaces"])

    def healthy(self, session, destination):
        return next(each["is_healthy"] for each in self.session(session)["destinations"] if each["name"] == destination)

    def holds(self):
        """KiB of memory, file descriptors and threads at this moment."""
        about = Path(f"/proc/{self.process.pid}")
        status = dict(line.split(":", 1) for line in (about / "status").read_text().splitlines())
        return {"rss_kib": int(status["VmRSS"].split()[0]), "allocated_kib": int(status["RssAnon"].split()[0]),
                "threads": int(status["Threads"]), "fds": len(list((about / "fd").iterdir()))}

    def stop(self):
        """The ledger of each session, after SIGTERM."""
        printed = self.end(60)
        if self.process.returncode:
            sys.exit(f"the daemon ended with {self.process.returncode}:\n{self.said()}")
        return json.loads(printed)


def configuration(folder, weight):
    """The sessions, with this weight of the first analyzer."""
    return CONFIGURATION.format(folder=folder, weight=weight)


def ethernet(ethertype, payload):
    return bytes.fromhex("020000000002" "020000000001") + struct.pack("!H", ethertype) + payload


def ipv4(protocol, payload, fragment=0):
    addresses = socket.inet_aton("10.8.0.1") + socket.inet_aton("10.8.0.2")
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 7, fragment, 64, protocol, 0) + addresses
    total = sum(struct.unpack("!10H", header))
    total = (total & 0xffff) + (total >> 16)
    return header[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xffff) + header[12:] + payload


def odd_frames(file):
    """A capture of what real clients seldom send: VLAN tags, one and two, ARP, fragments, many small flows."""
    def udp(port, size):
        return struct.pack("!HHHH", port, 9, 8 + size, 0) + bytes(size)
    frames = [ethernet(0x8100, struct.pack("!HH", 5, 0x0800) + ipv4(17, udp(2000 + number, 60))) for number in range(50)]
    frames += [ethernet(0x88a8, struct.pack("!HHHH", 6, 0x8100, 7, 0x0800) + ipv4(17, udp(3000, 600)))] * 10
    frames += [ethernet(0x0806, struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + bytes(20))] * 10
    frames += [ethernet(0x0800, ipv4(17, bytes(1480), 0x2000)), ethernet(0x0800, ipv4(17, bytes(700), 185))] * 10
    frames += [ethernet(0x0800, ipv4(17, udp(10_000 + number, 18))) for number in range(ODD_FRAMES - len(frames))]
    records = b"".join(struct.pack("<IIII", 0, 0, len(frame), len(frame)) + frame for frame in frames)
    file.write_bytes(struct.pack("<IHHiIII", 0xa1b2c3d4, 2, 4, 0, 0, 262_144, 1) + records)


def traffic(lab, folder):
    """Everything at once: TCP with offloads, small datagrams, fragments, odd frames. Ends with the lab's processes."""
    odd_frames(folder / "odd.pcap")
    server = lab.start("host", "iperf3", "-s")
    soon("iperf3", lambda: ":5201 " in lab.on("host", "ss", "-Hlnt"))
    return [server, lab.start("client", "iperf3", "-c", "10.8.0.2", "-t", "0", "-b", "40M", "--bidir"),
            lab.start("client", "ping", "-q", "-i", "0.02", "-s", "4000", "10.8.0.2"),
            lab.start("client", "tcpreplay", "-q", "-i", "c0", "--loop=0", "--pps=2000", folder / "odd.pcap")]


def one_round(lab, daemon, number):
    """Everything that happens to a daemon; at its end all is as it was."""
    for pod in range(PODS):
        lab.wire("host", f"pod{pod}", "client", f"peer{pod}", 1500)
        for role, link in (("host", f"pod{pod}"), ("client", f"peer{pod}")):
            lab.up(role, link)
    soon("the pods to be mirrored", lambda: daemon.alive() and daemon.interfaces("pods") == PODS, 30)
    for pod in range(PODS):
        lab.on("client", "tcpreplay", "-q", "-i", f"peer{pod}", "--pps=2000", daemon.folder / "odd.pcap")
    daemon.configure(configuration(daemon.folder, 1 + number % 3))
    daemon.tell("reload")
    daemon.tell("pause", "record")
    lab.on("analyzer", "ip", "address", "delete", "192.0.2.3/24", "dev", "a0")
    lab.on("host", "ip", "link", "set", "h0", "mtu", 1400 if number % 2 else 1500)
    soon("the missing analyzer to be noticed", lambda: daemon.alive() and not daemon.healthy("balance", "second"), 30)
    lab.on("analyzer", "ip", "address", "add", "192.0.2.3/24", "dev", "a0")
    daemon.tell("resume", "record")
    for pod in range(PODS):
        lab.on("host", "ip", "link", "delete", f"pod{pod}")
    soon("the pods to be let go", lambda: daemon.alive() and daemon.interfaces("pods") == 0, 30)
    soon("the analyzer to be back", lambda: daemon.alive() and daemon.healthy("balance", "second"), 60)
    soon("the session to be resumed", lambda: daemon.interfaces("record") == 1, 30)


def settled(daemon):
    """What the process holds once that has been the same for a second: a session that was reloaded may still be leaving."""
    before, since = daemon.holds(), time.monotonic()
    deadline = since + 30
    while time.monotonic() - since < 1.0 and time.monotonic() < deadline:
        time.sleep(0.1)
        now = daemon.holds()
        if (now["fds"], now["threads"]) != (before["fds"], before["threads"]):
            before, since = now, time.monotonic()
    return daemon.holds()


def unlawful(ledgers, rounds):
    """What the law of accounting has against these ledgers."""
    pods, replayed = ledgers["pods"], rounds * PODS * ODD_FRAMES
    seen = pods["captured"] + pods["kernel_dropped"]
    found = [f"pods: {seen} frames of {replayed} were seen"] if seen < replayed else []
    for name, ledger in ledgers.items():
        offered = ledger["captured"] - sum(ledger["dropped"].values()) + ledger["segments_added"]
        assigned = [each["assigned"] for each in ledger["destinations"]]
        if ledger["captured"] == 0:
            found.append(f"{name}: nothing was captured")
        # Where each frame goes to one of them, those for which there was none are among the dropped.
        if (sum(assigned) if name == "balance" else assigned[0]) != offered:
            found.append(f"{name}: {assigned} assigned of {offered} offered")
        for each in ledger["destinations"]:
            fates = each["sent"] + sum(each["dropped"].values())
            if each["in_flight"] or each["assigned"] + each["split_added"] != fates:
                found.append(f"{name}, {each['name']}: {each['assigned']} assigned, {each['split_added']} added, {fates} fates")
    return found


def grown(samples):
    """What the process holds more at the end than after the warm-up, beyond what it may."""
    after, last = samples[min(WARM_UP, len(samples) - 1)], samples[-1]
    found = [f"{what}: {after[what]} after the warm-up, {last[what]} at the end"
             for what in ("fds", "threads") if last[what] > after[what]]
    if last["allocated_kib"] > after["allocated_kib"] + MOST_GROWTH_KIB:
        found.append(f"memory: {after['allocated_kib']} KiB after the warm-up, {last['allocated_kib']} KiB at the end")
    return found


def main():
    arguments = argparse.ArgumentParser(prog="scripts/soak", description="a daemon for a long time, while everything changes")
    arguments.add_argument("--minutes", type=float, default=30, help="how long (default: 30)")
    minutes = arguments.parse_args().minutes
    with tempfile.TemporaryDirectory(prefix="farspan-soak-") as folder, Lab() as lab:
        folder = Path(folder)
        daemon, running, samples = Daemon(lab, folder), [], []
        try:
            running = traffic(lab, folder)
            end = time.monotonic() + minutes * 60
            print(f"{'round':>5}{'minutes':>9}{'RSS KiB':>9}{'allocated':>11}{'fds':>6}{'threads':>9}{'captured':>12}", flush=True)
            while time.monotonic() < end or len(samples) <= WARM_UP + 1:
                began = time.monotonic()
                one_round(lab, daemon, len(samples))
                for each in running:
                    if each.poll() is not None:
                        sys.exit(f"the traffic ended: {each.args}")
                samples.append(settled(daemon))
                captured = sum(session["ledger"]["captured"] for session in daemon.sessions())
                print(f"{len(samples):5}{minutes - (end - time.monotonic()) / 60:9.1f}{samples[-1]['rss_kib']:9}{samples[-1]['allocated_kib']:11}"
                      f"{samples[-1]['fds']:6}{samples[-1]['threads']:9}{captured:12}", flush=True)
                time.sleep(max(0.0, min(began + ROUND, end) - time.monotonic()))
            ledgers = daemon.stop()
        except BaseException:
            print(daemon.said()[-4000:], file=sys.stderr)
            raise
        finally:
            for each in [*running, daemon.process]:
                if each.poll() is None:
                    each.kill()
                    each.wait()
    for name, ledger in ledgers.items():
        drops = {reason: frames for each in [ledger, *ledger["destinations"]] for reason, frames in each["dropped"].items()}
        print(f"{name:10} captured {ledger['captured']}, kernel dropped {ledger['kernel_dropped']}, "
              f"sent {sum(each['sent'] for each in ledger['destinations'])}, dropped {drops or 'none'}")
    found = unlawful(ledgers, len(samples)) + grown(samples)
    for each in found:
        print(f"FAILED  {each}")
    if found:
        sys.exit(1)
    print("the law holds in every session; memory, descriptors and threads are what they were")


if __name__ == "__main__":
    main()
