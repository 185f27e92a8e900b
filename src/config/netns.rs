//! Which network namespace a source captures in, as an operator names it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::mistake::What;

/// A network namespace of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Netns {
    /// One that `ip netns` has given a name: `/run/netns/NAME`.
    Name(String),
    /// A file that stands for it, such as `/proc/PID/ns/net`, or where a container engine has mounted it.
    Path(PathBuf),
    /// That of the process with this number.
    Process(u32),
    /// That of the processes of a container, known by its id or by the beginning of it.
    Container(String),
}

/// Where `ip netns` (ip-netns(8)) mounts the namespaces that it names.
pub const NAMED: &str = "/run/netns";

impl FromStr for Netns {
    type Err = What;

    fn from_str(text: &str) -> Result<Self, What> {
        let wrong = || What::Netns(text.to_owned());
        if let Some(pid) = text.strip_prefix("pid:") {
            return pid.parse().ok().filter(|&pid| pid > 0).map(Self::Process).ok_or_else(wrong);
        }
        if let Some(id) = text.strip_prefix("container:") {
            let is_id =
                !id.is_empty() && id.chars().all(|letter| letter.is_ascii_alphanumeric() || "_.-".contains(letter));
            return if is_id { Ok(Self::Container(id.to_owned())) } else { Err(wrong()) };
        }
        if text.starts_with('/') {
            return Ok(Self::Path(text.into()));
        }
        // A name is one file in one directory.
        let is_name = !text.is_empty() && !text.contains(['/', ':', '\0']) && text != "." && text != "..";
        if is_name { Ok(Self::Name(text.to_owned())) } else { Err(wrong()) }
    }
}

impl fmt::Display for Netns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Process(pid) => write!(f, "pid:{pid}"),
            Self::Container(id) => write!(f, "container:{id}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_a_name_a_path_a_process_or_a_container() {
        for (text, netns) in [
            ("web1", Netns::Name("web1".into())),
            ("cni-5c1c", Netns::Name("cni-5c1c".into())),
            ("/run/docker/netns/9f", Netns::Path("/run/docker/netns/9f".into())),
            ("pid:4711", Netns::Process(4711)),
            ("container:3f4e5d", Netns::Container("3f4e5d".into())),
        ] {
            assert_eq!(text.parse(), Ok(netns.clone()));
            assert_eq!(netns.to_string(), text);
        }
        for text in ["", "..", "a/b", "pid:", "pid:0", "pid:x", "container:", "container:a/b", "host:1"] {
            assert_eq!(text.parse::<Netns>(), Err(What::Netns(text.to_owned())));
        }
    }
}
