//! What stands between this host and the analyzer: firewalls and clouds.

use super::facts::Facts;
use super::finding::Finding;
use crate::config::plan::{DestinationPlan, End, SessionPlan};
use crate::kernel::underlay::Underlay;

/// Whose virtual machine this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cloud {
    /// Amazon EC2.
    Amazon,
    /// Microsoft Azure.
    Azure,
    /// Google Compute Engine.
    Google,
    /// Alibaba Cloud ECS.
    Alibaba,
}

impl Cloud {
    /// Judges by the DMI strings `sys_vendor` and `chassis_asset_tag`.
    pub fn of_firmware(vendor: &str, asset_tag: &str) -> Option<Self> {
        /// Azure and every other Hyper-V have the same vendor; this tag is Azure's alone.
        const AZURE_ASSET_TAG: &str = "7783-7084-3265-9085-8269-3286-77";

        match vendor {
            "Amazon EC2" => Some(Self::Amazon),
            "Microsoft Corporation" if asset_tag == AZURE_ASSET_TAG => Some(Self::Azure),
            "Google" => Some(Self::Google),
            "Alibaba Cloud" => Some(Self::Alibaba),
            _ => None,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Amazon => "Amazon EC2",
            Self::Azure => "Azure",
            Self::Google => "Google Cloud",
            Self::Alibaba => "Alibaba Cloud",
        }
    }

    /// What lets a protocol in there.
    const fn gate(self) -> &'static str {
        match self {
            Self::Amazon => "the security group and the network ACL of the analyzer",
            Self::Azure => "the network security group of the analyzer",
            Self::Google => "an ingress firewall rule of the analyzer's VPC network",
            Self::Alibaba => "the security group of the analyzer",
        }
    }
}

/// The protocol of a tunnel as firewalls name it.
pub fn protocol(port: Option<u16>) -> String {
    port.map_or_else(|| "IP protocol 47 (GRE)".to_owned(), |port| format!("UDP port {port}"))
}

/// Says what has to let the encapsulation pass.
pub fn findings(plan: &SessionPlan, facts: &Facts) -> Vec<Finding> {
    let ways = facts.underlays.iter().map(Option::as_deref);
    let leaves_this_host = |(destination, way): (&DestinationPlan, Option<&Underlay>)| {
        let End::Tunnel(tunnel) = &destination.end else { return None };
        let sends = tunnel.is_live() && !way?.remote().is_loopback();
        sends.then(|| gate(&destination.name, tunnel.encapsulation.udp_port(), facts.cloud))
    };
    plan.destinations.iter().zip(ways).filter_map(leaves_this_host).collect()
}

fn gate(name: &str, port: Option<u16>, cloud: Option<Cloud>) -> Finding {
    let let_in = || Finding::note(format!("destination {name}: {} must be let in", protocol(port)));
    match (cloud, port) {
        (Some(Cloud::Azure), None) => {
            Finding::warning(format!("destination {name}: Azure is known to block GRE and ERSPAN"))
                .because("Virtual networks there carry TCP, UDP and ICMP between machines, not IP protocol 47.")
                .cure("use vxlan:// or geneve://")
        }
        (Some(cloud), Some(_)) => let_in().because(format!("On {} it takes {}.", cloud.name(), cloud.gate())),
        (Some(cloud), None) => let_in()
            .because(format!("On {} it takes {}, with a rule for a protocol number.", cloud.name(), cloud.gate()))
            .cure("where that is not possible use vxlan://"),
        (None, Some(_)) => let_in().because(
            "By the firewalls on the way and, in a cloud, the analyzer's security group (AWS, Azure, Alibaba) or VPC \
             firewall rule (Google).",
        ),
        (None, None) => let_in()
            .because(
                "A rule for ports is not enough: it takes one for the protocol. Azure is known to block it everywhere, \
                 other clouds differ.",
            )
            .cure("in a cloud prefer vxlan://"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::super::testing::{facts, mtu, plan, tunnel, vxlan};
    use super::*;
    use crate::config::plan::Encapsulation;

    fn heard(encapsulation: Encapsulation, cloud: Option<Cloud>) -> (Severity, String, String) {
        let findings = findings(&plan(tunnel(encapsulation)), &Facts { cloud, ..facts(mtu(1600)) });
        assert_eq!(findings.len(), 1);
        let Finding { severity, what, why, .. } = findings[0].clone();
        (severity, what, why)
    }

    #[test]
    fn each_encapsulation_names_what_must_be_let_in() {
        let (severity, what, _) = heard(vxlan(), None);
        assert_eq!((severity, what.as_str()), (Severity::Note, "destination 1: UDP port 4789 must be let in"));
        let (_, what, why) = heard(Encapsulation::Erspan1, Some(Cloud::Amazon));
        assert_eq!(what, "destination 1: IP protocol 47 (GRE) must be let in");
        assert!(why.contains("security group"), "{why}");
    }

    #[test]
    fn azure_is_warned_of() {
        let (severity, what, _) = heard(Encapsulation::Erspan1, Some(Cloud::Azure));
        assert_eq!(severity, Severity::Warning);
        assert!(what.contains("Azure"), "{what}");
        assert_eq!(heard(vxlan(), Some(Cloud::Azure)).0, Severity::Note);
    }

    #[test]
    fn the_firmware_tells_azure_from_any_other_hyper_v() {
        assert_eq!(Cloud::of_firmware("Amazon EC2", ""), Some(Cloud::Amazon));
        let tag = "7783-7084-3265-9085-8269-3286-77";
        assert_eq!(Cloud::of_firmware("Microsoft Corporation", tag), Some(Cloud::Azure));
        assert_eq!(Cloud::of_firmware("Microsoft Corporation", "0000-1"), None);
        assert_eq!(Cloud::of_firmware("QEMU", ""), None);
    }
}
