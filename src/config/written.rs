//! What the operator wrote, and where it stands: nothing is understood yet.

use std::fmt;

/// Keys with their values, in the order in which they were written.
pub type Table = config::Map<String, Written>;

/// One value with the place it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// The value.
    pub value: Value,
    /// Where it stands; a table made of several layers has no place of its own.
    pub origin: Option<Origin>,
}

/// A value before it means anything. Numbers and switches stay text, so that a file, the environment, a flag and a
/// URL say the same thing in the same way.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// One word, number or switch.
    Word(String),
    /// Several values.
    List(Vec<Written>),
    /// Keys with values.
    Table(Table),
}

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In a file: path, line and column.
    File(String),
    /// In an environment variable.
    Environment,
    /// On the command line: the flag with its value.
    Flag(String),
    /// In the URL of a destination, which was written there.
    Url(Box<Origin>),
}

/// A key's place: where it was written and its full name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where the value was written, if it was.
    pub origin: Option<Origin>,
    /// The key with the tables around it: `session.dmz.source.delay`.
    pub path: String,
}

impl Written {
    /// A word of the command line, behind its flag.
    pub fn flag(flag: &str, word: &str) -> Self {
        Self { value: Value::Word(word.to_owned()), origin: Some(Origin::Flag(format!("{flag} {word}"))) }
    }

    /// A flag that is a word by itself.
    pub fn bare_flag(flag: &str, word: &str) -> Self {
        Self { value: Value::Word(word.to_owned()), origin: Some(Origin::Flag(flag.to_owned())) }
    }

    /// Where it was written; for a table, where its first value was.
    pub fn origin(&self) -> Option<&Origin> {
        match &self.value {
            Value::Table(table) if self.origin.is_none() => table.values().find_map(Self::origin),
            _ => self.origin.as_ref(),
        }
    }

    /// Whether it came with the command line.
    pub fn is_flag(&self) -> bool {
        matches!(self.origin(), Some(Origin::Flag(_)))
    }
}

/// Writes `value` under `path`, table in table. A path through something that is no table is left alone: that is a
/// mistake of its own.
pub fn set(table: &mut Table, path: &[&str], value: Written) {
    match path {
        [] => {}
        [key] => {
            table.insert((*key).to_owned(), value);
        }
        [key, rest @ ..] => {
            if let Value::Table(inner) = &mut table.entry((*key).to_owned()).or_default().value {
                set(inner, rest, value);
            }
        }
    }
}

/// Writes the word behind `flag` under `path`, if the flag was given.
pub fn set_flag(table: &mut Table, path: &[&str], flag: &str, word: Option<&str>) {
    if let Some(word) = word {
        set(table, path, Written::flag(flag, word));
    }
}

impl Default for Written {
    /// An empty table that nobody wrote.
    fn default() -> Self {
        Self { value: Value::Table(Table::new()), origin: None }
    }
}

impl From<config::Value> for Written {
    /// Takes over what the `config` crate layered.
    fn from(layered: config::Value) -> Self {
        let origin = layered.origin().map(Origin::of_layer);
        let value = match layered.kind {
            config::ValueKind::Table(table) => {
                Value::Table(table.into_iter().map(|(key, value)| (key, value.into())).collect())
            }
            config::ValueKind::Array(list) => Value::List(list.into_iter().map(Self::from).collect()),
            word => Value::Word(word.to_string()),
        };
        Self { value, origin }
    }
}

impl Origin {
    /// Where the text with this value was written: for a parameter, where its URL was.
    pub fn outermost(&self) -> &Self {
        match self {
            Self::Url(url) => url.outermost(),
            Self::File(_) | Self::Environment | Self::Flag(_) => self,
        }
    }

    /// The origin behind the `config` crate's text for it.
    fn of_layer(text: &str) -> Self {
        if text == "the environment" { Self::Environment } else { Self::File(text.to_owned()) }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Some(Origin::Flag(flag)) => f.write_str(flag),
            Some(Origin::File(position)) => write!(f, "{position}, {}", self.path),
            Some(Origin::Environment) => {
                write!(f, "environment variable FARSPAN_{}", self.path.to_uppercase().replace('.', "__"))
            }
            Some(Origin::Url(url)) => {
                let table = self.path.rsplit_once('.').map_or("", |(table, _)| table);
                Self { origin: Some((**url).clone()), path: format!("{table}.to") }.fmt(f)
            }
            None => f.write_str(&self.path),
        }
    }
}
