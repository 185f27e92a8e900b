//! One session from its plan to its ledger: what `mirror` and `receive` have in common.

use clap::Args;

use std::sync::Arc;
use std::thread;

use tokio::sync::oneshot;
use tracing::warn;

use super::output;
use super::progress::Progress;
use super::runtime::{RuntimeError, block_on};
use crate::check::stacked;
use crate::config::plan::{DestinationPlan, Engine, SessionPlan, SourcePlan};
use crate::config::privileges::Sandbox;
use crate::error::Problems;
use crate::escape::in_one_line;
use crate::kernel::locate::{Kernel, resolve};
use crate::kernel::lookup::{Moved, moved};
use crate::kernel::underlay::Underlay;
use crate::kernel::watch::watch;
use crate::ledger::Ledger;
use crate::privilege;
use crate::privilege::needs::{Life, Needs};
use crate::quantity::{Mtu, Workers};
use crate::session::control::until_end;
use crate::session::signals::{Listener, Signals};
use crate::session::{Outcome, Session};
use crate::source::{self, Interface};
use crate::spool;

/// What a session in the foreground does beside its plan.
#[derive(Debug, Args)]
pub struct RunningArguments {
    /// Print the ledger as one JSON object
    #[arg(long, help_heading = "Output")]
    json: bool,
    /// Whether to have the kernel refuse files and system calls that are not needed any more when everything is open: auto
    /// (as far as it can) or off
    #[arg(long, value_name = "WHEN", help_heading = "Privileges", default_value_t)]
    sandbox: Sandbox,
}

/// Runs until the source ends, the count or the time is reached, or the operator stops it; then prints the ledger.
///
/// # Errors
/// What kept the session from starting, or went wrong on the way.
pub fn run(plan: &SessionPlan, quiet: bool, arguments: &RunningArguments) -> Result<(), Problems> {
    output::check_reader(&plan.destinations)?;
    block_on(async {
        let mut signals = Signals::listen(Listener::Foreground).map_err(RuntimeError)?;
        let Outcome { ledger, failures } = run_session(plan, quiet, arguments, &mut signals).await?;
        let printed = if quiet {
            Ok(())
        } else {
            let to = output::spool_beside(&plan.destinations);
            let was_asked = signals.have_asked_to_end();
            output::deliver(output::in_words(&ledger, arguments.json), to, was_asked, &mut signals).await
        };
        Problems::gathered([printed, Problems::unless_empty(failures)]).map(drop)
    })?
}

/// Opens the session, says so, and runs it to its end.
async fn run_session(
    plan: &SessionPlan,
    quiet: bool,
    arguments: &RunningArguments,
    signals: &mut Signals,
) -> Result<Outcome, Problems> {
    // A mistyped interface is told before anybody is waited for.
    source::look(plan)?;
    let (session, underlays) = tokio::select! {
        opened = open(plan) => opened?,
        // Nothing was captured yet.
        () = signals.end() => return Ok(Outcome::of_nothing(plan)),
    };
    privilege::drop(&Needs::of(plan, Life::Once, 0), arguments.sandbox)?;
    spool::renew();
    if !quiet {
        let to = plan.destinations.iter().map(|destination| destination.to.as_str());
        let mtus = underlays.iter().map(|underlay| underlay.as_ref().map(|underlay| underlay.mtu()));
        output::say(&start_line(plan, session.interfaces(), to.zip(mtus)));
    }
    tokio::spawn(tell_of_moves(plan.destinations.clone(), underlays.clone()));
    for (destination, way) in plan.destinations.iter().zip(&underlays) {
        if let Some(way) = way {
            tokio::spawn(tell_of_another_source(destination.place(), Arc::clone(way)));
        }
    }
    tokio::spawn(watch(underlays.into_iter().flatten().collect()));
    let progress = Progress::of(plan, session.progress(), quiet);
    let look = progress.map(|progress| move |ledger: &Ledger| progress.show(ledger));
    let show = |ledger: &Ledger| {
        output::spool_beside(&plan.destinations).offer(output::in_words(ledger, arguments.json).into_bytes());
    };
    let running = session.start()?;
    Ok(until_end(running, signals, plan.end.duration, look, show).await)
}

/// Opens the session on a thread of its own: a pipe or a disk may keep it, and signals are heard meanwhile.
async fn open(plan: &SessionPlan) -> Result<(Session, Vec<Option<Arc<Underlay>>>), Problems> {
    let underlays = resolve(&plan.destinations).await?;
    if let Ok(kernel) = Kernel::ask().await {
        let ways = underlays.iter().map(Option::as_deref);
        stacked::at_start(&kernel, plan, ways).await.iter().for_each(stacked::say);
    }
    let (send, receive) = oneshot::channel();
    let work = {
        let (plan, underlays) = (plan.clone(), underlays.clone());
        // Nobody waits for it where a signal came first.
        move || drop(send.send(Session::open(&plan, &underlays)))
    };
    thread::Builder::new().name("opening".to_owned()).spawn(work).map_err(RuntimeError)?;
    match receive.await {
        Ok(session) => Ok((session?, underlays)),
        Err(_) => Err(RuntimeError(std::io::ErrorKind::Interrupted.into()).into()),
    }
}

/// Says it when an analyzer's name stands for another address: a session in the foreground stays at the one that it began
/// with.
async fn tell_of_moves(destinations: Vec<DestinationPlan>, ways: Vec<Option<Arc<Underlay>>>) {
    let Moved { destination, from, to } = moved(&destinations, &ways).await;
    warn!(
        "{destination}: its name stands for {to} now, and frames still go to {from}; start farspan again to follow it"
    );
}

/// Says it when the way to an analyzer has another source address: the capabilities to open sockets and captures anew have
/// been given up, so that a session in the foreground goes on with the address that it began with.
async fn tell_of_another_source(destination: String, way: Arc<Underlay>) {
    let mut news = way.news();
    while !way.has_another_source() {
        if news.changed().await.is_err() {
            return;
        }
    }
    warn!(
        "{destination}: the way there has another source address now, and frames still leave from {}; start farspan again \
         to follow it",
        way.local()
    );
}

/// What goes where, over which path MTU, with which engine. A capture file has no path.
fn start_line<'a>(
    plan: &SessionPlan,
    interfaces: &[Interface],
    destinations: impl Iterator<Item = (&'a str, Option<Mtu>)>,
) -> String {
    let engine = match interfaces.iter().find_map(|interface| interface.engine) {
        Some(Engine::Auto | Engine::Ring) => ", with packet rings",
        Some(Engine::Pcap) => ", with libpcap",
        None => "",
    };
    let workers = match plan.workers() {
        Workers::LEAST => String::new(),
        workers => format!(", by {workers} workers"),
    };
    let (does, netns) = match &plan.source {
        SourcePlan::Live(live) => ("mirroring", live.netns.as_ref()),
        SourcePlan::File(_) => ("mirroring", None),
        SourcePlan::Tunnels(_) => ("receiving", None),
    };
    let interfaces: Vec<&str> = interfaces.iter().map(|interface| interface.name.as_str()).collect();
    let to: Vec<String> =
        destinations.map(|(to, mtu)| mtu.map_or_else(|| to.to_owned(), |mtu| format!("{to} over MTU {mtu}"))).collect();
    let netns = netns.map_or_else(String::new, |netns| format!(" of the network namespace {netns}"));
    let line = format!("farspan: {does} {}{netns} to {}{engine}{workers}", interfaces.join(", "), to.join(" and "));
    format!("{}\n", in_one_line(&line))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::session;

    fn plan(keys: &str) -> SessionPlan {
        session(&["[session.a]\n", keys].concat()).unwrap()
    }

    fn interface(name: &str) -> Interface {
        Interface { name: name.to_owned(), index: None, mtu: Some(Mtu::ETHERNET), engine: Some(Engine::Pcap) }
    }

    #[test]
    fn the_start_line_says_what_goes_where_over_which_mtu() {
        let destinations = [("vxlan://192.0.2.10?vni=42", Some(Mtu::ETHERNET)), ("pcap:copy.pcap", None)];
        let said = "farspan: mirroring eth0, veth1 to vxlan://192.0.2.10?vni=42 over MTU 1500 and pcap:copy.pcap, with libpcap";
        let to = "destination.b.to = \"vxlan://192.0.2.10?vni=42\"\n";
        for (workers, end) in [(1, "\n"), (2, ", by 2 workers\n")] {
            let plan = plan(&format!("source.interface = \"eth0\"\nsource.workers = {workers}\n{to}"));
            let line = start_line(&plan, &["eth0", "veth1"].map(interface), destinations.into_iter());
            assert_eq!(line, format!("{said}{end}"));
        }
        let endpoint = Interface { name: "gre://[::]".to_owned(), index: None, mtu: None, engine: None };
        assert_eq!(
            start_line(
                &plan(&format!("source.tunnel = \"gre://[::]\"\n{to}")),
                &[endpoint],
                [("pcap:-", None)].into_iter()
            ),
            "farspan: receiving gre://[::] to pcap:-\n"
        );
    }
}
