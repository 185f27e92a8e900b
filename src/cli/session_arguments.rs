//! The arguments that describe a session: shared by every command that takes one.
//!
//! Each flag only writes a word over a key of the configuration; what the word means is decided in
//! [`crate::config::resolve`], so that a file and a flag can never differ.

#![allow(clippy::doc_markdown, reason = "doc comments of arguments are help texts, printed as they are")]

use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::described::Described;
use super::destination_arguments::{DestinationArguments, MarkArguments, write_destinations};
use super::limit_arguments::{LimitArguments, SampleArguments};
use super::source_arguments::{AnySourceArguments, SourceFlags};
use crate::config::daemon;
use crate::config::load::{Layers, SessionWritten};
use crate::config::mistake::{Mistake, What};
use crate::config::plan::SessionPlan;
use crate::config::written::{Origin, Table, Written, set, set_flag};
use crate::config::{reading, resolve, trust};
use crate::error::Problems;

/// A session, from a file or from flags alone. `S` has the flags of one kind of source.
#[derive(Debug, Args)]
pub struct SessionArguments<S: SourceFlags> {
    #[command(flatten)]
    source: S,
    #[command(flatten)]
    any_source: AnySourceArguments,
    #[command(flatten)]
    sample: SampleArguments,
    #[command(flatten)]
    normalise: NormaliseArguments,
    /// Where to: vxlan://HOST?vni=N, geneve://HOST?vni=N, gre://HOST, erspan1://HOST, erspan2://HOST?session=N,
    /// erspan3://HOST?session=N, tap:NAME, pcap:FILE (.pcapng too), pcap:- (repeatable: see --spread)
    #[arg(long, value_name = "DEST", help_heading = "Destination")]
    to: Vec<String>,
    /// Which of several destinations get a frame: replicate (all), balance (the one that its flow belongs to), failover
    /// (the first that is healthy) [default: replicate]
    #[arg(long, value_name = "HOW", help_heading = "Destination")]
    spread: Option<String>,
    #[command(flatten)]
    destination: DestinationArguments,
    #[command(flatten)]
    mark: MarkArguments,
    #[command(flatten)]
    limit: LimitArguments,
    #[command(flatten)]
    configuration: ConfigurationArguments,
    /// Which frames: an expression as for tcpdump, see pcap-filter(7); options stand before it
    #[arg(trailing_var_arg = true, value_name = "EXPRESSION", help_heading = "Filter")]
    filter: Vec<String>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Normalise")]
struct NormaliseArguments {
    /// Send only the first bytes of each frame, counted from the destination MAC [default: off]
    #[arg(short = 's', long, value_name = "SNAPLEN")]
    truncate: Option<String>,
    /// Finish the offloads in frames of files and tunnels too, as if they came from an interface
    #[arg(long)]
    normalise: bool,
    /// With --normalise: MTU of the link where the frames were [default: 1500]
    #[arg(long)]
    mtu: Option<String>,
    /// Drop super-frames that would become more segments than this, or off [default: 536]
    #[arg(long, value_name = "N")]
    max_segments: Option<String>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Configuration")]
struct ConfigurationArguments {
    /// Take the session from this file and the conf.d/*.toml beside it; flags are stronger
    #[arg(short = 'C', long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
    /// Which session of the configuration [default: the only one]
    #[arg(long, value_name = "NAME")]
    session: Option<String>,
}

impl<S: SourceFlags> SessionArguments<S> {
    /// The one session that the arguments describe.
    ///
    /// # Errors
    /// Every mistake in files, environment and flags.
    pub fn plan(&self) -> Result<SessionPlan, Problems> {
        let Some(layers) = self.layers()? else { return self.resolve(SessionWritten::default()) };
        let trusted = trust::check(layers.provenance(), None);
        let plan = layers.session(self.configuration.session.as_deref()).and_then(|session| self.resolve(session));
        match (plan, trusted) {
            (Ok(plan), Ok(())) => Ok(plan),
            (plan, trusted) => Err(Problems::all(plan.err().into_iter().chain(trusted.err()))),
        }
    }

    /// What the arguments describe: a whole configuration, unless a session of it is chosen.
    ///
    /// # Errors
    /// Every mistake in files, environment and flags.
    pub fn described(&self) -> Result<Described, Problems> {
        match self.layers()? {
            Some(layers) if self.configuration.session.is_none() => {
                let provenance = Box::new(layers.provenance().clone());
                let plan = daemon::resolve(layers, |session| self.resolve(session))?;
                Ok(Described::Daemon { plan: Box::new(plan), provenance })
            }
            _ => self.plan().map(|plan| Described::Session(Box::new(plan))),
        }
    }

    /// The configuration, when one is asked for: a command line alone means what it says, whatever the environment.
    fn layers(&self) -> Result<Option<Layers>, Problems> {
        let ConfigurationArguments { config, session } = &self.configuration;
        let is_asked_for = config.is_some() || session.is_some();
        if !is_asked_for {
            return Ok(None);
        }
        let Some(file) = config else { return Layers::load(None, environment()).map(Some) };
        let path = file.clone();
        reading::within_time(file, move || Layers::load(Some(&path), environment())).map(Some)
    }

    fn resolve(&self, mut session: SessionWritten) -> Result<SessionPlan, Problems> {
        self.write_over(&mut session)?;
        resolve::session(&session)
    }

    /// Writes the flags over `session`.
    fn write_over(&self, session: &mut SessionWritten) -> Result<(), Problems> {
        let keys = &mut session.keys;
        self.source.write_over(keys);
        self.any_source.write_over(keys);
        self.sample.write_over(keys);
        self.limit.write_over(keys);
        self.normalise.write_over(keys);
        if let Some(flag) = self.filter.iter().find(|word| word.starts_with("--")) {
            let origin = Origin::Flag(format!("EXPRESSION `{}`", self.filter.join(" ")));
            return Err(Mistake::at(What::FlagInFilter(flag.clone()), Some(&origin), "").into());
        }
        if !self.filter.is_empty() {
            set(keys, &["select", "filter"], Written::flag("EXPRESSION", &self.filter.join(" ")));
        }
        set_flag(keys, &["spread"], "--spread", self.spread.as_deref());
        write_destinations(&self.to, keys);
        session.for_every_destination = self.destination.table();
        session.end = self.any_source.end();
        session.mark_flag = self.mark.written();
        Ok(())
    }
}

impl NormaliseArguments {
    fn write_over(&self, keys: &mut Table) {
        set_flag(keys, &["normalise", "truncate"], "-s", self.truncate.as_deref());
        set_flag(keys, &["normalise", "mtu"], "--mtu", self.mtu.as_deref());
        set_flag(keys, &["normalise", "max_segments"], "--max-segments", self.max_segments.as_deref());
        if self.normalise {
            set(keys, &["normalise", "enabled"], Written::bare_flag("--normalise", "on"));
        }
    }
}

/// Variables whose name or value is not Unicode are nobody's configuration.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;

    use super::super::source_arguments::AllSourceArguments;
    use super::*;
    use crate::config::destination_url::Kind;
    use crate::config::local_end::{CaptureFilePlan, Rotation, Sync, TapPlan};
    use crate::config::plan::{
        Analyzer, DestinationPlan, Encapsulation, End, EndPlan, Engine, FilePath, FilePlan, Fit, Gso, Host, Ids,
        LimitPlan, LivePlan, NormalisePlan, Pace, PriorityPlan, Probe, SampleBy, SamplePlan, Scheduling, SourcePlan,
        Spread, TransmitPlan, TunnelPlan, UdpChecksum,
    };
    use crate::quantity::{
        Directions, Dscp, ErspanSessionId, GreKey, Mtu, Nice, PortRange, Rate, SegmentLimit, Snaplen, SocketMark, Ttl,
        Vni, Weight, Workers,
    };

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        session: SessionArguments<AllSourceArguments>,
    }

    fn plan(line: &str) -> SessionPlan {
        let line = Line::try_parse_from(std::iter::once("farspan").chain(line.split(' '))).unwrap();
        line.session.plan().unwrap_or_else(|problems| panic!("{problems}"))
    }

    fn destination(to: &str) -> DestinationPlan {
        plan(&format!("-i eth0 --to {to}")).destinations.remove(0)
    }

    fn tunnel(encapsulation: Encapsulation, host: &str) -> TunnelPlan {
        TunnelPlan {
            encapsulation,
            host: host.parse().map_or_else(|_| Host::Name(host.to_owned()), Host::Address),
            fit: Fit::Split,
            analyzer: None,
            source: None,
            device: None,
            ports: PortRange::DYNAMIC,
            dscp: Dscp::DEFAULT,
            ttl: Ttl::DEFAULT,
            udp_checksum: UdpChecksum::Auto,
            gso: Gso::Auto,
            transmit: TransmitPlan::Socket,
            probe: Probe::Off,
            mtu: None,
            mtu_floor: Mtu::IPV6_LEAST,
            resolve: Some(crate::config::defaults::RESOLVE),
            mark: Some(SocketMark::DEFAULT),
        }
    }

    #[test]
    fn a_short_line_is_a_whole_plan() {
        let to = "vxlan://192.0.2.10?vni=42";
        assert_eq!(
            plan(&format!("-i eth0 --to {to} not port 22")),
            SessionPlan {
                name: "mirror".into(),
                source: SourcePlan::Live(LivePlan {
                    interfaces: vec!["eth0".into()],
                    directions: Directions::InOut,
                    promiscuous: true,
                    engine: Engine::default(),
                    buffer: 24 << 20,
                    max_interfaces: 512,
                    delay: Duration::from_millis(2),
                    workers: Workers::LEAST,
                    pin: Vec::new(),
                    netns: None,
                }),
                decap: None,
                filter: "not port 22".into(),
                sample: SamplePlan::default(),
                seed: None,
                normalise: NormalisePlan {
                    enabled: true,
                    mtu: Mtu::ETHERNET,
                    truncate: None,
                    max_segments: Some(SegmentLimit::DEFAULT)
                },
                spread: Spread::Replicate,
                destinations: vec![DestinationPlan {
                    name: "1".into(),
                    to: to.into(),
                    weight: Weight::default(),
                    end: End::Tunnel(tunnel(
                        Encapsulation::Vxlan { vni: Ids::all(Vni::new(42).unwrap()), port: 4789 },
                        "192.0.2.10"
                    )),
                }],
                limit: LimitPlan::default(),
                priority: PriorityPlan::default(),
                end: EndPlan::default(),
            }
        );
    }

    #[test]
    fn every_flag_of_a_session_reaches_the_plan() {
        let plan = plan(
            "-i eth0 -i veth* -Q in -p --engine pcap -B 8MiB --delay 5ms --workers 3 --pin 0 --sample 1/10 --sample-by frame --seed 000102030405060708090a0b0c0d0e0f --limit-bandwidth 500Mbit/s --limit-rate 20kpps --limit-cpu 20% --limit-memory 4MiB \
             --limit-underlay 90% --limit-pressure 20% --nice 7 --scheduling idle -s 128 --for 60s --to gre://ids.example.net --key 7 \
             --seq on --fit drop --analyzer zeek --transmit pcap:out.pcap --source 192.0.2.1 --device eth1 --dscp 8 --ttl 3",
        );
        assert_eq!(
            plan.source,
            SourcePlan::Live(LivePlan {
                interfaces: vec!["eth0".into(), "veth*".into()],
                directions: Directions::In,
                promiscuous: false,
                engine: Engine::Pcap,
                buffer: 4 << 20,
                max_interfaces: 512,
                delay: Duration::from_millis(5),
                workers: Workers::new(3).unwrap(),
                netns: None,
                pin: vec![0],
            })
        );
        let expected = LimitPlan {
            bandwidth: Some(500e6),
            rate: Some(20e3),
            cpu: Some("20%".parse().unwrap()),
            memory: Some(4 << 20),
            underlay: Some("90%".parse().unwrap()),
            pressure: Some("20%".parse().unwrap()),
        };
        assert_eq!(plan.limit, expected);
        let nice = Some(Nice::new(7).unwrap());
        assert_eq!(plan.priority, PriorityPlan { nice, scheduling: Scheduling::Idle, cpus: Vec::new() });
        assert_eq!(plan.sample, SamplePlan { rate: "1/10".parse().unwrap(), by: SampleBy::Frame });
        assert_eq!(plan.seed, "000102030405060708090a0b0c0d0e0f".parse().ok());
        assert_eq!(plan.normalise.truncate, Some(Snaplen::new(128).unwrap()));
        assert_eq!(plan.end, EndPlan { count: None, duration: Some(Duration::from_mins(1)) });
        let key = Some(Ids::all(GreKey::new(7).unwrap()));
        let expected = TunnelPlan {
            fit: Fit::Drop,
            analyzer: Some(Analyzer::Zeek),
            source: Some("192.0.2.1".parse().unwrap()),
            device: Some("eth1".into()),
            dscp: Dscp::new(8).unwrap(),
            ttl: Ttl::new(3).unwrap(),
            transmit: TransmitPlan::CaptureFile(FilePath::Path("out.pcap".into())),
            ..tunnel(Encapsulation::Gre { key, sequence: true }, "ids.example.net")
        };
        assert_eq!(plan.destinations[0].end, End::Tunnel(expected));
    }

    #[test]
    fn workers_are_for_interfaces_without_a_count() {
        assert_eq!(plan("-i eth0 -c 10 --workers 1 --to pcap:-").end, EndPlan { count: Some(10), duration: None });
        for (line, words) in [
            ("-i eth0 -c 10 --workers 2 --to pcap:-", "a count of frames needs one worker, and there are to be 2"),
            ("-i eth0 --workers 65 --to pcap:-", "65 is not a number of workers: it goes from 1 to 64"),
            ("-r a.pcap --workers 2 --to pcap:-", "`workers` is for interfaces, and the source is a capture file"),
            ("-r a.pcap --pin 0 --to pcap:-", "`pin` is for interfaces, and the source is a capture file"),
            ("-i eth0 --sample 0.1 --to pcap:-", "`0.1` is not a sample: write 1/10"),
            ("-i eth0 --sample-by flow --to pcap:-", "`sample_by` says what a sample counts, and there is no `sample`"),
            ("-i eth0 --limit-bandwidth 20kpps --to pcap:-", "`20kpps` is not a bandwidth: write 500 Mbit/s"),
            ("-i eth0 --limit-rate 5Mbit --to pcap:-", "`5Mbit` is not a frame rate: write 20kpps"),
            ("-i eth0 --limit-cpu 20 --to pcap:-", "`20` is not a CPU share: write 20% of a core"),
            ("-i eth0 --limit-underlay 110% --to pcap:-", "`110%` is not a share: write 90%"),
            ("-i eth0 --nice 20 --to pcap:-", "20 is not a nice value: it goes from 0 to 19"),
            ("-i eth0 --scheduling fifo --to pcap:-", "`fifo` is not a way to schedule: write other, batch or idle"),
            ("-i eth0 --pin 0 --cpus 0 --to pcap:-", "`cpus` and `pin` cannot both be given"),
            (
                "-r a.pcap --limit-rate 1kpps --to pcap:-",
                "`limit` leaves flows out, and a capture file can wait instead",
            ),
            ("-i eth0 --pin 1023 --to pcap:-", "there is no CPU 1023 for farspan to run on"),
            (
                "-i eth0 --pin 0,x --to pcap:-",
                "`x` is not a list of CPUs: write numbers and ranges, such as 0,2 or 4-7",
            ),
            (
                "-i eth0 --workers 3 --to vxlan://h?vni=1&ports=50000-50001",
                "3 workers need a UDP source port each, and `ports` has 2",
            ),
        ] {
            let arguments = Line::try_parse_from(std::iter::once("farspan").chain(line.split(' '))).unwrap();
            let problems = arguments.session.plan().unwrap_err();
            let said: Vec<String> = problems.iter().map(ToString::to_string).collect();
            assert_eq!(said, [words], "{line}");
            assert!(problems.iter().all(|problem| problem.hint().is_some()), "{problems}");
        }
    }

    #[test]
    fn a_file_is_left_as_it_is_unless_told_otherwise() {
        let plain = plan("-r a.pcap --to pcap:-");
        let path = FilePath::Path("a.pcap".into());
        assert_eq!(plain.source, SourcePlan::File(FilePlan::unpaced(path.clone())));
        assert!(!plain.normalise.enabled);
        assert_eq!(plain.destinations[0].end, End::File(CaptureFilePlan::plain(FilePath::Standard)));

        let told = plan("-r a.pcap --rate 20kpps --normalise --mtu 9000 --to pcap:b.pcap");
        let pace = Pace::Rate(Rate::Frames(20_000.0));
        assert_eq!(told.source, SourcePlan::File(FilePlan { pace, ..FilePlan::unpaced(path) }));
        assert_eq!(
            told.normalise,
            NormalisePlan {
                enabled: true,
                mtu: Mtu::new(9000).unwrap(),
                truncate: None,
                max_segments: Some(SegmentLimit::DEFAULT)
            }
        );
    }

    #[test]
    fn local_ends_have_keys_of_their_own() {
        let rotated = CaptureFilePlan {
            file: FilePath::Path("m-{number}.pcapng".into()),
            rotation: Rotation { size: Some(100 << 20), time: Some(Duration::from_hours(1)), keep: Some(24) },
            sync: Sync::Rotate,
            mode: "0640".parse().unwrap(),
        };
        let url = "pcap:m-{number}.pcapng?rotate_size=100MiB&rotate-time=1h&keep=24&sync=rotate&mode=0640";
        assert_eq!(destination(url).end, End::File(rotated.clone()));
        let line = "-i eth0 --rotate-size 100MiB --rotate-time 1h --keep 24 --sync rotate --mode 0640 --tap-mtu 9000 --to \
                    pcap:m-{number}.pcapng --to tap:ids0?owner=0&name=ids";
        let plan = plan(line);
        assert_eq!(plan.destinations[0].end, End::File(rotated));
        let tap = TapPlan { device: "ids0".into(), owner: Some(0), mtu: Some(Mtu::new(9000).unwrap()) };
        assert_eq!((plan.destinations[1].name.as_str(), &plan.destinations[1].end), ("ids", &End::Tap(tap)));
    }

    #[test]
    fn mistakes_in_local_ends_are_told() {
        for (line, words) in [
            ("-i eth0 --to tap:all", "`all` cannot be the name of a TAP device"),
            ("-i eth0 --to tap:t?mtu=65522", "65522 is not a MTU of a TAP device: it goes from 68 to 65521"),
            ("-i eth0 --to tap:t?owner=nobody-of-this-name", "there is no user `nobody-of-this-name` here"),
            ("-i eth0 --to tap:t?vni=1", "`vni` means nothing to a TAP device"),
            ("-i eth0 --to tap:t --to tap:t", "two destinations write to the TAP device t"),
            (
                "-i eth* --to tap:eth9",
                "the session would mirror its own destination: `eth*` captures on the TAP device eth9 too",
            ),
            (
                "-i any --to tap:t",
                "the session would mirror its own destination: `any` captures on the TAP device t too",
            ),
            ("-i eth0 --to pcap:a?keep=2", "`keep` is for rotated files, and nothing says when this one is rotated"),
            (
                "-i eth0 --to pcap:a?rotate_size=1KiB",
                "1024 is not a file size in bytes: it goes from 65536 to 1125899906842624",
            ),
            (
                "-i eth0 --to pcap:a?mode=0755",
                "`0755` is not a file mode: write octal digits from 0600 to 0666, such as 0640",
            ),
            ("-i eth0 --to pcap:a?sync=often", "`often` is not a way to sync: write off, rotate or flush"),
            ("-i eth0 --to pcap:-?rotate_time=1h", "`rotate_time` is for files, and `pcap:-` is standard output"),
            ("-i eth0 --to pcap:a --vni 7", "`vni` means nothing to any of the destinations"),
        ] {
            let arguments = Line::try_parse_from(std::iter::once("farspan").chain(line.split(' '))).unwrap();
            let problems = arguments.session.plan().unwrap_err();
            let said: Vec<String> = problems.iter().map(ToString::to_string).collect();
            assert_eq!(said, [words], "{line}");
            assert!(problems.iter().all(|problem| problem.hint().is_some()), "{problems}");
        }
    }

    #[test]
    fn ids_may_differ_by_interface_and_direction() {
        let id = |number| ErspanSessionId::new(number).unwrap();
        let by_interface = vec![("eth0".to_owned(), id(10)), ("*".to_owned(), id(11))];
        let session = Ids { by_interface, out_by_interface: vec![("*".to_owned(), id(12))] };
        let End::Tunnel(found) = destination("erspan3://[2001:db8::1]?session=eth0:10,*:11&session_out=12").end else {
            panic!("no tunnel")
        };
        assert_eq!(found, tunnel(Encapsulation::Erspan3 { session }, "2001:db8::1"));
    }

    #[test]
    fn a12_the_mtu_of_a_path_and_that_of_a_tap_device_have_a_flag_each() {
        let plan = plan("-i eth0 --vni 5 --path-mtu 1400 --mtu-floor 1000 --tap-mtu 9000 --to vxlan://h --to tap:x");
        let (End::Tunnel(tunnel), End::Tap(tap)) = (&plan.destinations[0].end, &plan.destinations[1].end) else {
            panic!("one of each")
        };
        let values = [tunnel.mtu, Some(tunnel.mtu_floor), tap.mtu].map(|mtu| mtu.map(Mtu::value));
        assert_eq!(values, [Some(1400), Some(1000), Some(9000)]);
    }

    #[test]
    fn a_flag_is_for_all_destinations_that_have_a_use_for_it() {
        let plan = plan("-i eth0 --vni 5 --fit drop --to vxlan://h --to geneve://h?vni=5&name=lab --to erspan1://h");
        let seen: Vec<_> = plan
            .destinations
            .iter()
            .map(|destination| {
                let End::Tunnel(tunnel) = &destination.end else { panic!("no tunnel") };
                let vni = match &tunnel.encapsulation {
                    Encapsulation::Vxlan { vni, .. } | Encapsulation::Geneve { vni, .. } => vni.resolve("eth0", None),
                    _ => None,
                };
                (destination.name.as_str(), vni.map(Vni::value), tunnel.fit)
            })
            .collect();
        assert_eq!(seen, [("1", Some(5), Fit::Drop), ("lab", Some(5), Fit::Drop), ("3", None, Fit::Drop)]);
    }

    #[test]
    fn o4_a_flag_and_a_url_that_contradict_each_other_are_one_mistake_with_both_places() {
        let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
        let text = "[session.a]\nsource.interface = \"lo\"\n\
                    destination.url.to = \"vxlan://192.0.2.1?vni=42\"\n\
                    destination.key = { to = \"vxlan://192.0.2.2\", vni = 43, fit = \"drop\" }\n";
        std::fs::write(file.path(), text).unwrap();
        let problems = |line: &str| {
            let arguments = Line::try_parse_from(std::iter::once("farspan").chain(line.split(' '))).unwrap();
            arguments.session.plan().err().map_or_else(Vec::new, |problems| {
                problems.iter().map(|problem| (problem.to_string(), problem.place().unwrap_or_default())).collect()
            })
        };
        let both = "`--vni 9` contradicts `vni=42` in the URL";
        let url = "--to vxlan://192.0.2.1?vni=42";
        assert_eq!(problems(&format!("-i lo {url} --vni 9")), [(both.to_owned(), url.to_owned())]);
        let in_file = problems(&format!("-C {} --vni 9", file.path().display()));
        let [(what, place)] = &in_file[..] else { panic!("{in_file:?}") };
        assert!(what == both && place.contains(".toml:3:") && place.contains("destination.url.to"), "{in_file:?}");
        // The same value is no contradiction, and a flag is the stronger layer over a key of the file.
        assert_eq!(problems(&format!("-i lo {url} --vni 42")), []);
        assert_eq!(problems(&format!("-C {} --vni 42", file.path().display())), []);
        assert_eq!(problems(&format!("-C {} --fit truncate", file.path().display())), []);
    }

    #[test]
    fn each_key_of_a_destination_is_a_flag_and_the_other_way_round() {
        let names = Line::try_parse_from(
            "farspan --vni 1 --vni-out 1 --key 1 --key-out 1 --session-id 1 --session-id-out 1 --index 1 --seq 1 --fit 1 \
             --analyzer 1 --transmit 1 --source 1 --device 1 --dscp 1 --ttl 1 --udp-checksum 1 --gso 1 --ports 1 --tap-mtu 1 --path-mtu 1 --mtu-floor 1 --weight 1 --probe 1 --resolve 1 \
             --owner 1 --rotate-size 1 --rotate-time 1 --keep 1 --sync 1 --mode 1"
                .split_whitespace(),
        );
        let mut flags: Vec<String> = names.unwrap().session.destination.table().into_keys().collect();
        // TAP devices and tunnels have a flag each for this key.
        flags.retain(|flag| flag != "tap_mtu");
        flags.iter_mut().filter(|flag| *flag == "path_mtu").for_each(|flag| *flag = "mtu".to_owned());
        let mut keys: Vec<String> = Kind::all().flat_map(Kind::keys).map(str::to_owned).collect();
        flags.sort();
        keys.sort();
        keys.dedup();
        assert_eq!(flags, keys);
    }

    #[test]
    fn flags_go_over_a_file_and_a_new_end_replaces_its_ends() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.toml");
        let text = r#"
            [session.dmz]
            source = { interface = "eth0", delay = "9ms" }
            [session.dmz.destination.ids]
            to = "vxlan://192.0.2.1"
            vni = 1
            [session.dmz.destination.second]
            to = "erspan2://192.0.2.2"
            session = 2
            fit = "drop"
        "#;
        std::fs::write(&file, text).unwrap();
        let with = |flags: &str| plan(format!("-C {} {flags}", file.display()).trim());

        let plain = with("");
        assert_eq!(plain.name, "dmz");
        assert_eq!(plain.destinations.iter().map(|plan| plan.name.as_str()).collect::<Vec<_>>(), ["ids", "second"]);

        let changed = with("--session dmz -i eth1 --fit truncate --vni 7 --session-id 8");
        let SourcePlan::Live(live) = &changed.source else { panic!("not live") };
        assert_eq!((live.interfaces.join(","), live.delay.as_millis()), ("eth1".to_owned(), 9));
        let [ids, second] = changed.destinations.as_slice() else { panic!("two destinations") };
        let vni = Ids::all(Vni::new(7).unwrap());
        let truncated = |encapsulation, host| TunnelPlan { fit: Fit::Truncate, ..tunnel(encapsulation, host) };
        assert_eq!(ids.end, End::Tunnel(truncated(Encapsulation::Vxlan { vni, port: 4789 }, "192.0.2.1")));
        let session = Ids::all(ErspanSessionId::new(8).unwrap());
        let erspan2 = Encapsulation::Erspan2 { session, index: crate::config::defaults::ERSPAN_INDEX };
        assert_eq!(second.end, End::Tunnel(truncated(erspan2, "192.0.2.2")));

        let replaced = with("--to pcap:x.pcap");
        assert_eq!(replaced.destinations.len(), 1);
        assert_eq!(replaced.destinations[0].end, End::File(CaptureFilePlan::plain(FilePath::Path("x.pcap".into()))));
    }
}
