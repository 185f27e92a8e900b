//! Whether a configuration may be believed: a daemon with privileges does what its files say, so nobody else may write
//! them.

use std::path::PathBuf;

use nix::unistd::{Gid, Group, Uid, User, geteuid};

use super::reading::{Provenance, Role, Seen, Writer};
use crate::error::{ExitCode, Explain, Problems};

/// Why a file or directory of the configuration is not believed.
#[derive(Debug, thiserror::Error)]
pub enum Mistrust {
    /// Its access control list lets others change it.
    #[error("{who} may write to the configuration {} by its access control list", path.display())]
    Listed {
        /// A file, or a directory that files of the configuration are in.
        path: PathBuf,
        /// Who: a user or group by its name or number.
        who: String,
    },
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
            Self::Listed { path, .. } => format!("sudo setfacl -b {}", path.display()),
            Self::Writable { path, .. } => format!("sudo chmod go-w {}", path.display()),
            Self::ForeignOwner { path, .. } => format!("sudo chown root {}", path.display()),
        })
    }

    fn exit_code(&self) -> ExitCode {
        ExitCode::Config
    }
}

/// That what was read is written by nobody but root, this process's user and `daemon`, who it will be: every file, every
/// directory from the root to it, and every link on the way.
///
/// # Errors
/// Everything that others may write.
pub fn check(provenance: &Provenance, daemon: Option<Uid>) -> Result<(), Problems> {
    Problems::unless_empty::<Mistrust>(provenance.seen.iter().filter_map(|seen| mistrust(seen, daemon)).collect())
}

fn mistrust(seen: &Seen, daemon: Option<Uid>) -> Option<Mistrust> {
    const GROUP_WRITES: u32 = 0o020;
    const OTHERS_WRITE: u32 = 0o002;
    /// Who may write to a directory may rename no file of somebody else.
    const STICKY: u32 = 0o1000;
    let Seen { path, role, uid, gid, mode, writers, is_read_only } = seen;
    let (path, group) = (path.clone(), Gid::from_raw(*gid));
    let who = if *role == Role::Link {
        // The mode of a link means nothing (symlink(7)).
        None
    } else if mode & OTHERS_WRITE != 0 {
        Some("everybody".to_owned())
    } else if mode & GROUP_WRITES != 0 && !is_trusted_group(group) {
        Some(name_of_group(group))
    } else {
        None
    };
    let is_trusted = |user: Uid| user.is_root() || user == geteuid() || Some(user) == daemon;
    let listed = writers.iter().find_map(|writer| match *writer {
        Writer::User(user) => Some(Uid::from_raw(user)).filter(|&user| !is_trusted(user)).map(name_of_user),
        Writer::Group(group) => Some(Gid::from_raw(group)).filter(|&group| !is_trusted_group(group)).map(name_of_group),
    });
    let is_kept = *role == Role::Around && mode & STICKY != 0;
    if !is_kept && !is_read_only {
        // The mode's group bits are the mask of the list, where there is one.
        if let Some(who) = listed {
            return Some(Mistrust::Listed { path, who });
        }
        if let Some(who) = who {
            return Some(Mistrust::Writable { path, who });
        }
    }
    let owner = Uid::from_raw(*uid);
    (!is_trusted(owner)).then(|| Mistrust::ForeignOwner { path, owner: name_of_user(owner) })
}

fn name_of_user(user: Uid) -> String {
    let named = User::from_uid(user).ok().flatten();
    named.map_or_else(|| format!("user {user}"), |user| user.name)
}

fn name_of_group(group: Gid) -> String {
    let named = Group::from_gid(group).ok().flatten();
    format!("the group {}", named.map_or_else(|| group.to_string(), |group| group.name))
}

/// Whether what members of `group` may write is believed: root's group, and this user's own.
fn is_trusted_group(group: Gid) -> bool {
    group.as_raw() == 0 || is_own_group(group)
}

/// Whether nobody but this process's user, who is not root, is in `group`: many distributions give each user such a group,
/// and let it write what the user makes.
fn is_own_group(group: Gid) -> bool {
    let user = geteuid();
    if user.is_root() {
        return false;
    }
    let named = |user: User| {
        let group = Group::from_gid(group).ok().flatten();
        group.is_some_and(|group| {
            group.gid == user.gid && group.name == user.name && group.mem.iter().all(|member| *member == user.name)
        })
    };
    User::from_uid(user).ok().flatten().is_some_and(named)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, chown};

    use super::*;
    use crate::config::load::Layers;

    fn check(file: &std::path::Path, daemon: Option<Uid>) -> Result<(), Problems> {
        super::check(Layers::load(Some(file), std::iter::empty()).unwrap().provenance(), daemon)
    }

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
    fn every_directory_from_the_root_to_the_real_file_counts_and_so_does_each_link() {
        let directory = tempfile::tempdir().unwrap();
        let (evil, sub) = (directory.path().join("evil"), directory.path().join("evil/sub"));
        fs::create_dir_all(sub.join("conf.d")).unwrap();
        fs::write(sub.join("farspan.toml"), "").unwrap();
        let link = directory.path().join("link.toml");
        std::os::unix::fs::symlink("evil/sub/farspan.toml", &link).unwrap();
        // Drop-ins of the link's own directory.
        fs::create_dir(directory.path().join("conf.d")).unwrap();
        std::os::unix::fs::symlink("../evil/x.toml", directory.path().join("conf.d/10-x.toml")).unwrap();
        fs::write(evil.join("x.toml"), "").unwrap();
        assert!(check(&link, None).is_ok() && check(&sub.join("farspan.toml"), None).is_ok());
        fs::set_permissions(&evil, Permissions::from_mode(0o777)).unwrap();
        for file in [&link, &sub.join("farspan.toml"), &sub.join("../sub/./farspan.toml")] {
            let text = check(file, None).unwrap_err().to_string();
            assert_eq!(text.matches("everybody may write to the configuration").count(), 1, "{text}");
            assert!(text.contains("/evil\n"), "{text}");
        }
        fs::set_permissions(&evil, Permissions::from_mode(0o1777)).unwrap();
        assert!(check(&sub.join("farspan.toml"), None).is_ok(), "nobody else may rename what is in a sticky directory");
    }

    /// Gives an access control list with `u:nobody:rw` to `path`, as setfacl(1) does.
    fn let_nobody_write(path: &std::path::Path) {
        let script = "import os, struct, sys\n\
                      entries = [(1, 6, -1), (2, 6, 65534), (4, 4, -1), (16, 6, -1), (32, 0, -1)]\n\
                      value = struct.pack('<I', 2) + b''.join(struct.pack('<HHi', *one) for one in entries)\n\
                      os.setxattr(sys.argv[1], 'system.posix_acl_access', value)\n";
        let status = std::process::Command::new("python3").args(["-c", script]).arg(path).status().unwrap();
        assert!(status.success(), "the temporary directory is on a file system with access control lists");
    }

    /// The mode of such a file is 0660, and its group is root's.
    #[test]
    #[ignore = "needs root: run scripts/test"]
    fn a09_an_access_control_list_is_not_hidden_by_the_group_of_the_file() {
        let (directory, file) = configuration();
        for path in [&file, &directory.path().to_owned()] {
            let before = fs::metadata(path).unwrap().permissions();
            let_nobody_write(path);
            let text = check(&file, None).unwrap_err().to_string();
            let expected =
                format!("nobody may write to the configuration {} by its access control list", path.display());
            assert!(text.contains(&expected), "{text}");
            assert!(text.contains(&format!("hint:  sudo setfacl -b {}\n", path.display())), "{text}");
            assert!(check(&file, Some(Uid::from_raw(65_534))).is_ok(), "the daemon's own user may");
            fs::set_permissions(path, before).unwrap();
            assert!(check(&file, None).is_ok(), "the mask of the list takes it away again");
        }
    }

    /// A link to /proc says nothing about who made it.
    #[test]
    fn a09_directories_on_the_path_to_a_descriptor_count_too() {
        use std::os::fd::AsRawFd as _;
        let directory = tempfile::tempdir().unwrap();
        let evil = directory.path().join("evil");
        fs::create_dir(&evil).unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        drop(writer);
        let link = evil.join("farspan.toml");
        std::os::unix::fs::symlink(format!("/proc/self/fd/{}", reader.as_raw_fd()), &link).unwrap();
        assert!(check(&link, None).is_ok());
        fs::set_permissions(&evil, Permissions::from_mode(0o777)).unwrap();
        let text = check(&link, None).unwrap_err().to_string();
        assert!(text.contains("everybody may write to the configuration") && text.contains("/evil\n"), "{text}");
    }

    #[test]
    fn a_file_that_is_given_by_its_descriptor_is_looked_at_itself() {
        use std::os::fd::AsRawFd as _;
        let (directory, file) = configuration();
        let opened = fs::File::open(&file).unwrap();
        let by_descriptor = PathBuf::from(format!("/dev/fd/{}", opened.as_raw_fd()));
        assert!(check(&by_descriptor, None).is_ok());
        fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).unwrap();
        assert!(check(&by_descriptor, None).is_err(), "its path is known");
        let (reader, writer) = std::io::pipe().unwrap();
        std::io::Write::write_all(&mut &writer, b"[session.a]\n").unwrap();
        drop(writer);
        let layers = Layers::load(Some(&PathBuf::from(format!("/dev/fd/{}", reader.as_raw_fd()))), std::iter::empty());
        let layers = layers.unwrap();
        assert_eq!(layers.provenance().once.len(), 1);
        assert!(super::check(layers.provenance(), None).is_ok());
        assert!(layers.session(Some("a")).is_ok());
    }
}
