//! What tests beside the kernel need: network namespaces, each of which belongs to one thread and ends with it, and patience
//! with what the kernel does in its own time.

use std::future::Future;
use std::process::Command;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};

use crate::quantity::Ifindex;

/// Patience with everything that is awaited: far more than any of it takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// How often it is looked at.
const NAP: Duration = Duration::from_millis(5);

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
        thread::sleep(NAP);
    }
}

/// Polls until `condition` holds.
pub fn await_that(what: &str, mut condition: impl FnMut() -> bool) {
    await_some(what, || condition().then_some(()));
}

type Job = Box<dyn FnOnce() + Send>;

/// A thread in a network namespace of its own.
pub struct TestNamespace {
    jobs: Sender<Job>,
    thread_id: String,
}

impl TestNamespace {
    /// An empty namespace with its loopback up.
    pub fn new() -> Self {
        let (jobs, orders) = mpsc::channel::<Job>();
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("root may make a network namespace");
            let own = std::fs::read_link("/proc/thread-self").expect("/proc is mounted");
            tell.send(own.file_name().expect("PID/task/TID").to_string_lossy().into_owned()).expect("the test waits");
            while let Ok(job) = orders.recv() {
                job();
            }
        });
        let namespace = Self { jobs, thread_id: told.recv().expect("the thread tells its id") };
        namespace.ip("link set lo up");
        namespace
    }

    /// Two namespaces with a veth between them: `fke0` in both, 192.0.2.1 and .2, `2001:db8::1` and `::2`.
    pub fn pair() -> (Self, Self) {
        let (first, second) = (Self::new(), Self::new());
        for namespace in [&first, &second] {
            // Neighbour discovery needs a link-local address, and duplicate detection holds that back for a second.
            namespace.write("/proc/sys/net/ipv6/conf/default/accept_dad", "0");
        }
        first.connect(&second);
        (first, second)
    }

    /// Makes the veth of [`pair`](Self::pair).
    pub fn connect(&self, second: &Self) {
        self.ip(&format!("link add fke0 type veth peer name fke0 netns {}", second.thread_id));
        for (namespace, host) in [(self, 1), (second, 2)] {
            namespace.ip(&format!("addr add 192.0.2.{host}/24 dev fke0"));
            namespace.ip(&format!("addr add 2001:db8::{host}/64 dev fke0 nodad"));
            namespace.ip("link set fke0 up");
        }
        // The one that came up first drops what it sends until the kernel gets round to its carrier.
        await_that("fke0 to be ready", || self.output("ip -br link show fke0").contains(" UP "));
    }

    /// Runs `job` in the namespace and waits for its answer.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        self.spawn(job).recv().expect("the job ends without a panic")
    }

    /// The same for the control plane's code.
    pub fn run_async<T: Send + 'static>(&self, job: impl Future<Output = T> + Send + 'static) -> T {
        self.spawn_async(job).recv().expect("the job ends without a panic")
    }

    /// Starts a job whose answer is awaited later.
    pub fn spawn_async<T: Send + 'static>(&self, job: impl Future<Output = T> + Send + 'static) -> Receiver<T> {
        self.spawn(|| {
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(job)
        })
    }

    /// What `command` prints.
    pub fn output(&self, command: &str) -> String {
        let words: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
        self.run(move || succeed(&words)).trim().to_owned()
    }

    /// Runs `ip` with these arguments.
    pub fn ip(&self, arguments: &str) {
        self.output(&format!("ip {arguments}"));
    }

    /// The same while the namespace's thread is busy.
    pub fn ip_beside(&self, arguments: &str) {
        let (process, thread) = (std::process::id(), &self.thread_id);
        let line = format!("nsenter --net=/proc/{process}/task/{thread}/ns/net ip {arguments}");
        succeed(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    }

    /// Writes a kernel setting of the namespace.
    pub fn write(&self, path: &'static str, value: &'static str) {
        self.run(move || std::fs::write(path, value)).expect("the setting exists");
    }

    fn spawn<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
        let (answer, answered) = mpsc::channel();
        let job = Box::new(move || {
            // Nobody waits when the test has failed already.
            let _ = answer.send(job());
        });
        self.jobs.send(job).expect("the namespace's thread lives");
        answered
    }
}

/// The index of an interface of this thread's namespace.
pub fn index_of(interface: &str) -> Ifindex {
    let index = nix::net::if_::if_nametoindex(interface).expect("the interface exists");
    Ifindex::new(index.into()).expect("the kernel's own")
}

fn succeed(words: &[String]) -> String {
    let output = Command::new(&words[0]).args(&words[1..]).output().expect("the program is installed");
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
