//! `/metrics`, `/healthz` and `/readyz`: what the daemon tells a monitoring system that asks.
//!
//! A page is made out of a view, at most ten times a second: workers show their ledgers no more often, and so a hundred
//! scrapes a second cost what ten do. Nothing here touches a worker.

mod exposition;
mod families;
mod process;
mod senders;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::TcpListener;

pub use exposition::{Format, Head, Kind};
pub use families::{FAMILIES, Family};
pub use senders::MOST_SENDERS;

use super::http::{Request, Response, Status, exchange};
use super::view::View;
use super::visitors::receive;
use exposition::Page;
use families::Scene;
use process::Process;

/// How long a client may take to ask and to read.
const LIMIT: Duration = Duration::from_secs(10);
/// How long a page is as good as a new one: workers show their ledgers ten times a second.
const FRESH: Duration = Duration::from_millis(100);

/// The page of metrics about `view`.
pub fn page(view: &View, format: Format, size: usize) -> String {
    let scene = Scene { view, process: Process::measure() };
    let mut page = Page::new(format, size);
    for family in FAMILIES {
        (family.samples)(&scene, &mut page.family(&family.head));
    }
    page.finish()
}

/// Answers on `listener` for ever, with what `view` shows.
pub async fn serve(listener: TcpListener, view: impl Fn() -> View + Send + Sync + 'static) {
    let pages = Arc::new(Pages { view, latest: Mutex::default() });
    let listener = Arc::new(listener);
    let enter = || {
        let listener = Arc::clone(&listener);
        async move { listener.accept().await.map(|(stream, _)| stream) }
    };
    let stay = |stream| {
        let pages = Arc::clone(&pages);
        async move {
            // Whoever goes away in the middle has read enough.
            let _ = exchange(stream, |request| pages.answer(request, Instant::now())).await;
        }
    };
    receive("metrics", enter, LIMIT, stay).await;
}

/// The pages, each made again when it is asked for and no longer fresh.
struct Pages<V> {
    view: V,
    latest: Mutex<[Option<Made>; 2]>,
}

/// A page, and when it was made.
type Made = (Instant, Arc<str>);

impl<V: Fn() -> View> Pages<V> {
    fn answer(&self, request: &Request, now: Instant) -> Response {
        match request.path.as_str() {
            "/metrics" => {
                let format = Format::accepted(request.accept.as_deref());
                Response { status: Status::Ok, content_type: format.content_type(), body: self.metrics(format, now) }
            }
            // Whoever reads the answer knows that the control plane works: workers end by themselves when they fail, and
            // a session that cannot run now is no reason to end those that do.
            "/healthz" => Response::text(Status::Ok, "ok\n"),
            "/readyz" => readiness(&(self.view)()),
            _ => Response::text(Status::NotFound, "there are /metrics, /healthz and /readyz\n"),
        }
    }

    fn metrics(&self, format: Format, now: Instant) -> Arc<str> {
        // A page is whole, whoever was interrupted over it.
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let latest = &mut latest[usize::from(format == Format::OpenMetrics)];
        let size = match latest {
            Some((made, text)) if now.duration_since(*made) < FRESH => return Arc::clone(text),
            Some((_, text)) => text.len() + text.len() / 8,
            None => 1 << 14,
        };
        let text: Arc<str> = page(&(self.view)(), format, size).into();
        *latest = Some((now, Arc::clone(&text)));
        text
    }
}

/// Whether every session does what it was configured for.
fn readiness(view: &View) -> Response {
    let unwell: Vec<String> = view
        .sessions
        .iter()
        .filter(|session| !session.state.is_well())
        .map(|session| format!("session {} is {}\n", session.name, session.state.label()))
        .collect();
    if unwell.is_empty() {
        Response::text(Status::Ok, "ok\n")
    } else {
        Response::text(Status::Unavailable, unwell.concat())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::testing;
    use super::*;

    #[test]
    fn every_family_is_documented_and_nothing_else_is() {
        let documentation = include_str!("../../../docs/METRICS.md");
        let rows: Vec<String> = FAMILIES
            .iter()
            .map(|family| {
                let labels: Vec<String> = family.head.labels.iter().map(|label| format!("`{label}`")).collect();
                let (name, kind) = (family.head.full_name(), family.head.kind.label());
                format!("| `{name}` | {kind} | {} | {} |", labels.join(", "), family.head.help)
            })
            .collect();
        let missing: Vec<&String> = rows.iter().filter(|row| !documentation.contains(*row)).collect();
        assert!(missing.is_empty(), "docs/METRICS.md lacks:\n{missing:#?}");
        let documented = documentation.lines().filter(|line| line.starts_with("| `farspan_")).count();
        assert_eq!(documented, rows.len(), "docs/METRICS.md has rows of metrics that are gone");
        let names: HashSet<String> = FAMILIES.iter().map(|family| family.head.full_name()).collect();
        assert_eq!(names.len(), FAMILIES.len());
    }

    #[test]
    fn a_page_shows_every_counter_and_every_reason_from_its_first_frame_on() {
        let text = page(&testing::view(), Format::Text, 0);
        for line in [
            "farspan_captured_frames_total{session=\"dmz\"} 1000",
            "farspan_kernel_dropped_frames_total{session=\"dmz\"} 7",
            "farspan_sent_frames_total{session=\"dmz\",destination=\"archive\"} 870",
            "farspan_dropped_frames_total{session=\"dmz\",destination=\"\",reason=\"own_traffic\",kind=\"policy\"} 100",
            "farspan_dropped_frames_total{session=\"dmz\",destination=\"\",reason=\"too_short\",kind=\"loss\"} 0",
            "farspan_dropped_frames_total{session=\"dmz\",destination=\"archive\",reason=\"unreachable\",kind=\"loss\"} 30",
            "farspan_sender_lost_datagrams_total{session=\"relay\",from=\"192.0.2.77\",encapsulation=\"erspan2\",id=\"7\"} 2",
            "farspan_delay_seconds_bucket{session=\"dmz\",le=\"0.002\"} 800",
            "farspan_delay_seconds_count{session=\"dmz\"} 900",
            "farspan_session_state{session=\"relay\",state=\"retrying\"} 1",
            "farspan_session_state{session=\"relay\",state=\"running\"} 0",
            "farspan_session_last_frame_timestamp_seconds{session=\"dmz\"} 1800259200",
            "farspan_destination_healthy{session=\"dmz\",destination=\"archive\"} 0",
            "farspan_config_reloads_total{result=\"failure\"} 1",
            "farspan_governor_state{session=\"dmz\",state=\"shedding\"} 1",
            "farspan_kept_ratio{session=\"dmz\"} 0.625",
            "farspan_limit_used_ratio{session=\"dmz\",limit=\"limit.cpu\"} 1.25",
            "farspan_build_info{version=\"0.1.0\"} 1",
        ] {
            assert!(text.contains(&format!("{line}\n")), "{line} in\n{text}");
        }
        let samples: Vec<&str> = text.lines().filter_map(|line| line.rsplit_once(' ')).map(|(id, _)| id).collect();
        let distinct: HashSet<&&str> = samples.iter().filter(|id| !id.starts_with('#')).collect();
        assert_eq!(distinct.len(), samples.iter().filter(|id| !id.starts_with('#')).count(), "a series occurs twice");
    }

    #[test]
    fn pages_are_made_anew_only_when_they_are_old() {
        let made = std::cell::Cell::new(0);
        let view = || {
            made.set(made.get() + 1);
            testing::view()
        };
        let pages = Pages { view, latest: Mutex::default() };
        let start = Instant::now();
        let ask = |path: &str, accept: Option<&str>, after| {
            let request = Request { path: path.to_owned(), accept: accept.map(str::to_owned) };
            pages.answer(&request, start + after)
        };
        let first = ask("/metrics", None, Duration::ZERO);
        assert_eq!((first.status, first.content_type), (Status::Ok, Format::Text.content_type()));
        assert!(Arc::ptr_eq(&first.body, &ask("/metrics", None, FRESH / 2).body));
        assert!(ask("/metrics", Some("application/openmetrics-text"), FRESH / 2).body.ends_with("# EOF\n"));
        assert_eq!(made.get(), 2);
        ask("/metrics", None, FRESH);
        assert_eq!(made.get(), 3);

        assert_eq!(ask("/healthz", None, FRESH), Response::text(Status::Ok, "ok\n"));
        let readiness = ask("/readyz", None, FRESH);
        assert_eq!(readiness, Response::text(Status::Unavailable, "session relay is retrying\n"));
        assert_eq!(ask("/", None, FRESH).status, Status::NotFound);
    }
}
