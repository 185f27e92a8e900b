//! Snapshots of what other programs and operators rely on: flags, configuration keys, metrics, JSON keys, control
//! messages, exit codes.
//!
//! Each snapshot is a file in `tests/interface`. A change that breaks scripts, dashboards or a running daemon shows up as
//! a failing test. If the change is intended, describe it in CHANGELOG.md and write the snapshots again:
//!
//! ```text
//! FARSPAN_WRITE_SNAPSHOTS=1 cargo test --test interface
//! ```

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::{env, fs, thread};

use clap::CommandFactory as _;
use farspan::compare::Kind as Difference;
use farspan::daemon::ReloadReport;
use farspan::daemon::control::{Answer, Command as Request, Line, read};
use farspan::daemon::metrics::FAMILIES;
use farspan::daemon::view::State;
use farspan::error::ExitCode;
use farspan::ledger::DropReason;
use farspan::session::governor::GovernorState;
use farspan::wire::decapsulate::Tunnel;
use serde_json::Value;

fn snapshot(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interface").join(name)
}

/// Compares `text` with the snapshot, line by line.
fn compare_with_snapshot(name: &str, text: &str) {
    let path = snapshot(name);
    if env::var_os("FARSPAN_WRITE_SNAPSHOTS").is_some() {
        fs::write(&path, text).unwrap();
        return;
    }
    let expected = fs::read_to_string(&path).unwrap();
    let missing: Vec<&str> = expected.lines().filter(|line| !text.lines().any(|other| other == *line)).collect();
    let added: Vec<&str> = text.lines().filter(|line| !expected.lines().any(|other| other == *line)).collect();
    assert!(
        text == expected,
        "{} differs.\nonly in the snapshot: {missing:#?}\nonly in this build: {added:#?}\nIf the change is intended, write \
         the snapshots again (see the head of tests/interface.rs) and describe it in CHANGELOG.md",
        path.display()
    );
}

/// One line for each argument of `command` and of its subcommands: `mirror -i --interface VALUE Append`.
fn arguments_of(path: &str, command: &clap::Command, text: &mut String) {
    for argument in command.get_arguments() {
        let mut line = path.to_owned();
        argument.get_short().into_iter().for_each(|short| write!(line, " -{short}").unwrap());
        argument.get_long().into_iter().for_each(|long| write!(line, " --{long}").unwrap());
        argument.get_all_aliases().into_iter().flatten().for_each(|alias| write!(line, " --{alias}").unwrap());
        if argument.get_action().takes_values() {
            // The names of values are documentation, their number is not.
            let names = argument.get_value_names().unwrap_or_default();
            line.push_str(&" VALUE".repeat(names.len()));
            let values = argument.get_possible_values();
            if !values.is_empty() {
                let values: Vec<&str> = values.iter().map(clap::builder::PossibleValue::get_name).collect();
                write!(line, " [{}]", values.join("|")).unwrap();
            }
        }
        write!(line, " {:?}", argument.get_action()).unwrap();
        for (is_set, word) in [(argument.is_required_set(), "required"), (argument.is_hide_set(), "hidden")] {
            if is_set {
                write!(line, " {word}").unwrap();
            }
        }
        writeln!(text, "{}", line.trim_start()).unwrap();
    }
    for part in command.get_subcommands() {
        arguments_of(format!("{path} {}", part.get_name()).trim_start(), part, text);
    }
}

#[test]
fn flags() {
    let mut command = farspan::cli::Arguments::command();
    command.build();
    let mut text = String::new();
    arguments_of("", &command, &mut text);
    assert!(text.lines().count() > 100, "{text}");
    compare_with_snapshot("flags.txt", &text);
}

/// The keys of the configuration reference with their written values, each with its table.
#[test]
fn configuration_keys() {
    let mut table = String::new();
    let mut text = String::new();
    for line in farspan::config::REFERENCE.lines() {
        let setting = line.strip_prefix("# ").unwrap_or(line);
        if let Some(name) = setting.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            name.0.clone_into(&mut table);
        } else if let Some((key, value)) = setting.split_once('=') {
            let key = key.trim();
            let is_key = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_lowercase() || b"_.".contains(&byte));
            if is_key && !table.is_empty() {
                // The comment behind the value is prose.
                let value = value.split_once(" # ").map_or(value, |(value, _)| value).trim();
                let value = value.split_once("   ").map_or(value, |(value, _)| value.trim());
                writeln!(text, "{table}.{key} = {value}").unwrap();
            }
        }
    }
    assert!(text.lines().count() > 60, "{text}");
    compare_with_snapshot("configuration-keys.txt", &text);
}

#[test]
fn metrics() {
    let mut families = String::new();
    for head in FAMILIES.iter().map(|family| family.head) {
        writeln!(families, "{:?} {} {{{}}}", head.kind, head.name, head.labels.join(", ")).unwrap();
    }
    compare_with_snapshot("metrics.txt", &families);
}

/// The closed sets of words that JSON objects and metric labels use, and the exit codes.
#[test]
fn words() {
    let mut text = String::new();
    for reason in DropReason::ALL {
        writeln!(text, "drop reason {} {}", reason.label(), reason.kind().label()).unwrap();
    }
    for label in State::LABELS {
        writeln!(text, "session state {label}").unwrap();
    }
    for label in GovernorState::LABELS {
        writeln!(text, "governor state {label}").unwrap();
    }
    for tunnel in Tunnel::ALL {
        writeln!(text, "encapsulation {}", tunnel.label()).unwrap();
    }
    for kind in Difference::ALL {
        writeln!(text, "difference {}", kind.label()).unwrap();
    }
    for code in ExitCode::ALL {
        writeln!(text, "exit code {} {code:?}", code as u8).unwrap();
    }
    compare_with_snapshot("words.txt", &text);
}

fn json(name: &str) -> Value {
    serde_json::from_slice(&fs::read(snapshot(name)).unwrap()).unwrap()
}

fn line_of(value: &Value) -> Vec<u8> {
    let mut line = serde_json::to_vec(value).unwrap();
    line.push(b'\n');
    line
}

/// The answer in the snapshot has every key. A build that reads it and writes it again without a difference knows each
/// key, its type and its place.
#[test]
fn the_answer_to_status_keeps_every_key() {
    let complete = json("answer-status.json");
    let answer = read::<Answer>(&line_of(&complete)).unwrap();
    let written: Value = serde_json::from_slice(&Line::of(&answer)).unwrap();
    let mut differences = Vec::new();
    differing("", &complete, &written, &mut differences);
    assert!(differences.is_empty(), "{differences:#?}");
}

/// Lists the places where two JSON documents differ.
fn differing(place: &str, expected: &Value, found: &Value, differences: &mut Vec<String>) {
    match (expected, found) {
        (Value::Object(expected), Value::Object(found)) => {
            let keys: BTreeSet<&String> = expected.keys().chain(found.keys()).collect();
            for key in keys {
                let [old, new] = [expected, found].map(|object| object.get(key).unwrap_or(&Value::Null));
                if expected.contains_key(key) == found.contains_key(key) {
                    differing(&format!("{place}.{key}"), old, new, differences);
                } else {
                    differences.push(format!("{place}.{key}: {old} in the snapshot, {new} in this build"));
                }
            }
        }
        (Value::Array(expected), Value::Array(found)) if expected.len() == found.len() => {
            for (at, (old, new)) in expected.iter().zip(found).enumerate() {
                differing(&format!("{place}[{at}]"), old, new, differences);
            }
        }
        // The sum of delays is kept in nanoseconds.
        (Value::Number(old), Value::Number(new)) if (old.as_f64().unwrap() - new.as_f64().unwrap()).abs() < 1e-6 => {}
        _ if expected == found => {}
        _ => differences.push(format!("{place}: {expected} in the snapshot, {found} in this build")),
    }
}

/// Runs `farspan` against a daemon that answers every request with `answer`. Returns the request too.
fn ask_a_daemon(arguments: &[&str], answer: Vec<u8>) -> (Output, String) {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("control.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let daemon = thread::spawn(move || {
        let (mut connection, _) = listener.accept().unwrap();
        let mut request = String::new();
        BufReader::new(&connection).read_line(&mut request).unwrap();
        connection.write_all(&answer).unwrap();
        request
    });
    let mut command = Command::new(env!("CARGO_BIN_EXE_farspan"));
    let output = command.args(arguments).env("FARSPAN_CONTROL__SOCKET", &socket).output().unwrap();
    (output, daemon.join().unwrap())
}

/// `recorded-0.1.0.json` was recorded from a daemon that knew fewer keys than this build.
#[test]
fn status_shows_a_daemon_of_an_earlier_build() {
    let (output, request) = ask_a_daemon(&["status"], line_of(&json("recorded-0.1.0.json")));
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(request, "{\"version\":1,\"command\":\"status\"}\n");
    for expected in ["session dmz: running", "vxlan://192.0.2.2?vni=42", "session gone: retrying", "nothere"] {
        assert!(shown.contains(expected), "no `{expected}` in\n{shown}");
    }
}

/// A later build may send more keys, drop reasons and encapsulations.
#[test]
fn status_shows_a_daemon_of_a_later_build() {
    let mut answer = json("answer-status.json");
    let session = &mut answer["view"]["sessions"][0];
    session["ledger"]["dropped"]["not_known_yet"] = 7.into();
    session["ledger"]["not_known_yet"] = serde_json::json!({ "a": [1] });
    session["not_known_yet"] = serde_json::json!([{}]);
    answer["view"]["sessions"][1]["ledger"]["senders"][0]["encapsulation"] = "not_known_yet".into();
    answer["view"]["not_known_yet"] = "x".into();
    let (output, _) = ask_a_daemon(&["status"], line_of(&answer));
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(shown.contains("session dmz: running") && shown.contains("own_traffic"), "{shown}");
}

#[test]
fn control_messages() {
    let pause = Request::Pause { session: "dmz".into() };
    let resume = Request::Resume { session: "dmz".into() };
    let report = ReloadReport {
        kept: vec!["a".into()],
        changed: vec!["b".into()],
        added: vec!["c".into()],
        removed: vec!["d".into()],
        not_open: vec![("c".into(), "there is no interface `eth9`".into())],
    };
    let problem = br#"{"version":1,"problems":[{"what":"no","where":"a.toml:1:2","cause":{"what":"why","cause":{"what":"deeper"}},"hint":"do","exit_code":78}]}"#;
    let problems = read::<Answer>(problem).unwrap();
    let mut text = String::new();
    for request in [Request::Status, Request::Reload, pause, resume] {
        text += &String::from_utf8(Line::of(&request)).unwrap();
    }
    for answer in [Answer::Reloaded(report), Answer::Done("paused".into()), problems] {
        text += &String::from_utf8(Line::of(&answer)).unwrap();
    }
    compare_with_snapshot("control-messages.jsonl", &text);
}

/// The keys of a JSON document, one line each; the elements of a list share their keys.
fn keys_of(place: &str, value: &Value, keys: &mut BTreeSet<String>) {
    let mut insert = |kind: &str| {
        keys.insert(format!("{place} {kind}"));
    };
    match value {
        Value::Object(object) => object.iter().for_each(|(key, value)| keys_of(&format!("{place}.{key}"), value, keys)),
        Value::Array(list) => list.iter().for_each(|value| keys_of(&format!("{place}[]"), value, keys)),
        Value::Null => insert("null"),
        Value::Bool(_) => insert("bool"),
        Value::Number(_) => insert("number"),
        Value::String(_) => insert("string"),
    }
}

/// A classic capture file with one frame for each byte string.
fn capture(frames: &[&[u8]]) -> Vec<u8> {
    let mut file = [0xa1b2_c3d4_u32, (4 << 16) | 2, 0, 0, 65_535, 1].map(u32::to_ne_bytes).concat();
    for (number, frame) in (1_u32..).zip(frames) {
        let length = u32::try_from(frame.len()).unwrap();
        file.extend([number, 0, length, length].map(u32::to_ne_bytes).concat());
        file.extend_from_slice(frame);
    }
    file
}

#[test]
fn json_of_commands() {
    let directory = tempfile::tempdir().unwrap();
    let ethernet = [0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2, 0x88, 0xb5];
    let frame = |value: u8| [&ethernet[..], &[value; 60]].concat();
    fs::write(directory.path().join("a.pcap"), capture(&[&frame(1), &frame(2), &frame(3)])).unwrap();
    fs::write(directory.path().join("b.pcap"), capture(&[&frame(1), &frame(9), &frame(3), &frame(3)])).unwrap();
    let run = |line: &str| -> Value {
        let mut command = Command::new(env!("CARGO_BIN_EXE_farspan"));
        let output = command.args(line.split(' ')).current_dir(directory.path()).output().unwrap();
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{line}: {error}: {}", String::from_utf8_lossy(&output.stderr)))
    };
    let mut text = String::new();
    for line in ["mirror -r a.pcap --to pcap:c.pcap --json", "compare a.pcap b.pcap --json"] {
        let mut keys = BTreeSet::new();
        keys_of("", &run(line), &mut keys);
        for key in keys {
            writeln!(text, "{}: {key}", line.split(' ').next().unwrap()).unwrap();
        }
    }
    compare_with_snapshot("json-keys.txt", &text);
}
