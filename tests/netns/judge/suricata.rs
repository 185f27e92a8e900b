//! Suricata with its stock configuration: decoders, ports and checksum validation are as Debian ships them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::lab::{ANALYZER, Lab, Namespace, Process, UNDERLAY_HOST, await_that, succeed};

/// The configuration that the package installs.
pub const STOCK: &str = "/etc/suricata/suricata.yaml";

/// Alerts by signature id.
pub type Alerts = BTreeMap<u64, u64>;

/// A running Suricata.
pub struct Suricata {
    process: Process,
    folder: PathBuf,
}

impl Suricata {
    /// Starts it at the analyzer's end of the underlay with these rules, and `--set` for what a test must have larger,
    /// and waits until it captures.
    pub fn start(lab: &Lab, rules: &str, settings: &[&str]) -> Self {
        Self::start_on(lab, &lab.analyzer, "a0", rules, settings)
    }

    /// The same on any interface of the lab.
    pub fn start_on(lab: &Lab, namespace: &Namespace, link: &str, rules: &str, settings: &[&str]) -> Self {
        let rules = lab.write("suricata.rules", rules);
        let folder = lab.path(&format!("suricata-{link}"));
        fs::create_dir(&folder).expect("the folder is writable");
        let mut command = format!(
            "suricata -c {STOCK} -S {} -l {} --af-packet={link} --set unix-command.enabled=no",
            rules.display(),
            folder.display()
        );
        for setting in settings {
            command.push_str(" --set ");
            command.push_str(setting);
        }
        let process = namespace.start(&command, &lab.path(&format!("suricata-{link}.console")));
        let suricata = Self { process, folder };
        await_that("Suricata's engine to start", || suricata.log().contains("Engine started"));
        suricata
    }

    /// Alerts so far about what came through a tunnel.
    pub fn alerts(&self) -> Alerts {
        alerts_of(&self.folder)
    }

    /// Waits until every one of these signatures has alerted through a tunnel.
    pub fn await_alerts(&self, signatures: &[u64]) {
        await_that(&format!("alerts {signatures:?}"), || {
            let alerts = self.alerts();
            signatures.iter().all(|signature| alerts.contains_key(signature))
        });
    }

    /// Ends it and returns everything it found.
    pub fn stop(mut self) -> Findings {
        self.process.interrupt();
        let statistics = events(&self.folder.join("eve.json"))
            .into_iter()
            .rfind(|event| event["event_type"] == "stats")
            .map(|event| event["stats"].clone())
            .expect("Suricata writes statistics when it ends");
        Findings { alerts: self.alerts(), statistics }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("suricata.log")).unwrap_or_default()
    }
}

/// What Suricata found until it ended.
pub struct Findings {
    /// Alerts about what came through a tunnel.
    pub alerts: Alerts,
    statistics: Value,
}

impl Findings {
    /// A counter of its statistics, such as `["tcp", "reassembly_gap"]`; counters that never rose are left out there.
    pub fn counter(&self, [group, name]: [&str; 2]) -> u64 {
        self.statistics[group][name].as_u64().unwrap_or(0)
    }
}

/// Alerts so far of a Suricata that logs to this folder.
pub fn alerts_of(folder: &Path) -> Alerts {
    inner_alerts(&folder.join("eve.json"))
}

/// Alerts that Suricata raises over a capture file, with checksum validation.
pub fn alerts_in(configuration: &Path, capture: &Path, rules: &Path, folder: &Path) -> Alerts {
    fs::create_dir_all(folder).expect("the folder is writable");
    succeed(
        Command::new("suricata")
            .args(["-k", "all", "-c"])
            .arg(configuration)
            .arg("-r")
            .arg(capture)
            .arg("-S")
            .arg(rules)
            .arg("-l")
            .arg(folder),
    );
    alerts_of(folder)
}

/// Alerts that are not about the tunnel's own datagrams. Those raised at the end of a flow have no `tunnel` object, so
/// that the addresses must tell.
fn inner_alerts(log: &Path) -> Alerts {
    let outer = |address: &Value| [UNDERLAY_HOST, ANALYZER].iter().any(|outer| address == outer);
    let mut alerts = Alerts::new();
    for event in events(log).iter().filter(|event| event["event_type"] == "alert") {
        let of_tunnel = outer(&event["src_ip"]) && outer(&event["dest_ip"]) && event.get("tunnel").is_none();
        if !of_tunnel {
            let signature = event["alert"]["signature_id"].as_u64().expect("an alert has a signature id");
            *alerts.entry(signature).or_default() += 1;
        }
    }
    alerts
}

/// The events of an EVE log; its last line may still be unfinished.
fn events(log: &Path) -> Vec<Value> {
    let text = fs::read_to_string(log).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}
