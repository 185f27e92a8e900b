"""The receiving ends that are compared: farspan and tcpdump into a file, farspan and the kernel into an interface."""
import json
import os
import re
import signal
import subprocess
import tempfile
import time

from lab import HOST, soon
from program import Refused, cpu_of, refusal

EXPRESSIONS = {"vxlan": "udp port 4789", "erspan2": "proto gre"}
# The kernel has a device for each; only VXLAN's needs no key that both ends know.
DEVICE = f"ip link add vx0 type vxlan id 42 dstport 4789 local {HOST} nolearning"


class Receiver:
    """A running receiver on the host: `pcap` and `tap` are farspan's, `tcpdump` and `vxlan` those beside it."""

    def __init__(self, lab, which, encapsulation):
        self.lab, self.which, self.process = lab, which, None
        self.log = tempfile.TemporaryFile("w+")
        # In memory, and away at once: what a disk costs is the same for all.
        self.folder = tempfile.TemporaryDirectory(dir="/dev/shm")
        file = f"{self.folder.name}/received.pcap"
        if which == "vxlan":
            lab.on("host", *DEVICE.split())
            lab.on("host", "ip", "link", "set", "vx0", "addrgenmode", "none", "up")
            return
        if which == "tcpdump":
            command = ["tcpdump", "-i", "h0", "-w", file, "-Z", "root", "-s", 0, "-B", 24 * 1024,
                       "--time-stamp-precision=nano", *EXPRESSIONS[encapsulation].split()]
        else:
            to = {"pcap": f"pcap:{file}", "tap": "tap:fpr0"}[which]
            command = [os.environ["FARSPAN_BINARY"], "receive", "--json", "--from", f"{encapsulation}://{HOST}", "--to", to]
        self.process = subprocess.Popen(lab.inside("host", *command), stdout=subprocess.PIPE, stderr=self.log, text=True)
        try:
            soon(f"{which} to start", self.started)
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.folder.cleanup()

    def words(self):
        self.log.seek(0)
        return self.log.read()

    def started(self):
        ended = self.process.poll() is not None
        words = self.words()
        if ended:
            raise Refused(refusal(words, self.process.returncode))
        return "receiving " in words or "listening on" in words

    def cpu(self):
        """CPU time of its threads so far, in nanoseconds: none of the kernel's device, which has no thread."""
        return cpu_of(self.process.pid) if self.process else 0

    def quiet(self, seconds):
        """The same, once no thread has run for so long."""
        before, now = None, self.cpu()
        while now != before:
            time.sleep(seconds)
            before, now = now, self.cpu()
        return now

    def stop(self):
        """Ends it; how many frames it gave on."""
        if self.which == "vxlan":
            table = json.loads(self.lab.on("host", "ip", "-json", "-stats", "link", "show", "vx0"))
            self.lab.on("host", "ip", "link", "delete", "vx0")
            return table[0]["stats64"]["rx"]["packets"]
        self.process.send_signal(signal.SIGINT)
        printed, _ = self.process.communicate(timeout=30)
        if self.which == "tcpdump":
            return int(re.search(r"(\d+) packets? captured", self.words())[1])
        return json.loads(printed)["destinations"][0]["sent"]


def cost(lab, which, encapsulation, size, pace, seconds):
    """CPU ns of the receiver for each frame, and of the traffic's own CPU, which pays for the way to the receiver."""
    what = f"{encapsulation}-{size}"
    if which == "none":
        made = lab.generate(what, pace, seconds)
        return {"ns": 0, "traffic_ns": made["cpu_ns"] / made["sent"], "lost": 0}
    with Receiver(lab, which, encapsulation) as receiver:
        cpu = receiver.quiet(0.05)
        made = lab.generate(what, pace, seconds)
        # tcpdump lets the end of its traffic wait in the ring for a second.
        cpu = receiver.quiet(1.1 if which == "tcpdump" else 0.05) - cpu
        received = receiver.stop()
    return {"ns": cpu / max(received, 1), "traffic_ns": made["cpu_ns"] / made["sent"], "lost": made["sent"] - received}
