//! Open vSwitch's userspace datapath: a decapsulator of GRE, ERSPAN II and III, and Geneve that owes nothing to the
//! kernel's devices or to ours.
//!
//! A physical bridge `brphy` takes over the analyzer's interface and its addresses, because the tunnel's packets must
//! be addressed to the bridge. A second bridge has the tunnel port, and one flow that hands everything to `sink0`.
//! Each tunnel type needs a switch of its own: in one datapath the first port of IP protocol 47 takes all of it.
//!
//! As a sender it stands at the tapped host, whose interface towards the client is a port of its bridge, and mirrors
//! that port into a tunnel.

use std::fs;
use std::path::PathBuf;

use crate::judge::Capture;
use crate::lab::{Lab, Namespace, await_that};

/// A running switch in a folder of its own; ended when dropped.
pub struct OpenVswitch<'a> {
    namespace: &'a Namespace,
    folder: PathBuf,
}

impl<'a> OpenVswitch<'a> {
    /// Starts a switch with one tunnel port, such as `type=gre options:key=7`, and captures what it decapsulates.
    pub fn start(lab: &'a Lab, tunnel: &str) -> (Self, Capture) {
        let analyzer = &lab.analyzer;
        let switch = Self::in_namespace(lab, analyzer);
        analyzer.run("ip link add sink0 mtu 9200 type veth peer name sink1 mtu 9200");
        analyzer.run("ip link set sink0 addrgenmode none up");
        analyzer.run("ip link set sink1 addrgenmode none up");
        analyzer.await_link("sink0");
        switch.take_over("a0", &["192.0.2.2/24", "2001:db8:9::2/64"]);
        switch.configure(&format!(
            "-- add-br brtun -- set bridge brtun datapath_type=netdev fail_mode=secure -- add-port brtun sink0 \
             -- set interface sink0 ofport_request=1 -- add-port brtun tunnel -- set interface tunnel {tunnel} ofport_request=2"
        ));
        switch.tool("ovs-ofctl add-flow", "brtun in_port=2,actions=output:1");
        // Only then does it know at which of its addresses tunnels end.
        await_that("the switch to listen for the tunnel", || {
            let ports = switch.ask("tnl/ports/show -v");
            ports.contains("ipv4(dst=192.0.2.2") && ports.contains("ipv6(dst=2001:db8:9::2")
        });
        // The switch answers for the analyzer from now on.
        await_that("the host to reach the switch", || {
            lab.host
                .command("ping")
                .args(["-c1", "-W1", crate::lab::ANALYZER])
                .output()
                .is_ok_and(|o| o.status.success())
        });
        lab.host.run("ping -6 -c1 -W5 2001:db8:9::2");
        // Datapath flows from before the tunnel hand its datagrams to the bridge's own port.
        switch.ask("revalidator/purge");
        let capture = Capture::start(lab, analyzer, "sink1", "");
        (switch, capture)
    }

    /// Starts a switch at the tapped host that mirrors what the client sends and gets into this tunnel.
    pub fn mirror(lab: &'a Lab, tunnel: &str) -> Self {
        let host = &lab.host;
        let switch = Self::in_namespace(lab, host);
        switch.take_over("u0", &["192.0.2.1/24", "2001:db8:9::1/64"]);
        host.run("ip address flush dev h0");
        switch.configure(
            "-- add-br brtap -- set bridge brtap datapath_type=netdev -- add-port brtap h0 -- add-port brtap mirror0 \
             -- set interface mirror0 type=internal",
        );
        await_that("the switch to reach the analyzer", || {
            host.command("ping")
                .args(["-c1", "-W1", crate::lab::ANALYZER])
                .output()
                .is_ok_and(|output| output.status.success())
        });
        switch.configure(&format!(
            "-- add-port brtap tunnel -- set interface tunnel {tunnel} -- --id=@out get port tunnel -- --id=@in get port h0 \
             -- --id=@mirror create mirror name=m0 select-src-port=@in select-dst-port=@in output-port=@out \
             -- set bridge brtap mirrors=@mirror"
        ));
        switch
    }

    fn in_namespace(lab: &Lab, namespace: &'a Namespace) -> Self {
        let folder = lab.path("ovs");
        fs::create_dir(&folder).expect("the folder is writable");
        let switch = Self { namespace, folder };
        switch.start_daemons();
        switch
    }

    /// Makes `link` a port of the bridge `brphy`, which gets its addresses.
    fn take_over(&self, link: &str, addresses: &[&str]) {
        let mtu = self.namespace.run(&format!("cat /sys/class/net/{link}/mtu"));
        self.namespace.run(&format!("ip address flush dev {link}"));
        self.configure(&format!(
            "-- add-br brphy -- set bridge brphy datapath_type=netdev \
             other-config:hwaddr=02:00:00:00:00:02 -- add-port brphy {link}"
        ));
        self.configure(&format!("-- set interface brphy mtu_request={mtu} -- set interface {link} mtu_request={mtu}"));
        for address in addresses {
            let nodad = if address.contains(':') { "nodad" } else { "" };
            self.namespace.run(&format!("ip address add {address} dev brphy {nodad}"));
        }
        self.namespace.run("ip link set brphy up");
    }

    fn start_daemons(&self) {
        let folder = self.folder.display();
        let run = |line: &str| self.namespace.run(&format!("env OVS_RUNDIR={folder} OVS_LOGDIR={folder} {line}"));
        run(&format!("ovsdb-tool create {folder}/conf.db /usr/share/openvswitch/vswitch.ovsschema"));
        let daemon = |name: &str| {
            format!(
                "--pidfile={folder}/{name}.pid --unixctl={folder}/{name}.ctl --log-file={folder}/{name}.log \
                 -vconsole:off --detach --no-chdir"
            )
        };
        run(&format!("ovsdb-server {folder}/conf.db --remote=punix:{folder}/db.sock {}", daemon("ovsdb")));
        self.configure("--no-wait init");
        run(&format!("ovs-vswitchd unix:{folder}/db.sock {}", daemon("vswitchd")));
    }

    fn configure(&self, changes: &str) {
        let folder = self.folder.display();
        self.namespace.run(&format!("ovs-vsctl --db=unix:{folder}/db.sock --timeout=20 {changes}"));
    }

    /// Asks the running switch.
    fn ask(&self, question: &str) -> String {
        let control = self.folder.join("vswitchd.ctl");
        self.namespace.run(&format!("ovs-appctl -t {} {question}", control.display()))
    }

    /// Runs a tool of `OpenFlow`, which finds the bridge's management socket in the folder.
    fn tool(&self, tool: &str, arguments: &str) {
        let folder = self.folder.display();
        self.namespace.run(&format!("env OVS_RUNDIR={folder} {tool} {arguments}"));
    }
}

impl Drop for OpenVswitch<'_> {
    fn drop(&mut self) {
        // The daemons detached themselves: they end when their control sockets tell them to.
        for daemon in ["vswitchd", "ovsdb"] {
            let control = self.folder.join(format!("{daemon}.ctl"));
            let _ = self.namespace.command("ovs-appctl").arg("-t").arg(control).arg("exit").output();
        }
    }
}
