#!/usr/bin/env python3
"""Prints the wire vectors of tests/golden_vectors.rs, made by scapy: an encoder that shares nothing with ours.

    python3 -m venv /tmp/golden && /tmp/golden/bin/pip install scapy==2.8.0
    /tmp/golden/bin/python tests/golden/make.py
"""

from scapy.all import ARP, GRE, IP, UDP, Dot1Q, Ether, IPv6, raw
from scapy.contrib.erspan import ERSPAN_II, ERSPAN_III
from scapy.contrib.geneve import GENEVE
from scapy.layers.vxlan import VXLAN

# MAC addresses for documentation (RFC 7042), IP addresses for documentation (RFC 5737, RFC 3849).
LINK = Ether(src="00:00:5e:00:53:01", dst="00:00:5e:00:53:02")
FRAME = Ether(src="00:00:5e:00:53:0a", dst="ff:ff:ff:ff:ff:ff") / ARP(
    hwsrc="00:00:5e:00:53:0a", psrc="198.51.100.1", pdst="198.51.100.2")
TAGGED = Ether(src="00:00:5e:00:53:0a", dst="ff:ff:ff:ff:ff:ff") / Dot1Q(prio=5, vlan=100) / ARP(
    hwsrc="00:00:5e:00:53:0a", psrc="198.51.100.1", pdst="198.51.100.2")

# DSCP 8 (CS1), ECN 00. An encapsulated frame in UDP over IPv4 has no checksum unless asked for.
V4 = LINK / IP(src="192.0.2.1", dst="192.0.2.2", tos=8 << 2, id=0x1234, flags="DF", ttl=64)
V6 = LINK / IPv6(src="2001:db8::1", dst="2001:db8::2", tc=8 << 2, fl=0, hlim=64)


def udp(port, **checksum):
    return UDP(sport=50000, dport=port, **checksum)


def gre(protocol, **optional):
    flags = {"key_present": "key" in optional, "seqnum_present": "sequence_number" in optional}
    return GRE(proto=protocol, **flags, **optional)


# A line of each vector: the lengths of its fields in bytes, and their names. Lines are words of the RFCs' figures.
ETHERNET = ((6, 6, 2), "Ethernet: destination, source, type")
OUTER_V4 = [ETHERNET,
            ((1, 1, 2), "IPv4, 5 words; DSCP 8, ECN 00; total length"),
            ((2, 2), "identification; DF, offset 0"),
            ((1, 1, 2), "TTL 64; protocol; header checksum"),
            ((4, 4), "192.0.2.1, 192.0.2.2")]
OUTER_V6 = [ETHERNET,
            ((4,), "IPv6; DSCP 8, ECN 00; flow label 0"),
            ((2, 1, 1), "payload length; next header; hop limit 64"),
            ((16,), "2001:db8::1"),
            ((16,), "2001:db8::2")]
OUTER_UDP = [((2, 2, 2, 2), "UDP: source port 50000, destination port, length, checksum")]
VXLAN_FIELDS = [((1, 3), "VXLAN: I; reserved"), ((3, 1), "VNI 0x123456; reserved")]
GENEVE_FIELDS = [((1, 1, 2), "Geneve: version 0, no options; O 0, C 0; Transparent Ethernet Bridging"),
                 ((3, 1), "VNI 0x123456; reserved")]
GRE_WORD = [((2, 2), "GRE: flags, version 0; protocol type")]
GRE_KEY = [((4,), "key 0xcafef00d")]
GRE_SEQUENCE = [((4,), "sequence number 0x01020304")]
ERSPAN_II_FIELDS = [((2, 2), "ERSPAN: version 1, VLAN 0; COS 0, En, T, session 0x2a5"),
                    ((4,), "reserved, index 0x12345")]
ERSPAN_III_FIELDS = [((2, 2), "ERSPAN: version 2, VLAN 0; COS 0, BSO 00, T, session 0x2a5"),
                     ((4,), "timestamp 0xdeadbeef"),
                     ((2, 2), "SGT 0; P 1, FT 0, Hw ID 0, D, Gra 00, O 0")]
ARP_REQUEST = [((8, 6, 4, 6, 4), "who has 198.51.100.2, says 198.51.100.1")]
INNER = [((6, 6, 2), "the frame: destination, source, ARP"), *ARP_REQUEST]
INNER_TAGGED = [((6, 6, 2, 2, 2), "the frame: destination, source, 802.1Q priority 5 VLAN 100, ARP"), *ARP_REQUEST]


def show(name, packet, *layouts):
    octets = raw(packet)
    print(f"const {name}: &str = \"")
    for lengths, label in (line for layout in layouts for line in layout):
        fields = []
        for length in lengths:
            fields.append(octets[:length].hex())
            octets = octets[length:]
        print(f"    {' '.join(fields):<34} # {label}")
    assert not octets, name
    print("\";\n")


def erspan_ii(**fields):
    return gre(0x88BE, sequence_number=0x01020304) / ERSPAN_II(session_id=0x2A5, index=0x12345, **fields)


def erspan_iii(**fields):
    return gre(0x22EB, sequence_number=0x01020304) / ERSPAN_III(
        session_id=0x2A5, timestamp=0xDEADBEEF, p=1, **fields)


vxlan, geneve = VXLAN(flags="Instance", vni=0x123456), GENEVE(vni=0x123456, proto=0x6558)
show("VXLAN_IPV4", V4 / udp(4789, chksum=0) / vxlan / FRAME, OUTER_V4, OUTER_UDP, VXLAN_FIELDS, INNER)
show("VXLAN_IPV4_CHECKSUM", V4 / udp(4789) / vxlan / FRAME, OUTER_V4, OUTER_UDP, VXLAN_FIELDS, INNER)
show("VXLAN_IPV6", V6 / udp(4789) / vxlan / FRAME, OUTER_V6, OUTER_UDP, VXLAN_FIELDS, INNER)
show("GENEVE_IPV4", V4 / udp(6081, chksum=0) / geneve / FRAME, OUTER_V4, OUTER_UDP, GENEVE_FIELDS, INNER)
show("GENEVE_IPV6", V6 / udp(6081) / geneve / FRAME, OUTER_V6, OUTER_UDP, GENEVE_FIELDS, INNER)
show("GRE_IPV4", V4 / gre(0x6558) / FRAME, OUTER_V4, GRE_WORD, INNER)
show("GRE_IPV6", V6 / gre(0x6558) / FRAME, OUTER_V6, GRE_WORD, INNER)
show("GRE_KEY", V4 / gre(0x6558, key=0xCAFEF00D) / FRAME, OUTER_V4, GRE_WORD, GRE_KEY, INNER)
show("GRE_SEQUENCE", V4 / gre(0x6558, sequence_number=0x01020304) / FRAME, OUTER_V4, GRE_WORD, GRE_SEQUENCE, INNER)
show("GRE_KEY_SEQUENCE", V4 / gre(0x6558, key=0xCAFEF00D, sequence_number=0x01020304) / FRAME,
     OUTER_V4, GRE_WORD, GRE_KEY, GRE_SEQUENCE, INNER)
show("ERSPAN_I", V4 / gre(0x88BE) / FRAME, OUTER_V4, GRE_WORD, INNER)
show("ERSPAN_II", V4 / erspan_ii() / FRAME, OUTER_V4, GRE_WORD, GRE_SEQUENCE, ERSPAN_II_FIELDS, INNER)
show("ERSPAN_II_TAGGED_TRUNCATED", V6 / erspan_ii(en=3, t=1) / TAGGED,
     OUTER_V6, GRE_WORD, GRE_SEQUENCE, ERSPAN_II_FIELDS, INNER_TAGGED)
show("ERSPAN_III_IN", V4 / erspan_iii() / FRAME, OUTER_V4, GRE_WORD, GRE_SEQUENCE, ERSPAN_III_FIELDS, INNER)
show("ERSPAN_III_OUT_TRUNCATED", V6 / erspan_iii(d=1, t=1) / FRAME,
     OUTER_V6, GRE_WORD, GRE_SEQUENCE, ERSPAN_III_FIELDS, INNER)
