#!/usr/bin/env python3
"""Writes a pcapng file with everything that the format allows, chosen at random: random_pcapng.py SEED BLOCKS FILE.

Frames are Ethernet with IPv4 and UDP. The file has sections of both byte orders, interfaces that differ in snapshot
length, clock and name, enhanced, simple and obsolete packet blocks with and without options, and blocks that have no
frames. The name of each frame's interface is printed, an empty line where it has none. Written after draft-ietf-opsawg-pcapng-03, with the standard library alone.
"""
import random
import struct
import sys

sys.stdout.reconfigure(encoding="utf-8")
seed, blocks, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
rng = random.Random(seed)
order = "<"


def padded(data):
    return data + bytes(-len(data) % 4)


def block(kind, body):
    length = 12 + len(padded(body))
    return struct.pack(order + "II", kind, length) + padded(body) + struct.pack(order + "I", length)


def options(*pairs):
    if not pairs:
        return b""
    written = b"".join(struct.pack(order + "HH", code, len(value)) + padded(value) for code, value in pairs)
    return written + struct.pack(order + "HH", 0, 0)


def section():
    global order
    order = rng.choice("<>")
    pairs = [(4, b"random_pcapng")] if rng.random() < 0.5 else []
    length = -1 if rng.random() < 0.8 else 0
    return block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, rng.choice((0, 2)), length) + options(*pairs))


def interface():
    resolution = rng.choice((None, 0, 3, 6, 9, 0x80 | 10, 0x80 | 20, 0x80 | 29))
    snaplen = rng.choice((0, 96, 65535, 262144))
    name = rng.choice((None, "eth0", "eth1", "wlan0", "dum\u00fc"))
    offset = rng.choice((None, 0, 3600, -3600))
    pairs = [(1, b"a comment")] if rng.random() < 0.3 else []
    if name:
        pairs.append((2, name.encode()))
    if resolution is not None:
        pairs.append((9, bytes([resolution])))
    if offset is not None:
        pairs.append((14, struct.pack(order + "q", offset)))
    rng.shuffle(pairs)
    body = struct.pack(order + "HHI", 1, 0, snaplen) + options(*pairs)
    return (snaplen, 6 if resolution is None else resolution, offset or 0, name or ""), block(1, body)


def frame():
    payload = rng.randbytes(rng.choice((0, 1, 2, 3, rng.randrange(1400))))
    udp = struct.pack(">HHHH", rng.randrange(1024, 65536), 9, 8 + len(payload), 0) + payload
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), rng.randrange(65536), 0, 64, 17, 0, b"\xc0\0\2\1", b"\xc0\0\2\2")
    return b"\x02\0\0\0\0\1\x02\0\0\0\0\2\x08\0" + ip + udp


def packet(interfaces, moment):
    number = rng.randrange(len(interfaces))
    snaplen, resolution, offset, name = interfaces[number]
    print(name)
    data = frame()
    seconds, part = 1_700_000_000 + moment - offset, rng.random()
    scale = 2 ** (resolution & 0x7F) if resolution & 0x80 else 10 ** resolution
    units = seconds * scale + int(part * scale)
    captured = data[:snaplen] if snaplen else data
    if rng.random() < 0.2:
        captured = captured[: rng.randrange(14, len(captured) + 1)]
    pairs = []
    if rng.random() < 0.5:
        pairs.append((2, struct.pack(order + "I", rng.choice((0, 1, 2)) | rng.choice((0, 1 << 2)))))
    if rng.random() < 0.3:
        pairs.append((1, bytes(rng.randrange(97, 123) for _ in range(rng.randrange(200)))))
    rng.shuffle(pairs)
    tail = struct.pack(order + "IIII", units >> 32, units & 0xFFFFFFFF, len(captured), len(data))
    tail += padded(captured) + options(*pairs)
    if rng.random() < 0.2:
        return block(2, struct.pack(order + "HH", number, rng.choice((0, 7, 65535))) + tail)
    return block(6, struct.pack(order + "I", number) + tail)


def simple(interfaces):
    data, (snaplen, _, _, name) = frame(), interfaces[0]
    print(name)
    return block(3, struct.pack(order + "I", len(data)) + (data[:snaplen] if snaplen else data))


def silent():
    """A block without a frame."""
    kind = rng.choice((4, 5, 10, 0xBAD, 0x40000BAD, 0x80000001))
    if kind == 4:
        return block(4, struct.pack(order + "HH", 0, 0))
    if kind == 5:
        return block(5, struct.pack(order + "III", 0, 0, 0))
    if kind == 10:
        secret = b"CLIENT_RANDOM 00 00\n"
        return block(10, struct.pack(order + "II", 0x544C534B, len(secret)) + secret)
    return block(kind, struct.pack(order + "I", 32473) + rng.randbytes(4 * rng.randrange(300)))


written, interfaces = [], []
for number in range(blocks):
    if not written or rng.random() < 0.02:
        written.append(section())
        interfaces = []
    if not interfaces or rng.random() < 0.05:
        described, text = interface()
        interfaces.append(described)
        written.append(text)
    chance = rng.random()
    if chance < 0.75:
        written.append(packet(interfaces, number))
    elif chance < 0.8:
        written.append(simple(interfaces))
    else:
        written.append(silent())
with open(path, "wb") as file:
    file.write(b"".join(written))
