"""The network namespaces that the benchmark and the soak run in: a client, the tapped host, an analyzer."""
import os
import subprocess
import sys
import time


def run(*command):
    return subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout


def soon(what, look, patience=60.0):
    """Waits until look() is true: long enough for a busy machine to start a program."""
    deadline = time.monotonic() + patience
    while not look():
        if time.monotonic() > deadline:
            sys.exit(f"waited in vain for {what}")
        time.sleep(0.005)


class Namespaces:
    """The namespaces, wired by build(); deleted at the end."""

    def __init__(self):
        self.names = {role: f"fpr{os.getpid()}-{role}" for role in ("client", "host", "analyzer")}

    def __enter__(self):
        try:
            for name in self.names.values():
                run("ip", "netns", "add", name)
            self.build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for name in self.names.values():
            subprocess.run(["ip", "netns", "delete", name], check=False)

    def wire(self, left, near, right, far, mtu, *options):
        """A veth between two of them; `options` are those of both its ends."""
        run("ip", "link", "add", near, "netns", self.names[left], "mtu", mtu, *options,
            "type", "veth", "peer", "name", far, "netns", self.names[right], "mtu", mtu, *options)

    def up(self, role, link, *addresses):
        """Brings up an interface with these addresses."""
        for address in addresses:
            self.on(role, "ip", "address", "add", address, "dev", link)
        self.on(role, "ip", "link", "set", link, "up")

    def inside(self, role, *command):
        return ["ip", "netns", "exec", self.names[role], *map(str, command)]

    def on(self, role, *command):
        return run(*self.inside(role, *command))
