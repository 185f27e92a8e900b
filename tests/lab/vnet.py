"""Sends frames with a virtio_net_hdr, as guests and containers do: super-frames and unfinished checksums of any kind.

    vnet.py packet INTERFACE FILE RATE SECONDS    through a packet socket with PACKET_VNET_HDR
    vnet.py tap NAME FILE RATE SECONDS            through a TAP device that it makes, as a virtual machine's

FILE holds records of a length (4 bytes, little-endian) and so many bytes: the 10-byte header of linux/virtio_net.h, then the
frame. It is waited for, so that others can be started once the device is there. RATE is in frames a second. The records are
sent once, or with SECONDS over and over for so long. Says how many were sent, and keeps the device until it is ended.
"""
import fcntl
import os
import socket
import struct
import subprocess
import sys
import time

TUNSETIFF, IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x400454CA, 0x0002, 0x1000, 0x4000
SOL_PACKET, PACKET_VNET_HDR = 263, 15


def tap(name):
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
    subprocess.run(["sysctl", "-qw", f"net.ipv6.conf.{name}.disable_ipv6=1"], check=True)
    subprocess.run(["ip", "link", "set", name, "up"], check=True)
    return lambda frame: os.write(device, frame)


def packet(interface):
    sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sender.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    sender.bind((interface, 0))
    return sender.send


def records(path):
    while not os.path.exists(path):
        time.sleep(0.02)
    content, at = open(path, "rb").read(), 0
    while at < len(content):
        (length,) = struct.unpack_from("<I", content, at)
        yield content[at + 4 : at + 4 + length]
        at += 4 + length


def main(how, name, path, rate, seconds):
    send = {"tap": tap, "packet": packet}[how](name)
    print("ready", flush=True)
    frames, rate, seconds = list(records(path)), float(rate), float(seconds)
    begun, sent = time.monotonic(), 0
    while sent < len(frames) if seconds == 0 else time.monotonic() < begun + seconds:
        send(frames[sent % len(frames)])
        sent += 1
        time.sleep(max(0, begun + sent / rate - time.monotonic()))
    print(f"sent {sent}", flush=True)
    time.sleep(600)


main(*sys.argv[1:])
