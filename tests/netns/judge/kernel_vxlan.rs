//! The kernel's own vxlan device: it drops whatever is not exactly RFC 7348.

use crate::judge::Capture;
use crate::lab::{ANALYZER, ANALYZER_V6, Lab};

/// A vxlan device in the analyzer, and a capture of what it delivers.
pub struct KernelVxlan;

impl KernelVxlan {
    /// Makes the device `vx0` for one VNI and captures what it decapsulates.
    pub fn start(lab: &Lab, vni: u32, over_v6: bool) -> Capture {
        Self::device(lab, "vx0", vni, if over_v6 { ANALYZER_V6 } else { ANALYZER });
        Capture::start(lab, &lab.analyzer, "vx0", "")
    }

    fn device(lab: &Lab, name: &str, vni: u32, local: &str) {
        let analyzer = &lab.analyzer;
        // Without `dev` its MTU is not bound to the underlay's; the frames are looked at, never answered.
        analyzer.run(&format!("ip link add {name} type vxlan id {vni} dstport 4789 local {local} nolearning"));
        analyzer.run(&format!("ip link set {name} mtu 9200 addrgenmode none arp off promisc on up"));
    }
}
