//! Whether a configuration may be believed: a daemon with privileges does what its files say, so nobody else may write
//! them.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{Gid, Group, Uid, User, geteuid};

use super::load;
use crate::error::{ExitCode, Explain, Problems};

/// Why a file or directory of the configuration is not believed.
#[derive(Debug, thiserror::Error)]
pub enum Mistrust {
    /// Its mode lets others than its owner change it.
    #[error("{who} may write to the configuration {}", path.display())]
    Writable {
        /// A file, or a directory that files of the configuration are in.
        path: PathBuf,
        /// Who: everybody, or a group by its name or number.
        who: String,
    },
    /// Somebody else's.
    #[error("the configuration {} belongs to {owner}, who is neither root nor the daemon's user", path.display())]
    ForeignOwner {
        /// A file, or a directory that files of the configuration are in.
        path: PathBuf,
        /// Whose it is: a name, or a number without one.
        owner: String,
    },
}

impl Explain for Mistrust {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Writable { path, .. } => format!("sudo chmod go-w {}", path.display()),
            Self::ForeignOwner { path, .. } => format!("sudo chown root {}", path.display()),
        })
    }

    fn exit_code(&self) -> ExitCode {
        ExitCode::Config
    }
}

/// That `file`, its drop-ins, and the directories in which others could be put in their place, are written by nobody but
/// root, this process's user and `daemon`, who it will be. What is not there, or cannot be looked at, is told by whoever
/// reads it.
///
/// # Errors
/// Every file and directory that is not.
pub fn check(file: &Path, daemon: Option<Uid>) -> Result<(), Problems> {
    let around = file.parent().filter(|around| !around.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (around, drop_ins) = ((around.to_owned(), Sort::Around), (load::drop_in_directory(file), Sort::Read));
    let files = load::with_drop_ins(file).into_iter().flatten().map(|path| (path, Sort::Read));
    let found = files.chain([drop_ins, around]).filter_map(|(path, sort)| mistrust(path, sort, daemon)).collect();
    Problems::unless_empty::<Mistrust>(found)
}

/// What a path has to do with the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    /// It is read, or everything in it.
    Read,
    /// A file in it is read, and could be put out of its way.
    Around,
}

fn mistrust(path: PathBuf, sort: Sort, daemon: Option<Uid>) -> Option<Mistrust> {
    const GROUP_WRITES: u32 = 0o020;
    const OTHERS_WRITE: u32 = 0o002;
    /// Who may write to a directory may rename no file of somebody else.
    const STICKY: u32 = 0o1000;
    let metadata = path.metadata().ok()?;
    let (mode, group) = (metadata.mode(), Gid::from_raw(metadata.gid()));
    let who = if mode & OTHERS_WRITE != 0 {
        Some("everybody".to_owned())
    } else if mode & GROUP_WRITES != 0 && group.as_raw() != 0 {
        let named = Group::from_gid(group).ok().flatten();
        Some(format!("the group {}", named.map_or_else(|| group.to_string(), |group| group.name)))
    } else {
        None
    };
    let is_kept = sort == Sort::Around && mode & STICKY != 0;
    if let Some(who) = who.filter(|_| !is_kept && !is_read_only(&path)) {
        return Some(Mistrust::Writable { path, who });
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

    /// A file that is believed, and the directory that it is in for as long as that is kept.
    fn configuration() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("farspan.toml");
        fs::write(&file, "").unwrap();
        (directory, file)
    }

    #[test]
    fn files_and_directories_that_others_may_write_are_refused_all_at_once() {
        let (directory, file) = configuration();
        let drop_ins = directory.path().join("conf.d");
        fs::create_dir(&drop_ins).unwrap();
        let drop_in = drop_ins.join("10-ids.toml");
        fs::write(&drop_in, "").unwrap();
        assert!(check(&file, None).is_ok());
        let around = directory.path().to_owned();
        for (path, mode) in [(&file, 0o666), (&drop_ins, 0o1777), (&drop_in, 0o602), (&around, 0o777)] {
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        }
        let problems = check(&file, None).unwrap_err();
        assert_eq!(problems.exit_code(), ExitCode::Config);
        let text = problems.to_string();
        for path in [&file, &drop_ins, &drop_in, &around] {
            assert!(text.contains(&format!("everybody may write to the configuration {}\n", path.display())), "{text}");
            assert!(text.contains(&format!("hint:  sudo chmod go-w {}\n", path.display())), "{text}");
        }
    }

    #[test]
    fn a_directory_that_everybody_may_add_files_to_keeps_this_one() {
        let (directory, file) = configuration();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o1777)).unwrap();
        assert!(check(&file, None).is_ok());
    }

    #[test]
    #[ignore = "needs root: run scripts/test"]
    fn a_group_that_may_write_is_refused_unless_it_is_root_s() {
        const NOGROUP: u32 = 65_534;
        let (_directory, file) = configuration();
        fs::set_permissions(&file, Permissions::from_mode(0o664)).unwrap();
        assert!(check(&file, None).is_ok());
        chown(&file, None, Some(NOGROUP)).unwrap();
        let text = check(&file, None).unwrap_err().to_string();
        assert!(text.contains("the group nogroup may write to the configuration"), "{text}");
    }

    #[test]
    #[ignore = "needs root: run scripts/test"]
    fn a_file_of_somebody_else_is_refused_unless_the_daemon_becomes_that_user() {
        const NOBODY: u32 = 65_534;
        let (_directory, file) = configuration();
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
