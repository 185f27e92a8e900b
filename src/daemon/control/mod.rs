//! The control socket: how the other commands talk to the daemon that runs.
//!
//! A unix socket, and so only for this host; the kernel says who is at the other end, and only root, the daemon's own user
//! and the members of one group are heard. Requests are bounded in length and time, and visitors in number: whatever comes in
//! here costs the sessions nothing.

mod client;
mod protocol;
mod socket;

pub use client::{AskError, ask};
pub use protocol::{Answer, Command, DIFFERENT_AGES, Line, Misunderstood, Told, VERSION, read};
pub use socket::SocketError;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use super::visitors::receive;
use crate::config::daemon::ControlPlan;
use crate::error::{ExitCode, Explain, Problems};
use crate::repeated::Rising;
use socket::ControlSocket;

/// Longest request.
const MOST_REQUEST: usize = 4 << 10;
/// How long a visitor may take to say what he wants.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long all of it may take: a reload waits for name servers and for sessions that open.
const LIMIT: Duration = Duration::from_mins(1);
/// What is said to whoever may not ask.
const WHO_MAY_ASK: &str = "root and the daemon's own user may, and members of the group that [control] group names";

/// A control socket at which nobody is answered yet.
#[derive(Debug)]
pub struct Control {
    socket: ControlSocket,
    listener: UnixListener,
}

impl Control {
    /// Opens the socket of `plan` for `path`, where nobody finds it yet. The one that is there may be taken away if it
    /// `is_mine`.
    ///
    /// # Errors
    /// When it is taken, or the kernel refuses it.
    pub fn open(path: &Path, plan: &ControlPlan, is_mine: bool) -> Result<Self, SocketError> {
        let socket = ControlSocket::open(path, plan, is_mine)?;
        let refused = |cause| SocketError::Refused { path: path.to_owned(), cause };
        let listener = socket.listener.try_clone().and_then(UnixListener::from_std).map_err(refused)?;
        Ok(Self { socket, listener })
    }

    /// Puts the socket where others look for it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn take_place(&mut self) -> Result<(), SocketError> {
        self.socket.take_place()
    }

    /// Answers for ever, by what `carry_out` makes of a command.
    pub async fn serve<F>(self, carry_out: impl Fn(Command) -> F + Send + Sync + 'static)
    where
        F: Future<Output = Result<Answer, Problems>> + Send,
    {
        let Self { socket, listener } = self;
        let group = socket.group();
        let (listener, carry_out) = (Arc::new(listener), Arc::new(carry_out));
        let refusals = Arc::new(Mutex::new((0, Rising::default())));
        let enter = || {
            let listener = Arc::clone(&listener);
            async move { listener.accept().await.map(|(stream, _)| stream) }
        };
        let stay = |stream: UnixStream| {
            let (carry_out, refusals) = (Arc::clone(&carry_out), Arc::clone(&refusals));
            async move {
                if !ControlSocket::admits(group, &stream) {
                    say_refused(&refusals, &stream);
                    let _ = timeout(PATIENCE, refuse(stream)).await;
                    return;
                }
                // Whoever goes away in the middle has nothing more to be told.
                let _ = exchange(stream, &*carry_out).await;
            }
        };
        receive("control socket", enter, LIMIT, stay).await;
    }
}

/// Says at most once a minute that somebody was refused.
fn say_refused(refusals: &Mutex<(u64, Rising)>, stream: &UnixStream) {
    // A count is whole, whoever was interrupted over it.
    let mut refusals = refusals.lock().unwrap_or_else(PoisonError::into_inner);
    let (refused, rising) = &mut *refusals;
    *refused += 1;
    if let Some(times) = rising.news(Instant::now(), *refused) {
        let user = stream.peer_cred().map_or_else(|_| "?".to_owned(), |peer| peer.uid().to_string());
        tracing::warn!("the control socket has refused {times} requests, the last one of user {user}");
    }
}

/// Tells whoever is not heard that he is not.
async fn refuse(mut stream: UnixStream) -> std::io::Result<()> {
    let refused = Problems::from(Refused);
    stream.write_all(&Line::of(Answer::Problems(Told::all(&refused)))).await?;
    stream.shutdown().await
}

/// Somebody asked who is nobody here.
#[derive(Debug, thiserror::Error)]
#[error("this user may not ask the farspan daemon")]
struct Refused;

impl Explain for Refused {
    fn hint(&self) -> Option<String> {
        Some(WHO_MAY_ASK.to_owned())
    }

    fn exit_code(&self) -> ExitCode {
        ExitCode::NotPermitted
    }
}

/// Reads one request and answers it.
async fn exchange<F>(mut stream: UnixStream, carry_out: &impl Fn(Command) -> F) -> std::io::Result<()>
where
    F: Future<Output = Result<Answer, Problems>>,
{
    let mut request = Vec::with_capacity(256);
    let asked = async {
        while !request.contains(&b'\n') && request.len() < MOST_REQUEST {
            if (&mut stream).take((MOST_REQUEST - request.len()) as u64).read_buf(&mut request).await? == 0 {
                break;
            }
        }
        std::io::Result::Ok(())
    };
    match timeout(PATIENCE, asked).await {
        Ok(asked) => asked?,
        Err(_) => return Ok(()),
    }
    let line = request.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let answer = match read::<Command>(line) {
        Ok(command) => carry_out(command).await,
        Err(misunderstood) => Err(misunderstood.into()),
    };
    let answer = answer.unwrap_or_else(|problems| Answer::Problems(Told::all(&problems)));
    stream.write_all(&Line::of(answer)).await?;
    stream.shutdown().await
}
