//! `farspan top`: the daemon on a terminal, second by second.

mod draw;
mod model;

use std::io::{self, IsTerminal};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::thread;
use std::time::Duration;

use clap::Args;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::daemon_socket::DaemonSocket;
use super::runtime::block_on;
use crate::daemon::control::Command;
use crate::daemon::view::{State, View};
use crate::error::{ExitCode, Explain, Problems};
use crate::session::signals::{Listener, Signals};
use draw::draw;
use model::Model;

pub(super) const EXAMPLES: &str = "\
Keys: q or Ctrl-C quits, the arrows choose a session, p pauses it or lets it go on.

Rates are those of the last second, the curve shows the last two minutes. p99 is what 99 of 100 frames took at most on
their way through farspan.";

/// How often the daemon is asked.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long a key may wait for the screen at most.
const REDRAW: Duration = Duration::from_millis(100);

/// How long the last drawing may take after a signal.
const LAST_DRAWING: Duration = Duration::from_secs(2);

/// Arguments of `farspan top`.
#[derive(Debug, Args)]
pub struct TopArguments {
    #[command(flatten)]
    socket: DaemonSocket,
}

/// Why there is no dashboard.
#[derive(Debug, thiserror::Error)]
enum TopError {
    #[error("farspan top needs a terminal")]
    NoTerminal,
    #[error("the terminal fails")]
    Terminal(#[from] io::Error),
}

impl Explain for TopError {
    fn hint(&self) -> Option<String> {
        matches!(self, Self::NoTerminal).then(|| "farspan status --json is for programs".to_owned())
    }

    fn exit_code(&self) -> ExitCode {
        match self {
            Self::NoTerminal => ExitCode::Usage,
            Self::Terminal(_) => ExitCode::Failed,
        }
    }
}

/// Shows the daemon until somebody has seen enough. The terminal is as before then, also after a panic or a signal.
///
/// # Errors
/// When no daemon answers, or there is no terminal.
pub fn run(arguments: &TopArguments) -> Result<(), Problems> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return Err(TopError::NoTerminal.into());
    }
    let mut model = Model::new(arguments.socket.view()?);
    let news = watch(arguments.socket.clone());
    let mut terminal = ratatui::try_init().map_err(TopError::from)?;
    let shown = show(&mut terminal, &mut model, &news, &arguments.socket);
    ratatui::restore();
    shown.map_err(|error| TopError::from(error).into())
}

/// What happens beside the keyboard.
enum News {
    /// The daemon has answered, or not.
    View(Result<Box<View>, Problems>),
    /// A signal asks to end.
    End,
}

/// Asks the daemon once a second and listens for signals, in threads that end with the process: a daemon that does not
/// answer must not keep a key waiting.
fn watch(socket: DaemonSocket) -> Receiver<News> {
    let (send, news) = channel();
    let signalled = send.clone();
    thread::spawn(move || {
        let waited = block_on(async {
            if let Ok(mut signals) = Signals::listen(Listener::Foreground) {
                signals.end().await;
            } else {
                std::future::pending::<()>().await;
            }
        });
        if waited.is_ok() {
            // Whoever is gone needs no signal.
            let _ = signalled.send(News::End);
            // A terminal that takes nothing (Ctrl-S) keeps the thread that draws.
            thread::sleep(LAST_DRAWING);
            std::process::exit(ExitCode::Done as i32);
        }
    });
    thread::spawn(move || {
        loop {
            thread::sleep(INTERVAL);
            if send.send(News::View(socket.view().map(Box::new))).is_err() {
                return;
            }
        }
    });
    news
}

fn show(
    terminal: &mut DefaultTerminal,
    model: &mut Model,
    news: &Receiver<News>,
    socket: &DaemonSocket,
) -> io::Result<()> {
    loop {
        terminal.draw(|frame| draw(model, frame))?;
        if event::poll(REDRAW)? {
            // A resized terminal only has to be drawn again.
            if let Event::Key(key) = event::read()?
                && !press(key, model, socket)
            {
                return Ok(());
            }
        }
        loop {
            match news.try_recv() {
                Ok(News::View(Ok(view))) => {
                    model.update(*view);
                    model.message = None;
                }
                Ok(News::View(Err(problems))) => model.message = problems.iter().next().map(ToString::to_string),
                Ok(News::End) => return Ok(()),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
    }
}

/// Does what a key asks for; false to quit.
fn press(key: KeyEvent, model: &mut Model, socket: &DaemonSocket) -> bool {
    if key.kind == KeyEventKind::Release {
        return true;
    }
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => return false,
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return false,
        KeyCode::Down | KeyCode::Char('j') => model.down(),
        KeyCode::Up | KeyCode::Char('k') => model.up(),
        KeyCode::Char('p') => pause_or_resume(model, socket),
        _ => {}
    }
    true
}

fn pause_or_resume(model: &mut Model, socket: &DaemonSocket) {
    let Some(session) = model.chosen() else { return };
    let (name, is_paused) = (session.name.clone(), session.state == State::Paused);
    let order = |session| if is_paused { Command::Resume { session } } else { Command::Pause { session } };
    let done = if is_paused { "goes on" } else { "is to pause" };
    model.message = Some(match socket.order(&order(name.clone())) {
        Ok(()) => format!("session {name} {done}"),
        Err(problems) => problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
    });
}
