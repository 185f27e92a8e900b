//! Where on the way out the kernel cuts runs of UDP datagrams (UDP GSO).

use std::fmt;

use futures_util::stream::TryStreamExt as _;
use rtnetlink::packet_route::tc::TcAttribute;

use super::netlink::Netlink;
use crate::quantity::Ifindex;
use crate::sys::ethtool;

/// Where on its way a run of datagrams is cut into what the analyzer is to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunsAreCut {
    /// By the kernel, between the interface's queue and its driver: nobody sees a run behind that.
    BeforeTheDevice,
    /// By the interface or by nobody: a network card cuts it, but a veth, a bridge and the interfaces of virtual
    /// machines pass it on as it is, and a packet socket at their other end sees one frame that was never sent so.
    ByTheDevice,
    /// By the interface's queueing discipline, which does not say when only some of the datagrams find room in it, or
    /// has less room than a run needs.
    InTheQueue,
    /// Nobody knows.
    Unknown,
}

impl fmt::Display for RunsAreCut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BeforeTheDevice => "by the kernel, before the interface",
            Self::ByTheDevice => "by the interface, or not at all",
            Self::InTheQueue => "by a queueing discipline",
            Self::Unknown => "nobody knows where",
        })
    }
}

/// Queueing disciplines that hold a run as one packet, and take or refuse it as a whole. Others cut it first (`tbf`,
/// `cake`, `taprio`, `netem` in part) or count bytes in smaller measures (`bfifo`).
const TAKE_RUNS: &[&str] = &[
    "noqueue",
    "mq",
    "mqprio",
    "multiq",
    "prio",
    "pfifo_fast",
    "pfifo",
    "fq",
    "fq_codel",
    "codel",
    "htb",
    "hfsc",
    "drr",
    "ingress",
    "clsact",
];

impl Netlink {
    /// Where runs are cut that leave by `device`.
    pub async fn runs_are_cut(&self, device: Ifindex) -> RunsAreCut {
        let Ok(Some(link)) = self.link(device).await else { return RunsAreCut::Unknown };
        match ethtool::has_feature(&link.name, ethtool::UDP_SEGMENTATION) {
            Ok(true) => RunsAreCut::ByTheDevice,
            Err(_) => RunsAreCut::Unknown,
            Ok(false) => match self.queues(device).await {
                Ok(queues) if queues.iter().all(|kind| TAKE_RUNS.contains(&kind.as_str())) => {
                    RunsAreCut::BeforeTheDevice
                }
                Ok(_) => RunsAreCut::InTheQueue,
                Err(_) => RunsAreCut::Unknown,
            },
        }
    }

    /// The kinds of all queueing disciplines of `device`.
    async fn queues(&self, device: Ifindex) -> Result<Vec<String>, rtnetlink::Error> {
        let mut kinds = Vec::new();
        let mut answers = Box::pin(self.handle.qdisc().get().execute());
        while let Some(queue) = answers.try_next().await? {
            if u32::try_from(queue.header.index) == Ok(device.value()) {
                kinds.extend(queue.attributes.into_iter().filter_map(|attribute| match attribute {
                    TcAttribute::Kind(kind) => Some(kind),
                    _ => None,
                }));
            }
        }
        Ok(kinds)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::TestNamespace;
    use super::*;

    fn asked(namespace: &TestNamespace, device: &str) -> RunsAreCut {
        let device = device.to_owned();
        namespace.run_async(async move {
            let netlink = Netlink::open().unwrap();
            let links = netlink.links().await.unwrap();
            let link = links.iter().find(|link| link.name == device).unwrap();
            netlink.runs_are_cut(link.index).await
        })
    }

    #[test]
    #[ignore = "needs root: run scripts/test"]
    fn the_feature_of_the_interface_and_its_queues_decide() {
        let (near, _far) = TestNamespace::pair();
        assert_eq!(asked(&near, "fke0"), RunsAreCut::ByTheDevice);
        assert_eq!(asked(&near, "lo"), RunsAreCut::ByTheDevice);
        near.output("ethtool -K fke0 tx-udp-segmentation off");
        assert_eq!(asked(&near, "fke0"), RunsAreCut::BeforeTheDevice);

        near.output("tc qdisc add dev fke0 root handle 1: htb default 1");
        near.output("tc class add dev fke0 parent 1: classid 1:1 htb rate 20mbit");
        assert_eq!(asked(&near, "fke0"), RunsAreCut::BeforeTheDevice);
        near.output("tc qdisc add dev fke0 parent 1:1 tbf rate 20mbit burst 3000 limit 20000");
        assert_eq!(asked(&near, "fke0"), RunsAreCut::InTheQueue);
        // Only its own queues count.
        near.output("tc qdisc del dev fke0 root");
        near.output("tc qdisc add dev lo root tbf rate 20mbit burst 3000 limit 20000");
        assert_eq!(asked(&near, "fke0"), RunsAreCut::BeforeTheDevice);
    }
}
