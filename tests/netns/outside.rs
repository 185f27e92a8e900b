//! The daemon as it is seen and asked from outside, by whoever means well and whoever does not: curl, promtool, Prometheus,
//! a terminal, other users, and floods.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use crate::daemon::{Daemon, session};
use crate::farspan::{Ledger, binary, run, total};
use crate::lab::{Lab, Namespace, Process, await_some, await_that, succeed};
use crate::traffic;

const PAGE: &str = "http://127.0.0.1:9469/metrics";
const ADDRESS: &str = "127.0.0.1:9469";
const FRAMES: u64 = 5_000;

/// A daemon with metrics and a control socket, whose session `dmz` mirrors only UDP: whatever else the hosts say to each
/// other does not count.
fn start(lab: &Lab) -> Daemon {
    Daemon::start(lab, &configuration(lab, ""))
}

fn configuration(lab: &Lab, more: &str) -> String {
    let socket = lab.path("control.sock");
    format!(
        "[metrics]\nlisten = \"{ADDRESS}\"\n[control]\nsocket = \"{}\"\n{more}{}select.filter = \"udp and dst host 10.8.0.200\"\n",
        socket.display(),
        session("dmz", "h0", "vxlan://192.0.2.2?vni=42"),
    )
}

/// A command that talks to the lab's daemon.
fn farspan(lab: &Lab, arguments: &[&str]) -> Output {
    run(Command::new(binary()).args(arguments).arg("--socket").arg(lab.path("control.sock")))
}

fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn frames() -> Vec<Vec<u8>> {
    (0..u32::try_from(FRAMES).expect("a small number")).map(|number| traffic::udp_frame(number, 16, 300)).collect()
}

/// The page of metrics as curl gets it.
fn scrape(lab: &Lab) -> String {
    lab.host.run(&format!("curl -sS --fail --max-time 30 {PAGE}"))
}

/// The samples of a page that are whole numbers, by name and labels.
fn samples(page: &str) -> BTreeMap<&str, u64> {
    let sample = |line| str::rsplit_once(line, ' ').and_then(|(id, value)| Some((id, value.parse().ok()?)));
    page.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect()
}

/// Waits until the page has counted every frame.
fn await_all_frames(lab: &Lab) -> String {
    await_some("the page to count every frame", || {
        let page = scrape(lab);
        let sent = samples(&page)["farspan_sent_frames_total{session=\"dmz\",destination=\"ids\"}"];
        (sent >= FRAMES).then_some(page)
    })
}

/// Holds a page against the ledger that the daemon printed at its end.
fn assert_same(page: &str, ledger: &Ledger) {
    let samples = samples(page);
    let of = |name: &str| samples[&*format!("farspan_{name}_total{{session=\"dmz\"}}")];
    let of_ids = |name: &str| samples[&*format!("farspan_{name}_total{{session=\"dmz\",destination=\"ids\"}}")];
    let ids = ledger.only();
    assert_eq!(of("captured_frames"), ledger.captured);
    assert_eq!(of("kernel_dropped_frames"), ledger.kernel_dropped);
    assert_eq!(of("segments_added_frames"), ledger.segments_added);
    assert_eq!(of_ids("assigned_frames"), ids.assigned);
    assert_eq!(of_ids("sent_frames"), ids.sent);
    assert_eq!(of_ids("split_added_frames"), ids.split_added);
    for (destination, dropped) in [("", &ledger.dropped), ("ids", &ids.dropped)] {
        let labels = format!("farspan_dropped_frames_total{{session=\"dmz\",destination=\"{destination}\",");
        let shown: u64 = samples.iter().filter(|(id, _)| id.starts_with(&labels)).map(|(_, count)| count).sum();
        assert_eq!(shown, total(dropped), "{destination}");
    }
    assert_eq!(
        samples["farspan_delay_seconds_count{session=\"dmz\"}"],
        of("offered_frames"),
        "every frame has a delay"
    );
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn scraped_a_hundred_times_a_second_under_traffic_the_last_page_is_the_ledger() {
    let lab = Lab::with_underlay_mtu(1600);
    let daemon = start(&lab);
    let answers = lab.path("answers");
    // One curl asks 500 times, each time over a connection of its own.
    let url = format!("{PAGE}?[1-500]");
    let mut curl = lab.host.command("curl");
    curl.args(["-sS", "--rate", "100/s", "-o", "/dev/null", "-w", "%{http_code}\\n", &url]);
    let mut scraper = Process::start({
        curl.stdout(fs::File::create(&answers).expect("the folder is writable"));
        curl
    });
    traffic::send(&lab, &frames(), "--pps=1000");
    await_that("500 scrapes", || scraper.ended().is_some());
    let answers = fs::read_to_string(&answers).expect("curl has written");
    assert_eq!(answers.lines().filter(|line| *line == "200").count(), 500, "{answers}");

    let page = await_all_frames(&lab);
    let ledgers = daemon.stop();
    ledgers["dmz"].assert_lossless();
    assert_same(&page, &ledgers["dmz"]);
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn promtool_finds_nothing_wrong_with_the_page() {
    let lab = Lab::with_underlay_mtu(1600);
    let _daemon = start(&lab);
    traffic::send(&lab, &frames(), "--pps=20000");
    let page = lab.write("page.txt", await_all_frames(&lab));
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(fs::File::open(page).expect("it was written"));
    let output = promtool.output().expect("promtool can be run");
    assert!(output.status.success() && output.stdout.is_empty(), "{}{}", printed(&output), complaint(&output));
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn prometheus_itself_reads_openmetrics_and_takes_the_alert_rules() {
    let lab = Lab::with_underlay_mtu(1600);
    let _daemon = start(&lab);
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/monitoring/farspan-alerts.yml");
    let configuration = format!(
        "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: [{}]\n\
         scrape_configs:\n  - job_name: farspan\n    static_configs: [{{ targets: [\"{ADDRESS}\"] }}]\n",
        rules.display()
    );
    let file = lab.write("prometheus.yml", configuration);
    let line = format!(
        "prometheus --config.file={} --storage.tsdb.path={} --web.listen-address=127.0.0.1:9090",
        file.display(),
        lab.path("tsdb").display()
    );
    let _prometheus = lab.host.start(&line, &lab.path("prometheus.log"));
    let ask = |what: &str| {
        let url = format!("http://127.0.0.1:9090/api/v1/{what}");
        run(lab.host.command("curl").args(["-sS", "--max-time", "30", "-G", &url]))
    };
    await_that("Prometheus to scrape", || printed(&ask("targets")).contains("\"health\":\"up\""));
    traffic::send(&lab, &frames(), "--pps=20000");
    await_that("Prometheus to see every frame", || {
        let answer = printed(&ask("query?query=farspan_sent_frames_total"));
        answer.contains(&format!("\"{FRAMES}\"]")) && answer.contains("\"destination\":\"ids\"")
    });
    let answer = printed(&ask("query?query=farspan_delay_seconds_count"));
    assert!(answer.contains(&format!("\"{FRAMES}\"]")), "{answer}");
    let types = printed(&ask("metadata?metric=farspan_captured_frames"));
    assert!(types.contains("\"type\":\"counter\""), "{types}");
    let targets = printed(&ask("targets"));
    assert!(targets.contains("\"lastError\":\"\""), "{targets}");
    let rules = printed(&ask("rules"));
    assert!(rules.contains("FarspanFramesLost") && !rules.contains("\"health\":\"err\""), "{rules}");
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn visitors_who_stand_in_the_way_keep_nobody_out_and_cost_no_frame() {
    let lab = Lab::with_underlay_mtu(1600);
    let daemon = start(&lab);
    let lingering = lab.host.enter(|| {
        let connect = |number: usize| {
            let mut stream = TcpStream::connect(ADDRESS).expect("the daemon listens");
            let said: &[u8] = match number % 3 {
                0 => b"",
                1 => b"GET /metrics HTTP/1.1\r\nHost",
                _ => b"\x16\x03\x01\x00\xff nonsense",
            };
            // One that was shown out already has said enough.
            let _ = stream.write_all(said);
            stream
        };
        (0..300).map(connect).collect::<Vec<TcpStream>>()
    });
    traffic::send(&lab, &frames(), "--pps=5000");
    let page = await_all_frames(&lab);
    drop(lingering);
    let ledgers = daemon.stop();
    ledgers["dmz"].assert_lossless();
    assert_same(&page, &ledgers["dmz"]);
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_flooded_control_socket_costs_no_frame_and_still_answers() {
    let lab = Lab::with_underlay_mtu(1600);
    let daemon = start(&lab);
    let socket = lab.path("control.sock");
    let flood = |round: usize| {
        let socket = socket.clone();
        move || {
            let mut half_open = Vec::new();
            for number in 0..1_000 {
                // A full queue is what a flood is about.
                let Ok(mut stream) = UnixStream::connect(&socket) else { continue };
                let _ = stream.set_write_timeout(Some(Duration::from_secs(1)));
                let _ = match (number + round) % 4 {
                    0 => stream.write_all(b"{\"version\":1,\"command\":\"dance\"}\n"),
                    1 => stream.write_all(&[0xff; 8_000]),
                    2 => stream.write_all(b"{\"version\":1,\"comm"),
                    _ => Ok(()),
                };
                if number % 2 == 0 {
                    half_open.push(stream);
                }
                if half_open.len() > 200 {
                    half_open.clear();
                }
            }
        }
    };
    let floods: Vec<_> = (0..3).map(|round| thread::spawn(flood(round))).collect();
    traffic::send(&lab, &frames(), "--pps=2000");
    let status = farspan(&lab, &["status", "dmz"]);
    assert!(status.status.success(), "{}", complaint(&status));
    assert!(printed(&status).contains("session dmz: running"), "{}", printed(&status));
    for flood in floods {
        flood.join().expect("a flood ends");
    }
    let page = await_all_frames(&lab);
    let descriptors = samples(&page)["farspan_process_open_fds"];
    assert!(descriptors < 200, "{descriptors} descriptors are open after the flood");
    let ledgers = daemon.stop();
    ledgers["dmz"].assert_lossless();
    assert_same(&page, &ledgers["dmz"]);
    assert!(!socket.exists(), "the socket goes with the daemon");
}

/// The binary where every user may run it, and a folder that every user may enter.
fn for_everybody(lab: &Lab) -> PathBuf {
    let copy = lab.path("farspan");
    // By another program: what this one has open for writing a child of another test has open too, and cannot be run.
    succeed(Command::new("cp").arg(binary()).arg(&copy));
    let folder = copy.parent().expect("it lies in the folder");
    for path in [&*copy, folder] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("it is ours");
    }
    copy
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn strangers_are_refused_by_the_file_and_by_their_credentials_and_a_group_is_heard() {
    const STRANGER: &str = "--reuid=65533";
    let lab = Lab::with_underlay_mtu(1600);
    let daemon = start(&lab);
    let (program, socket) = (for_everybody(&lab), lab.path("control.sock"));
    let status = |user: &[&str]| {
        let mut command = Command::new("setpriv");
        run(command.args(user).arg(&program).args(["status", "--socket"]).arg(&socket))
    };
    let stranger = status(&[STRANGER, "--regid=65533", "--clear-groups"]);
    assert_eq!(stranger.status.code(), Some(77), "{}", complaint(&stranger));
    assert!(complaint(&stranger).contains("this user may not ask the farspan daemon at "), "{}", complaint(&stranger));

    // Whoever loosens the file's mode by mistake does not give anything away.
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).expect("it is ours");
    let stranger = status(&[STRANGER, "--regid=65533", "--clear-groups"]);
    assert_eq!(stranger.status.code(), Some(77), "{}", complaint(&stranger));
    daemon.await_words("the control socket has refused 1 requests, the last one of user 65533");

    daemon.stop();

    let daemon = Daemon::start(&lab, &configuration(&lab, "group = 65532\n"));
    assert_eq!(fs::metadata(&socket).expect("it is there").permissions().mode() & 0o777, 0o660);
    for groups in [&["--regid=65532", "--clear-groups"], &["--regid=65533", "--groups=65532"]] {
        let member = status(&[&[STRANGER], &groups[..]].concat());
        assert!(member.status.success(), "{groups:?}: {}", complaint(&member));
    }
    let stranger = status(&[STRANGER, "--regid=65533", "--clear-groups"]);
    assert_eq!(stranger.status.code(), Some(77), "{}", complaint(&stranger));
    daemon.stop();
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_session_is_paused_and_resumed_and_a_mistake_is_told_to_whoever_reloads() {
    let lab = Lab::with_underlay_mtu(1600);
    let daemon = start(&lab);
    let state = || {
        let status: serde_json::Value =
            serde_json::from_str(&printed(&farspan(&lab, &["status", "--json"]))).expect("status --json is JSON");
        (status["sessions"][0]["state"].to_string(), status["sessions"][0]["ledger"]["captured"].as_u64())
    };
    assert!(farspan(&lab, &["pause", "dmz"]).status.success());
    assert_eq!(state(), ("\"paused\"".into(), Some(0)));
    traffic::send(&lab, &frames()[..100], "--pps=5000");
    assert_eq!(lab.host.run("curl -sS 127.0.0.1:9469/readyz"), "ok\n");
    assert!(farspan(&lab, &["resume", "dmz"]).status.success());
    assert_eq!(state(), ("\"running\"".into(), Some(0)), "nothing was captured meanwhile");
    traffic::send(&lab, &frames()[..100], "--pps=5000");
    await_that("a hundred frames", || state().1 == Some(100));

    let missing = farspan(&lab, &["pause", "dmx"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(complaint(&missing).contains("there is no session `dmx`"), "{}", complaint(&missing));

    let file = lab.path("farspan.toml");
    let good = fs::read_to_string(&file).expect("it is there");
    fs::write(&file, format!("{good}source.delya = \"2ms\"\n")).expect("the folder is writable");
    let refused = farspan(&lab, &["reload"]);
    assert_eq!(refused.status.code(), Some(78));
    assert!(complaint(&refused).contains("did you mean `delay`?"), "{}", complaint(&refused));
    let told = printed(&farspan(&lab, &["status"]));
    assert!(told.contains("the last reload failed, and nothing was changed: there is no key `delya` here"), "{told}");
    // A reload that comes to nothing after it has opened another socket.
    let broken = good.replace("[control]\n", "[control]\ngroup = 0\n").replace("vni=42", "vni=42&device=nowhere");
    fs::write(&file, broken).expect("the folder is writable");
    let refused = farspan(&lab, &["reload"]);
    assert!(complaint(&refused).contains("could not be opened under its new plan"), "{}", complaint(&refused));
    assert!(printed(&farspan(&lab, &["status"])).contains("could not be opened under its new plan"));
    fs::write(&file, good).expect("the folder is writable");
    let reloaded = farspan(&lab, &["reload"]);
    assert_eq!((printed(&reloaded).as_str(), reloaded.status.code()), ("kept     dmz\n", Some(0)));
    let ledgers = daemon.stop();
    assert_eq!(ledgers["dmz"].captured, 100);

    let alone = farspan(&lab, &["status"]);
    assert_eq!(alone.status.code(), Some(1));
    assert!(complaint(&alone).contains("no farspan daemon answers at "), "{}", complaint(&alone));
}

/// A terminal of its own, in which a shell runs.
struct Terminal {
    folder: PathBuf,
}

impl Terminal {
    fn start(lab: &Lab, namespace: &Namespace) -> Self {
        let terminal = Self { folder: lab.path("tmux") };
        fs::create_dir(&terminal.folder).expect("the folder is writable");
        let mut command = namespace.command("tmux");
        terminal.prepare(&mut command);
        command.args(["-f", "/dev/null", "new-session", "-d", "-s", "a", "-x", "110", "-y", "24", "sh"]);
        succeed(&mut command);
        terminal
    }

    fn prepare(&self, command: &mut Command) {
        command.env("LC_ALL", "C.UTF-8").env("TMUX_TMPDIR", &self.folder).env_remove("TMUX").args(["-u", "-L", "test"]);
    }

    fn tell(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("tmux");
        self.prepare(&mut command);
        succeed(command.args(arguments))
    }

    fn press(&self, keys: &[&str]) {
        self.tell(&[&["send-keys", "-t", "a"], keys].concat());
    }

    fn await_screen(&self, what: &str, holds: impl Fn(&str) -> bool) -> String {
        await_some(what, || Some(self.tell(&["capture-pane", "-p", "-t", "a"])).filter(|screen| holds(screen)))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let mut command = Command::new("tmux");
        self.prepare(&mut command);
        let _ = command.arg("kill-server").stderr(Stdio::null()).status();
    }
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn top_shows_rates_on_a_terminal_pauses_resizes_and_leaves_the_terminal_as_it_was() {
    let lab = Lab::with_underlay_mtu(1600);
    let daemon = start(&lab);
    let terminal = Terminal::start(&lab, &lab.host);
    let line = format!("{} top --socket {}", binary().display(), lab.path("control.sock").display());
    terminal.press(&[&line, "Enter"]);
    terminal.await_screen("the dashboard", |screen| screen.contains("> dmz") && screen.contains("    ids"));

    let sending = thread::scope(|scope| {
        scope.spawn(|| traffic::send(&lab, &frames(), "--pps=1000"));
        // A rate of four digits, and its curve.
        terminal.await_screen("a rate", |screen| {
            let row = screen.lines().find(|line| line.contains("> dmz")).unwrap_or_default();
            let rate = row.split_whitespace().nth(3).and_then(|rate| rate.parse::<u64>().ok());
            rate.is_some_and(|rate| (500..2_000).contains(&rate)) && row.contains('█')
        })
    });
    assert!(sending.contains("running"), "{sending}");

    terminal.tell(&["resize-window", "-t", "a", "-x", "60", "-y", "12"]);
    terminal.await_screen("a small dashboard", |screen| {
        screen.contains("> dmz") && screen.contains("q quit") && screen.lines().all(|line| line.chars().count() <= 60)
    });
    terminal.press(&["p"]);
    terminal.await_screen("the pause", |screen| screen.contains("paused"));
    terminal.press(&["p"]);
    terminal.await_screen("the session again", |screen| screen.contains("running"));
    terminal.press(&["q"]);
    terminal.await_screen("the shell's screen again", |screen| !screen.contains("> dmz"));
    terminal.press(&["echo left-$((1+1))", "Enter"]);
    terminal.await_screen("the shell", |screen| screen.contains("left-2"));
    terminal.press(&["stty -a | grep -o ' icanon\\| echo '", "Enter"]);
    terminal.await_screen("a terminal that is as it was", |screen| {
        screen.lines().any(|line| line == " icanon") && screen.lines().any(|line| line.starts_with(" echo"))
    });

    // Somebody ends it from outside, and the terminal is as it was, too.
    terminal.press(&["clear", "Enter"]);
    terminal.press(&[&line, "Enter"]);
    terminal.await_screen("the dashboard again", |screen| screen.contains("> dmz"));
    let shell = terminal.tell(&["display-message", "-p", "-t", "a", "#{pane_pid}"]);
    let top = await_some("its process", || {
        let children = run(Command::new("pgrep").args(["-P", shell.trim()]));
        printed(&children).trim().parse::<u32>().ok()
    });
    succeed(Command::new("kill").arg(top.to_string()));
    terminal.await_screen("the shell's screen", |screen| !screen.contains("> dmz"));
    daemon.stop();
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn log_lines_are_objects_when_json_is_asked_for() {
    let lab = Lab::with_underlay_mtu(1600);
    let log = "[log]\nformat = \"json\"\nlevel = \"debug\"\n";
    let missing = session("late", "late0", "gre://192.0.2.2");
    let daemon = Daemon::start(&lab, &[log, &configuration(&lab, ""), &missing].concat());
    daemon.await_words("there is no interface `late0`");
    let said = daemon.log();
    let lines: Vec<serde_json::Value> = said
        .lines()
        .filter(|line| !line.starts_with("farspan: "))
        .map(|line| serde_json::from_str(line).unwrap_or_else(|why| panic!("{why}: {line}")))
        .collect();
    let missing = lines.iter().find(|line| line["message"].to_string().contains("late0")).expect("it was said");
    assert_eq!((&missing["level"], &missing["span"]["session"]), (&"WARN".into(), &"late".into()));
    assert!(lines.iter().all(|line| line["timestamp"].is_string()), "{said}");
    daemon.stop();
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn the_journal_gets_priority_and_session_as_fields() {
    let lab = Lab::with_underlay_mtu(1600);
    fs::create_dir(lab.path("journal")).expect("the folder is writable");
    let journal = UnixDatagram::bind(lab.path("journal/socket")).expect("the folder is writable");
    journal.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
    let file =
        lab.write("farspan.toml", [configuration(&lab, ""), session("late", "late0", "gre://192.0.2.2")].concat());
    // `ip netns exec` gives the program mounts of its own: there the socket is where journald has it.
    let script = format!(
        "mount -t tmpfs none /run && mkdir -p /run/systemd/journal && mount --bind {} /run/systemd/journal && \
         exec {} run --log-format journald -C {}",
        lab.path("journal").display(),
        binary().display(),
        file.display()
    );
    let mut command = lab.host.command("sh");
    command.args(["-c", &script]).stderr(Stdio::null()).stdout(Stdio::null());
    let mut daemon = Process::start(command);
    let mut entry = [0; 8 << 10];
    let entry = await_some("the journal to hear of the missing interface", || {
        let length = journal.recv(&mut entry).unwrap_or(0);
        Some(String::from_utf8_lossy(&entry[..length]).into_owned()).filter(|entry| entry.contains("late0"))
    });
    // Its protocol: a field's name, a line feed, the length of the value in eight bytes, the value.
    for (field, value) in [("PRIORITY", "4"), ("FARSPAN_SESSION", "late"), ("SYSLOG_IDENTIFIER", "farspan")] {
        let length = char::from(u8::try_from(value.len()).expect("a short value"));
        let written = format!("{field}\n{length}\0\0\0\0\0\0\0{value}\n");
        assert!(entry.contains(&written), "{written:?} in {entry:?}");
    }
    daemon.interrupt();
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_page_is_given_to_whoever_asks_in_http() {
    let lab = Lab::with_underlay_mtu(1600);
    let daemon = start(&lab);
    let headers = lab.host.run(&format!("curl -sSI -H Accept:application/openmetrics-text {PAGE}"));
    assert!(headers.contains("application/openmetrics-text; version=1.0.0"), "{headers}");
    assert_eq!(lab.host.run("curl -sS 127.0.0.1:9469/healthz"), "ok\n");
    // RFC 9112, section 3.2.2.
    let absolute = "--request-target http://127.0.0.1:9469/healthz 127.0.0.1:9469/elsewhere";
    assert_eq!(lab.host.run(&format!("curl -sS {absolute}")), "ok\n");
    let refused = lab.host.run(&format!("curl -sS -o /dev/null -w %{{http_code}} -d x {PAGE}"));
    assert_eq!(refused, "405");
    // A head of a Mebibyte is answered before it is whole.
    let answer = lab.host.enter(|| {
        let mut stream = TcpStream::connect(ADDRESS).expect("the daemon listens");
        let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nX: ");
        let _ = stream.write_all(&vec![b'x'; 12 << 10]);
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    });
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let public = configuration(&lab, "").replace(ADDRESS, "0.0.0.0:9470");
    daemon.reload(&lab, &public, "reloaded: ");
    daemon.await_words("metrics: 0.0.0.0:9470 is no address of this host alone");
    assert_eq!(lab.analyzer.run("curl -sS 192.0.2.1:9470/healthz"), "ok\n");
    assert!(!run(lab.host.command("curl").args(["-sS", PAGE])).status.success(), "the old door is closed");
    daemon.stop();
}
