//! The two texts that scrapers read: OpenMetrics 1.0 and Prometheus's older text format 0.0.4.
//!
//! They differ in three places: where the suffix `_total` belongs, what the header lines say, and the end mark. A writer of
//! our own keeps every family in one table ([`super::families`]) that the documentation, the alert rules and the
//! dashboard are tested against, and writes both formats; <https://prometheus.io/docs/specs/om/open_metrics_spec/> and
//! <https://prometheus.io/docs/instrumenting/exposition_formats/> say how they look.

use std::fmt::{Display, Write as _};

use crate::ledger::Delays;

/// What a scraper understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0: what Prometheus asks for.
    OpenMetrics,
    /// Prometheus's text format 0.0.4: what `curl` and `promtool check metrics` get.
    Text,
}

impl Format {
    /// The one that an HTTP `Accept` header asks for.
    pub fn accepted(accept: Option<&str>) -> Self {
        match accept {
            Some(accept) if accept.contains("application/openmetrics-text") => Self::OpenMetrics,
            _ => Self::Text,
        }
    }

    /// Its media type.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// What a family of metrics is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only rises. Its samples end in `_total`.
    Counter,
    /// It is what it is.
    Gauge,
    /// Cumulative buckets.
    Histogram,
}

impl Kind {
    /// The word for it in both formats.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// What is said about a family before its samples.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// Its name, without the `_total` of a counter.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// The labels of its samples, in the order in which their values are given.
    pub labels: &'static [&'static str],
    /// One sentence for an operator.
    pub help: &'static str,
}

impl Head {
    /// The name that a query uses.
    pub fn full_name(&self) -> String {
        format!("{}{}", self.name, if self.kind == Kind::Counter { "_total" } else { "" })
    }
}

/// A page of metrics while it is being written.
#[derive(Debug)]
pub struct Page {
    text: String,
    format: Format,
}

impl Page {
    /// An empty page with room for `size` bytes.
    pub fn new(format: Format, size: usize) -> Self {
        Self { text: String::with_capacity(size), format }
    }

    /// Begins a family. A family without samples leaves nothing behind.
    pub fn family(&mut self, head: &Head) -> Samples<'_> {
        let start = self.text.len();
        let suffix = if head.kind == Kind::Counter { "_total" } else { "" };
        let (family, sample) = match self.format {
            Format::OpenMetrics => ("", suffix),
            Format::Text => (suffix, suffix),
        };
        let Head { name, kind, help, .. } = head;
        self.push(format_args!("# TYPE {name}{family} {}\n", kind.label()));
        if self.format == Format::OpenMetrics {
            for unit in ["seconds", "bytes"].into_iter().filter(|unit| name.ends_with(&format!("_{unit}"))) {
                self.push(format_args!("# UNIT {name} {unit}\n"));
            }
        }
        self.push(format_args!("# HELP {name}{family} {help}\n"));
        let head_end = self.text.len();
        Samples { page: self, head: *head, sample, start, head_end }
    }

    /// The whole page.
    pub fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }

    fn push(&mut self, text: std::fmt::Arguments<'_>) {
        // A `String` takes everything.
        let _ = self.text.write_fmt(text);
    }
}

/// The samples of one family while they are being written.
#[derive(Debug)]
pub struct Samples<'a> {
    page: &'a mut Page,
    head: Head,
    sample: &'static str,
    start: usize,
    head_end: usize,
}

impl Samples<'_> {
    /// Adds a sample with the values of the family's labels.
    pub fn add<const N: usize>(&mut self, labels: [&str; N], value: impl Display) {
        self.line(self.sample, &labels, None, value);
    }

    /// Adds a sample that may be unknown.
    pub fn add_known<const N: usize>(&mut self, labels: [&str; N], value: Option<impl Display>) {
        if let Some(value) = value {
            self.add(labels, value);
        }
    }

    /// Adds the buckets of a histogram, its sum and its count.
    pub fn add_delays<const N: usize>(&mut self, labels: [&str; N], delays: &Delays) {
        for (bound, frames) in delays.cumulative() {
            // A float has a decimal point, as OpenMetrics wants it.
            self.line("_bucket", &labels, Some(&format_args!("{bound:?}")), frames);
        }
        self.line("_bucket", &labels, Some(&"+Inf"), delays.frames());
        self.line("_sum", &labels, None, delays.sum());
        self.line("_count", &labels, None, delays.frames());
    }

    fn line(&mut self, suffix: &str, labels: &[&str], bound: Option<&dyn Display>, value: impl Display) {
        debug_assert_eq!(labels.len(), self.head.labels.len(), "{}", self.head.name);
        let names = self.head.labels;
        self.page.push(format_args!("{}{suffix}", self.head.name));
        let mut before = '{';
        for (name, value) in names.iter().zip(labels) {
            self.page.push(format_args!("{before}{name}=\""));
            escape(value, &mut self.page.text);
            self.page.text.push('"');
            before = ',';
        }
        if let Some(bound) = bound {
            self.page.push(format_args!("{before}le=\"{bound}\""));
            before = ',';
        }
        let close = if before == ',' { "}" } else { "" };
        self.page.push(format_args!("{close} {value}\n"));
    }
}

impl Drop for Samples<'_> {
    fn drop(&mut self) {
        if self.page.text.len() == self.head_end {
            self.page.text.truncate(self.start);
        }
    }
}

/// Both formats: a label value has `\`, `"` and line feeds escaped.
fn escape(value: &str, into: &mut String) {
    for c in value.chars() {
        match c {
            '\\' => into.push_str("\\\\"),
            '"' => into.push_str("\\\""),
            '\n' => into.push_str("\\n"),
            c => into.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantity::Timestamp;

    const FRAMES: Head =
        Head { name: "farspan_frames", kind: Kind::Counter, labels: &["session", "kind"], help: "Frames." };
    const SIZE: Head = Head { name: "farspan_size_bytes", kind: Kind::Gauge, labels: &[], help: "A size." };
    const NOTHING: Head = Head { name: "farspan_nothing", kind: Kind::Gauge, labels: &["a"], help: "Nothing." };
    const DELAY: Head = Head { name: "farspan_delay_seconds", kind: Kind::Histogram, labels: &[], help: "Delay." };

    fn page(format: Format) -> String {
        let mut page = Page::new(format, 0);
        page.family(&FRAMES).add(["dmz", "a\\b\"c\nd"], 7);
        page.family(&NOTHING).add_known(["x"], None::<u8>);
        page.family(&SIZE).add([], 0.5);
        page.finish()
    }

    #[test]
    fn openmetrics_names_families_without_total_and_ends_with_a_mark() {
        assert_eq!(
            page(Format::OpenMetrics),
            "# TYPE farspan_frames counter\n# HELP farspan_frames Frames.\n\
             farspan_frames_total{session=\"dmz\",kind=\"a\\\\b\\\"c\\nd\"} 7\n\
             # TYPE farspan_size_bytes gauge\n# UNIT farspan_size_bytes bytes\n# HELP farspan_size_bytes A size.\n\
             farspan_size_bytes 0.5\n# EOF\n"
        );
    }

    #[test]
    fn the_older_text_names_them_as_their_samples() {
        assert_eq!(
            page(Format::Text),
            "# TYPE farspan_frames_total counter\n# HELP farspan_frames_total Frames.\n\
             farspan_frames_total{session=\"dmz\",kind=\"a\\\\b\\\"c\\nd\"} 7\n\
             # TYPE farspan_size_bytes gauge\n# HELP farspan_size_bytes A size.\nfarspan_size_bytes 0.5\n"
        );
    }

    #[test]
    fn a_histogram_is_cumulative_and_ends_at_infinity() {
        let mut delays = Delays::default();
        delays.record(Timestamp::from_nanos(0), Timestamp::from_nanos(2_000_000), 3);
        delays.record(Timestamp::from_nanos(0), Timestamp::from_nanos(3_000_000_000), 1);
        let mut page = Page::new(Format::Text, 0);
        page.family(&DELAY).add_delays([], &delays);
        let text = page.finish();
        for line in [
            "farspan_delay_seconds_bucket{le=\"0.0015\"} 0\n",
            "farspan_delay_seconds_bucket{le=\"0.002\"} 3\n",
            "farspan_delay_seconds_bucket{le=\"1.0\"} 3\n",
            "farspan_delay_seconds_bucket{le=\"+Inf\"} 4\n",
            "farspan_delay_seconds_sum 3.006\n",
            "farspan_delay_seconds_count 4\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }

    #[test]
    fn a_scraper_gets_what_it_asks_for() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(Format::accepted(Some(prometheus)), Format::OpenMetrics);
        assert_eq!(Format::accepted(Some("text/plain")), Format::Text);
        assert_eq!(Format::accepted(None), Format::Text);
    }
}
