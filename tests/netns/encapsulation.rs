//! Every encapsulation: how a test asks for it, and what the analyzer's tools must see.

use crate::lab::{ANALYZER, ANALYZER_V6};

/// An encapsulation with fixed ids.
pub struct Encapsulation {
    /// Scheme of the destination URL.
    scheme: &'static str,
    /// Query of the destination URL.
    query: &'static str,
    /// A display filter of tshark that says exactly what every datagram must look like.
    pub exactly: &'static str,
    /// The tunnel port of Open vSwitch that takes it, if it has one.
    pub open_vswitch: Option<&'static str>,
    /// Whether Suricata looks into it.
    pub seen_by_suricata: bool,
}

impl Encapsulation {
    /// The destination URL of the lab's analyzer.
    pub fn url(&self, underlay: Underlay) -> String {
        self.url_with(underlay, "")
    }

    /// The same with further parameters, such as `fit=fragment`.
    pub fn url_with(&self, underlay: Underlay, parameters: &str) -> String {
        let host = match underlay {
            Underlay::V4 => ANALYZER.to_owned(),
            Underlay::V6 => format!("[{ANALYZER_V6}]"),
        };
        let query = [self.query, parameters].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("&");
        let mark = if query.is_empty() { "" } else { "?" };
        format!("{}://{host}{mark}{query}", self.scheme)
    }

    /// The endpoint that receives it at every address.
    pub fn endpoint(&self, underlay: Underlay) -> String {
        let any = if underlay == Underlay::V4 { "0.0.0.0" } else { "[::]" };
        format!("{}://{any}", self.scheme)
    }

    /// The id that its URL asks for, and the name of its encapsulation, as a receiver tells them.
    pub fn stream(&self) -> (&'static str, Option<u32>) {
        let id = self.query.split(['=', '&']).nth(1).and_then(|id| id.parse().ok());
        (self.scheme, id)
    }

    /// Its name in a test's messages and file names.
    pub fn name(&self) -> String {
        format!("{}{}", self.scheme, if self.query.contains("key") { "-key" } else { "" })
    }
}

/// The IP version between tapped host and analyzer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Underlay {
    V4,
    V6,
}

impl Underlay {
    /// What tshark must see of the outer IP header (`#1`: its first occurrence): addresses, don't fragment, TTL 64, no
    /// ECN, no fragment.
    pub fn exactly(self) -> &'static str {
        match self {
            Self::V4 => {
                "ip.src#1 == 192.0.2.1 && ip.dst#1 == 192.0.2.2 && ip.ttl#1 == 64 && ip.dsfield#1 == 0 \
                 && ip.flags.df#1 == 1 && ip.flags.mf#1 == 0 && ip.frag_offset#1 == 0"
            }
            Self::V6 => {
                "ipv6.src#1 == 2001:db8:9::1 && ipv6.dst#1 == 2001:db8:9::2 && ipv6.hlim#1 == 64 && ipv6.tclass#1 == 0 \
                 && ipv6.flow#1 == 0 && !ipv6.fraghdr"
            }
        }
    }

    /// A capture filter for everything that farspan sends over this underlay.
    pub fn tunnel_filter(self) -> &'static str {
        match self {
            Self::V4 => "src host 192.0.2.1 and (udp dst port 4789 or udp dst port 6081 or ip proto 47)",
            Self::V6 => "src host 2001:db8:9::1 and (udp dst port 4789 or udp dst port 6081 or ip6 proto 47)",
        }
    }
}

pub const VXLAN: Encapsulation = Encapsulation {
    scheme: "vxlan",
    query: "vni=42",
    exactly: "udp.dstport#1 == 4789 && udp.srcport#1 >= 49152 && vxlan.vni == 42 && vxlan[0:8] == 08:00:00:00:00:00:2a:00",
    open_vswitch: Some("type=vxlan options:remote_ip=flow options:key=42"),
    seen_by_suricata: true,
};

pub const GRE: Encapsulation = Encapsulation {
    scheme: "gre",
    query: "",
    exactly: "gre.flags_and_version == 0x0000 && gre.proto == 0x6558",
    open_vswitch: Some("type=gre options:remote_ip=flow"),
    seen_by_suricata: true,
};

pub const GRE_WITH_KEY: Encapsulation = Encapsulation {
    scheme: "gre",
    query: "key=7",
    exactly: "gre.flags_and_version == 0x2000 && gre.proto == 0x6558 && gre.key == 7",
    open_vswitch: Some("type=gre options:remote_ip=flow options:key=7"),
    seen_by_suricata: true,
};

pub const ERSPAN_1: Encapsulation = Encapsulation {
    scheme: "erspan1",
    query: "",
    exactly: "gre.flags_and_version == 0x0000 && gre.proto == 0x88be",
    open_vswitch: None,
    seen_by_suricata: true,
};

pub const ERSPAN_2: Encapsulation = Encapsulation {
    scheme: "erspan2",
    query: "session=5&index=3",
    exactly: "gre.flags_and_version == 0x1000 && gre.proto == 0x88be && erspan.version == 1 && erspan.vlan == 0 \
              && erspan.cos == 0 && erspan.encap == 0 && erspan.truncated == 0 && erspan.spanid == 5 && erspan.index == 3",
    open_vswitch: Some("type=erspan options:remote_ip=flow options:key=5 options:erspan_ver=1"),
    seen_by_suricata: true,
};

pub const ERSPAN_3: Encapsulation = Encapsulation {
    scheme: "erspan3",
    query: "session=5",
    exactly: "gre.flags_and_version == 0x1000 && gre.proto == 0x22eb && erspan.version == 2 && erspan.vlan == 0 \
              && erspan.cos == 0 && erspan.bso == 0 && erspan.truncated == 0 && erspan.spanid == 5 && erspan.sgt == 0 \
              && erspan.p == 1 && erspan.ft == 0 && erspan.hw == 0 && erspan.gra == 0 && erspan.o == 0 \
              && erspan.timestamp > 0",
    open_vswitch: Some("type=erspan options:remote_ip=flow options:key=5 options:erspan_ver=2"),
    seen_by_suricata: false,
};

pub const GENEVE: Encapsulation = Encapsulation {
    scheme: "geneve",
    query: "vni=42",
    exactly: "udp.dstport#1 == 6081 && udp.srcport#1 >= 49152 && geneve.version == 0 && geneve.flags == 0 \
              && geneve.proto_type == 0x6558 && geneve.vni == 42 && geneve.reserved == 0 && !geneve.options",
    open_vswitch: Some("type=geneve options:remote_ip=flow options:key=42"),
    seen_by_suricata: true,
};

/// One of each, without the variants.
pub const ALL: [&Encapsulation; 6] = [&VXLAN, &GRE, &ERSPAN_1, &ERSPAN_2, &ERSPAN_3, &GENEVE];

/// Tests of one proof for each of several encapsulations and underlays.
macro_rules! for_every_encapsulation {
    ($proof:ident: $($test:ident = $encapsulation:ident over $underlay:ident;)*) => {
        $(
            #[test]
            #[ignore = "needs root: run scripts/test"]
            fn $test() {
                $proof(&$encapsulation, Underlay::$underlay);
            }
        )*
    };
}
pub(crate) use for_every_encapsulation;
