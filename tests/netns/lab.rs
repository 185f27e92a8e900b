//! The lab: a client, a tapped host and an analyzer, each in a network namespace of its own.
//!
//! ```text
//!   client              tapped host                 analyzer
//!   c0 ───────────────── h0     u0 ───────────────── a0
//!   10.8.0.1     10.8.0.2       192.0.2.1    192.0.2.2
//!   2001:db8:8::1     ::2       2001:db8:9::1      ::2
//! ```
//!
//! The tapped pair keeps the kernel's default offloads: super-frames and unfinished checksums are what farspan is
//! for. The underlay pair has none, so that the judges see what a wire would carry.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

pub const CLIENT: &str = "10.8.0.1";
pub const HOST: &str = "10.8.0.2";
pub const UNDERLAY_HOST: &str = "192.0.2.1";
pub const ANALYZER: &str = "192.0.2.2";
pub const ANALYZER_V6: &str = "2001:db8:9::2";

/// Patience with everything that is awaited: far more than any of it takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Polls until `look` finds something.
///
/// # Panics
/// When it has not after [`PATIENCE`].
pub fn await_some<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Polls until `condition` holds.
pub fn await_that(what: &str, mut condition: impl FnMut() -> bool) {
    await_some(what, || condition().then_some(()));
}

/// Why an attempt says nothing about what is tested: on a busy machine the kernel dropped frames before a capture or a
/// judge took them, or something ended before the test came to it.
pub struct Disturbed(pub String);

/// Repeats an experiment, each time at half the pace, until nothing has disturbed it, and returns what it found. The
/// experiment is given the divisor of its rates: 1, 2, 4, 8, 16.
///
/// # Panics
/// When every attempt was disturbed; with the experiment, when what is tested is wrong.
pub fn undisturbed<T>(mut experiment: impl FnMut(u32) -> Result<T, Disturbed>) -> T {
    let mut reasons = Vec::new();
    for slower in [1, 2, 4, 8, 16] {
        match experiment(slower) {
            Ok(found) => return found,
            Err(Disturbed(reason)) => {
                eprintln!("disturbed at a pace of 1/{slower}: {reason}");
                reasons.push(reason);
            }
        }
    }
    panic!("every attempt was disturbed: {reasons:#?}")
}

/// Three namespaces and a folder; all gone when dropped, except the folder of a test that failed.
pub struct Lab {
    pub client: Namespace,
    pub host: Namespace,
    pub analyzer: Namespace,
    folder: Option<tempfile::TempDir>,
}

impl Lab {
    /// Both pairs have the MTU of Ethernet.
    pub fn new() -> Self {
        Self::with_underlay_mtu(1500)
    }

    /// A lab whose path to the analyzer has this MTU.
    pub fn with_underlay_mtu(mtu: u32) -> Self {
        static LABS: AtomicU32 = AtomicU32::new(0);
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let namespace = |role| Namespace::new(format!("fpr{}-{number}-{role}", std::process::id()));
        let lab = Self {
            client: namespace("client"),
            host: namespace("host"),
            analyzer: namespace("analyzer"),
            folder: Some(tempfile::Builder::new().prefix("farspan-").tempdir().expect("a temporary folder")),
        };
        wire(&lab.client, "c0", &lab.host, "h0");
        wire(&lab.host, "u0", &lab.analyzer, "a0");
        lab.client.link_up("c0", 1500, &["10.8.0.1/24", "2001:db8:8::1/64"]);
        lab.host.link_up("h0", 1500, &["10.8.0.2/24", "2001:db8:8::2/64"]);
        lab.host.link_up("u0", mtu, &["192.0.2.1/24", "2001:db8:9::1/64"]);
        lab.analyzer.link_up("a0", mtu, &["192.0.2.2/24", "2001:db8:9::2/64"]);
        for (namespace, link) in [(&lab.client, "c0"), (&lab.host, "h0"), (&lab.host, "u0"), (&lab.analyzer, "a0")] {
            namespace.await_link(link);
        }
        lab.host.run("ethtool -K u0 tx off tso off gso off gro off tx-udp-segmentation off");
        lab.analyzer.run("ethtool -K a0 tx off tso off gso off gro off tx-udp-segmentation off");
        lab
    }

    /// Gives both ends of the tapped pair this MTU.
    pub fn set_tapped_mtu(&self, mtu: u32) {
        self.client.run(&format!("ip link set c0 mtu {mtu}"));
        self.host.run(&format!("ip link set h0 mtu {mtu}"));
    }

    /// Waits until this interface of the analyzer has received so many frames.
    pub fn await_received(&self, link: &str, frames: u32) {
        await_that(&format!("{frames} frames at {link}"), || {
            let received = self.analyzer.run(&format!("cat /sys/class/net/{link}/statistics/rx_packets"));
            received.trim().parse::<u32>().is_ok_and(|received| received >= frames)
        });
    }

    /// Waits until the taps of this interface of the host have had so many frames, or dropped them.
    ///
    /// What a veth counts as received may still wait in a CPU's backlog, in front of the taps.
    pub fn await_tapped(&self, link: &str, frames: u32) {
        await_that(&format!("{frames} frames at {link}"), || {
            let received = self.host.run(&format!("cat /sys/class/net/{link}/statistics/rx_packets"));
            received.trim().parse::<u32>().is_ok_and(|received| received >= frames)
        });
        await_that("the backlog of every CPU to be empty", || {
            /// Of net/core/net-procfs.c, `softnet_seq_show`: how many frames wait.
            const BACKLOG: usize = 11;
            let all = fs::read_to_string("/proc/net/softnet_stat").expect("the kernel tells it");
            all.lines().all(|cpu| cpu.split_whitespace().nth(BACKLOG) == Some("00000000"))
        });
    }

    /// A path in the test's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.as_ref().expect("the folder lives as long as the lab").path().join(name)
    }

    /// Writes a file into the test's folder.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).expect("the folder is writable");
        path
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if thread::panicking()
            && let Some(folder) = self.folder.take()
        {
            eprintln!("what was captured and logged is kept in {}", folder.keep().display());
        }
    }
}

/// A network namespace, deleted when dropped.
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// An empty one whose name begins so: for a test that needs another than the lab's three.
    pub fn named(beginning: &str) -> Self {
        Self::new(format!("{beginning}{}", std::process::id()))
    }

    /// What `ip netns` calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn new(name: String) -> Self {
        choose_seed();
        succeed(Command::new("ip").args(["netns", "add", &name]));
        let namespace = Self { name };
        namespace.run("ip link set lo up");
        namespace
    }

    /// A command that will run in the namespace.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs a command line, split at blanks, and returns what it printed.
    ///
    /// # Panics
    /// When it fails, with what it said.
    pub fn run(&self, line: &str) -> String {
        let mut words = line.split_whitespace();
        succeed(self.command(words.next().expect("a command")).args(words))
    }

    /// Starts a command line, split at blanks, whose output goes to `log`.
    pub fn start(&self, line: &str, log: &Path) -> Process {
        let mut words = line.split_whitespace();
        let mut command = self.command(words.next().expect("a command"));
        let output = File::create(log).expect("the folder is writable");
        command.args(words).stdout(output.try_clone().expect("a file can be cloned")).stderr(output);
        Process::start(command)
    }

    /// Runs `work` on a thread of its own whose sockets are the namespace's.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(format!("/run/netns/{}", self.name)).expect("the namespace is there");
        let inside = || {
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).expect("the tests run as root");
            work()
        };
        thread::scope(|scope| scope.spawn(inside).join().expect("the work succeeds"))
    }

    /// Brings an interface up, with this MTU and these addresses.
    pub fn link_up(&self, link: &str, mtu: u32, addresses: &[&str]) {
        // No link-local address: it would add router solicitations and MLD reports to the test's traffic.
        self.run(&format!("ip link set {link} mtu {mtu} addrgenmode none up"));
        for address in addresses {
            let nodad = if address.contains(':') { "nodad" } else { "" };
            self.run(&format!("ip address add {address} dev {link} {nodad}"));
        }
    }

    /// Waits until an interface that is up sends what it is given. One that came up before its other end drops everything,
    /// and reports success, until the kernel gets round to its carrier (`linkwatch_do_dev` in `net/core/link_watch.c`).
    pub fn await_link(&self, link: &str) {
        await_that(&format!("{link} to be ready"), || {
            self.run(&format!("cat /sys/class/net/{link}/operstate")).trim() == "up"
        });
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
    }
}

/// Gives the tests' installation a seed that is always the same, so that which flows are chosen is no matter of luck.
fn choose_seed() {
    static CHOSEN: Once = Once::new();
    CHOSEN.call_once(|| {
        // Set by .cargo/config.toml.
        let Some(state) = std::env::var_os("STATE_DIRECTORY").map(PathBuf::from) else { return };
        fs::create_dir_all(&state).expect("the target folder is writable");
        fs::write(state.join("seed"), "000102030405060708090a0b0c0d0e0f\n").expect("as above");
    });
}

/// A veth with a queue for each of several workers: AF_XDP takes one.
pub fn wire(left: &Namespace, left_link: &str, right: &Namespace, right_link: &str) {
    let mut command = Command::new("ip");
    let queues = ["numtxqueues", "4", "numrxqueues", "4"];
    command.args(["link", "add", left_link, "netns", &left.name]).args(queues);
    command.args(["type", "veth", "peer", "name", right_link, "netns", &right.name]).args(queues);
    succeed(&mut command);
}

/// A program that runs beside the test; killed when dropped.
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts it, without standard input.
    pub fn start(command: Command) -> Self {
        Self::start_reading(command, Stdio::null())
    }

    /// Starts it with this standard input.
    pub fn start_reading(mut command: Command, input: Stdio) -> Self {
        Self { child: command.stdin(input).spawn().unwrap_or_else(|why| panic!("{command:?}: {why}")) }
    }

    /// Its process id; `ip netns exec` becomes the program that it starts.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its exit code, if it has ended by itself.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Asks it to end with SIGINT and waits until it has.
    pub fn interrupt(&mut self) -> std::process::ExitStatus {
        if self.ended().is_none() {
            succeed(Command::new("kill").args(["-INT", &self.id().to_string()]));
        }
        await_some("a process to end after SIGINT", || self.ended())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command to its end and returns what it printed.
///
/// # Panics
/// When it fails, with what it said.
pub fn succeed(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|why| panic!("{command:?}: {why}"));
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?} failed: {}\n{printed}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    printed
}
