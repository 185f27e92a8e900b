//! As much of HTTP/1.1 (RFC 9112) as it takes to show pages that are only read: one GET or HEAD a connection.
//!
//! A server of this size is small enough to see its bounds: a request head of [`MOST_HEAD`] bytes, no body, one answer, and
//! the connection ends. `httparse`, which hyper uses too, reads the head.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

/// Longest request head.
const MOST_HEAD: usize = 8 << 10;
/// Most header lines.
const MOST_HEADERS: usize = 64;
/// How long what a client still sends is taken, so that it can read the answer before the connection is reset.
const LINGER: Duration = Duration::from_secs(1);

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The path, without its query.
    pub path: String,
    /// The `Accept` header.
    pub accept: Option<String>,
}

/// What it gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: Status,
    /// The media type.
    pub content_type: &'static str,
    /// The page, which several clients may get at once.
    pub body: Arc<str>,
}

/// The status codes of this server, RFC 9110 section 15.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Status {
    /// Here it is.
    Ok = 200,
    /// This is no HTTP.
    BadRequest = 400,
    /// There is no such page.
    NotFound = 404,
    /// Pages can only be read.
    MethodNotAllowed = 405,
    /// The request is longer than anybody's.
    HeadTooLarge = 431,
    /// What was asked about is not well.
    Unavailable = 503,
}

impl Status {
    const fn reason(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::BadRequest => "Bad Request",
            Self::NotFound => "Not Found",
            Self::MethodNotAllowed => "Method Not Allowed",
            Self::HeadTooLarge => "Request Header Fields Too Large",
            Self::Unavailable => "Service Unavailable",
        }
    }
}

impl Response {
    /// A page of plain text.
    pub fn text(status: Status, body: impl Into<Arc<str>>) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: body.into() }
    }
}

/// Reads one request, and writes what `answer` says to it. The caller bounds the time.
///
/// # Errors
/// The connection's; there is nobody left to tell.
pub async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    answer: impl FnOnce(&Request) -> Response,
) -> io::Result<()> {
    let mut head = Vec::with_capacity(1 << 10);
    let asked = loop {
        match understand(&head) {
            Some(asked) => break asked,
            None if head.len() >= MOST_HEAD => break Err(Status::HeadTooLarge),
            None => {}
        }
        if (&mut stream).take((MOST_HEAD - head.len()) as u64).read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    };
    let (response, has_body) = match asked {
        Ok(Asked { request, wants_body }) => (answer(&request), wants_body),
        Err(status) => (Response::text(status, format!("{}\n", status.reason())), true),
    };
    stream.write_all(header(&response).as_bytes()).await?;
    if has_body {
        stream.write_all(response.body.as_bytes()).await?;
    }
    stream.shutdown().await?;
    // Closed with unread bytes, the connection would be reset, and the answer lost with it.
    let mut rest = stream.take(MOST_HEAD as u64);
    let _ = timeout(LINGER, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
    Ok(())
}

/// A request that can be answered.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    request: Request,
    /// It is GET, and not HEAD.
    wants_body: bool,
}

/// What `head` asks for, or why it gets nothing; `None` while it is not whole.
fn understand(head: &[u8]) -> Option<Result<Asked, Status>> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(head) {
        Ok(httparse::Status::Partial) => return None,
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => return Some(Err(Status::HeadTooLarge)),
        Err(_) => return Some(Err(Status::BadRequest)),
    }
    let wants_body = match parsed.method {
        Some("GET") => true,
        Some("HEAD") => false,
        _ => return Some(Err(Status::MethodNotAllowed)),
    };
    let target = origin_form(parsed.path.unwrap_or_default());
    let path = target.split('?').next().unwrap_or_default().to_owned();
    let accept = parsed.headers.iter().find(|header| header.name.eq_ignore_ascii_case("accept"));
    let accept = accept.map(|header| String::from_utf8_lossy(header.value)).map(Cow::into_owned);
    Some(Ok(Asked { request: Request { path, accept }, wants_body }))
}

/// The path and query of a request target. "A server MUST accept the absolute-form in requests" (RFC 9112, section 3.2.2),
/// `http://host:port/path`, and proxies send it.
fn origin_form(target: &str) -> &str {
    let Some((scheme, rest)) = target.split_once("://") else { return target };
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return target;
    }
    // An empty path is the root (RFC 9110, section 4.2.3).
    rest.find(['/', '?']).map_or("/", |at| &rest[at..])
}

fn header(response: &Response) -> String {
    let Response { status, content_type, body } = response;
    let allow = if *status == Status::MethodNotAllowed { "Allow: GET, HEAD\r\n" } else { "" };
    format!(
        "HTTP/1.1 {} {}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n{allow}Cache-Control: no-store\r\n\
         Connection: close\r\n\r\n",
        *status as u16,
        status.reason(),
        body.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a client gets that sends `pieces`, one after the other, and then nothing more.
    fn asked(pieces: &[&[u8]]) -> String {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let answer = |request: &Request| Response::text(Status::Ok, format!("{request:?}"));
            let answered = exchange(server, answer);
            let asking = async {
                for piece in pieces {
                    client.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
                client.shutdown().await.unwrap();
                let mut answer = String::new();
                client.read_to_string(&mut answer).await.unwrap();
                answer
            };
            let (answered, answer) = tokio::join!(answered, asking);
            answered.unwrap();
            answer
        })
    }

    #[test]
    fn a_request_gets_its_answer_in_however_many_pieces_it_comes() {
        let whole = b"GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\naCCept: text/plain\r\n\r\n";
        let expected = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 56\r\n\
                        Cache-Control: no-store\r\nConnection: close\r\n\r\n\
                        Request { path: \"/metrics\", accept: Some(\"text/plain\") }";
        assert_eq!(asked(&[whole]), expected);
        let pieces: Vec<&[u8]> = whole.chunks(7).collect();
        assert_eq!(asked(&pieces), expected);
    }

    #[test]
    fn an_absolute_target_means_its_path() {
        for (target, path) in [
            ("http://127.0.0.1:9469/metrics?x=1", "/metrics"),
            ("HTTPS://host/readyz", "/readyz"),
            ("http://host", "/"),
            ("/metrics", "/metrics"),
            ("/http://host/metrics", "/http://host/metrics"),
            ("ftp://host/metrics", "ftp://host/metrics"),
        ] {
            let asked = understand(format!("GET {target} HTTP/1.1\r\nHost: host\r\n\r\n").as_bytes());
            assert_eq!(asked.unwrap().unwrap().request.path, path, "{target}");
        }
    }

    #[test]
    fn head_gets_the_header_alone() {
        let answer = asked(&[b"HEAD / HTTP/1.0\r\n\r\n"]);
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
        assert!(answer.contains("Content-Length: 35\r\n"), "{answer}");
    }

    #[test]
    fn what_is_no_request_is_told_so() {
        let status = |sent: &[u8]| asked(&[sent]).lines().next().unwrap_or_default().to_owned();
        assert_eq!(
            status(b"POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"),
            "HTTP/1.1 405 Method Not Allowed"
        );
        assert_eq!(status(b"\x16\x03\x01\x02\x00\x01"), "HTTP/1.1 400 Bad Request");
        assert_eq!(status(b"GET / HTTP/9.9\r\n\r\n"), "HTTP/1.1 400 Bad Request");
        let long = [b"GET / HTTP/1.1\r\nX: ".as_slice(), &[b'a'; MOST_HEAD]].concat();
        assert_eq!(status(&long), "HTTP/1.1 431 Request Header Fields Too Large");
        let many = [b"GET / HTTP/1.1\r\n".as_slice(), &b"X: y\r\n".repeat(MOST_HEADERS + 1), b"\r\n"].concat();
        assert_eq!(status(&many), "HTTP/1.1 431 Request Header Fields Too Large");
        assert_eq!(status(b"GET /half HTTP/1.1\r\nHost"), "", "nobody waits for the other half any more");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_understood_or_refused(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let _ = understand(&bytes);
        }
    }
}
