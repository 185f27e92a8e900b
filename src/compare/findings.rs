//! What differs: the kinds, and the list of the first ones.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use crate::quantity::QuantityError;

/// Declares the kinds of difference with their labels and what each says.
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident => $label:literal, $sentence:literal;)+) => {
        /// How frames differ. Every difference is of exactly one kind.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind {
            $($(#[$doc])* $kind,)+
        }

        impl Kind {
            /// All kinds.
            pub const ALL: [Self; [$($label),+].len()] = [$(Self::$kind),+];

            /// Its name, for people and programs.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$kind => $label),+ }
            }

            /// What it means.
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$kind => $sentence),+ }
            }
        }
    };
}

kinds! {
    /// Only A has the frame.
    Missing => "missing", "in A and not in B";
    /// Only B has the frame.
    Extra => "extra", "in B and not in A";
    /// B has it more often than A.
    Duplicated => "duplicated", "more often in B than in A";
    /// It has overtaken others, or was overtaken.
    Reordered => "reordered", "at another place in B than in A";
    /// The end is not there: of the bytes, or of what the capture kept of them.
    Cut => "cut", "the end of the frame is not there";
    /// Bytes stand behind its end.
    Padded => "padded", "bytes stand behind its end";
    /// It has fewer VLAN tags.
    VlanLost => "vlan_lost", "fewer VLAN tags than in A";
    /// It has more VLAN tags.
    VlanAdded => "vlan_added", "more VLAN tags than in A";
    /// It has other VLAN tags.
    VlanChanged => "vlan_changed", "another VLAN tag than in A";
    /// Only checksums differ.
    Checksum => "checksum", "only checksums differ";
    /// Several TCP segments of A are fewer in B.
    Merged => "merged", "TCP segments that are fewer in B, with the same stream";
    /// TCP segments of A are more of them in B.
    Split => "split", "TCP segments that are more in B, with the same stream";
    /// Anything else.
    Changed => "changed", "other bytes than in A";
}

impl FromStr for Kind {
    type Err = QuantityError;
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        Self::ALL.into_iter().find(|kind| kind.label() == text).ok_or_else(|| QuantityError::Unreadable {
            what: "kind of difference",
            text: text.to_owned(),
            example: "one of those in the result, such as checksum",
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.label())
    }
}

/// One difference. Frame numbers count from 1 in each file, as Wireshark's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Its kind.
    pub kind: Kind,
    /// The frames of A: none when B has more.
    pub a: Vec<u64>,
    /// The frames of B: none when they are missing.
    pub b: Vec<u64>,
    /// Offset of the first byte that differs, from the destination MAC address, where bytes differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<usize>,
    /// The header field that byte lies in, or the checksums that differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// More about it in words.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub note: String,
}

impl Difference {
    /// One that needs no more words.
    pub fn plain(kind: Kind, a: Vec<u64>, b: Vec<u64>) -> Self {
        Self { kind, a, b, at: None, field: None, note: String::new() }
    }

    /// Where it stands in the list: by its first frame in A, or else in B.
    fn position(&self) -> u64 {
        self.a.first().or(self.b.first()).copied().unwrap_or_default()
    }
}

/// How many differences there are of each kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts([u64; Kind::ALL.len()]);

impl Counts {
    /// How many of this kind.
    pub fn of(&self, kind: Kind) -> u64 {
        self.0[kind as usize]
    }

    /// The kinds that occurred, each with its number.
    pub fn nonzero(&self) -> impl Iterator<Item = (Kind, u64)> {
        Kind::ALL.into_iter().map(|kind| (kind, self.of(kind))).filter(|&(_, count)| count > 0)
    }
}

impl Serialize for Counts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(Kind::ALL.len()))?;
        for kind in Kind::ALL {
            map.serialize_entry(kind.label(), &self.of(kind))?;
        }
        map.end()
    }
}

/// All differences counted, the first ones listed.
#[derive(Debug)]
pub(super) struct Findings {
    counts: Counts,
    listed: BTreeMap<(u64, u64), Difference>,
    most: usize,
    found: u64,
}

impl Findings {
    /// Lists at most `most` differences.
    pub fn listing(most: usize) -> Self {
        Self { counts: Counts::default(), listed: BTreeMap::new(), most, found: 0 }
    }

    /// Counts one, and lists it if it stands among the first.
    pub fn add(&mut self, difference: Difference) {
        self.counts.0[difference.kind as usize] += 1;
        self.found += 1;
        self.listed.insert((difference.position(), self.found), difference);
        if self.listed.len() > self.most {
            self.listed.pop_last();
        }
    }

    /// The numbers, and the list in the order of the frames.
    pub fn into_parts(self) -> (Counts, Vec<Difference>) {
        (self.counts, self.listed.into_values().collect())
    }
}
