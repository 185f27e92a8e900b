//! Looks at the files of sessions that have nothing to write: their workers sleep for seconds.
//!
//! One thread for all files of the process, so that no idle worker is woken for this. It only ever tries a lock: on a disk
//! that hangs a worker may hold it.

use std::sync::{Arc, Condvar, Mutex, PoisonError, TryLockError, Weak};
use std::thread;
use std::time::Instant;

use super::{LOOK, Output};

type Files = Vec<Weak<Mutex<Output>>>;

static FILES: Mutex<Option<Files>> = Mutex::new(None);
static NEWS: Condvar = Condvar::new();

/// Has the thread look at this file for as long as anybody writes it. The first file starts the thread: a worker's, so
/// that it has no more rights than a worker.
pub(super) fn watch(file: &Arc<Mutex<Output>>) {
    let mut files = FILES.lock().unwrap_or_else(PoisonError::into_inner);
    match &mut *files {
        Some(files) => files.push(Arc::downgrade(file)),
        None => {
            // Without a thread, workers look when they wake.
            if thread::Builder::new().name("file-guard".to_owned()).spawn(run).is_ok() {
                *files = Some(vec![Arc::downgrade(file)]);
            }
        }
    }
    NEWS.notify_one();
}

fn run() {
    loop {
        look(Instant::now());
        thread::sleep(LOOK);
        let mut files = FILES.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(known) = files.as_mut() {
            known.retain(|file| file.strong_count() > 0);
            if !known.is_empty() {
                break;
            }
            files = NEWS.wait(files).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// One look at each file that no worker has looked at lately.
fn look(now: Instant) {
    let files = FILES.lock().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_default();
    for file in files.iter().filter_map(Weak::upgrade) {
        let mut output = match file.try_lock() {
            Ok(output) => output,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => continue,
        };
        if now + LOOK / 2 >= output.look_at {
            let _session = output.session.clone().entered();
            let lost = output.look_now(now);
            output.lost_aside += lost;
        }
    }
}
