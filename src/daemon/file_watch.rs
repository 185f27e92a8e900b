//! Notices that the configuration's files changed (inotify(7)).
//!
//! The directories are watched rather than the files: editors and package managers put a new file in the old one's place,
//! and a Kubernetes `ConfigMap` is a symbolic link that is turned to another directory.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::{info, warn};

/// So often the kernel is asked what changed, and a change is told when nothing more has changed for so long: who changes
/// several files is to be done with it.
const LOOK: Duration = Duration::from_millis(500);

/// Tells of every change of `file` and of the drop-ins beside it. Never ends, unless the kernel gives no watch.
pub(super) async fn watch(file: PathBuf, changed: impl Fn()) {
    let inotify = match Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC) {
        Ok(inotify) => Arc::new(inotify),
        Err(error) => return warn!("changes of the configuration go unnoticed until SIGHUP: {error}"),
    };
    let directory = match file.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory.to_owned(),
        _ => PathBuf::from("."),
    };
    let mut complaints = Vec::new();
    complaints = look_aside(&inotify, &directory, complaints).await;
    info!("watching {} and conf.d/*.toml beside it for changes", file.display());
    let mut has_changed = false;
    loop {
        sleep(LOOK).await;
        // Nothing to read is an error, too.
        let events = inotify.read_events().unwrap_or_default();
        if events.iter().any(|event| concerns(event, &file)) {
            has_changed = true;
        } else if std::mem::take(&mut has_changed) {
            changed();
        }
        if !events.is_empty() {
            // A directory may have been made, or put in the place of another.
            complaints = look_aside(&inotify, &directory, complaints).await;
        }
    }
}

/// The same as [`look_at`] on a thread that may wait for a disk.
async fn look_aside(inotify: &Arc<Inotify>, directory: &Path, mut complaints: Vec<PathBuf>) -> Vec<PathBuf> {
    let (inotify, directory) = (Arc::clone(inotify), directory.to_owned());
    let looked = spawn_blocking(move || {
        look_at(&inotify, &directory, &mut complaints);
        complaints
    });
    looked.await.unwrap_or_default()
}

/// Watches what there is to watch; each thing that cannot be is said once.
fn look_at(inotify: &Inotify, directory: &Path, complaints: &mut Vec<PathBuf>) {
    let flags = AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE;
    for directory in [directory.to_owned(), directory.join("conf.d")] {
        match inotify.add_watch(&directory, flags) {
            Ok(_) | Err(Errno::ENOENT) => {}
            Err(_) if complaints.contains(&directory) => {}
            Err(error) => {
                warn!("cannot watch {} for changes: {error}", directory.display());
                complaints.push(directory);
            }
        }
    }
}

/// Whether an event is about the configuration: the file, a drop-in, or what a link to either leads to.
fn concerns(event: &InotifyEvent, file: &Path) -> bool {
    // A file that is being written is complete when it is closed.
    let is_begun = event.mask.contains(AddWatchFlags::IN_CREATE);
    let Some(name) = &event.name else { return false };
    let is_configuration =
        Some(name.as_os_str()) == file.file_name() || Path::new(name).extension() == Some("toml".as_ref());
    (is_configuration && !is_begun) || name == "conf.d" || name == "..data"
}
