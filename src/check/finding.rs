//! Something that an operator should know before the first frame.

/// How much it matters. The gravest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Something that was to be seen will not be.
    Warning,
    /// Good to know.
    Note,
}

/// Something that an operator should know before the first frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// What is, or will be: half a sentence.
    pub what: String,
    /// Why: a sentence; empty where it says itself.
    pub why: String,
    /// What to do about it, a line each; empty when there is nothing to do.
    pub remedy: Vec<String>,
}

impl Finding {
    /// Something that was to be seen will not be.
    pub fn warning(what: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, what: what.into(), why: String::new(), remedy: Vec::new() }
    }

    /// Good to know.
    pub fn note(what: impl Into<String>) -> Self {
        Self { severity: Severity::Note, ..Self::warning(what) }
    }

    /// The same with its reason.
    #[must_use]
    pub fn because(mut self, why: impl Into<String>) -> Self {
        self.why = why.into();
        self
    }

    /// The same with one more line of what to do.
    #[must_use]
    pub fn cure(mut self, line: impl Into<String>) -> Self {
        self.remedy.push(line.into());
        self
    }
}
