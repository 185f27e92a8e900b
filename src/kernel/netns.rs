//! Network namespaces other than farspan's own: which one is meant, whether it is still the same, and how to open
//! something inside it (`network_namespaces(7)`, setns(2)).
//!
//! A thread that enters a namespace stays there, so each entry has a thread of its own, which ends with its work. What was
//! opened belongs to the namespace for ever, whoever uses it. It also keeps the namespace alive after its last process has
//! ended: whoever captures inside must look, now and then, whether it is still the one that is meant.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::statfs::{NSFS_MAGIC, statfs};

use super::netns_error::NetnsError;
use crate::config::netns::{NAMED, Netns};

/// The namespace of the calling thread.
const OWN: &str = "/proc/thread-self/ns/net";

/// A network namespace: farspan's own, or another one that was found.
#[derive(Clone, Debug, Default)]
pub struct Namespace(Option<Found>);

#[derive(Clone, Debug)]
struct Found {
    netns: Netns,
    /// Holds the namespace.
    file: Arc<File>,
    identity: Identity,
    /// The process through which it was found.
    process: Option<Process>,
    /// Whether it is farspan's own after all, which takes no privilege.
    is_own: bool,
}

/// Device and number of the file that stands for a namespace: no other has them while it lives.
type Identity = (u64, u64);

/// A process, which its number alone does not name for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    pid: u32,
    /// When it started, in clock ticks since the boot (field 22 of `proc_pid_stat(5)`).
    started: u64,
}

impl Namespace {
    /// Farspan's own.
    pub fn own() -> Self {
        Self::default()
    }

    /// The one that `netns` names now; farspan's own if it is `None`.
    ///
    /// # Errors
    /// When there is none, or several containers may be meant, or the kernel does not show it to us.
    pub fn find(netns: Option<&Netns>) -> Result<Self, NetnsError> {
        netns.map(Found::new).transpose().map(Self)
    }

    /// The same question again, of somebody who has had an answer before and `met` the process that it came by. A process's
    /// number that another process has by now names nothing any more.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub fn find_again(netns: Option<&Netns>, met: Option<Process>) -> Result<Self, NetnsError> {
        let found = Self::find(netns)?;
        match (netns, met) {
            (Some(Netns::Process(pid)), Some(_)) if found.process() != met => Err(NetnsError::NoProcess { pid: *pid }),
            _ => Ok(found),
        }
    }

    /// The process that it was found by.
    pub fn process(&self) -> Option<Process> {
        self.0.as_ref().and_then(|found| found.process)
    }

    /// Whether it is still the one that is meant: its name or process is there and stands for the same namespace. Costs a
    /// system call or two, and a walk over all processes when that of a container has ended.
    pub fn is_current(&mut self) -> bool {
        let Some(found) = &self.0 else { return true };
        if found.is_seen() {
            return true;
        }
        // Another process of the same container may still be there.
        match Self::find_again(Some(&found.netns), found.process) {
            Ok(Self(Some(again))) if again.identity == found.identity => {
                self.0 = Some(again);
                true
            }
            _ => false,
        }
    }

    /// Whether it is another namespace than farspan's own.
    pub fn is_foreign(&self) -> bool {
        self.0.as_ref().is_some_and(|found| !found.is_own)
    }

    /// Does `work` on a thread inside the namespace; on this thread if it is farspan's own.
    ///
    /// # Errors
    /// When the kernel does not let us in.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        let Some(found) = self.0.as_ref().filter(|found| !found.is_own) else { return Ok(work()) };
        thread::scope(|scope| {
            let inside = move || {
                setns(&*found.file, CloneFlags::CLONE_NEWNET).map_err(|cause| found.refusal(cause))?;
                Ok(work())
            };
            let thread = thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, inside);
            let thread = thread.map_err(|cause| NetnsError::NoThread { cause })?;
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Found {
    fn new(netns: &Netns) -> Result<Self, NetnsError> {
        let process = match netns {
            Netns::Name(_) | Netns::Path(_) => None,
            Netns::Process(pid) => Some(Process::find(*pid).ok_or(NetnsError::NoProcess { pid: *pid })?),
            Netns::Container(id) => Some(process_of_container(Path::new("/proc"), id)?),
        };
        let path = path(netns, process);
        let file = File::open(&path).map_err(|cause| match (cause.kind(), netns) {
            (ErrorKind::NotFound, Netns::Name(name)) => {
                NetnsError::NoSuchName { name: name.clone(), present: present() }
            }
            (ErrorKind::NotFound, Netns::Process(pid)) => NetnsError::NoProcess { pid: *pid },
            (ErrorKind::NotFound, Netns::Container(id)) => NetnsError::NoContainer { id: id.clone() },
            // While a namespace is made or deleted, its name is a file that nobody may read and nothing is mounted over.
            (ErrorKind::PermissionDenied, Netns::Name(name)) if !is_mounted(&path) => {
                NetnsError::NoSuchName { name: name.clone(), present: present() }
            }
            (ErrorKind::PermissionDenied, Netns::Path(_)) if !is_mounted(&path) => {
                NetnsError::NotANamespace { path: path.clone() }
            }
            // The kernel shows nothing of a process that is ending.
            (ErrorKind::PermissionDenied, Netns::Process(pid)) if has_ended(process) => {
                NetnsError::NoProcess { pid: *pid }
            }
            (ErrorKind::PermissionDenied, Netns::Container(id)) if has_ended(process) => {
                NetnsError::NoContainer { id: id.clone() }
            }
            (ErrorKind::PermissionDenied, _) => NetnsError::Hidden { netns: netns.clone(), cause },
            _ => NetnsError::Unreadable { path: path.clone(), cause },
        })?;
        let identity = identity(&file.metadata().map_err(|cause| NetnsError::Unreadable { path, cause })?);
        let is_own = fs::metadata(OWN).is_ok_and(|own| self::identity(&own) == identity);
        Ok(Self { netns: netns.clone(), file: Arc::new(file), identity, process, is_own })
    }

    /// Whether what it was found by is there and still stands for it.
    fn is_seen(&self) -> bool {
        let is_alive = self.process.is_none_or(|process| Process::find(process.pid) == Some(process));
        is_alive && fs::metadata(path(&self.netns, self.process)).is_ok_and(|now| identity(&now) == self.identity)
    }

    fn refusal(&self, cause: Errno) -> NetnsError {
        let netns = self.netns.clone();
        match cause {
            Errno::EPERM => NetnsError::NotPermitted { netns, cause: cause.into() },
            Errno::EINVAL => NetnsError::NotANamespace { path: path(&netns, self.process) },
            _ => NetnsError::Unreadable { path: path(&netns, self.process), cause: cause.into() },
        }
    }
}

impl Process {
    /// Whether only its exit code is left (the third field of `proc_pid_stat(5)`).
    fn is_zombie(self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, fields)| fields.trim_start().starts_with(['Z', 'X']))
    }

    fn find(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the program's name in parentheses, whatever it contains; 19 fields on is the 22nd.
        let (_, fields) = stat.rsplit_once(')')?;
        Some(Self { pid, started: fields.split_whitespace().nth(19)?.parse().ok()? })
    }
}

/// Whether the file at `path` stands for a namespace, which takes no permission to read it.
fn is_mounted(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == NSFS_MAGIC)
}

/// Whether the process has ended, or has nothing left but its exit code.
fn has_ended(process: Option<Process>) -> bool {
    process.is_some_and(|process| Process::find(process.pid) != Some(process) || process.is_zombie())
}

/// The file that stands for the namespace.
fn path(netns: &Netns, process: Option<Process>) -> PathBuf {
    match (netns, process) {
        (_, Some(Process { pid, .. })) | (&Netns::Process(pid), None) => format!("/proc/{pid}/ns/net").into(),
        (Netns::Name(name), None) => Path::new(NAMED).join(name),
        (Netns::Path(path), None) => path.clone(),
        (Netns::Container(id), None) => id.into(),
    }
}

fn identity(about: &fs::Metadata) -> Identity {
    (about.dev(), about.ino())
}

/// The namespaces that have names.
fn present() -> Vec<String> {
    let entries = fs::read_dir(NAMED).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// A process of the container whose id is `id` or begins so, by the names of the control groups of all processes in
/// `proc`. Of several the one that is in no group further down, and of those the first: nobody else's container is inside.
fn process_of_container(proc: &Path, id: &str) -> Result<Process, NetnsError> {
    let mut found = BTreeMap::<String, (usize, u32)>::new();
    let entries = fs::read_dir(proc).map_err(|cause| NetnsError::Unreadable { path: proc.to_owned(), cause })?;
    for pid in entries.flatten().filter_map(|entry| number(&entry.file_name())) {
        // Processes come and go while we read.
        let Ok(groups) = fs::read_to_string(proc.join(pid.to_string()).join("cgroup")) else { continue };
        for (container, below) in groups.lines().filter_map(|group| container_of(group, id)) {
            let nearest = found.entry(container.to_owned()).or_insert((below, pid));
            *nearest = (*nearest).min((below, pid));
        }
    }
    let no_such = || NetnsError::NoContainer { id: id.to_owned() };
    let (_, pid) = match (found.get(id), found.len()) {
        (Some(exact), _) => *exact,
        (None, 0 | 1) => found.into_values().next().ok_or_else(no_such)?,
        (None, _) => {
            return Err(NetnsError::Ambiguous { id: id.to_owned(), found: found.into_keys().collect() });
        }
    };
    Process::find(pid).ok_or_else(no_such)
}

fn number(name: &OsString) -> Option<u32> {
    name.to_str()?.parse().ok()
}

/// The container in a line of `/proc/PID/cgroup` whose id is `id` or begins so, and how many groups the process is further
/// down: `0::/system.slice/docker-ID.scope` of Docker under systemd, `4:memory:/docker/ID`, `cri-containerd-ID.scope` and
/// `pod…/ID` of Kubernetes, `libpod-ID.scope` of Podman, `lxc.payload.NAME` of LXC.
fn container_of<'a>(line: &'a str, id: &str) -> Option<(&'a str, usize)> {
    /// Ids are hashes; what is shorter may be anybody's word.
    const LEAST_HASH: usize = 12;

    let path = line.splitn(3, ':').nth(2)?;
    let groups: Vec<&str> = path.split('/').filter(|group| !group.is_empty()).collect();
    groups.iter().rev().enumerate().find_map(|(below, group)| {
        // Podman and LXC have a process of their own beside the container, outside its namespaces.
        if group.contains("conmon") || group.starts_with("lxc.monitor") {
            return None;
        }
        let name = group.strip_suffix(".scope").unwrap_or(group);
        let last = name.rsplit(['-', ':']).next().unwrap_or(name);
        let payload = name.strip_prefix("lxc.payload.").unwrap_or(name);
        let is_hash = |name: &str| name.len() >= LEAST_HASH && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        let is_meant = |name: &&str| *name == id || (is_hash(name) && name.starts_with(id));
        [payload, last].into_iter().find(is_meant).map(|container| (container, below))
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestNamespace, await_that};
    use super::*;
    use crate::error::{ExitCode, Explain};

    const ID: &str = "3f4e5d6c7b8a99887766554433221100ffeeddccbbaa00112233445566778899";

    #[test]
    fn containers_are_found_in_the_groups_of_every_engine() {
        for line in [
            "0::/system.slice/docker-ID.scope",
            "4:memory:/docker/ID",
            "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice/cri-containerd-ID.scope",
            "0::/kubepods/besteffort/pod7f3b/ID",
            "0::/machine.slice/libpod-ID.scope",
            "0::/kubepods.slice/kubepods-pod1.slice:cri-containerd:ID",
        ] {
            let line = line.replace("ID", ID);
            for id in [ID, &ID[..12], &ID[..4]] {
                assert_eq!(container_of(&line, id), Some((ID, 0)), "{line}");
            }
            assert_eq!(container_of(&line, "4e5d"), None, "{line}");
        }
        assert_eq!(container_of(&format!("0::/docker/{ID}/init.scope"), "3f4e"), Some((ID, 1)));
        assert_eq!(container_of("0::/lxc.payload.web-1/system.slice", "web-1"), Some(("web-1", 1)));
        for other in ["0::/", "0::/lxc.monitor.web-1", "0::/user.slice/user-1000.slice", "nonsense"] {
            assert_eq!(container_of(other, "1"), None, "{other}");
        }
        assert_eq!(container_of(&format!("0::/machine.slice/libpod-conmon-{ID}.scope"), ID), None);
    }

    #[test]
    fn the_beginning_of_an_id_must_mean_one_container() {
        let proc = tempfile::tempdir().unwrap();
        let process = |pid: u32, group: &str| {
            let folder = proc.path().join(pid.to_string());
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("cgroup"), format!("0::{group}\n")).unwrap();
        };
        let own = std::process::id();
        process(own, &format!("/docker/{ID}"));
        process(own + 1, &format!("/docker/{ID}/docker/{}", ID.replace("3f", "3a")));
        assert_eq!(process_of_container(proc.path(), "3f4e").unwrap().pid, own);
        let error = process_of_container(proc.path(), "3").unwrap_err();
        assert!(matches!(&error, NetnsError::Ambiguous { found, .. } if found.len() == 2), "{error:?}");
        let error = process_of_container(proc.path(), "77").unwrap_err();
        assert_eq!(error.to_string(), "no process of a container `77` is running");
    }

    #[test]
    fn farspan_s_own_namespace_takes_no_privilege() {
        for netns in ["/proc/self/ns/net".to_owned(), format!("pid:{}", std::process::id())] {
            let mut namespace = Namespace::find(Some(&netns.parse().unwrap())).unwrap();
            assert!(!namespace.is_foreign() && namespace.is_current());
            let here = thread::current().id();
            assert_eq!(namespace.within(|| thread::current().id()).unwrap(), here);
        }
    }

    #[test]
    fn a_number_that_another_process_has_by_now_names_nothing() {
        let pid = std::process::id();
        let netns: Netns = format!("pid:{pid}").parse().unwrap();
        let met = Namespace::find(Some(&netns)).unwrap().process();
        assert!(met.is_some() && Namespace::find_again(Some(&netns), met).is_ok());
        let another = met.map(|process| Process { started: process.started - 1, ..process });
        let error = Namespace::find_again(Some(&netns), another).unwrap_err();
        assert!(matches!(error, NetnsError::NoProcess { pid: missing } if missing == pid), "{error:?}");
    }

    #[test]
    fn what_is_not_there_is_told() {
        for (netns, words) in [
            ("no-such-name7", "there is no network namespace `no-such-name7`"),
            ("/nowhere/at/all", "cannot open the network namespace `/nowhere/at/all`"),
            ("pid:4194305", "there is no process 4194305"),
        ] {
            let error = Namespace::find(Some(&netns.parse().unwrap())).unwrap_err();
            assert_eq!((error.to_string().as_str(), error.exit_code()), (words, ExitCode::NoInput));
            assert!(error.hint().is_some());
        }
    }

    #[test]
    #[ignore = "needs root: run scripts/test"]
    fn work_is_done_inside_and_a_namespace_that_has_gone_is_noticed() {
        let other = TestNamespace::new();
        other.ip("link add inside7 type veth peer name inside8");
        let path = other.run(|| fs::canonicalize("/proc/thread-self").unwrap().join("ns/net"));
        let netns: Netns = path.to_str().unwrap().parse().unwrap();
        let mut namespace = Namespace::find(Some(&netns)).unwrap();
        assert!(namespace.is_foreign() && namespace.is_current());
        let names = || nix::net::if_::if_nametoindex("inside7").is_ok();
        assert!(namespace.within(names).unwrap());
        assert!(!names(), "this thread has stayed where it was");
        drop(other);
        await_that("the namespace to go with its thread", || !namespace.is_current());
        assert!(Namespace::find_again(Some(&netns), namespace.process()).is_err());
    }
}
