//! The layers: a file, the drop-ins beside it, the environment. Flags come on top in [`crate::cli`].

use std::path::Path;

use super::daemon::TABLES;
use super::file::File;
use super::keys::Keys;
use super::mistake::{Mistake, What};
use super::plan::EndPlan;
use super::reading::{self, Provenance, Text};
use super::words;
use super::written::{Origin, Table, Value, Written};
use crate::error::{ExitCode, Explain, Problems};
use crate::quantity::SocketMark;

/// One session as it was written, with the flags that go over it.
#[derive(Clone, Debug)]
pub struct SessionWritten {
    /// Its name in the file; none when the command line makes it.
    pub name: Option<String>,
    /// Its keys.
    pub keys: Table,
    /// Keys that flags give to every destination that has a use for them.
    pub for_every_destination: Table,
    /// When it ends by itself.
    pub end: EndPlan,
    /// What its tunnels' sockets are marked with: `tunnel.mark`, beside the sessions.
    pub mark: Option<SocketMark>,
    /// The flag that is stronger than that.
    pub mark_flag: Option<Written>,
}

impl Default for SessionWritten {
    fn default() -> Self {
        Self {
            name: None,
            keys: Table::new(),
            for_every_destination: Table::new(),
            end: EndPlan::default(),
            mark: Some(SocketMark::DEFAULT),
            mark_flag: None,
        }
    }
}

/// Everything that was written, layer over layer.
#[derive(Debug)]
pub struct Layers {
    sessions: Vec<SessionWritten>,
    /// Every table of the top, the sessions' among them.
    top: Table,
    provenance: Provenance,
}

impl Layers {
    /// Reads `file`, `conf.d/*.toml` beside it in the order of their names, and variables
    /// `FARSPAN_SESSION__NAME__KEY` out of `environment`.
    ///
    /// # Errors
    /// Every file that cannot be read or is not TOML, and every key outside a session.
    pub fn load(file: Option<&Path>, environment: impl Iterator<Item = (String, String)>) -> Result<Self, Problems> {
        let mut problems: Vec<Box<dyn Explain>> = Vec::new();
        let (mut layers, mut provenance) = (Vec::new(), Provenance::default());
        let texts = file.map_or_else(|| Ok(Vec::new()), |file| reading::read(file, &mut provenance));
        match texts {
            Ok(texts) => {
                for Text { path, text } in texts {
                    match File::parse(&path, &text) {
                        Ok(layer) => layers.push(layer),
                        Err(errors) => problems.extend(errors.into_iter().map(Into::into)),
                    }
                }
            }
            Err(errors) => problems.extend(errors.into_iter().map(Into::into)),
        }
        Problems::unless_empty(problems)?;
        Ok(Self { provenance, ..Self::of(layers, environment)? })
    }

    /// Where all of it was read.
    pub fn provenance(&self) -> &Provenance {
        &self.provenance
    }

    /// Puts layers together, the later one over the earlier one.
    pub(super) fn of(files: Vec<File>, environment: impl Iterator<Item = (String, String)>) -> Result<Self, Problems> {
        // Other programs' switches may begin with FARSPAN_ too: a configuration key always has a table before it.
        let is_ours = |name: &str| {
            let prefix = name.as_bytes().get(..PREFIX.len());
            prefix.is_some_and(|prefix| prefix.eq_ignore_ascii_case(PREFIX.as_bytes())) && name.contains("__")
        };
        let environment: config::Map<String, String> = environment.filter(|(name, _)| is_ours(name)).collect();
        let strange =
            environment.keys().filter(|name| !is_key(name)).map(|name| StrangeVariable { name: name.clone() });
        Problems::unless_empty(strange.collect())?;
        let environment =
            config::Environment::with_prefix("FARSPAN").prefix_separator("_").separator("__").source(Some(environment));
        let layered =
            config::Config::builder().add_source(files).add_source(environment).build().map_err(LayerError)?;
        let Value::Table(table) = Written::from(layered.cache).value else {
            return Ok(Self { sessions: Vec::new(), top: Table::new(), provenance: Provenance::default() });
        };
        Self::sessions(table)
    }

    fn sessions(table: Table) -> Result<Self, Problems> {
        let mut mistakes = Vec::new();
        let top = Keys::new("", &table);
        top.only(TABLES, &mut mistakes);
        let tunnel = top.table("tunnel", &mut mistakes);
        tunnel.only(&["mark"], &mut mistakes);
        let mark = tunnel.read("mark", &mut mistakes, words::mark).unwrap_or(Some(SocketMark::DEFAULT));
        let sessions = top
            .table("session", &mut mistakes)
            .named_tables(&mut mistakes)
            .into_iter()
            .map(|(name, keys)| SessionWritten {
                name: Some(name.to_owned()),
                keys: keys.as_table().clone(),
                mark,
                ..SessionWritten::default()
            })
            .collect();
        Problems::unless_empty(mistakes)?;
        Ok(Self { sessions, top: table, provenance: Provenance::default() })
    }

    /// The tables beside the sessions.
    pub(super) fn top(&self) -> &Table {
        &self.top
    }

    /// The session of that name, or the only one there is.
    ///
    /// # Errors
    /// When there is none, or when several are there and none was named.
    pub fn session(self, name: Option<&str>) -> Result<SessionWritten, Problems> {
        let names: Vec<String> = self.sessions.iter().filter_map(|session| session.name.clone()).collect();
        let wrong = |what| {
            let flag = Origin::Flag(name.map_or("--config".to_owned(), |name| format!("--session {name}")));
            Err(Problems::from(Mistake::at(what, Some(&flag), "")))
        };
        let mut sessions = self.sessions.into_iter();
        let found = match name {
            Some(name) => sessions.find(|session| session.name.as_deref() == Some(name)),
            None if names.len() > 1 => return wrong(What::WhichSession(names)),
            None => sessions.next(),
        };
        match (found, name) {
            (Some(session), _) => Ok(session),
            (None, Some(name)) if !names.is_empty() => {
                wrong(What::NoSuchSession { name: name.to_owned(), sessions: names })
            }
            (None, _) => wrong(What::NoSession),
        }
    }

    /// Every session, in the file's order.
    ///
    /// # Errors
    /// When there is none.
    pub fn into_sessions(self) -> Result<Vec<SessionWritten>, Problems> {
        if self.sessions.is_empty() { self.session(None).map(|only| vec![only]) } else { Ok(self.sessions) }
    }
}

/// In front of every key in the environment.
const PREFIX: &str = "FARSPAN_";
/// Most tables and keys in the name of a variable: `SESSION__NAME__DESTINATION__NAME__KEY` has five.
const MOST_PARTS: usize = 8;

/// Whether the `config` crate, which descends table by table, may have a variable of this name.
fn is_key(name: &str) -> bool {
    name.split("__").count() <= MOST_PARTS && !name.contains(['.', '[', ']'])
}

/// A variable that names no key there could be.
#[derive(Debug, thiserror::Error)]
#[error("the environment variable {} is no key of the configuration", beginning(name))]
struct StrangeVariable {
    name: String,
}

impl Explain for StrangeVariable {
    fn hint(&self) -> Option<String> {
        Some(format!(
            "names of tables and keys are letters, digits and `-` between `__`, at most {MOST_PARTS} of them, such as \
             FARSPAN_SESSION__DMZ__SOURCE__DELAY; unset it, or call it otherwise if it is another program's"
        ))
    }

    fn exit_code(&self) -> ExitCode {
        ExitCode::Config
    }
}

/// As much of a name as a line has room for.
fn beginning(name: &str) -> String {
    const MOST: usize = 60;
    let end = name.char_indices().nth(MOST).map(|(at, _)| at);
    end.map_or_else(|| name.to_owned(), |end| format!("{}…", &name[..end]))
}

/// The layers contradict each other in a way that only the `config` crate sees.
#[derive(Debug, thiserror::Error)]
#[error("the configuration cannot be put together")]
pub struct LayerError(#[source] config::ConfigError);

impl Explain for LayerError {
    fn exit_code(&self) -> ExitCode {
        ExitCode::Config
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::session;
    use super::*;
    use crate::config::plan::{LivePlan, SourcePlan};
    use crate::config::{REFERENCE, resolve};

    /// The reference as if only what has no default stood in it.
    const ESSENCE: &str = r#"
        [session.dmz]
        source.interface = ["eth0", "veth*"]
        [session.dmz.destination.ids1]
        to = "vxlan://192.0.2.10"
        vni = 42
        [session.dmz.destination.archive]
        to = "gre://[2001:db8::20]"
        [session.dmz.destination.appliance]
        to = "erspan2://ids.example.net"
        session = 7
        [session.dmz.destination.local]
        to = "tap:ids0"
        [session.dmz.destination.record]
        to = "pcap:dmz-{time}.pcapng"
    "#;

    #[test]
    fn the_reference_says_the_real_defaults() {
        assert_eq!(session(REFERENCE).unwrap(), session(ESSENCE).unwrap());
    }

    #[test]
    fn the_defaults_in_the_reference_s_comments_are_real_too() {
        const LIVE_ONLY: &[&str] =
            &["interface", "direction", "promiscuous", "engine", "buffer", "max_interfaces", "delay", "workers"];
        const WITHOUT_DEFAULT: &[&str] = &[
            "rate",
            "seed",
            "max_pause",
            "pin",
            "netns",
            "bandwidth",
            "cpu",
            "memory",
            "underlay",
            "pressure",
            "nice",
            "cpus",
            "vni_out",
            "analyzer",
            "source",
            "device",
            "key",
            "key_out",
            "session_out",
            "tunnel",
            "allow",
        ];
        // A TAP device takes its MTU from what is mirrored, a file to be normalised has Ethernet's.
        const OF_LOCAL_ENDS: &[&str] = &["mtu", "owner", "rotate_size", "rotate_time", "keep"];
        const TUNNEL_ONLY: &[&str] = &["strict", "decap", "tag", "reorder"];
        let name = |line: &str| line.split('=').next().unwrap_or_default().trim().to_owned();
        let (mut replay, mut tunnels, mut in_destination) = (String::new(), String::new(), false);
        for line in REFERENCE.lines() {
            in_destination = if line.starts_with('[') { line.contains(".destination.") } else { in_destination };
            let without_default =
                |name: &str| WITHOUT_DEFAULT.contains(&name) || (in_destination && OF_LOCAL_ENDS.contains(&name));
            let commented = line.strip_prefix("# ").filter(|rest| {
                rest.split_once(" = ")
                    .is_some_and(|(key, _)| key.trim().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'))
            });
            match commented {
                Some(assignment) if TUNNEL_ONLY.contains(&name(assignment).as_str()) => {
                    tunnels.extend(["source.", assignment, "\n"]);
                }
                Some(assignment) if !without_default(&name(assignment)) => replay += assignment,
                None if !LIVE_ONLY.contains(&name(line).as_str()) => replay += line,
                _ => {}
            }
            replay.push('\n');
        }
        assert!(replay.contains("\npace ") && replay.contains("\nmtu ") && replay.contains("\nfile "), "{replay}");
        let essence = ESSENCE.replace(
            r#"source.interface = ["eth0", "veth*"]"#,
            r#"source.file = "capture.pcapng"
            normalise.enabled = true"#,
        );
        assert_eq!(session(&replay).unwrap(), session(&essence).unwrap());

        let essence = "[session.a]\nsource.tunnel = \"vxlan://0.0.0.0\"\ndestination.b.to = \"pcap:x\"\n";
        assert_eq!(tunnels.lines().count(), TUNNEL_ONLY.len());
        assert_eq!(session(&[essence, &tunnels].concat()).unwrap(), session(essence).unwrap());
    }

    #[test]
    fn every_key_of_the_reference_s_comments_is_understood() {
        let mut whole = REFERENCE.to_owned();
        // The MTU of the TAP device stands apart from that of a recorded link by its indentation.
        for key in [
            "analyzer",
            "source",
            "device",
            "vni_out",
            "key",
            "key_out",
            "session_out",
            "mtu       ",
            "owner",
            "rotate_size",
            "rotate_time",
            "keep",
            "bandwidth",
            "cpu",
            "memory",
            "underlay",
            "pressure",
            "nice",
        ] {
            let commented = format!("\n# {key} ");
            assert!(whole.contains(&commented), "{key}");
            whole = whole.replace(&commented, &format!("\n{key} "));
        }
        assert_ne!(session(&whole).unwrap(), session(REFERENCE).unwrap());
    }

    #[test]
    fn every_mistake_is_reported_with_line_and_column() {
        let problems = session(
            "[session.a.source]\ninterface = \"eth0\"\ndelya = \"2ms\"\nbuffer = 4096\n\
             [session.a.destination.IDS]\nto = \"vxlan://192.0.2.1\"\nvni = [1]\n[session.a.limits]\ncpu = 1\n",
        )
        .unwrap_err();
        let text = problems.to_string();
        for essential in [
            "`delya`\n",
            "did you mean `delay`?",
            "test.toml:3:9, session.a.source.delya",
            "test.toml:4:10, session.a.source.buffer",
            "`IDS` is not a name",
            "`ids` would do",
            "test.toml:7:7, session.a.destination.IDS.vni",
            "there is no key `limits` here",
        ] {
            let essential = essential.trim_end_matches('\n');
            assert!(text.contains(essential), "{essential} in\n{text}");
        }
        assert_eq!(problems.iter().count(), 5, "{text}");
        assert_eq!(problems.exit_code(), ExitCode::Config);
    }

    #[test]
    fn later_layers_change_single_keys() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("farspan.toml");
        std::fs::write(&file, ESSENCE).unwrap();
        std::fs::create_dir(directory.path().join("conf.d")).unwrap();
        let drop_in = |name: &str, text| std::fs::write(directory.path().join("conf.d").join(name), text).unwrap();
        drop_in("10-slow.toml", "session.dmz.source.delay = \"7ms\"\nsession.dmz.source.buffer = \"7MiB\"");
        drop_in("20-slower.toml", "session.dmz.source.delay = \"8ms\"");
        drop_in("30-not-toml.txt", "]");
        let environment = [
            ("FARSPAN_SESSION__DMZ__SOURCE__BUFFER", "9MiB"),
            ("FARSPAN_SESSION__DMZ__DESTINATION__IDS1__VNI", "99"),
            ("FARSPAN_CAPTURES", "/not/ours"),
            ("OTHER__THING", "x"),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let written = Layers::load(Some(&file), environment.into_iter()).unwrap().session(Some("dmz")).unwrap();
        let plan = resolve::session(&written).unwrap();
        let SourcePlan::Live(LivePlan { delay, buffer, .. }) = plan.source else { panic!("not live") };
        assert_eq!((delay.as_millis(), buffer), (8, 9 << 20));
        let expected = ESSENCE.replace("vni = 42", "vni = 99");
        assert_eq!(plan.destinations, session(&expected).unwrap().destinations);
    }

    #[test]
    fn a_mistake_in_the_environment_names_the_variable() {
        let environment = [("FARSPAN_SESSION__DMZ__SOURCE__DELAY".to_owned(), "soon".to_owned())];
        let file = File::parse(Path::new("test.toml"), ESSENCE).unwrap();
        let written = Layers::of(vec![file], environment.into_iter()).unwrap().session(None).unwrap();
        let text = resolve::session(&written).unwrap_err().to_string();
        assert!(text.contains("where: environment variable FARSPAN_SESSION__DMZ__SOURCE__DELAY\n"), "{text}");
    }

    #[test]
    fn a20_a_variable_that_is_nested_deeply_or_strangely_is_refused() {
        let deep = format!("farspan_{}", vec!["A"; 100_000].join("__"));
        for name in [deep.as_str(), "FARSPAN_A__B.C.D", "FARSPAN_A__B[0][99999999999]"] {
            let problems = Layers::of(Vec::new(), [(name.to_owned(), "1".to_owned())].into_iter()).unwrap_err();
            let text = problems.to_string();
            assert!(text.starts_with("error: the environment variable ") && text.len() < 500, "{text}");
            assert_eq!(problems.exit_code(), ExitCode::Config);
        }
    }

    #[test]
    fn every_place_that_is_not_toml_is_reported() {
        let errors = File::parse(Path::new("a.toml"), "a = \nb = 1\nc = ]\n").unwrap_err();
        let places: Vec<_> = errors.iter().filter_map(Explain::place).collect();
        assert!(places.iter().any(|place| place.starts_with("a.toml:1:")), "{places:?}");
        assert!(places.iter().any(|place| place.starts_with("a.toml:3:")), "{places:?}");
    }

    proptest::proptest! {
        #[test]
        fn a_damaged_file_gives_a_plan_or_mistakes(at in 0..REFERENCE.len(), cut in 0..40_usize, text in "\\PC{0,20}") {
            let bytes = [&REFERENCE.as_bytes()[..at], text.as_bytes(), REFERENCE.as_bytes().get(at + cut..).unwrap_or_default()];
            let damaged = String::from_utf8_lossy(&bytes.concat()).into_owned();
            if let Err(problems) = session(&damaged) {
                proptest::prop_assert!(problems.iter().all(|problem| problem.hint().is_some()), "{problems}");
            }
        }
    }
}
