//! What `farspan check` prints.

use std::fmt;

use super::finding::{Finding, Severity};
use crate::escape::in_one_line;

/// Everything there is to say about one session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The session's name.
    pub session: String,
    /// The plan in words.
    pub statements: Vec<Statement>,
    /// What somebody should know, warnings first.
    pub findings: Vec<Finding>,
    /// How often a second timers of its packet rings expire.
    pub expiries: u64,
}

/// One line of the plan in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// What the line is about: one short word, or nothing when it goes on with the line before.
    pub about: &'static str,
    /// What there is to say.
    pub text: String,
}

impl Statement {
    /// A line about something.
    pub fn new(about: &'static str, text: impl Into<String>) -> Self {
        Self { about, text: text.into() }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "session {}", self.session)?;
        for Statement { about, text } in &self.statements {
            writeln!(f, "  {about:<8} {}", in_one_line(text))?;
        }
        self.findings.iter().try_for_each(|finding| write!(f, "{finding}"))
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Warning => "warning",
            Severity::Note => "note",
        };
        writeln!(f, "{severity}: {}", in_one_line(&self.what))?;
        if !self.why.is_empty() {
            writeln!(f, "  why:  {}", self.why)?;
        }
        for (number, line) in self.remedy.iter().enumerate() {
            writeln!(f, "  {:<5} {line}", if number == 0 { "do:" } else { "" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_reads_like_a_page() {
        let report = Report {
            session: "dmz".to_owned(),
            statements: vec![Statement::new("from", "eth0"), Statement::new("to", "1: vxlan://192.0.2.10?vni=42")],
            findings: vec![
                Finding::warning("nothing will be seen")
                    .because("of ERSPAN III.")
                    .cure("use ERSPAN II")
                    .cure("or VXLAN"),
                Finding::note("all is well"),
            ],
            expiries: 500,
        };
        assert_eq!(
            report.to_string(),
            "session dmz\n  from     eth0\n  to       1: vxlan://192.0.2.10?vni=42\nwarning: nothing will be seen\n  \
             why:  of ERSPAN III.\n  do:   use ERSPAN II\n        or VXLAN\nnote: all is well\n"
        );
    }
}
