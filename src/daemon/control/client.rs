//! The other end of the control socket: asks the daemon that runs, and waits for its answer.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::Shutdown;
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use super::WHO_MAY_ASK;
use super::protocol::{Answer, Command, Line, Misunderstood, read};
use crate::error::{ExitCode, Explain, Problems};

/// Longest answer: thousands of sessions with thousands of senders.
const MOST_ANSWER: u64 = 64 << 20;
/// How long a daemon may take that only has to look.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long one may take that reads its configuration again.
const RELOAD_PATIENCE: Duration = Duration::from_mins(1);

/// Why the daemon did not answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// There is no socket, or nobody behind it.
    #[error("no farspan daemon answers at {}", path.display())]
    NoDaemon {
        /// Where it was looked for.
        path: PathBuf,
        /// The kernel's words.
        #[source]
        cause: io::Error,
    },
    /// The kernel lets this user not use the socket, or the daemon does not.
    #[error("this user may not ask the farspan daemon at {}", path.display())]
    NotPermitted {
        /// Where.
        path: PathBuf,
    },
    /// It takes too long, or ended in between.
    #[error("the farspan daemon at {} gives no answer", path.display())]
    NoAnswer {
        /// Where.
        path: PathBuf,
        /// The kernel's words.
        #[source]
        cause: io::Error,
    },
    /// It answers something else.
    #[error("the farspan daemon at {} is not understood", path.display())]
    Misunderstood {
        /// Where.
        path: PathBuf,
        /// What is wrong.
        #[source]
        cause: Misunderstood,
    },
}

impl Explain for AskError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::NoDaemon { .. } => Some(
                "`farspan run` starts one; --socket names its socket if it is another ([control] socket)".to_owned(),
            ),
            Self::NotPermitted { .. } => Some(WHO_MAY_ASK.to_owned()),
            Self::NoAnswer { .. } => Some("its log may say why; it is busy, or stopped, or has just ended".to_owned()),
            Self::Misunderstood { cause, .. } => cause.hint(),
        }
    }

    fn exit_code(&self) -> ExitCode {
        match self {
            Self::NotPermitted { .. } => ExitCode::NotPermitted,
            Self::NoDaemon { .. } | Self::NoAnswer { .. } | Self::Misunderstood { .. } => ExitCode::Failed,
        }
    }
}

/// Asks the daemon behind the socket at `path`.
///
/// # Errors
/// When it does not answer, and what it says against the request.
pub fn ask(path: &Path, command: &Command) -> Result<Answer, Problems> {
    let patience = if *command == Command::Reload { RELOAD_PATIENCE } else { PATIENCE };
    let line = exchange(path, &Line::of(command), patience)?;
    match read(&line) {
        Ok(Answer::Problems(told)) => Problems::unless_empty(told).map(|()| Answer::Done(String::new())),
        Ok(answer) => Ok(answer),
        Err(cause) => Err(AskError::Misunderstood { path: path.to_owned(), cause }.into()),
    }
}

fn exchange(path: &Path, request: &[u8], patience: Duration) -> Result<Vec<u8>, AskError> {
    let own = || path.to_owned();
    let no_answer = |cause| AskError::NoAnswer { path: own(), cause };
    let mut socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(no_answer)?;
    // The write timeout bounds connect(2), too: a daemon that takes no connection any more is not waited for.
    socket.set_write_timeout(Some(patience)).map_err(no_answer)?;
    socket.set_read_timeout(Some(patience)).map_err(no_answer)?;
    let address = SockAddr::unix(path).map_err(|cause| AskError::NoDaemon { path: own(), cause })?;
    socket.connect(&address).map_err(|cause| match cause.kind() {
        ErrorKind::PermissionDenied => AskError::NotPermitted { path: own() },
        ErrorKind::WouldBlock => no_answer(cause),
        _ => AskError::NoDaemon { path: own(), cause },
    })?;
    let mut line = Vec::new();
    // Whoever is not heard is told so before he has asked: the connection is broken then, and the answer is there.
    let asked = socket.write_all(request).and_then(|()| socket.shutdown(Shutdown::Write));
    let answered = (&socket).take(MOST_ANSWER).read_to_end(&mut line);
    match asked.and(answered) {
        _ if line.ends_with(b"\n") => Ok(line),
        Ok(_) => Err(no_answer(ErrorKind::UnexpectedEof.into())),
        Err(cause) => Err(no_answer(cause)),
    }
}
