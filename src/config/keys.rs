//! Reads the keys of one table, collects every mistake on the way, and finds keys that nobody asked for.

use super::mistake::{Mistake, TABLE, What};
use super::written::{Origin, Table, Value, Written};

/// One table while it is being read.
#[derive(Debug)]
pub(super) struct Keys<'a> {
    /// Its full name, for messages; empty for what the command line made.
    path: String,
    table: &'a Table,
    /// Where the table as a whole was written, if in one place.
    origin: Option<&'a Origin>,
}

/// The mistakes that were found so far.
pub(super) type Mistakes = Vec<Mistake>;

impl<'a> Keys<'a> {
    pub fn new(path: impl Into<String>, table: &'a Table) -> Self {
        Self { path: path.into(), table, origin: None }
    }

    /// Reads another table in this one's place; what is missing in it is missing at `origin`.
    pub fn replaced<'b>(&self, table: &'b Table, origin: Option<&'b Origin>) -> Keys<'b> {
        Keys { path: self.path.clone(), table, origin }
    }

    /// Whether the command line made this, so that a missing key has no place.
    fn is_nameless(&self) -> bool {
        self.path.is_empty()
    }

    /// The table itself.
    pub fn as_table(&self) -> &'a Table {
        self.table
    }

    /// The full name of a key of this table.
    pub fn path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The value of `key` as it was written.
    pub fn written(&self, key: &str) -> Option<&'a Written> {
        self.table.get(key)
    }

    /// Where `key` was written.
    pub fn origin(&self, key: &str) -> Option<&'a Origin> {
        self.written(key).map_or(self.origin, Written::origin)
    }

    /// A mistake in the value of `key`.
    pub fn mistake(&self, key: &str, what: impl Into<What>) -> Mistake {
        Mistake::at(what, self.origin(key), self.path(key))
    }

    /// A mistake that `key` is not there.
    pub fn missing(&self, key: &str, what: impl Into<What>) -> Mistake {
        if self.is_nameless() { Mistake::at(what, None, "") } else { self.mistake(key, what) }
    }

    /// The word behind `key`.
    pub fn word(&self, key: &'static str, mistakes: &mut Mistakes) -> Option<&'a str> {
        let Value::Word(word) = &self.written(key)?.value else {
            mistakes.push(self.shape(key, "one value"));
            return None;
        };
        Some(word)
    }

    /// The word behind `key`, read by `parse`.
    pub fn read<T, E: Into<What>>(
        &self,
        key: &'static str,
        mistakes: &mut Mistakes,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        match parse(self.word(key, mistakes)?) {
            Ok(value) => Some(value),
            Err(error) => {
                mistakes.push(self.mistake(key, error));
                None
            }
        }
    }

    /// The words behind `key`: a list, or one text with commas, as the environment has no lists.
    pub fn words(&self, key: &'static str, mistakes: &mut Mistakes) -> Option<Vec<String>> {
        let words = match &self.written(key)?.value {
            Value::Word(words) => {
                Some(words.split(',').map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()).collect())
            }
            Value::List(list) => list
                .iter()
                .map(|item| match &item.value {
                    Value::Word(word) => Some(word.clone()),
                    Value::List(_) | Value::Table(_) => None,
                })
                .collect(),
            Value::Table(_) => None,
        };
        words.filter(|words: &Vec<String>| !words.is_empty()).or_else(|| {
            mistakes.push(self.shape(key, "one name or a list of names"));
            None
        })
    }

    /// The paths behind `key`: one, which may have commas in it, or a list.
    pub fn paths(&self, key: &'static str, mistakes: &mut Mistakes) -> Option<Vec<String>> {
        match &self.written(key)?.value {
            Value::Word(path) => Some(vec![path.clone()]),
            Value::List(_) | Value::Table(_) => self.words(key, mistakes),
        }
    }

    /// The table behind `key`; an empty one when it was not written.
    pub fn table(&self, key: &'static str, mistakes: &mut Mistakes) -> Keys<'a> {
        static NOTHING: std::sync::LazyLock<Table> = std::sync::LazyLock::new(Table::new);
        let table = match self.written(key).map(|written| &written.value) {
            Some(Value::Table(table)) => table,
            Some(_) => {
                mistakes.push(self.shape(key, TABLE));
                &NOTHING
            }
            None => &NOTHING,
        };
        Keys::new(self.path(key), table)
    }

    /// The tables of a table of tables, each with its name.
    pub fn named_tables(&self, mistakes: &mut Mistakes) -> Vec<(&'a str, Keys<'a>)> {
        let mut tables = Vec::new();
        for (name, written) in self.table {
            match &written.value {
                Value::Table(table) => tables.push((name.as_str(), Keys::new(self.path(name), table))),
                _ => mistakes.push(self.shape(name, TABLE)),
            }
            if !super::mistake::is_name(name) {
                mistakes.push(self.mistake(name, What::Name(name.clone())));
            }
        }
        tables
    }

    /// Refuses every key that is not one of `known`.
    pub fn only(&self, known: &[&'static str], mistakes: &mut Mistakes) {
        for key in self.table.keys().filter(|key| !known.contains(&key.as_str())) {
            mistakes.push(self.mistake(key, What::UnknownKey { key: key.clone(), known: known.to_vec() }));
        }
    }

    fn shape(&self, key: &str, expected: &'static str) -> Mistake {
        self.mistake(key, What::Shape { key: key.to_owned(), expected })
    }
}
