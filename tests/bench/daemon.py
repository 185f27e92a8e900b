"""`farspan run` under the benchmark: with a limit of CPU time before an IDS, and with hundreds of sessions."""
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from lab import ANALYZERS, soon
import program
from program import Refused

RULE = ('alert http any any -> any any (msg:"a request"; flow:established,to_server; http.uri; content:"/evil"; '
        'sid:1;)\n')
# What Suricata needs to follow these conversations, and room for all of them; it writes statistics only.
SURICATA = """%YAML 1.1
---
outputs:
  - eve-log: {{enabled: yes, filetype: regular, filename: eve.json, types: [stats]}}
stats: {{enabled: yes, interval: 3600}}
af-packet:
  - {{interface: a0, threads: 1, cluster-id: 99, cluster-type: cluster_flow, use-mmap: yes, ring-size: 100000}}
app-layer: {{protocols: {{http: {{enabled: yes, memcap: 512mb}}}}}}
decoder: {{vxlan: {{enabled: yes, ports: [4789]}}}}
flow: {{memcap: 1gb, hash-size: 262144, prealloc: 10000}}
stream: {{memcap: 1gb, checksum-validation: yes, reassembly: {{memcap: 1gb}}}}
default-log-dir: {folder}
"""


class Daemon(program.Daemon):
    """A running `farspan run` in a namespace of the lab; its files go with it."""

    def __init__(self, inside, configuration):
        self.files = tempfile.TemporaryDirectory(prefix="farspan-bench-")
        super().__init__(inside, self.files.name, configuration)

    def __exit__(self, *_):
        super().__exit__()
        self.files.cleanup()

    def session(self):
        """What `farspan status --json` says of its only session."""
        return self.sessions()[0]

    def kept(self):
        """Of the frames that would have gone on so far: how many did, and how many there were."""
        ledger = self.session()["ledger"]
        shed = ledger["dropped"].get("shed", 0)
        wanted = ledger["captured"] - sum(ledger["dropped"].values()) + shed
        return wanted - shed, wanted


class Suricata:
    """An IDS at the analyzer's end, which alerts once for each whole conversation."""

    def __init__(self, lab):
        if not shutil.which("suricata"):
            raise Refused("suricata is not installed")
        self.folder = tempfile.TemporaryDirectory(prefix="farspan-bench-")
        path = Path(self.folder.name)
        (path / "rules").write_text(RULE)
        (path / "suricata.yaml").write_text(SURICATA.format(folder=path))
        command = lab.inside("analyzer", "suricata", "-c", path / "suricata.yaml", "-S", path / "rules", "-l", path,
                             "--af-packet=a0", "--set", "unix-command.enabled=no")
        self.log = open(path / "console", "w+")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        soon("Suricata's engine to start", self.started, 60.0)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.stop()
        self.log.close()
        self.folder.cleanup()

    def started(self):
        words = Path(self.log.name).read_text()
        if self.process.poll() is not None:
            raise Refused(f"suricata: {words.strip()}")
        return "Engine started" in words

    def stop(self):
        """Ends it; its statistics."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait()
        events = [json.loads(line) for line in Path(self.folder.name, "eve.json").read_text().splitlines()]
        return [event["stats"] for event in events if event["event_type"] == "stats"][-1]


def mirror(limit=None):
    """The configuration of one session that mirrors the conversations; without GSO, so that one generator is load enough."""
    session = (f'[session.bench]\nsource = {{ interface = "h0", buffer = "64MiB" }}\nselect.filter = "tcp port 80"\n'
               f'destination.ids.to = "vxlan://{ANALYZERS["veth"]}?vni=42&gso=off"\n')
    return session + (f'limit.cpu = "{limit}"\n' if limit else "")


def load(lab, pace, seconds):
    """What a mirror of so many frames a second takes without a limit: the part of a core, and how many they really were."""
    with Daemon(lambda *command: lab.inside("host", *command), mirror()) as daemon:
        making = lab.generating("http", pace, seconds + 1)
        time.sleep(0.5)
        began, cpu, frames = time.monotonic(), daemon.cpu(), lab.received("host", "h0")
        time.sleep(seconds)
        took = time.monotonic() - began
        cpu, frames = daemon.cpu() - cpu, lab.received("host", "h0") - frames
        making.wait()
    return cpu / took / 1e9, frames / took


def governed(lab, pace, seconds, limit):
    """What a mirror does that may use so much of a core, and what an IDS sees of it."""
    with Suricata(lab) as suricata, Daemon(lambda *command: lab.inside("host", *command), mirror(limit)) as daemon:
        making = lab.generating("http", pace, seconds)
        time.sleep(4)
        began, cpu = time.monotonic(), daemon.cpu()
        tapped, arrived, kept = lab.received("host", "h0"), lab.received("analyzer", "a0"), daemon.kept()
        time.sleep(seconds - 5)
        tapped, arrived = lab.received("host", "h0") - tapped, lab.received("analyzer", "a0") - arrived
        kept, shown = [now - before for now, before in zip(daemon.kept(), kept)], daemon.session()["governor"]
        cpu, took = daemon.cpu() - cpu, time.monotonic() - began
        made = json.loads(making.communicate()[0])
        lab.settled("veth")
        ledger = daemon.stop()["bench"]
        found = suricata.stop()
    seen, alerts = found["flow"]["tcp"], found["detect"]["alert"]
    return {
        "cpu_percent": round(cpu / took / 1e7, 2),
        "kept_reported": round(kept[0] / max(kept[1], 1), 4),
        "kept_fraction_at_end": round(shown["kept_fraction"], 4),
        "kept_arrived": round(arrived / max(tapped, 1), 4),
        "conversations": made["sent"] // 10,
        "seen": seen,
        "complete": round(alerts / max(seen, 1), 4),
        "lost_by_suricata": found["capture"]["kernel_drops"],
        "kernel_dropped": ledger["kernel_dropped"],
    }


def sessions(count, seconds, limit=""):
    """So many sessions with an interface each, and nothing to do: how long they take to start, memory, CPU."""
    name = f"fpr{os.getpid()}-sessions"
    inside = lambda *command: ["ip", "netns", "exec", name, *map(str, command)]  # noqa: E731
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(inside("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"), check=True)
        links = "".join(f"link add t{each} type veth peer name p{each}\nlink set t{each} up\nlink set p{each} up\n"
                        for each in range(1, count + 1))
        links += ("link add u0 type veth peer name a0\nlink set a0 up\nlink set u0 up\naddress add 192.0.2.1/24 dev u0\n"
                  "neigh replace 192.0.2.2 lladdr 02:00:00:00:00:99 dev u0 nud permanent\n")
        subprocess.run(["ip", "-n", name, "-batch", "-"], input=links, text=True, check=True)
        configuration = limit + "".join(f'[session.s{each}]\nsource.interface = "t{each}"\n'
                                f'destination.ids.to = "vxlan://192.0.2.2?vni={each}"\n' for each in range(1, count + 1))
        with Daemon(inside, configuration) as daemon:
            time.sleep(2)
            cpu = daemon.cpu()
            time.sleep(seconds)
            cpu = daemon.cpu() - cpu
            return {"limit": limit.strip(), "start_seconds": round(daemon.start_seconds, 2), "cpu_percent": round(cpu / seconds / 1e7, 3),
                    "resident_kib_each": round(daemon.memory("VmRSS") / count)}
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=False)
