//! The alert rules and the dashboard of conf/monitoring: they ask for metrics that exist, and Prometheus takes them.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use farspan::daemon::metrics::{FAMILIES, Family, Kind};
use farspan::daemon::view::State;
use farspan::session::governor::GovernorState;
use serde_json::Value;

const ALERTS: &str = include_str!("../../conf/monitoring/farspan-alerts.yml");
const DASHBOARD: &str = include_str!("../../conf/monitoring/farspan-dashboard.json");

/// Every name of a metric in `text`.
fn metrics_in(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| word.starts_with("farspan_")).collect()
}

/// Every name that a query may use.
fn known() -> BTreeSet<String> {
    let of = |family: &Family| match family.head.kind {
        Kind::Histogram => ["_bucket", "_sum", "_count"].map(|part| format!("{}{part}", family.head.name)).to_vec(),
        Kind::Counter | Kind::Gauge => vec![family.head.full_name()],
    };
    FAMILIES.iter().flat_map(of).collect()
}

/// Every query of the dashboard's panels.
fn queries() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.filter_map(|panel| panel["targets"].as_array()).flatten();
    targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn alerts_and_dashboard_ask_for_metrics_that_exist() {
    let known = known();
    for (name, text) in [("alerts", ALERTS), ("dashboard", DASHBOARD)] {
        let asked = metrics_in(text);
        let unknown: Vec<&&str> = asked.iter().filter(|name| !known.contains(**name)).collect();
        assert!(unknown.is_empty(), "{name} ask for {unknown:?}");
        assert!(asked.len() > 5, "{name} ask for {asked:?}");
    }
}

#[test]
fn what_alerts_and_dashboard_say_of_states_is_what_sessions_say() {
    let states = [&State::LABELS[..], &GovernorState::LABELS].concat();
    for text in [ALERTS, DASHBOARD] {
        for asked in text.split("state=").skip(1) {
            let words = asked.trim_start_matches(['~', '\\', '"']).split(['"', '\\']).next().unwrap();
            for word in words.split('|') {
                assert!(states.contains(&word), "there is no state {word}");
            }
        }
    }
}

#[test]
fn every_panel_of_the_dashboard_has_its_place_and_a_sentence() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let mut taken: Vec<[u64; 4]> = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let place = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap());
        let [x, y, width, height] = place;
        assert!(x + width <= 24, "{panel}");
        let overlaps = |&[left, top, wide, high]: &[u64; 4]| {
            left < x + width && x < left + wide && top < y + height && y < top + high
        };
        assert!(!taken.iter().any(overlaps), "two panels lie on each other: {panel}");
        taken.push(place);
        assert!(panel["type"] == "row" || panel["description"].as_str().is_some_and(|text| text.len() > 10), "{panel}");
    }
    assert!(queries().len() > 15);
}

#[test]
#[ignore = "needs promtool: run scripts/test"]
fn promtool_takes_the_rules_and_they_alarm_when_they_should() {
    promtool(&["check", "rules", "conf/monitoring/farspan-alerts.yml"]);
    promtool(&["test", "rules", "tests/monitoring/alerts.yml"]);
}

#[test]
#[ignore = "needs promtool: run scripts/test"]
fn promtool_takes_every_query_of_the_dashboard() {
    let rules: Vec<String> = queries()
        .iter()
        .enumerate()
        .map(|(number, query)| {
            let query = query.replace("$__rate_interval", "5m").replace("$instance", ".*").replace("$session", ".*");
            format!("      - record: query:{number}\n        expr: {}\n", serde_json::to_string(&query).unwrap())
        })
        .collect();
    let rules = rules.concat();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("queries.yml");
    std::fs::write(&file, format!("groups:\n  - name: queries\n    rules:\n{rules}")).unwrap();
    promtool(&["check", "rules", file.to_str().unwrap()]);
}

/// Runs Prometheus's own tool in the project's folder, and demands that it is content.
fn promtool(arguments: &[&str]) {
    let mut command = Command::new("promtool");
    command.args(arguments).current_dir(Path::new(env!("CARGO_MANIFEST_DIR")));
    let output = command.output().unwrap_or_else(|why| panic!("{command:?}: {why}"));
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{arguments:?}: {}\n{}", output.status, String::from_utf8_lossy(&said));
}
