//! Destinations as arguments: their URLs, and every key of them as a flag.

#![allow(clippy::doc_markdown, reason = "doc comments of arguments are help texts, printed as they are")]

use clap::Args;

use crate::config::written::{Table, Written, set};

/// Every key of a destination as a flag: it sets the key for all destinations that have it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Keys of a destination, for all of them; also parameters of its URL")]
pub struct DestinationArguments {
    /// VXLAN or Geneve network identifier: 42, or by interface eth0:10,veth*:11
    #[arg(long, value_name = "ID")]
    vni: Option<String>,
    /// The same for frames that this host sent
    #[arg(long, value_name = "ID")]
    vni_out: Option<String>,
    /// GRE key [default: none in the header]
    #[arg(long, value_name = "ID")]
    key: Option<String>,
    /// The same for frames that this host sent
    #[arg(long, value_name = "ID")]
    key_out: Option<String>,
    /// ERSPAN session id: the key `session` of a URL (--session chooses a session of the configuration)
    #[arg(long, value_name = "ID")]
    session_id: Option<String>,
    /// ERSPAN session id of frames that this host sent
    #[arg(long = "session-id-out", value_name = "ID")]
    session_out: Option<String>,
    /// ERSPAN II index [default: 0]
    #[arg(long, value_name = "N")]
    index: Option<String>,
    /// Sequence numbers in GRE: on, off [default: off]
    #[arg(long, value_name = "SWITCH")]
    seq: Option<String>,
    /// Frames too long for the path: split, fragment, truncate, drop [default: split]
    #[arg(long, value_name = "HOW")]
    fit: Option<String>,
    /// What listens there: suricata, zeek, snort, arkime, linux; `farspan check` then knows its limits
    #[arg(long, value_name = "PROGRAM")]
    analyzer: Option<String>,
    /// How datagrams leave: auto, socket, xdp (AF_XDP), xdp-zerocopy (without a copy where the driver can), or pcap:FILE
    /// for a dry run [default: auto, which is socket]
    #[arg(long, value_name = "HOW")]
    transmit: Option<String>,
    /// Source address of the tunnel [default: the route's]
    #[arg(long, value_name = "ADDRESS")]
    source: Option<String>,
    /// Interface that the tunnel leaves by [default: the route's]
    #[arg(long, value_name = "IF")]
    device: Option<String>,
    /// Differentiated services code point, 0 to 63 [default: 0]
    #[arg(long, value_name = "N")]
    dscp: Option<String>,
    /// Time to live, 1 to 255 [default: 64]
    #[arg(long, value_name = "N")]
    ttl: Option<String>,
    /// Outer UDP checksum: auto, on, off [default: auto: none over IPv4 without GSO, else computed]
    #[arg(long, value_name = "HOW")]
    udp_checksum: Option<String>,
    /// UDP GSO, several datagrams in one: auto, on, off [default: auto: where the kernel cuts them before the interface]
    #[arg(long, value_name = "HOW")]
    gso: Option<String>,
    /// UDP source ports [default: 49152-65535]
    #[arg(long, value_name = "FIRST-LAST")]
    ports: Option<String>,
    /// Share of the flows beside the others' weights, 1 to 1000, with --spread balance [default: 1]
    #[arg(long, value_name = "N")]
    weight: Option<String>,
    /// How the analyzer is asked whether it is there: icmp, tcp:PORT, off [default: off]
    #[arg(long, value_name = "HOW")]
    probe: Option<String>,
    /// How often the analyzer's name is looked up again, or off [default: 60s]
    #[arg(long, value_name = "TIME")]
    resolve: Option<String>,
    /// Path MTU of a tunnel, whatever routes and ICMP say, 68 to 65535: the key `mtu` of a URL [default: learnt]
    #[arg(long, value_name = "BYTES")]
    path_mtu: Option<String>,
    /// Least path MTU that is believed when ICMP reports it [default: 1280]
    #[arg(long, value_name = "BYTES")]
    mtu_floor: Option<String>,
    /// MTU of a TAP device: the key `mtu` of a URL (--mtu is that of a recorded link) [default: of what is mirrored]
    #[arg(long, value_name = "BYTES")]
    tap_mtu: Option<String>,
    /// User who may attach to the TAP device, name or number
    #[arg(long, value_name = "USER")]
    owner: Option<String>,
    /// Begin another capture file before it is larger than this: 100MiB
    #[arg(long, value_name = "SIZE")]
    rotate_size: Option<String>,
    /// Begin another capture file after this time: 1h
    #[arg(long, value_name = "TIME")]
    rotate_time: Option<String>,
    /// How many of the capture files of this run stay, the newest ones [default: all]
    #[arg(long, value_name = "COUNT")]
    keep: Option<String>,
    /// When capture files must be on the disk: off, rotate (when complete), flush (every batch) [default: off]
    #[arg(long, value_name = "WHEN")]
    sync: Option<String>,
    /// Permissions of capture files, octal: 0640 for a group that reads them [default: 0600]
    #[arg(long, value_name = "MODE")]
    mode: Option<String>,
}

impl DestinationArguments {
    /// The keys that were given.
    pub fn table(&self) -> Table {
        [
            ("vni", "--vni", &self.vni),
            ("vni_out", "--vni-out", &self.vni_out),
            ("key", "--key", &self.key),
            ("key_out", "--key-out", &self.key_out),
            ("session", "--session-id", &self.session_id),
            ("session_out", "--session-id-out", &self.session_out),
            ("index", "--index", &self.index),
            ("seq", "--seq", &self.seq),
            ("fit", "--fit", &self.fit),
            ("analyzer", "--analyzer", &self.analyzer),
            ("transmit", "--transmit", &self.transmit),
            ("source", "--source", &self.source),
            ("device", "--device", &self.device),
            ("dscp", "--dscp", &self.dscp),
            ("ttl", "--ttl", &self.ttl),
            ("udp_checksum", "--udp-checksum", &self.udp_checksum),
            ("gso", "--gso", &self.gso),
            ("ports", "--ports", &self.ports),
            ("weight", "--weight", &self.weight),
            ("probe", "--probe", &self.probe),
            ("resolve", "--resolve", &self.resolve),
            ("path_mtu", "--path-mtu", &self.path_mtu),
            ("mtu_floor", "--mtu-floor", &self.mtu_floor),
            ("tap_mtu", "--tap-mtu", &self.tap_mtu),
            ("owner", "--owner", &self.owner),
            ("rotate_size", "--rotate-size", &self.rotate_size),
            ("rotate_time", "--rotate-time", &self.rotate_time),
            ("keep", "--keep", &self.keep),
            ("sync", "--sync", &self.sync),
            ("mode", "--mode", &self.mode),
        ]
        .into_iter()
        .filter_map(|(key, flag, word)| Some((key.to_owned(), Written::flag(flag, word.as_ref()?))))
        .collect()
    }
}

/// What all tunnels of the process have in common.
#[derive(Debug, Args)]
#[command(next_help_heading = "Tunnels")]
pub struct MarkArguments {
    /// Socket mark of the tunnels' packets, and its mask. Sessions with a tunnel leave out frames that carry it: they are
    /// another farspan's tunnel. Or off [default: 0xfa500000/0xfff00000]
    #[arg(long, value_name = "MARK/MASK")]
    mark: Option<String>,
}

impl MarkArguments {
    /// The flag, if it was given.
    pub fn written(&self) -> Option<Written> {
        self.mark.as_ref().map(|mark| Written::flag("--mark", mark))
    }
}

/// Destinations of the command line take the place of the file's; they are named 1, 2, … in their order.
pub fn write_destinations(to: &[String], keys: &mut Table) {
    if to.is_empty() {
        return;
    }
    keys.shift_remove("destination");
    for (position, url) in to.iter().enumerate() {
        let name = (position + 1).to_string();
        set(keys, &["destination", &name, "to"], Written::flag("--to", url));
    }
}
