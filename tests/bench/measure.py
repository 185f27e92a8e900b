"""What is measured, once each: every function lets one tap do one thing and says what that cost."""
import math
import signal
import struct
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from lab import TOOLS, run, soon
from tap import Tap

OUTER = 50  # Ethernet, IPv4, UDP and VXLAN
MARK = OUTER + 42  # where tests/bench/generate.c puts MARK: behind the inner Ethernet, IPv4 and UDP headers


def cost(lab, which, sink, encapsulation, traffic):
    """CPU ns of the tap for each datagram that arrived, and of the traffic's own CPU for each frame; of TCP, for each
    segment. Without a tap (`which` is None) the traffic's alone.
    """
    if which is None:
        made = traffic()
        return {"traffic_ns": made["cpu_ns"] / (made.get("sent") or made["segments"])}
    with Tap(lab, which, sink, encapsulation) as tap:
        before, cpu = lab.arrived(sink), tap.cpu()
        made = traffic()
        goal = before + made["sent"] if "sent" in made else None  # with TCP acknowledgements arrive too
        arrived = lab.settled(sink, goal) - before
        cpu, memory = tap.cpu() - cpu, tap.memory()
        lost = tap.stop()["kernel_dropped"]
    return {
        "ns": cpu / (made.get("segments") or max(arrived, 1)),
        "traffic_ns": made["cpu_ns"] / (made.get("segments") or made["sent"]),
        "lost": max(lost, made["sent"] - arrived) if goal else lost,
        "memory_kib": memory,
    }


def carries(lab, which, size, pace, seconds):
    """Whether a tap keeps up with a pace, losing nothing and not falling behind; and the pace that was reached."""
    with Tap(lab, which) as tap:
        before = lab.arrived("veth")
        traffic = lab.generate(size, pace, seconds)
        behind = traffic["sent"] - (lab.arrived("veth") - before)
        arrived = lab.settled("veth", before + traffic["sent"]) - before
        tap.stop()
    reached = traffic["sent"] / traffic["seconds"]
    # What the ring holds at the end was not carried: no more than 20 ms of it.
    return reached, arrived >= traffic["sent"] and behind <= reached * 0.02


def loss_free(lab, which, size, seconds, tries):
    """The highest loss-free rate in frames a second, by bisection, and whether it was the generator that gave up."""
    best, low, high = 0.0, 100_000, 1_600_000
    for _ in range(tries):
        pace = math.sqrt(low * high)
        short = 0.95 * pace  # of what the generator was asked for
        reached, kept = carries(lab, which, size, pace, seconds)
        if not kept or reached < short:  # once more: others use this machine too
            reached, kept = max((reached, kept), carries(lab, which, size, pace, seconds), key=lambda result: result[::-1])
        if kept:
            best, low = max(best, reached), pace
            if reached < short:
                return best, True
        else:
            high = pace
    return best, False


@contextmanager
def watched(lab, expression, snaplen):
    """What tcpdump sees at the analyzer meanwhile: a list that is filled at the end, of (nanoseconds, frame)."""
    frames = []
    with tempfile.TemporaryDirectory() as folder, open(f"{folder}/log", "w+") as log:
        watcher = subprocess.Popen(lab.inside(
            "analyzer", "tcpdump", "-i", "a0", "-w", f"{folder}/a0", "-U", "--immediate-mode", "-Z", "root", "-s", snaplen,
            "-B", 65536, "--time-stamp-precision=nano", *expression.split()), stderr=log)
        soon("tcpdump", lambda: "listening" in Path(log.name).read_text())
        try:
            yield frames
        finally:
            watcher.send_signal(signal.SIGINT)
            watcher.wait()
            frames += records(f"{folder}/a0")


def records(path):
    """(nanoseconds, frame) of a classic capture file with nanoseconds in this machine's byte order."""
    data = Path(path).read_bytes()
    at = 24
    while at + 16 <= len(data):
        seconds, nanoseconds, length, _ = struct.unpack_from("IIII", data, at)
        yield seconds * 10**9 + nanoseconds, data[at + 16:at + 16 + length]
        at += 16 + length


def delay(lab, which, pace, seconds):
    """Milliseconds from a frame's passing the tapped interface to its copy's arrival at the analyzer: p50, p99, largest."""
    with watched(lab, f"udp port 4789 and ether[{MARK}:4] = 0x6673706e", 128) as copies:
        with Tap(lab, which) as tap:
            before = lab.arrived("veth")
            traffic = lab.generate("imix", pace, seconds)
            lab.settled("veth", before + traffic["sent"])
            tap.stop()
    took = sorted((when - struct.unpack_from("Q", frame, MARK + 4)[0]) / 1e6 for when, frame in copies)
    if not took:
        return {"p50": math.inf, "p99": math.inf, "max": math.inf, "missing": traffic["stamped"]}
    return {"p50": took[len(took) // 2], "p99": took[len(took) * 99 // 100], "max": took[-1],
            "missing": traffic["stamped"] - len(took)}


def drain(lab, which, size, sink, frames, workers):
    """A ring filled while the tap was paused: frames a CPU-second, and a second while all workers have some."""
    with Tap(lab, which, sink, mebibytes=256, workers=workers) as tap:
        tap.pause()
        pace = 400_000
        sent = lab.generate(size, pace, frames / pace)["sent"]
        before, cpu = lab.arrived(sink), tap.cpu()
        began = tap.resume()
        seen = [(0, 0.0)]
        while seen[-1][0] < sent and time.monotonic() - began < 10:
            time.sleep(0.002)
            seen.append((lab.arrived(sink) - before, time.monotonic() - began))
        cpu = tap.cpu() - cpu
        tap.stop()
    # Between waking up and the end of the first worker that has nothing left.
    middle = [(count, when) for count, when in seen if sent * 0.1 <= count <= sent * 0.8]
    (first, start), (last, end) = (middle[0], middle[-1]) if len(middle) > 1 else (seen[0], seen[-1])
    return {"frames_per_cpu_second": seen[-1][0] / cpu * 1e9, "frames_per_second": (last - first) / (end - start),
            "lost": sent - seen[-1][0]}


def apart(seconds):
    """How much more two processes do that share nothing than one does: no two workers can do better here."""
    one, two = (float(run(TOOLS / "apart", count, seconds)) for count in (1, 2))
    return two / one


def idle(lab, which, seconds):
    """CPU in percent of a core, of taps that all have nothing to do at the same time; and their resident memory in KiB."""
    taps = {}
    try:
        for each in which:
            taps[each] = Tap(lab, each)
        time.sleep(1)
        before = {each: tap.cpu() for each, tap in taps.items()}
        time.sleep(seconds)
        return {each: {"cpu_percent": (tap.cpu() - before[each]) / seconds / 1e7, "memory_kib": tap.memory()}
                for each, tap in taps.items()}
    finally:
        for tap in taps.values():
            tap.stop()


def checksums(lab, which, megabytes):
    """Verifies every IPv4 and TCP checksum of a transfer at the analyzer, and that nothing there is a super-frame."""
    with watched(lab, "udp port 4789", 65535) as copies:
        with Tap(lab, which) as tap:
            lab.bulk(megabytes)
            lab.settled("veth")
            tap.stop()
    frames = [frame[OUTER:] for _, frame in copies]
    segments = [frame for frame in frames if frame[12:14] == b"\x08\x00" and frame[23] == 6]
    return {"verified": len(segments), "wrong": sum(not intact(frame[14:]) for frame in segments),
            "longest": max(map(len, frames), default=0)}


def intact(packet):
    """Whether both checksums of an IPv4 packet with TCP are right."""
    header, total = (packet[0] & 15) * 4, struct.unpack_from("!H", packet, 2)[0]
    segment = packet[header:total]
    pseudo = packet[12:20] + struct.pack("!HH", 6, len(segment))
    return ones(packet[:header]) == 0xFFFF and ones(pseudo + segment) == 0xFFFF


def ones(data):
    """The ones' complement sum of RFC 1071."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total
