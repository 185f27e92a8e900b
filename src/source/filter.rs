//! The operator's filter expression: compiled by libpcap on the capture it is for.
//!
//! It must be that very capture: on a live one the kernel has taken VLAN tags out of the frame, and libpcap writes
//! `vlan` as a question about the tag beside it.

use std::os::fd::AsFd as _;

use pcap::{Activated, Active, BpfProgram, Capture};
use socket2::{SockFilter, SockRef};

use super::error::SourceError;
use crate::quantity::{Directions, SocketMark};
use crate::sys::socket_filter;

/// `ret #0`: no byte of any frame.
pub(super) const REJECT: SockFilter = SockFilter::new(0x06, 0, 0, 0);
/// `ret #-1`: all bytes of every frame.
const ACCEPT: SockFilter = SockFilter::new(0x06, 0, 0, u32::MAX);

/// Instructions that end with no byte of a frame whose packet carries `mark` (`skb->mark`), and go on behind themselves for
/// every other one, with the registers as they were before. Jumps are relative, so that any program may follow.
pub(super) fn reject_marked(mark: SocketMark) -> [SockFilter; 5] {
    // linux/bpf_common.h: class, size, mode, operation, operand.
    const LOAD_ABSOLUTE: u16 = 0x20;
    const LOAD_IMMEDIATE: u16 = 0x00;
    const AND: u16 = 0x54;
    const JUMP_IF_EQUAL: u16 = 0x15;
    /// `SKF_AD_OFF + SKF_AD_MARK` of linux/filter.h.
    const MARK: u32 = (-0x1000_i32 + 20).cast_unsigned();
    [
        SockFilter::new(LOAD_ABSOLUTE, 0, 0, MARK),
        SockFilter::new(AND, 0, 0, mark.mask()),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, mark.value()),
        REJECT,
        // A program begins with zeros in its registers (net/core/filter.c:bpf_convert_filter).
        SockFilter::new(LOAD_IMMEDIATE, 0, 0, 0),
    ]
}

/// The program that lets through what `program` does, but for frames with `mark`; `None`: every frame.
pub(super) fn without_marked(program: Option<Vec<SockFilter>>, mark: Option<SocketMark>) -> Option<Vec<SockFilter>> {
    let Some(mark) = mark else { return program };
    let program = program.unwrap_or_else(|| vec![ACCEPT]);
    Some(reject_marked(mark).into_iter().chain(program).collect())
}

/// Has the kernel leave out frames with `mark` on a capture of libpcap's, whatever filter that has put there: of a cooked
/// capture only libpcap can write the kernel's program.
///
/// # Errors
/// The kernel's.
pub(super) fn leave_out_marked(capture: &Capture<Active>, mark: SocketMark) -> std::io::Result<()> {
    let there = socket_filter::attached(capture.as_fd())?;
    let program = without_marked(Some(there).filter(|there| !there.is_empty()), Some(mark));
    SockRef::from(capture).attach_filter(&program.unwrap_or_default())
}

/// Lets only frames through that `expression` matches; an empty one matches everything.
pub(super) fn apply<T: Activated>(capture: &mut Capture<T>, expression: &str) -> Result<(), SourceError> {
    if expression.trim().is_empty() {
        return Ok(());
    }
    set(capture, expression)
}

/// Puts `expression` in the place of whatever filter there is; an empty one lets everything through.
pub(super) fn set<T: Activated>(capture: &mut Capture<T>, expression: &str) -> Result<(), SourceError> {
    capture.filter(expression, true).map_err(|cause| bad_filter(capture, expression, cause))
}

/// A program for the kernel that lets only frames of `directions` through that `expression` matches. libpcap writes it
/// for this very capture.
pub(super) fn program(
    capture: &Capture<Active>,
    directions: Directions,
    expression: &str,
) -> Result<Vec<SockFilter>, pcap::Error> {
    let expression = expression.trim();
    let whole = match (directions, expression) {
        (Directions::InOut, _) => expression.to_owned(),
        (Directions::In, "") => "inbound".to_owned(),
        (Directions::Out, "") => "outbound".to_owned(),
        (Directions::In, _) => format!("inbound and ({expression})"),
        (Directions::Out, _) => format!("outbound and ({expression})"),
    };
    let program = capture.compile(&whole, true)?;
    program.get_instructions().iter().map(|instruction| read(&instruction.to_string())).collect()
}

/// Reads one instruction as the pcap crate prints it: code, jump if true, jump if false, operand, in decimal. The crate
/// gives no other way to its fields.
fn read(instruction: &str) -> Result<SockFilter, pcap::Error> {
    let fields: Option<Vec<u32>> = instruction.split_whitespace().map(|field| field.parse().ok()).collect();
    let filter = match fields.as_deref() {
        Some(&[code, jump_true, jump_false, operand]) => u16::try_from(code)
            .ok()
            .zip(u8::try_from(jump_true).ok())
            .zip(u8::try_from(jump_false).ok())
            .map(|((code, jump_true), jump_false)| SockFilter::new(code, jump_true, jump_false, operand)),
        _ => None,
    };
    filter.ok_or(pcap::Error::InvalidString)
}

/// Whether `expression` can be understood, on Ethernet.
pub(super) fn check(expression: &str) -> Result<(), SourceError> {
    of_ethernet(expression).map(drop)
}

/// Whether `expression` can be understood on any kind of link that is captured; if not, why not on Ethernet.
pub(super) fn check_anywhere(expression: &str) -> Result<(), SourceError> {
    const OTHERS: [pcap::Linktype; 4] = [
        pcap::Linktype::LINUX_SLL,
        pcap::Linktype::LINUX_SLL2,
        pcap::Linktype::RAW,
        pcap::Linktype::IEEE802_11_RADIOTAP,
    ];
    let understands = |link| Capture::dead(link).is_ok_and(|capture| capture.compile(expression, true).is_ok());
    check(expression).or_else(|error| if OTHERS.into_iter().any(understands) { Ok(()) } else { Err(error) })
}

/// A program that asks complete Ethernet frames, tags and all; none when every frame matches.
pub(super) fn of_ethernet(expression: &str) -> Result<Option<BpfProgram>, SourceError> {
    let bad = |ethernet: &Capture<_>, cause| bad_filter(ethernet, expression, cause);
    if expression.trim().is_empty() {
        return Ok(None);
    }
    let ethernet = Capture::dead(pcap::Linktype::ETHERNET).map_err(SourceError::NoCompiler)?;
    // Compiled only: a capture that is not open refuses to be given any filter.
    ethernet.compile(expression, true).map(Some).map_err(|cause| bad(&ethernet, cause))
}

fn bad_filter<T: Activated + ?Sized>(capture: &Capture<T>, expression: &str, cause: pcap::Error) -> SourceError {
    SourceError::BadFilter {
        expression: expression.to_owned(),
        // Without the optimiser, so that a contradiction ("arp and ip") counts as understood.
        fault: fault(expression, &cause.to_string(), |text| capture.compile(text, false).is_ok()),
        cause,
    }
}

/// Where `expression` goes wrong, in bytes from its start; its length when something is missing at the end. libpcap
/// names no position, but often the word.
fn fault(expression: &str, message: &str, compiles: impl Fn(&str) -> bool) -> Option<usize> {
    let named = message.split('\'').nth(1).filter(|word| !word.is_empty());
    if let Some(offset) = named.and_then(|word| expression.find(word)) {
        return Some(offset);
    }
    if compiles(expression) {
        return None;
    }
    let words = words(expression);
    let understood =
        (1..=words.len()).rev().find(|&count| can_go_on(expression, &words[..count], &compiles)).unwrap_or(0);
    Some(words.get(understood).map_or(expression.len(), |&(start, _)| start))
}

/// Whether the first words of an expression can be the beginning of a right one: some continuation compiles.
///
/// All of them are numbers, so that no name is looked up in the DNS but those which libpcap has resolved already.
fn can_go_on(expression: &str, words: &[(usize, usize)], compiles: impl Fn(&str) -> bool) -> bool {
    const CONTINUATIONS: [&str; 10] =
        ["", " port 1", " 1", " ip", " 1:2:3:4:5:6", " ::1", " 1-2", " = 1", " 1 = 1", "] = 1"];

    let end = words.last().map_or(0, |&(_, end)| end);
    let Some(beginning) = expression.get(..end) else { return false };
    let open = beginning.matches('(').count().saturating_sub(beginning.matches(')').count());
    let closing = ")".repeat(open);
    CONTINUATIONS.iter().any(|continuation| compiles(&format!("{beginning}{continuation}{closing}")))
}

/// Start and end of every word; a parenthesis is a word of its own.
fn words(expression: &str) -> Vec<(usize, usize)> {
    let mut words = Vec::new();
    let mut start = None;
    for (offset, letter) in expression.char_indices() {
        let separates = letter.is_whitespace() || matches!(letter, '(' | ')');
        if separates {
            words.extend(start.take().map(|start| (start, offset)));
            if !letter.is_whitespace() {
                words.push((offset, offset + 1));
            }
        } else if start.is_none() {
            start = Some(offset);
        }
    }
    words.extend(start.map(|start| (start, expression.len())));
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{ExitCode, Explain};

    fn refused(expression: &str) -> SourceError {
        check(expression).unwrap_err()
    }

    #[test]
    fn the_first_word_that_is_not_understood_is_found() {
        for (expression, word) in [
            ("tcp prot 80", "prot 80"),
            ("host 192.0.2.1 and and tcp", "and tcp"),
            ("tcp and (udp port 53 or port port 7) and ip", "port 7) and ip"),
            ("port 80 )", ")"),
            ("ether host 02:00:00:00:00:01 nad ip", "nad ip"),
            ("net 192.0.2.0/24 or", ""),
            ("(tcp or udp", ""),
            ("tcp[13] & 2 != ", ""),
            ("vlan 5 and tcp dst dst port 80", "dst port 80"),
        ] {
            let SourceError::BadFilter { fault, .. } = refused(expression) else {
                panic!("{expression} is a bad filter")
            };
            let offset = fault.expect(expression);
            assert_eq!(expression[offset..].trim(), word, "in `{expression}`");
        }
    }

    #[test]
    fn a_word_that_libpcap_names_is_pointed_at() {
        let error = refused("tcp port nosuchport");
        assert_eq!(error.exit_code(), ExitCode::Usage);
        assert_eq!(error.place().unwrap(), "column 10 of the filter");
        let hint = error.hint().unwrap();
        let mut lines = hint.lines();
        assert_eq!(lines.next(), Some("tcp port nosuchport"));
        assert!(lines.next().unwrap().starts_with("         ^ "), "{hint}");
    }

    #[test]
    fn a_right_filter_is_not_refused() {
        for expression in ["", "not port 22", "vlan 5 and tcp", "ether proto 0x88cc"] {
            assert!(check(expression).is_ok(), "`{expression}`");
        }
    }

    #[test]
    fn a_contradiction_has_no_position() {
        let SourceError::BadFilter { fault, .. } = refused("arp and ip") else { panic!("rejects everything") };
        assert_eq!(fault, None);
    }
}
