//! The operator's filter expression. It asks the Ethernet frame that is mirrored.
//!
//! On a live Ethernet interface libpcap compiles it for that very capture: the kernel has taken VLAN tags out of the frame,
//! and libpcap writes `vlan` as a question about the tag beside it. Everywhere else it is compiled for Ethernet and asked
//! here, of the complete frame. What only another link type knows, such as `inbound` of a cooked capture, is compiled for
//! that link type and asks the frame as it was captured.

use std::os::fd::AsFd as _;

use pcap::{Activated, Active, BpfProgram, Capture, Linktype};
use socket2::{SockFilter, SockRef};

use super::bpf::{Instruction, Program};
use super::error::SourceError;
use super::link_type::LinkKind;
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
    let program = read(&capture.compile(&whole, true)?)?;
    let of_kernel =
        |Instruction { code, jump_true, jump_false, operand }| SockFilter::new(code, jump_true, jump_false, operand);
    Ok(program.into_iter().map(of_kernel).collect())
}

/// Reads a program as the pcap crate prints its instructions: code, jump if true, jump if false, operand, in decimal. The
/// crate gives no other access to their fields.
fn read(program: &BpfProgram) -> Result<Vec<Instruction>, pcap::Error> {
    let one = |printed: String| {
        let fields: Option<Vec<u32>> = printed.split_whitespace().map(|field| field.parse().ok()).collect();
        let &[code, jump_true, jump_false, operand] = fields.as_deref()? else { return None };
        let (code, jump_true, jump_false) =
            (code.try_into().ok()?, jump_true.try_into().ok()?, jump_false.try_into().ok()?);
        Some(Instruction { code, jump_true, jump_false, operand })
    };
    let read = program.get_instructions().iter().map(|instruction| one(instruction.to_string()));
    read.collect::<Option<_>>().ok_or(pcap::Error::InvalidString)
}

/// Whether `expression` can be understood, on Ethernet.
pub(super) fn check(expression: &str) -> Result<(), SourceError> {
    compiled_for_ethernet(expression).map(drop)
}

/// Whether `expression` can be understood on any kind of link that is captured; if not, why not on Ethernet.
pub(super) fn check_anywhere(expression: &str) -> Result<(), SourceError> {
    FrameFilter::compile(expression).map(drop)
}

/// A program that asks complete Ethernet frames, tags and all; none when every frame matches.
pub(super) fn of_ethernet(expression: &str) -> Result<Option<Program>, SourceError> {
    let program = compiled_for_ethernet(expression)?;
    if program.as_ref().is_some_and(Program::asks_the_kernel) {
        let words = "it asks for something that only the kernel knows, and only while it captures".to_owned();
        let (expression, cause) = (expression.to_owned(), pcap::Error::PcapError(words));
        return Err(SourceError::BadFilter { expression, fault: None, cause });
    }
    Ok(program)
}

fn compiled_for_ethernet(expression: &str) -> Result<Option<Program>, SourceError> {
    if expression.trim().is_empty() {
        return Ok(None);
    }
    let ethernet = Capture::dead(Linktype::ETHERNET).map_err(SourceError::NoCompiler)?;
    // Compiled only: a capture that is not open refuses to be given any filter.
    let program = ethernet.compile(expression, true).and_then(|program| read(&program));
    program.map(|program| Some(Program::new(program))).map_err(|cause| bad_filter(&ethernet, expression, cause))
}

/// An expression for frames of any link type.
#[derive(Clone, Debug, Default)]
pub(super) struct FrameFilter {
    expression: String,
    /// What the Ethernet frame is asked; none when every frame matches, or when only other link types know.
    ethernet: Option<Program>,
    /// What frames of other link types are asked as they were captured, where Ethernet does not understand the expression.
    others: Vec<(Linktype, Program)>,
}

/// What the frames of one interface are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asks {
    /// Nothing: all of them are kept.
    Nothing,
    /// The Ethernet frame, what it is.
    Ethernet,
    /// The frame as it was captured, with the program of this number.
    Captured(usize),
    /// Nothing that could be answered: none of them is kept.
    Unanswerable,
}

impl FrameFilter {
    /// Link types that know what Ethernet does not: direction, radio.
    const OTHERS: [Linktype; 7] = [
        Linktype::LINUX_SLL,
        Linktype::LINUX_SLL2,
        Linktype::RAW,
        Linktype::PPP,
        Linktype(166),
        Linktype(204),
        Linktype::IEEE802_11_RADIOTAP,
    ];

    /// Compiles an expression.
    ///
    /// # Errors
    /// When no link type understands it: what is wrong with it on Ethernet.
    pub fn compile(expression: &str) -> Result<Self, SourceError> {
        let refused = match of_ethernet(expression) {
            Ok(ethernet) => return Ok(Self { expression: expression.to_owned(), ethernet, others: Vec::new() }),
            Err(refused) => refused,
        };
        let compiled = |link| {
            let program = Capture::dead(link).ok()?.compile(expression, true).ok()?;
            Some((link, Program::new(read(&program).ok()?)))
        };
        let others: Vec<_> = Self::OTHERS.into_iter().filter_map(compiled).collect();
        if others.is_empty() {
            Err(refused)
        } else {
            Ok(Self { expression: expression.to_owned(), ethernet: None, others })
        }
    }

    /// Why Ethernet frames cannot be asked, if they cannot.
    pub fn refusal(&self) -> Option<SourceError> {
        of_ethernet(&self.expression).err()
    }

    /// What frames of this link type are asked. libpcap's numbers.
    pub fn of(&self, link: Linktype) -> Asks {
        if self.ethernet.is_some() {
            return Asks::Ethernet;
        }
        match self.others.iter().position(|(other, _)| *other == link) {
            Some(number) => Asks::Captured(number),
            None if self.others.is_empty() => Asks::Nothing,
            None => Asks::Unanswerable,
        }
    }

    /// Whether a frame is kept. `captured` and `ethernet` are its bytes, as far as they were captured, and its length.
    pub fn keeps(&self, asks: Asks, captured: (&[u8], u32), ethernet: (&[u8], u32)) -> bool {
        match asks {
            Asks::Nothing => true,
            Asks::Ethernet => self.ethernet.as_ref().is_none_or(|program| program.matches(ethernet.0, ethernet.1)),
            Asks::Captured(number) => {
                self.others.get(number).is_some_and(|(_, program)| program.matches(captured.0, captured.1))
            }
            Asks::Unanswerable => false,
        }
    }
}

/// The filter of a live interface that libpcap captures: what the kernel is asked is set on `capture`, what is left to be
/// asked of the Ethernet frame is returned.
pub(super) fn apply_live<T: Activated>(
    capture: &mut Capture<T>,
    kind: LinkKind,
    expression: &str,
) -> Result<FrameFilter, SourceError> {
    if kind == LinkKind::Ethernet || asks_the_packet(expression) {
        let applied = apply(capture, expression);
        if kind == LinkKind::Ethernet || applied.is_ok() {
            return applied.map(|()| FrameFilter::default());
        }
    }
    match of_ethernet(expression) {
        Ok(ethernet) => Ok(FrameFilter { expression: expression.to_owned(), ethernet, others: Vec::new() }),
        // What only this link type knows is asked in the kernel.
        Err(refused) => apply(capture, expression).map(|()| FrameFilter::default()).map_err(|_| refused),
    }
}

/// Whether every word of an expression asks the IP packet, which is the same on every link type. Words that libpcap does
/// not have are names of hosts and services.
fn asks_the_packet(expression: &str) -> bool {
    /// Words of pcap-filter(7) that ask the frame, its length or its capture, or that tell what link there is.
    const OF_THE_FRAME: [&str; 44] = [
        "link",
        "ether",
        "ppp",
        "slip",
        "fddi",
        "tr",
        "wlan",
        "radio",
        "less",
        "greater",
        "len",
        "byte",
        "broadcast",
        "multicast",
        "inbound",
        "outbound",
        "ifindex",
        "on",
        "ifname",
        "vlan",
        "mpls",
        "pppoed",
        "pppoes",
        "geneve",
        "vxlan",
        "lane",
        "llc",
        "metac",
        "bcc",
        "oam",
        "oamf4",
        "iso",
        "clnp",
        "esis",
        "isis",
        "stp",
        "ipx",
        "netbeui",
        "decnet",
        "atalk",
        "aarp",
        "gateway",
        "arp",
        "rarp",
    ];
    let words = expression.split(|letter: char| !(letter.is_alphanumeric() || matches!(letter, '-' | '_' | '.' | ':')));
    words.into_iter().all(|word| !OF_THE_FRAME.contains(&word.to_ascii_lowercase().as_str()))
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
