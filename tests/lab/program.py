"""Programs that run in the namespaces while something is done around them: any one, and the daemon."""
import json
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from namespaces import run, soon


class Refused(Exception):
    """A program did not start; says why."""


def refusal(words, code):
    """Why a program that ended at once did so: from what it said, or from its exit code."""
    what = [line.strip() for line in words.splitlines() if line.strip().startswith(("error:", "cause:"))]
    return "; ".join(what) or f"ended with {code}"


def cpu_of(process):
    """CPU time of all threads of a process so far, in nanoseconds (schedstat of proc(5))."""
    tasks = Path(f"/proc/{process}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks)


class Program:
    """A running program that prints JSON when it is told to end. It has started when it has said `sign`."""

    def __init__(self, command, name, sign, patience=60.0, environment=None):
        # Read by its name: to seek in what the program writes to would have it write there.
        self.log, self.sign = tempfile.NamedTemporaryFile("w"), sign
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=self.log, text=True)
        soon(f"{name} to start", self.started, patience)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.stop()

    def said(self):
        """What it has said on standard error so far."""
        return Path(self.log.name).read_text(encoding="utf-8")

    def started(self):
        ended = self.process.poll() is not None
        words = self.said()
        if ended:
            raise Refused(refusal(words, self.process.returncode))
        return self.sign in words

    def cpu(self):
        """CPU time of all its threads so far, in nanoseconds."""
        return cpu_of(self.process.pid)

    def memory(self, line="VmHWM"):
        """Largest resident memory so far, in KiB, or what another line of status says (proc(5))."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split(f"{line}:")[1].split()[0])

    def end(self, patience=30.0):
        """Ends it; what it printed."""
        self.process.send_signal(signal.SIGTERM)
        printed, _ = self.process.communicate(timeout=patience)
        return printed

    def stop(self):
        return json.loads(self.end())


class Daemon(Program):
    """`farspan run`, with everything that it needs in `folder`; `inside` makes a command one in its namespace."""

    def __init__(self, inside, folder, configuration):
        self.inside, self.folder = inside, Path(folder)
        self.configure(configuration)
        self.socket = self.folder / "control.sock"
        environment = {**os.environ, "FARSPAN_CONTROL__SOCKET": str(self.socket)}
        command = inside(os.environ["FARSPAN_BINARY"], "run", "--json", "-C", self.folder / "farspan.toml")
        began = time.monotonic()
        super().__init__(command, "the daemon", "farspan: running ", 30.0, environment)
        self.start_seconds = time.monotonic() - began

    def configure(self, configuration):
        """Writes its configuration, at once: it may be reading it."""
        new = self.folder / "farspan.toml.new"
        new.write_text(configuration, encoding="utf-8")
        new.rename(self.folder / "farspan.toml")

    def tell(self, *words):
        """What `farspan` answers when it is told so."""
        return run(*self.inside(os.environ["FARSPAN_BINARY"], *words, "--socket", self.socket))

    def sessions(self):
        """What `farspan status --json` says of its sessions."""
        return json.loads(self.tell("status", "--json"))["sessions"]
