//! What this host is like, asked once.

use std::fs;
use std::io;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::time::{Instant, sleep};

use super::gro;
use super::network::Cloud;
use super::traffic::{self, Traffic};
use crate::config;
use crate::config::plan::{SessionPlan, SourcePlan};
use crate::error::Explain;
use crate::flow::FlowKey;
use crate::installation;
use crate::kernel::capabilities::Capabilities;
use crate::kernel::links::Link;
use crate::kernel::locate::{Kernel, locate};
use crate::kernel::netlink::Netlink;
use crate::kernel::netns::Namespace;
use crate::kernel::stack::Wrapper;
use crate::kernel::underlay::Underlay;
use crate::kernel::underlay_error::UnderlayError;
use crate::sys::ethtool::{self, Offload};
use crate::sys::tun;

/// What this host is like.
#[derive(Debug)]
pub struct Facts {
    /// All interfaces.
    pub links: Vec<Link>,
    /// The interfaces that the session captures on.
    pub tapped: Vec<Tapped>,
    /// The way to each destination, in the order of the plan; `None` for files and where there is none.
    pub underlays: Vec<Option<Arc<Underlay>>>,
    /// The tunnel devices that each of those leads through.
    pub wrappers: Vec<Vec<Wrapper>>,
    /// What this process may do.
    pub capabilities: Capabilities,
    /// Whose virtual machine this is.
    pub cloud: Option<Cloud>,
    /// How many CPUs this process may use.
    pub cpus: usize,
    /// Whether the kernel can be asked for TAP devices.
    pub has_tap_devices: bool,
    /// The interfaces on which the kernel joins what it receives (GRO), where that may concern the session.
    pub joining: Vec<String>,
    /// The seed that is stored, and where it is or would be; or why there is none.
    pub seed: Result<(Option<FlowKey>, PathBuf), String>,
}

/// An interface that the session captures on.
#[derive(Clone, Debug)]
pub struct Tapped {
    /// The interface.
    pub link: Link,
    /// Whether the device cuts what the host sends: then the capture sees it uncut. `None` when nobody knows.
    pub segmentation: Option<bool>,
    /// Whether the kernel joins what it receives before the capture sees it.
    pub receive_offload: Option<bool>,
    /// What goes through it now, in the directions that are mirrored.
    pub traffic: Traffic,
}

impl Facts {
    /// Asks the kernel. Beside the facts comes everything that keeps the session from running.
    pub async fn gather(plan: &SessionPlan) -> (Self, Vec<Box<dyn Explain>>) {
        let (underlays, mut problems) = locate(&plan.destinations).await;
        let (links, tapped) = match interfaces(plan).await {
            Ok(interfaces) => interfaces,
            Err(error) => {
                problems.push(UnderlayError::Netlink(error).into());
                (Vec::new(), Vec::new())
            }
        };
        let wrappers = match Kernel::ask().await {
            Ok(kernel) => kernel.wrappers(underlays.iter().map(Option::as_deref)).await,
            Err(_) => Vec::new(),
        };
        let capabilities = Capabilities::of_this_process().unwrap_or(Capabilities::NONE);
        let cpus = std::thread::available_parallelism().map_or(1, NonZero::get);
        let has_tap_devices = Path::new(tun::CLONE_DEVICE).exists();
        let joining = if gro::receives_gre(plan) { joining(&links) } else { Vec::new() };
        let cloud = cloud();
        let seed = installation::look();
        let facts =
            Self { links, tapped, underlays, wrappers, capabilities, cloud, cpus, has_tap_devices, joining, seed };
        (facts, problems)
    }
}

/// The names of those that are up, may lead to other hosts, and have receive offload.
fn joining(links: &[Link]) -> Vec<String> {
    let is_on = |name: &str| ethtool::is_on(name, Offload::GenericReceive).unwrap_or(false);
    let joins = |link: &&Link| link.up && link.needs_neighbour && is_on(&link.name);
    links.iter().filter(joins).map(|link| link.name.clone()).collect()
}

/// All links, and those that are tapped with their traffic.
async fn interfaces(plan: &SessionPlan) -> io::Result<(Vec<Link>, Vec<Tapped>)> {
    let own = Netlink::open()?.links().await?;
    let SourcePlan::Live(live) = &plan.source else { return Ok((own, Vec::new())) };
    // Whoever opens the source says why there is none.
    let Ok(namespace) = Namespace::find(live.netns.as_ref()) else { return Ok((own, Vec::new())) };
    let Ok(netlink) = Netlink::open_in(&namespace) else { return Ok((own, Vec::new())) };
    let before = netlink.links().await?;
    let started = Instant::now();
    sleep(traffic::WINDOW).await;
    let after = netlink.links().await?;
    let elapsed = started.elapsed();
    let is_on = |link: &Link, offload| namespace.within(|| ethtool::is_on(&link.name, offload).ok()).ok().flatten();
    let is_meant = |link: &&Link| live.interfaces.iter().any(|pattern| config::matches(pattern, &link.name));
    let tapped = after
        .iter()
        .filter(is_meant)
        .map(|link| Tapped {
            segmentation: is_on(link, Offload::TcpSegmentation),
            receive_offload: is_on(link, Offload::GenericReceive),
            traffic: before
                .iter()
                .find(|earlier| earlier.index == link.index)
                .map_or_else(Traffic::default, |earlier| {
                    Traffic::between(earlier.counters, link.counters, elapsed, live.directions)
                }),
            link: link.clone(),
        })
        .collect();
    Ok((if namespace.is_foreign() { own } else { after }, tapped))
}

/// What the firmware says about its maker.
fn cloud() -> Option<Cloud> {
    let read = |name: &str| fs::read_to_string(format!("/sys/class/dmi/id/{name}")).unwrap_or_default();
    Cloud::of_firmware(read("sys_vendor").trim(), read("chassis_asset_tag").trim())
}
