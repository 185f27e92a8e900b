"""The taps that are compared: the baseline, and farspan with each way of transmitting."""
import os
import signal
import time
from pathlib import Path

from lab import ANALYZERS, TOOLS, soon
from program import Program

# What farspan is told; the rest are its defaults, which use GSO wherever the kernel cuts runs before the interface. That
# is turned off for `socket`.
TRANSMIT = {
    "socket": ["--transmit", "socket"],
    "socket-gso": ["--transmit", "socket"],
    "xdp": ["--transmit", "xdp"],
}
DESTINATIONS = {"vxlan": "vxlan://{}?vni=42", "gre": "gre://{}", "erspan2": "erspan2://{}?session=7"}
ENCAPSULATIONS = list(DESTINATIONS)


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
