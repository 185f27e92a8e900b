//! Whether a configuration may be believed: a daemon with privileges does what its files say, so nobody else may write
//! them.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{Uid, User, geteuid};

use super::load;
use crate::error::{ExitCode, Explain, Problems};

/// Why a file or directory of the configuration is not believed.
#[derive(Debug, thiserror::Error)]
pub enum Mistrust {
    /// Its mode lets everybody change it.
    #[error("everybody may write to the configuration {}", path.display())]
    WritableByAll {
        /// A file, or the directory of drop-ins.
        path: PathBuf,
    },
    /// Somebody else's.
    #[error("the configuration {} belongs to {owner}, who is neither root nor the daemon's user", path.display())]
    ForeignOwner {
        /// A file, or the directory of drop-ins.
        path: PathBuf,
        /// Whose it is: a name, or a number without one.
        owner: String,
    },
}

impl Explain for Mistrust {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::WritableByAll { path } => format!("sudo chmod o-w {}", path.display()),
            Self::ForeignOwner { path, .. } => format!("sudo chown root {}", path.display()),
        })
    }

    fn exit_code(&self) -> ExitCode {
        ExitCode::Config
    }
}

/// That `file`, the directory of its drop-ins and those themselves are written by nobody but root, this process's user
/// and `daemon`, who it will be. What is not there, or cannot be looked at, is told by whoever reads it.
///
/// # Errors
/// Every file and directory that is not.
pub fn check(file: &Path, daemon: Option<Uid>) -> Result<(), Problems> {
    let drop_ins = load::drop_in_directory(file);
    let files = load::with_drop_ins(file).into_iter().flatten();
    let found = files.chain([drop_ins]).filter_map(|path| mistrust(path, daemon)).collect();
    Problems::unless_empty::<Mistrust>(found)
}

fn mistrust(path: PathBuf, daemon: Option<Uid>) -> Option<Mistrust> {
    /// The write bit of everybody else.
    const OTHERS_WRITE: u32 = 0o002;
    let metadata = path.metadata().ok()?;
    if metadata.mode() & OTHERS_WRITE != 0 && !is_read_only(&path) {
        return Some(Mistrust::WritableByAll { path });
    }
    let owner = Uid::from_raw(metadata.uid());
    let trusted = owner.is_root() || owner == geteuid() || Some(owner) == daemon;
    (!trusted).then(|| {
        let named = User::from_uid(owner).ok().flatten();
        Mistrust::ForeignOwner { path, owner: named.map_or_else(|| format!("user {owner}"), |user| user.name) }
    })
}

/// Whether nobody can write there whatever the mode says: Kubernetes mounts a `ConfigMap` so, in directories of mode 0777.
fn is_read_only(path: &Path) -> bool {
    statvfs(path).is_ok_and(|system| system.flags().contains(FsFlags::ST_RDONLY))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, chown};

    use super::*;

    #[test]
    fn files_and_drop_ins_that_everybody_may_write_are_refused_all_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let (file, drop_ins) = (directory.path().join("farspan.toml"), directory.path().join("conf.d"));
        fs::write(&file, "").unwrap();
        fs::create_dir(&drop_ins).unwrap();
        let drop_in = drop_ins.join("10-ids.toml");
        fs::write(&drop_in, "").unwrap();
        assert!(check(&file, None).is_ok());
        for (path, mode) in [(&file, 0o666), (&drop_ins, 0o1777), (&drop_in, 0o602)] {
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        }
        let problems = check(&file, None).unwrap_err();
        assert_eq!(problems.exit_code(), ExitCode::Config);
        let text = problems.to_string();
        for path in [&file, &drop_ins, &drop_in] {
            assert!(text.contains(&format!("everybody may write to the configuration {}\n", path.display())), "{text}");
            assert!(text.contains(&format!("hint:  sudo chmod o-w {}\n", path.display())), "{text}");
        }
    }

    #[test]
    #[ignore = "needs root: run scripts/test"]
    fn a_file_of_somebody_else_is_refused_unless_the_daemon_becomes_that_user() {
        const NOBODY: u32 = 65_534;
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("farspan.toml");
        fs::write(&file, "").unwrap();
        chown(&file, Some(NOBODY), None).unwrap();
        let text = check(&file, None).unwrap_err().to_string();
        assert!(text.contains("belongs to nobody, who is neither root nor the daemon's user"), "{text}");
        assert!(check(&file, Some(Uid::from_raw(NOBODY))).is_ok());
    }

    #[test]
    fn what_is_not_there_is_somebody_elses_trouble() {
        assert!(check(Path::new("/nowhere/farspan.toml"), None).is_ok());
    }
}
