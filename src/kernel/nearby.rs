//! The interfaces that a route leaves by, and those above and below them: where datagrams of the route can be seen.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::links::Link;
use crate::quantity::Ifindex;

/// The interfaces near a route. Written by the control plane, read by workers when [`edition`] has changed.
#[derive(Debug, Default)]
pub struct Nearby(Mutex<Option<Vec<Ifindex>>>);

static EDITION: AtomicU64 = AtomicU64::new(0);

/// Changes whenever the interfaces near any route have.
pub fn edition() -> u64 {
    EDITION.load(Ordering::Acquire)
}

impl Nearby {
    /// Takes note of what is near the route now.
    pub fn set(&self, links: Vec<Ifindex>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref() != Some(&links) {
            *known = Some(links);
            EDITION.fetch_add(1, Ordering::Release);
        }
    }

    /// The interfaces; `None` while they are not known.
    pub fn links(&self) -> Option<Vec<Ifindex>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Of `links`, the interface `device` and what is above or below it: the bridge, bond or team that it is a port of and the
/// VLANs on it, its own ports and the interface that it lies on. From the other end of a veth it goes on in both ways.
pub fn around(links: &[Link], device: Ifindex) -> Vec<Ifindex> {
    let (mut above, below) = walk(links, device);
    for link in below {
        add(&mut above, link);
    }
    above
}

/// Of `links`, the interface `device` and what it lies on: its packets leave by these.
pub fn below(links: &[Link], device: Ifindex) -> Vec<Ifindex> {
    walk(links, device).1
}

/// Of `links`, the interface `device` and what lies on it: its packets come from these.
pub fn above(links: &[Link], device: Ifindex) -> Vec<Ifindex> {
    walk(links, device).0
}

fn walk(links: &[Link], device: Ifindex) -> (Vec<Ifindex>, Vec<Ifindex>) {
    let (mut above, mut below) = (vec![device], vec![device]);
    let mut at = (0, 0);
    loop {
        let (step, is_above) = match (above.get(at.0), below.get(at.1)) {
            (Some(&step), _) => (step, true),
            (None, Some(&step)) => (step, false),
            (None, None) => return (above, below),
        };
        if is_above {
            at.0 += 1;
        } else {
            at.1 += 1;
        }
        let Some(link) = links.iter().find(|link| link.index == step) else { continue };
        let is_veth = |link: &Link| link.kind.as_deref() == Some("veth");
        if let (true, Some(peer)) = (is_veth(link), link.lower) {
            add(&mut above, peer);
            add(&mut below, peer);
        }
        if is_above {
            link.master.into_iter().for_each(|master| add(&mut above, master));
            let on_it = links.iter().filter(|other| other.lower == Some(step) && !is_veth(other));
            on_it.for_each(|other| add(&mut above, other.index));
        } else {
            link.lower.into_iter().filter(|_| !is_veth(link)).for_each(|lower| add(&mut below, lower));
            links.iter().filter(|other| other.master == Some(step)).for_each(|port| add(&mut below, port.index));
        }
    }
}

fn add(list: &mut Vec<Ifindex>, link: Ifindex) {
    if !list.contains(&link) {
        list.push(link);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::links::Counters;

    /// An interface: number, kind, number of its master and of what it lies on.
    fn link(index: u64, kind: &str, master: u64, lower: u64) -> Link {
        Link {
            index: Ifindex::new(index).unwrap(),
            name: format!("l{index}"),
            mtu: None,
            mac: None,
            up: true,
            kind: Some(kind.to_owned()).filter(|kind| !kind.is_empty()),
            master: Ifindex::new(master).ok(),
            lower: Ifindex::new(lower).ok(),
            needs_neighbour: true,
            counters: Counters::default(),
        }
    }

    fn near(links: &[Link], device: u64) -> Vec<u32> {
        let mut near: Vec<u32> = around(links, Ifindex::new(device).unwrap()).into_iter().map(Ifindex::value).collect();
        near.sort_unstable();
        near
    }

    #[test]
    fn bridges_bonds_and_vlans_are_near_and_their_neighbours_are_not() {
        let links = [
            link(1, "", 0, 0),        // lo
            link(2, "", 10, 0),       // eth0, in the bond
            link(3, "", 10, 0),       // eth1, in the bond
            link(4, "", 0, 0),        // eth2, alone
            link(5, "vlan", 0, 4),    // eth2.5
            link(6, "vlan", 0, 4),    // eth2.6
            link(10, "bond", 0, 0),   // the bond
            link(11, "vlan", 20, 10), // bond.11, in the bridge
            link(20, "bridge", 0, 0), // the bridge
            link(21, "tun", 20, 0),   // a guest's, in the bridge
        ];
        assert_eq!(near(&links, 20), [2, 3, 10, 11, 20, 21], "the host's address is on the bridge");
        assert_eq!(near(&links, 11), [2, 3, 10, 11, 20]);
        assert_eq!(near(&links, 2), [2, 10, 11, 20], "not the other port of the bond");
        assert_eq!(near(&links, 5), [4, 5], "not the other VLAN");
        assert_eq!(near(&links, 4), [4, 5, 6]);
        assert_eq!(near(&links, 1), [1]);
        assert_eq!(near(&links, 99), [99], "one that has gone meanwhile");
    }

    #[test]
    fn the_other_end_of_a_veth_leads_on_and_circles_end() {
        let links = [link(2, "veth", 0, 3), link(3, "veth", 10, 2), link(10, "bridge", 0, 0), link(4, "", 10, 0)];
        assert_eq!(near(&links, 2), [2, 3, 10]);
        assert_eq!(near(&links, 10), [2, 3, 4, 10]);
    }
}
