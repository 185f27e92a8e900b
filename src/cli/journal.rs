//! Log lines in the journal's own protocol (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL>), so that `journalctl` finds them by session.
//!
//! The crate `tracing-journald` speaks it too, but sends on the thread that logs, and a journal that takes nothing would
//! block a worker. Here an entry is put together on that thread, and a [spool](crate::spool) sends it.

use std::fmt::{self, Write as _};
use std::io::{self, IoSlice, Seek as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixDatagram;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use crate::spool::{Content, Sink, Spool};

/// Where journald listens.
const SOCKET: &str = "/run/systemd/journal/socket";
/// In front of the names of our own fields: a session is `FARSPAN_SESSION`.
const PREFIX: &str = "FARSPAN_";

/// Gives log lines to the journal.
pub struct Journal {
    spool: Spool,
}

impl Journal {
    /// Connects to journald.
    ///
    /// # Errors
    /// When there is no journal on this host.
    pub fn open() -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        match socket.send_to(&[], SOCKET) {
            // One that is busy is there, too.
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            _ => socket.set_nonblocking(false)?,
        }
        Ok(Self { spool: Spool::start("journal", Content::Lines, Journald { socket }) })
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> tracing_subscriber::Layer<S> for Journal {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        span.extensions_mut().insert(fields);
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut entry = Fields::default();
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(Fields(fields)) = span.extensions().get() {
                entry.0.extend_from_slice(fields);
            }
        }
        let metadata = event.metadata();
        entry.put("PRIORITY", priority(*metadata.level()));
        entry.put("SYSLOG_IDENTIFIER", env!("CARGO_PKG_NAME"));
        entry.put("TARGET", metadata.target());
        entry.put("CODE_FILE", metadata.file().unwrap_or_default());
        entry.put("CODE_LINE", &metadata.line().unwrap_or_default().to_string());
        event.record(&mut entry);
        self.spool.offer(entry.0);
    }
}

/// Those of syslog(3), of which `journalctl -p` knows.
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        _ => "7",
    }
}

/// Fields as the protocol writes them.
#[derive(Default)]
struct Fields(Vec<u8>);

impl Fields {
    /// Name, line feed, length of the value in eight bytes (little-endian), value, line feed: so a value may have line feeds.
    fn put(&mut self, name: &str, value: &str) {
        self.0.extend_from_slice(name.as_bytes());
        self.0.push(b'\n');
        self.0.extend_from_slice(&(value.len() as u64).to_le_bytes());
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(b'\n');
    }

    fn put_field(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            return self.put("MESSAGE", value);
        }
        // Upper case letters, digits and underscores are what the journal takes.
        let name = field.name().chars().map(|character| match character.to_ascii_uppercase() {
            letter @ ('A'..='Z' | '0'..='9') => letter,
            _ => '_',
        });
        self.put(&PREFIX.chars().chain(name).collect::<String>(), value);
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put_field(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = String::new();
        let _ = write!(text, "{value:?}");
        self.put_field(field, &text);
    }
}

/// The socket of journald.
struct Journald {
    socket: UnixDatagram,
}

impl Sink for Journald {
    fn write(&mut self, entry: &[u8], _progress: &mut dyn FnMut()) -> io::Result<()> {
        if entry.is_empty() {
            return Ok(());
        }
        match self.socket.send_to(entry, SOCKET) {
            Err(error) if error.raw_os_error() == Some(Errno::EMSGSIZE as i32) => self.send_as_file(entry),
            sent => sent.map(drop),
        }
    }
}

impl Journald {
    /// An entry that is too large for a datagram goes as a sealed file in memory.
    fn send_as_file(&self, entry: &[u8]) -> io::Result<()> {
        let mut file =
            std::fs::File::from(memfd_create("journal-entry", MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_CLOEXEC)?);
        file.write_all(entry)?;
        file.rewind()?;
        fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::all()))?;
        let (descriptors, address) = ([file.as_raw_fd()], UnixAddr::new(SOCKET)?);
        let message = [ControlMessage::ScmRights(&descriptors)];
        sendmsg(self.socket.as_raw_fd(), &[IoSlice::new(&[])], &message, MsgFlags::empty(), Some(&address))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_has_its_length_in_front_of_a_value_with_line_feeds() {
        let mut fields = Fields::default();
        fields.put("MESSAGE", "two\nlines");
        assert_eq!(fields.0, b"MESSAGE\n\x09\0\0\0\0\0\0\0two\nlines\n");
    }
}
