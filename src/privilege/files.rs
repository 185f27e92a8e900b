//! Landlock: the files that this process may open from now on (landlock(7), Linux 5.13 and newer).
//!
//! What is open stays open. A right belongs to a directory, never to one of its files alone where that file may be
//! replaced: `resolv.conf` is renamed into its place by whoever writes it.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
    RulesetStatus, path_beneath_rules,
};
use tracing::debug;

use super::needs::{Needs, directory_of};

/// What is read whatever the plan: names and users (the C library's files and modules, and where resolvers keep theirs),
/// the kernel's own files, network namespaces by name.
const READ_BY_ALL: [&str; 12] = [
    "/etc",
    "/usr",
    "/lib",
    "/lib64",
    "/proc",
    "/sys",
    "/dev/null",
    "/run/netns",
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager",
    "/run/connman",
];

/// Where the package keeps captures and the control socket: a reload may name files there that were unknown at the start.
const OWN_PLACES: [&str; 2] = ["/var/lib/farspan", "/run/farspan"];

/// The newest rights that are asked for; an older kernel leaves out those that it does not know.
const RIGHTS: ABI = ABI::V5;

/// Keeps this thread, and those that it starts, to reading what every program reads and to what `needs` names. Says where
/// it may write then; `None`: everywhere, because the kernel has no Landlock.
pub fn confine(needs: &Needs) -> Option<Vec<PathBuf>> {
    let mut writes: Vec<PathBuf> = needs.files.iter().map(|file| place_of(file)).collect();
    writes.extend(needs.writes.iter().cloned().chain(OWN_PLACES.map(PathBuf::from)));
    writes.retain_mut(|place| place.canonicalize().map(|real| *place = real).is_ok());
    let reads: Vec<PathBuf> = READ_BY_ALL.iter().map(PathBuf::from).chain(needs.reads.iter().cloned()).collect();
    match restrict(&reads, &writes) {
        Ok(RulesetStatus::NotEnforced) => {
            debug!("this kernel has no Landlock: files are not confined");
            None
        }
        Ok(_) => Some(writes),
        Err(error) => {
            debug!("files are not confined: {error}");
            None
        }
    }
}

fn restrict(reads: &[PathBuf], writes: &[PathBuf]) -> Result<RulesetStatus, RulesetError> {
    let read: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::ReadDir;
    let write = read
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeSock
        | AccessFs::RemoveFile
        | AccessFs::IoctlDev;
    let restricted = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(RIGHTS))?
        .create()?
        .add_rules(path_beneath_rules(reads, read))?
        .add_rules(path_beneath_rules(writes, write))?
        .restrict_self()?;
    Ok(restricted.ruleset)
}

/// Where files appear when a capture file of this name is written: in its directory. What is no regular file, such as
/// `/dev/null` or a pipe, has no successors.
pub fn place_of(file: &Path) -> PathBuf {
    let is_special = file.metadata().is_ok_and(|existing| !existing.is_file() && !existing.is_dir());
    if is_special { file.to_owned() } else { directory_of(file) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::ErrorKind;

    use super::*;

    /// Landlock holds for a thread: what `job` does is confined to `needs`, the other tests are not.
    fn confined(needs: Needs, job: impl FnOnce(Option<Vec<PathBuf>>) + Send + 'static) {
        let thread = std::thread::spawn(move || {
            nix::sys::prctl::set_no_new_privs().unwrap();
            job(confine(&needs));
        });
        thread.join().unwrap();
    }

    #[test]
    fn only_what_the_plan_names_is_written_and_read() {
        let (own, foreign) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let secret = foreign.path().join("secret");
        fs::write(&secret, "of somebody else").unwrap();
        let mut needs = Needs::default();
        needs.files.insert(own.path().join("a.pcap"));
        let path = own.path().to_owned();
        confined(needs, move |writes| {
            let Some(writes) = writes else {
                panic!("this kernel has no Landlock, which this test is about");
            };
            assert!(writes.contains(&path.canonicalize().unwrap()));
            fs::write(path.join("a.pcap"), "one").unwrap();
            fs::write(path.join("b.pcap"), "the next").unwrap();
            fs::remove_file(path.join("a.pcap")).unwrap();
            assert_eq!(fs::read(&secret).unwrap_err().kind(), ErrorKind::PermissionDenied);
            assert_eq!(fs::write(&secret, "").unwrap_err().kind(), ErrorKind::PermissionDenied);
            assert!(fs::read_to_string("/etc/passwd").is_ok() && fs::read_to_string("/proc/self/status").is_ok());
            assert_eq!(
                std::process::Command::new("/bin/true").status().unwrap_err().kind(),
                ErrorKind::PermissionDenied
            );
        });
    }

    #[test]
    fn a_device_is_written_itself_and_a_capture_file_in_its_directory() {
        assert_eq!(place_of(Path::new("/dev/null")), Path::new("/dev/null"));
        assert_eq!(place_of(Path::new("/var/lib/x/{time}.pcapng")), Path::new("/var/lib/x"));
        assert_eq!(place_of(Path::new("copy.pcap")), Path::new("."));
    }
}
