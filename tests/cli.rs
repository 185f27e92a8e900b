//! The command line as an operator meets it: wrong ones are refused with a reason, a hint and the documented exit
//! code; help, manual page, completions and reference come out as they should.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn farspan(directory: &Path, line: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_farspan"))
        .args(line.split_whitespace())
        .current_dir(directory)
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn generated(what: &str) -> String {
    let output = farspan(Path::new("/"), &format!("generate {what}"));
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Command lines with exit code 2, and the essential words of message and hint.
const WRONG_LINES: &[(&str, &[&str])] = &[
    ("", &["Usage: farspan"]),
    ("miror -i eth0", &["unrecognized subcommand", "mirror"]),
    ("mirror", &["nothing to mirror", "-i IF", "no destination is given", "--to 'vxlan://"]),
    ("mirror -i eth0", &["no destination is given"]),
    ("mirror --to pcap:-", &["nothing to mirror", "-r FILE"]),
    ("mirror -i eth0 --analyser zeek --to pcap:-", &["unexpected argument '--analyser'", "'--analyzer'"]),
    ("mirror -i eth0 -r a.pcap --to pcap:-", &["cannot be mirrored together", "where: -r a.pcap"]),
    ("mirror -i eth0 --to 192.0.2.1", &["the encapsulation is missing", "vxlan://192.0.2.1?vni=42"]),
    ("mirror -i eth0 --to 192.0.2.1?vni=7", &["the encapsulation is missing", "for example vxlan://192.0.2.1?vni=7;"]),
    ("mirror -i eth0 --to vxlan:192.0.2.1?vni=7", &["for example vxlan://192.0.2.1?vni=7;"]),
    ("mirror -i eth0 --to copy.pcap", &["for example pcap:copy.pcap;"]),
    ("mirror -i eth0 --to vxlan://[2001:db8::1?vni=7", &["`[2001:db8::1` is neither", "[2001:db8::10]"]),
    ("mirror -i eth0 --to vxlan://[fe80::1%eth1]?vni=7", &["neither an IP address", "device=eth1"]),
    ("mirror -i eth0 --to vxlan://h?VNI=1", &["no key `VNI`", "did you mean `vni`?"]),
    ("mirror eth0 --to pcap:-", &["`--to` stands behind the first word of the filter", "given with -i"]),
    ("mirror -i eth0 --to vlan://192.0.2.1", &["there is no encapsulation `vlan`", "did you mean vxlan://", "geneve"]),
    ("mirror -i eth0 --to vxlan://192.0.2.1", &["`vni` is missing", "vni=42"]),
    ("mirror -i eth0 --to erspan2://192.0.2.1", &["`session` is missing", "session=42"]),
    ("mirror -i eth0 --to erspan://192.0.2.1?session=1", &["which ERSPAN", "erspan2://192.0.2.1?session=1"]),
    ("mirror -i eth0 --to tap:all", &["cannot be the name of a TAP device", "tap:ids0"]),
    ("mirror -i eth0 --to vxlan://2001:db8::1?vni=1", &["brackets", "write vxlan://[2001:db8::1]?vni=1"]),
    ("mirror -i eth0 --to vxlan://0.0.0.0?vni=1", &["nobody's address", "the analyzer listens"]),
    ("mirror -i eth0 --to vxlan://300.1.2.3?vni=1", &["neither an IP address nor a host name", "192.0.2.10"]),
    ("mirror -i eth0 --to vxlan://h:99999?vni=1", &["not a UDP port", "from 1 to 65535"]),
    ("mirror -i eth0 --to gre://h:47", &["gre has no ports", "leave out the colon"]),
    ("mirror -i eth0 --to vxlan://h/x?vni=1", &["`/x` has no meaning", "ENCAPSULATION://HOST"]),
    ("mirror -i eth0 --to vxlan://h?vni", &["`vni` has no value", "quotes"]),
    ("mirror -i eth0 --to vxlan://h?vni=1&vni=2", &["given twice", "vni=eth0:10,eth1:11"]),
    ("mirror -i eth0 --to vxlan://h?vni=16777216", &["16777216 is not a VNI", "0 to 16777215", "vni=42"]),
    ("mirror -i eth0 --to vxlan://h?vni=1&fti=drop", &["no key `fti`", "did you mean `fit`?", "analyzer"]),
    ("mirror -i eth0 --to vxlan://h?vni=1&key=2", &["`key` means nothing to vxlan", "vxlan has vni"]),
    ("mirror -i eth0 --to vxlan://h?vni=1 --key 2", &["`key` means nothing to any", "where: --key 2", "leave it out"]),
    ("mirror -i eth0 --to vxlan://h?vni=1 --fit cut", &["not a way to fit", "split, fragment", "--fit split"]),
    ("mirror -i eth0 --to vxlan://h?vni=1&dscp=64", &["64 is not a DSCP", "0 to 63"]),
    ("mirror -i eth0 --to vxlan://h?vni=1&ttl=0", &["0 is not a TTL", "ttl=64"]),
    ("mirror -i eth0 --to vxlan://h?vni=1&ports=9-1", &["source-port range", "49152-65535"]),
    ("mirror -i eth0 --to vxlan://h?vni=1&analyzer=bro", &["not a known analyzer", "zeek"]),
    ("mirror -i eth0 --to vxlan://h?vni=1&transmit=dpdk", &["not a way to transmit", "pcap:FILE"]),
    ("mirror -i eth0 --to vxlan://h?vni=1&udp_checksum=no", &["UDP checksum", "auto, on or off"]),
    ("mirror -i eth0 --to vxlan://h?vni=1&gso=yes", &["UDP GSO", "auto, on or off"]),
    (
        "mirror -i eth0 --to vxlan://h?vni=1&gso=on&udp_checksum=off",
        &["needs the UDP checksum", "`udp_checksum` at auto"],
    ),
    ("mirror -i eth0 --to gre://h --gso on", &["`gso` means nothing to any"]),
    ("mirror -i eth0 --to vxlan://h?vni=1&source=ids", &["not a source address", "an address of this host"]),
    ("mirror -i eth0 --to vxlan://192.0.2.1?vni=1&source=::1", &["one is IPv4, the other IPv6"]),
    ("mirror -i eth0 --to vxlan://h?vni=1&name=A_1", &["`A_1` is not a name", "`a-1` would do"]),
    ("mirror -i eth0 -i lo --to vxlan://h?vni=eth0:1", &["interface lo has no `vni`", "`*` for all others"]),
    ("mirror -i eth[ --to vxlan://h?vni=1", &["not a pattern of interface names", "work as in a shell"]),
    ("mirror -i eth0 --to gre://h?name=2 --to gre://h", &["two destinations are named `2`"]),
    ("mirror -i eth0 --to pcap:a --to pcap:a", &["two destinations write to a", "its own file"]),
    ("mirror -i eth0 --to pcap:a --to pcap:./a", &["two destinations write to ./a", "its own file"]),
    ("mirror -i eth0 --to gre://h?transmit=pcap:a --to gre://h?transmit=pcap:./a", &["two destinations write to ./a"]),
    (
        "mirror -i eth0 --to gre://h?transmit=xdp --to gre://h?transmit=xdp-zerocopy",
        &["some the one and some the other", "choose one for all"],
    ),
    ("mirror -i eth0 --to gre://h?fit=fragment&transmit=xdp-zerocopy", &["AF_XDP sends whole frames", "another `fit`"]),
    ("mirror -i eth0 --to pcap:- --to gre://h?transmit=pcap:-", &["two destinations write to standard output"]),
    ("mirror -r a --to pcap:a", &["both the source and a destination", "another file"]),
    ("mirror -i eth0 -B 4096 --to pcap:-", &["`4096` is not a buffer size", "--buffer 24MiB"]),
    ("mirror -i eth0 --delay 1h --to pcap:-", &["3600000 is not a delay", "--delay 2ms"]),
    ("mirror -i eth0 -Q both --to pcap:-", &["`both` is not a direction", "in, out or inout"]),
    ("mirror -i eth0 -s 9 --to pcap:-", &["9 is not a snaplen", "14 to 262144"]),
    ("mirror -i eth0 -c 0 --to pcap:-", &["'--count <COUNT>'", "1.."]),
    ("mirror -i eth0 --for ever --to pcap:-", &["'--for <DURATION>'"]),
    ("mirror -i eth0 --rate 20kpps --to pcap:-", &["`rate` is for capture files", "leave out `rate`"]),
    ("mirror -i eth0 --mtu 1500 --to pcap:-", &["`mtu` is for capture files", "knows its own"]),
    ("mirror -r a --mtu 1500 --to pcap:-", &["normalising", "--normalise"]),
    ("mirror -r a -Q in --to pcap:-", &["`direction` is for interfaces", "leave out"]),
    ("mirror -r a --rate fast --to pcap:-", &["`fast` is not a rate", "20kpps"]),
    ("mirror -r a --rate 1pps --pace recorded --to pcap:-", &["`pace` and `rate`", "leave out one"]),
    ("mirror -i eth0 tcp --to pcap:-", &["`--to` stands behind the first word of the filter", "before the filter"]),
    ("mirror --session 7 -i eth0 --to erspan2://h", &["holds no session", "--session-id"]),
    ("check -i eth0", &["no destination is given"]),
    ("probe", &["--to <DEST>"]),
    ("probe --to vxlan://h", &["`vni` is missing"]),
    ("compare a", &["<B>"]),
    ("compare - -", &["both captures are to be read from standard input", "hint:"]),
    ("compare a b --decap c", &["invalid value 'c'", "a, b, both"]),
    ("compare a b --order time", &["invalid value 'time'", "global, flow, none"]),
    ("compare a b --window 3", &["at least 1.0 MiB"]),
    ("compare a b --ignore fcs", &["`fcs` is not a kind of difference"]),
    ("compare a b --vxlan-port 8473", &["--decap <SIDE>"]),
    ("compare a b -s 3", &["3 is not a snaplen"]),
    ("generate completions", &["<SHELL>"]),
];

#[test]
fn wrong_command_lines_end_with_2_a_reason_and_a_hint() {
    let directory = tempfile::tempdir().unwrap();
    for (line, essentials) in WRONG_LINES {
        let output = farspan(directory.path(), line);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "farspan {line}\n{text}");
        assert!(output.stdout.is_empty(), "farspan {line} said on standard output: {output:?}");
        for essential in *essentials {
            assert!(text.contains(essential), "farspan {line}: no {essential:?} in\n{text}");
        }
        // Mistakes that are ours to explain all come with a hint; clap's own carry a usage line.
        assert!(text.contains("hint:") || text.contains("--help") || text.contains("Usage:"), "farspan {line}\n{text}");
    }
}

/// A capture that was overwritten while it was read would be lost.
#[test]
fn the_file_that_is_read_is_never_written_under_whatever_name() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name);
    std::fs::write(file("a"), "precious").unwrap();
    std::fs::hard_link(file("a"), file("b")).unwrap();
    std::os::unix::fs::symlink("a", file("c")).unwrap();
    let to_itself = |line: &str, input: Stdio| {
        let output = Command::new(env!("CARGO_BIN_EXE_farspan"))
            .args(line.split(' '))
            .current_dir(directory.path())
            .stdin(input)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "farspan {line}\n{text}");
        assert!(text.contains("both the source and a destination"), "farspan {line}\n{text}");
        assert_eq!(std::fs::read(file("a")).unwrap(), b"precious");
    };
    for name in ["./a", "b", "c"] {
        to_itself(&format!("mirror -r a --to pcap:{name}"), Stdio::null());
        to_itself(&format!("mirror -r a --to gre://192.0.2.1?transmit=pcap:{name}"), Stdio::null());
    }
    to_itself("mirror -r - --to pcap:a", std::fs::File::open(file("a")).unwrap().into());
}

const SOURCE: &str = "[session.a.source]\ninterface = \"eth0\"\n";
const DESTINATION: &str = "[session.a.destination.ids]\nto = \"vxlan://192.0.2.1?vni=1\"\n";

/// Additions to a sound file, the exit code, and the essential words of message and hint.
const WRONG_FILES: &[(&str, &[&str])] = &[
    ("[session.a.source\n", &["where: f.toml:5:"]),
    ("[telemetry]\nlisten = \"127.0.0.1:9469\"\n", &["no key `telemetry` here", "f.toml:6:10", "there are session"]),
    (
        "[session.a]\nspred = \"replicate\"\n",
        &["no key `spred`", "f.toml:6:9, session.a.spred", "did you mean `spread`?"],
    ),
    ("[session.a]\nspread = \"fair\"\n", &["not a way to spread", "replicate"]),
    ("[session.a.select]\nsamples = \"1/10\"\n", &["no key `samples`", "there are filter"]),
    ("[session.a.select]\nfilter = [\"tcp\"]\n", &["`filter` must be one value", "not port 22"]),
    ("[session.a.normalise]\nenabled = 3\n", &["`3` is not a switch", "enabled = \"on\""]),
    ("[session.a.normalise]\ntruncate = true\n", &["not a snaplen", "truncate = 128, in bytes, or off"]),
    ("[session.a.destination.b]\nfit = \"drop\"\n", &["`to` is missing", "vxlan://192.0.2.10?vni=42"]),
    ("[session.a.destination.b]\nto = \"gre://h\"\nvni = 1\n", &["`vni` means nothing to gre", "gre has key"]),
    ("[session.a.destination.b]\nto = \"gre://h?seq=on\"\nseq = \"on\"\n", &["`seq` is given twice", "one of the two"]),
    (
        "[session.a.destination.b]\nto = \"gre://h\"\nkey = { eth0 = 1, \"x\" = -1 }\n",
        &["`-1` is not a GRE key", "f.toml:7:25"],
    ),
    ("[session.a.destination.b]\nto = \"gre://h\"\nkey = { eth1 = 1 }\n", &["interface eth0 has no `key`"]),
    (
        "[session.a.destination.b]\nto = \"pcap:x\"\nfit = \"drop\"\n",
        &["`fit` means nothing to a capture file", "has rotate_size"],
    ),
    (
        "[session.a.destination.b]\nto = \"gre://h?key=x\"\n",
        &["`x` is not a GRE key", "f.toml:6:6, session.a.destination.b.to\n", "for example key=42"],
    ),
    ("[session.a.destination]\nb = \"gre://h\"\n", &["`b` must be a table"]),
    ("[session.b]\nsource = \"eth0\"\n", &["`source` must be a table", "write [session.b.source], and its keys"]),
    ("[session.b.source]\n", &["nothing to mirror", "below [session.b.source], interface = "]),
    ("[session.b]\n", &["no destination is given", "below [session.b.destination.ids1]", "to = "]),
    ("[session.A]\n", &["`A` is not a name", "`a` would do"]),
];

#[test]
fn wrong_files_end_with_78_file_line_and_column() {
    let directory = tempfile::tempdir().unwrap();
    for (addition, essentials) in WRONG_FILES {
        std::fs::write(directory.path().join("f.toml"), format!("{SOURCE}{DESTINATION}{addition}")).unwrap();
        let output = farspan(directory.path(), "check -C f.toml");
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{addition}\n{text}");
        assert!(text.contains("hint:"), "{addition}\n{text}");
        for essential in *essentials {
            assert!(text.contains(essential), "{addition}: no {essential:?} in\n{text}");
        }
    }
}

#[test]
fn a_session_must_be_there_and_be_chosen() {
    let directory = tempfile::tempdir().unwrap();
    let two = "[session.a]\n[session.b]\n";
    for (text, line, code, essentials) in [
        (two, "mirror -C f.toml", 2, ["2 sessions", "one of a, b"]),
        (two, "mirror -C f.toml --session c", 2, ["there is no session `c`", "one of a, b"]),
        ("", "mirror -C f.toml", 2, ["holds no session", "generate config"]),
        (two, "mirror -C f.toml --session a", 78, ["nothing to mirror", "session.a.destination"]),
        (two, "check -C f.toml", 78, ["session.a.source", "session.b.source"]),
        (two, "mirror -C absent.toml", 66, ["No such file", "generate config"]),
    ] {
        std::fs::write(directory.path().join("f.toml"), text).unwrap();
        let output = farspan(directory.path(), line);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{line}\n{text}");
        for essential in essentials {
            assert!(text.contains(essential), "{line}: no {essential:?} in\n{text}");
        }
    }
}

#[test]
fn the_help_of_each_command_has_three_or_four_examples() {
    for command in ["", "mirror ", "receive ", "check ", "probe ", "compare "] {
        let output = farspan(Path::new("/"), &format!("{command}--help"));
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0));
        let (_, examples) = text.split_once("Examples:\n").expect(command);
        let count = examples.lines().filter(|line| line.starts_with("  farspan ")).count();
        assert!((3..=4).contains(&count), "{text}");
    }
}

#[test]
fn the_reference_is_printed_as_it_is() {
    assert_eq!(generated("config"), include_str!("../conf/farspan.toml"));
}

#[test]
fn the_manual_page_has_every_command_and_no_error() {
    let page = generated("man");
    for essential in [
        "FARSPAN MIRROR",
        "FARSPAN CHECK",
        "FARSPAN PROBE",
        "FARSPAN COMPARE",
        "FARSPAN GENERATE",
        "udp\\-checksum",
        "EXAMPLES",
        "EXIT STATUS",
    ] {
        assert!(page.contains(essential), "no {essential} in the page");
    }
    assert!(!page.contains("EXTRA"), "a section without a name of its own");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("farspan.1");
    std::fs::write(&path, page).unwrap();
    // mandoc is the strictest reader of manual pages; where it is not installed the page's words were checked above.
    if let Ok(output) = Command::new("mandoc").args(["-Tlint", "-Werror"]).arg(&path).output() {
        assert!(output.status.success(), "{output:?}");
    }
}

#[test]
fn completions_are_scripts_that_their_shells_read() {
    for shell in ["bash", "zsh", "fish"] {
        let script = generated(&format!("completions {shell}"));
        assert!(script.contains("mirror") && script.contains("udp-checksum"), "{shell}");
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("farspan.bash");
    std::fs::write(&path, generated("completions bash")).unwrap();
    let output = Command::new("bash").arg("-n").arg(&path).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_farspan"))
        .args(["generate", "man"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &[][..]));
}

/// A classic pcap file (little endian, microseconds, Ethernet) with `count` ARP requests of 60 bytes; the layout is that
/// of pcap-savefile(5).
fn capture(path: &Path, count: usize) {
    let mut bytes = vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0];
    for _ in 0..count {
        bytes.extend([0; 8]); // the epoch
        bytes.extend([60, 0, 0, 0, 60, 0, 0, 0]); // captured, and on the wire
        bytes.extend([0xff; 6]); // to everybody
        bytes.extend([2, 0, 0, 0, 0, 1, 8, 6]); // from 02:00:00:00:00:01, ARP
        bytes.extend([0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 192, 0, 2, 2]);
        bytes.extend([0; 18]); // padding
    }
    std::fs::write(path, bytes).unwrap();
}

fn json(bytes: &[u8]) -> serde_json::Value {
    serde_json::from_slice(bytes).unwrap_or_else(|_| panic!("no JSON: {}", String::from_utf8_lossy(bytes)))
}

#[test]
fn a_replay_ends_with_its_ledger_on_standard_output() {
    let directory = tempfile::tempdir().unwrap();
    capture(&directory.path().join("a.pcap"), 3);
    let line = "mirror -r a.pcap --to vxlan://127.0.0.1?vni=42 --transmit pcap:outer.pcap --to pcap:inner.pcap";

    let table = farspan(directory.path(), line);
    let text = String::from_utf8_lossy(&table.stdout);
    assert_eq!(table.status.code(), Some(0), "{table:?}");
    assert!(text.starts_with("  captured                       3\n"), "{text}");
    let said = String::from_utf8_lossy(&table.stderr);
    assert!(said.starts_with("farspan: mirroring a.pcap to vxlan://127.0.0.1?vni=42 over MTU "), "{said}");

    let ledger = json(&farspan(directory.path(), &format!("{line} --json")).stdout);
    assert_eq!((&ledger["captured"], &ledger["destinations"][0]["sent"]), (&3.into(), &3.into()));
    assert_eq!(ledger["destinations"][1]["to"], "pcap:inner.pcap");
    // Ethernet 60 and outer IPv4, UDP, VXLAN 36, behind the dry run's own Ethernet header of 14, thrice.
    assert_eq!(std::fs::metadata(directory.path().join("outer.pcap")).unwrap().len(), 24 + 3 * (16 + 14 + 36 + 60));

    let quiet = farspan(directory.path(), &format!("-q {line}"));
    assert_eq!((quiet.status.code(), quiet.stdout.len(), quiet.stderr.len()), (Some(0), 0, 0), "{quiet:?}");
}

#[test]
fn a_comparison_ends_with_0_1_or_2() {
    let directory = tempfile::tempdir().unwrap();
    for (name, count) in [("a.pcap", 3), ("b.pcap", 3), ("c.pcap", 4)] {
        capture(&directory.path().join(name), count);
    }
    std::fs::write(directory.path().join("text"), "no capture\n").unwrap();
    let whole = std::fs::read(directory.path().join("a.pcap")).unwrap();
    std::fs::write(directory.path().join("broken.pcap"), &whole[..whole.len() - 1]).unwrap();

    let same = farspan(directory.path(), "compare a.pcap b.pcap");
    assert_eq!(same.status.code(), Some(0), "{same:?}");
    assert!(String::from_utf8_lossy(&same.stdout).ends_with("same: 3 frames, byte for byte, in the same order\n"));

    let different = farspan(directory.path(), "compare a.pcap c.pcap --json");
    assert_eq!((different.status.code(), different.stderr.len()), (Some(1), 0), "{different:?}");
    let result = json(&different.stdout);
    assert_eq!((&result["same"], &result["identical"]), (&false.into(), &3.into()));
    assert_eq!(result["counts"]["duplicated"], 1);
    assert_eq!(result["differences"][0]["b"], serde_json::json!([4]));
    let ignored = farspan(directory.path(), "compare a.pcap c.pcap --ignore duplicated,extra");
    assert_eq!(ignored.status.code(), Some(0), "{ignored:?}");
    let quiet = farspan(directory.path(), "compare a.pcap c.pcap -q");
    assert_eq!((quiet.status.code(), quiet.stdout.len(), quiet.stderr.len()), (Some(1), 0, 0), "{quiet:?}");

    for (file, essentials) in [
        ("absent.pcap", &["cannot read the capture file `absent.pcap`", "hint:"]),
        ("text", &["`text` is not a capture file", "hint:"]),
        ("broken.pcap", &["damaged after frame 2", "hint:"]),
    ] {
        for line in [format!("compare a.pcap {file}"), format!("compare {file} a.pcap --json")] {
            let output = farspan(directory.path(), &line);
            let text = String::from_utf8_lossy(&output.stderr);
            assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{line}\n{text}");
            for essential in essentials {
                assert!(text.contains(essential), "{line}: no {essential:?} in\n{text}");
            }
        }
    }
}

#[test]
fn one_side_of_a_comparison_may_be_standard_input() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.pcap");
    capture(&path, 5);
    for line in ["compare - a.pcap", "compare a.pcap -"] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_farspan"))
            .args(line.split(' '))
            .current_dir(directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&std::fs::read(&path).unwrap()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{line}: {output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("same: 5 frames"));
    }
}

#[test]
fn a_capture_file_that_lacks_frames_is_a_failure() {
    let directory = tempfile::tempdir().unwrap();
    capture(&directory.path().join("a.pcap"), 100);
    for line in ["mirror -r a.pcap --to pcap:b.pcap", "mirror -r a.pcap --to gre://127.0.0.1 --transmit pcap:b.pcap"] {
        // No file over 1024 bytes: the kernel refuses with EFBIG instead of a signal when that is ignored (setrlimit(2)).
        let limited = format!("trap '' XFSZ; ulimit -f 1; exec {} {line} --json", env!("CARGO_BIN_EXE_farspan"));
        let output = Command::new("bash").args(["-c", &limited]).current_dir(directory.path()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{line}\n{text}");
        let lost = json(&output.stdout)["destinations"][0]["dropped"]["write_failed"].as_u64().unwrap();
        assert!(lost > 0 && text.contains(&format!("error: {lost} frames for ")), "{text}");
        assert!(text.contains("could not be written") && text.contains("File too large"), "{text}");
    }
}

#[test]
fn a_signal_and_its_echo_are_one() {
    let directory = tempfile::tempdir().unwrap();
    capture(&directory.path().join("many.pcap"), 1000);
    let mut child = Command::new(env!("CARGO_BIN_EXE_farspan"))
        .args(["mirror", "-r", "many.pcap", "--rate", "10pps", "--to", "pcap:copy.pcap", "--json"])
        .current_dir(directory.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert!(line.contains("mirroring"), "{line}");
    // timeout(1) signals the program, and then the whole process group.
    let pid = child.id();
    assert!(Command::new("sh").args(["-c", &format!("kill -INT {pid}; kill -TERM {pid}")]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    said.read_to_string(&mut line).unwrap();
    assert_eq!(output.status.code(), Some(0), "{line}");
    let ledger = json(&output.stdout);
    assert_eq!(ledger["captured"], ledger["destinations"][0]["sent"]);
}

#[test]
fn frames_have_standard_output_for_themselves() {
    let directory = tempfile::tempdir().unwrap();
    capture(&directory.path().join("a.pcap"), 3);
    let output = farspan(directory.path(), "mirror -r a.pcap -c 2 --to pcap:- --json");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(output.stdout.len(), 24 + 2 * (16 + 60));
    let ledger = output.stderr.split(|&byte| byte == b'\n').find(|line| line.starts_with(b"{")).unwrap();
    assert_eq!(json(ledger)["captured"], 2);
}

#[test]
fn what_is_not_there_or_no_capture_ends_with_66() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("text"), "no capture\n").unwrap();
    for (line, essentials) in [
        ("mirror -r absent.pcap --to pcap:-", ["absent.pcap", "hint:"]),
        ("mirror -r text --to pcap:-", ["text", "hint:"]),
        ("mirror -i nope0 --to pcap:-", ["there is no interface `nope0`", "interfaces here are"]),
        ("mirror -i lo,nope0 --to pcap:-", ["there is no interface `lo,nope0`", "-i once for each"]),
        // Told before the analyzer is waited for, and so without a word about it.
        ("mirror -i nope0 --to vxlan://nobody.invalid?vni=1", ["there is no interface `nope0`", "interfaces here are"]),
        ("mirror -i nope* --to pcap:-", ["nope*", "interfaces here are"]),
    ] {
        let output = farspan(directory.path(), line);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(66), "{line}\n{text}");
        assert!(output.stdout.is_empty(), "{output:?}");
        for essential in essentials {
            assert!(text.contains(essential), "{line}: no {essential:?} in\n{text}");
        }
    }
}

#[test]
fn a_filter_that_libpcap_refuses_is_wrong_usage() {
    let directory = tempfile::tempdir().unwrap();
    capture(&directory.path().join("a.pcap"), 1);
    let output = farspan(directory.path(), "mirror -r a.pcap --to pcap:- tcp prot 80");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("prot") && text.contains("hint:"), "{text}");
}

#[test]
fn a_pipe_that_falls_silent_does_not_keep_a_session_from_ending() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.pcap");
    capture(&path, 3);
    let mut child = Command::new(env!("CARGO_BIN_EXE_farspan"))
        .args(["mirror", "-r", "-", "--to", "pcap:b.pcap", "--for", "200ms", "--json"])
        .current_dir(directory.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Kept open: nobody says that these three frames are all.
    let mut pipe = child.stdin.take().unwrap();
    pipe.write_all(&std::fs::read(&path).unwrap()).unwrap();
    let mut ledger = String::new();
    child.stdout.take().unwrap().read_to_string(&mut ledger).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let ledger = json(ledger.as_bytes());
    assert_eq!((&ledger["captured"], &ledger["destinations"][0]["sent"]), (&3.into(), &3.into()));
}
