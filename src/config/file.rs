//! One TOML file: read whole, every value with its line and column.

use std::path::{Path, PathBuf};

use config::{Map, Value, ValueKind};
use toml::de::{DeTable, DeValue};

use crate::error::{ExitCode, Explain};

/// A file as a layer of the configuration.
#[derive(Clone, Debug)]
pub(super) struct File(Map<String, Value>);

/// Why a file is no layer.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The kernel does not give it.
    #[error("cannot read the configuration file {}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// The kernel's words.
        source: std::io::Error,
    },
    /// It is something else than a file.
    #[error("the configuration {} is {kind}, not a file", path.display())]
    NoFile {
        /// What it is called.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// It is larger than a configuration.
    #[error("the configuration file {} is larger than {} MiB", path.display(), most >> 20)]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// Most bytes.
        most: u64,
    },
    /// It gives nothing, such as a pipe into which nothing is written.
    #[error("the configuration {} was not read within {} s", path.display(), patience.as_secs())]
    NotInTime {
        /// Which file.
        path: PathBuf,
        /// How long was waited.
        patience: std::time::Duration,
    },
    /// It is not TOML.
    #[error("{message}")]
    Syntax {
        /// The parser's words.
        message: String,
        /// Path, line and column.
        position: String,
    },
}

impl File {
    /// Parses `text`; `path` is for messages.
    ///
    /// # Errors
    /// Every place where it is not TOML.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Vec<FileError>> {
        let positions = Positions { path, text };
        let (table, errors) = DeTable::parse_recoverable(text);
        if errors.is_empty() {
            return Ok(Self(positions.table(table.get_ref())));
        }
        let syntax = |error: toml::de::Error| FileError::Syntax {
            message: error.message().to_owned(),
            position: positions.of(error.span().map_or(0, |span| span.start)),
        };
        Err(errors.into_iter().map(syntax).collect())
    }
}

/// Turns byte offsets into lines and columns.
#[derive(Clone, Copy)]
struct Positions<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Positions<'_> {
    /// `path:line:column`, both counted from 1, the column in characters.
    fn of(self, offset: usize) -> String {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        format!("{}:{line}:{column}", self.path.display())
    }

    fn table(self, table: &DeTable<'_>) -> Map<String, Value> {
        let one = |(key, value): (&toml::Spanned<_>, &toml::Spanned<DeValue<'_>>)| {
            let key: &std::borrow::Cow<'_, str> = key.get_ref();
            (key.clone().into_owned(), self.value(value))
        };
        table.iter().map(one).collect()
    }

    fn value(self, value: &toml::Spanned<DeValue<'_>>) -> Value {
        let kind = match value.get_ref() {
            DeValue::Table(table) => ValueKind::Table(self.table(table)),
            DeValue::Array(list) => ValueKind::Array(list.iter().map(|value| self.value(value)).collect()),
            DeValue::String(word) => ValueKind::String(word.clone().into_owned()),
            DeValue::Integer(number) => ValueKind::String(number.to_string()),
            DeValue::Float(number) => ValueKind::String(number.to_string()),
            DeValue::Boolean(switch) => ValueKind::String(switch.to_string()),
            DeValue::Datetime(time) => ValueKind::String(time.to_string()),
        };
        Value::new(Some(&self.of(value.span().start)), kind)
    }
}

impl config::Source for File {
    fn clone_into_box(&self) -> Box<dyn config::Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, config::ConfigError> {
        Ok(self.0.clone())
    }
}

impl Explain for FileError {
    fn place(&self) -> Option<String> {
        match self {
            Self::Unreadable { .. } | Self::NoFile { .. } | Self::TooLarge { .. } | Self::NotInTime { .. } => None,
            Self::Syntax { position, .. } => Some(position.clone()),
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Unreadable { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                "farspan's user must be able to read it; a running daemon reads the directories that its configuration was \
                 read from at the start: restart it for others"
                    .to_owned()
            }
            Self::Unreadable { .. } => "`farspan generate config` prints a commented file to start from".to_owned(),
            Self::NoFile { .. } => "name a file; its drop-ins are conf.d/*.toml beside it".to_owned(),
            Self::TooLarge { .. } => "split it into conf.d/*.toml beside it".to_owned(),
            Self::NotInTime { .. } => "a pipe must be written and closed; for `farspan run`, name a file".to_owned(),
            Self::Syntax { .. } => "the file is TOML: https://toml.io".to_owned(),
        })
    }

    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Unreadable { source, .. } => match source.kind() {
                std::io::ErrorKind::NotFound => ExitCode::NoInput,
                std::io::ErrorKind::PermissionDenied => ExitCode::NotPermitted,
                _ => ExitCode::Config,
            },
            Self::NoFile { .. } | Self::TooLarge { .. } | Self::NotInTime { .. } | Self::Syntax { .. } => {
                ExitCode::Config
            }
        }
    }
}
