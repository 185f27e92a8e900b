"""The taps that are compared: the baseline, and farspan with each way of transmitting."""
import json
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from lab import ANALYZERS, TOOLS, soon

# What farspan is told; the rest are its defaults, which use GSO wherever the kernel cuts runs before the interface. That
# is turned off for `socket`.
TRANSMIT = {
    "socket": ["--transmit", "socket"],
    "socket-gso": ["--transmit", "socket"],
    "xdp": ["--transmit", "xdp"],
}
DESTINATIONS = {"vxlan": "vxlan://{}?vni=42", "gre": "gre://{}", "erspan2": "erspan2://{}?session=7"}
ENCAPSULATIONS = list(DESTINATIONS)


class Refused(Exception):
    """A tap did not start; says why."""


def refusal(words, code):
    """Why a program that ended at once did so: from what it said, or from its exit code."""
    what = [line.strip() for line in words.splitlines() if line.strip().startswith(("error:", "cause:"))]
    return "; ".join(what) or f"ended with {code}"


def cpu_of(process):
    """CPU time of all threads of a process so far, in nanoseconds (schedstat of proc(5))."""
    tasks = Path(f"/proc/{process}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks)


class Program:
    """A running program that is measured, and that prints JSON when it is told to end."""

    def __init__(self, command, name, sign, patience=60.0, environment=None):
        self.log, self.sign = tempfile.TemporaryFile("w+"), sign
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=self.log, text=True)
        soon(f"{name} to start", self.started, patience)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.stop()

    def started(self):
        ended = self.process.poll() is not None
        self.log.seek(0)
        words = self.log.read()
        if ended:
            raise Refused(refusal(words, self.process.returncode))
        return self.sign in words

    def cpu(self):
        """CPU time of all its threads so far, in nanoseconds (schedstat of proc(5))."""
        return cpu_of(self.process.pid)

    def memory(self, line="VmHWM"):
        """Largest resident memory so far, in KiB, or what another line of status says (proc(5))."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split(f"{line}:")[1].split()[0])

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        printed, _ = self.process.communicate(timeout=30)
        return json.loads(printed)


class Tap(Program):
    """A running tap on the tapped host: `baseline`, or farspan by the name of its way of transmitting."""

    def __init__(self, lab, which, sink="veth", encapsulation="vxlan", mebibytes=None, workers=None):
        if which == "baseline":
            command = [TOOLS / "baseline", "h0", encapsulation, ANALYZERS[sink], *([mebibytes] if mebibytes else [])]
        else:
            command = [os.environ["FARSPAN_BINARY"], "mirror", "-i", "h0", "--json", *TRANSMIT[which],
                       *(["--gso", "off"] if which == "socket" and encapsulation == "vxlan" else []), "--to", DESTINATIONS[encapsulation].format(ANALYZERS[sink])]
            command += ["--buffer", f"{mebibytes}MiB"] if mebibytes else []
            command += ["--workers", workers] if workers else []
        super().__init__(lab.inside("host", *command), which, "mirroring")

    def pause(self):
        """Stops all its threads where they are; the kernel goes on to fill its ring."""
        self.process.send_signal(signal.SIGSTOP)
        soon("the tap to pause", lambda: "\nState:\tT" in Path(f"/proc/{self.process.pid}/status").read_text())

    def resume(self):
        self.process.send_signal(signal.SIGCONT)
        return time.monotonic()

    def stop(self):
        self.process.send_signal(signal.SIGCONT)
        return super().stop()
