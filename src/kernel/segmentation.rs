//! Where on the way out the kernel cuts runs of UDP datagrams (UDP GSO).

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
    /// By the interface or by nobody: a network card cuts it, but a veth, a bridge and the interfaces of virtual machines
    /// pass it on as it is, and a packet socket at their other end sees one frame that was never sent so.
    ByTheDevice,
    /// By the interface's queueing discipline, which does not say when only some of the datagrams find room in it, or has
    /// less room than a run needs.
    InTheQueue,
    /// Nobody knows.
    Unknown,
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
