//! Classic BPF, run here: filter programs that libpcap compiled, on frames that a capture file or a tunnel gave.
//!
//! libpcap's own interpreter takes one length for a frame, so that `len` and `greater` would ask a cut frame for what is
//! left of it. This one knows both lengths. The instructions are those of the BSD Packet Filter of 1993, as in `bpf(4)` of the
//! BSD systems and <https://docs.kernel.org/networking/filter.html>.

/// One instruction, as libpcap writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Instruction {
    /// Class, size, mode, operation.
    pub code: u16,
    /// Instructions to skip when a conditional jump's condition holds.
    pub jump_true: u8,
    /// Instructions to skip when it does not hold.
    pub jump_false: u8,
    /// The operand `k`.
    pub operand: u32,
}

/// A filter program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Program(Vec<Instruction>);

/// More instructions than any program without a loop has. Only `protochain` compiles to a loop, which is bounded by the
/// length of the packet.
const MOST_STEPS: usize = 1 << 16;
/// Words of scratch memory (`BPF_MEMWORDS`).
const MEMORY_WORDS: usize = 16;

impl Program {
    /// A program of these instructions.
    pub fn new(instructions: Vec<Instruction>) -> Self {
        Self(instructions)
    }

    /// Whether the program loads what the Linux kernel has beside a frame (`SKF_AD_OFF` and behind, `linux/filter.h`): direction,
    /// interface.
    pub fn asks_the_kernel(&self) -> bool {
        const SKF_AD_OFF: u32 = 0xffff_f000;
        let is_absolute_load = |code| matches!(code, 0x20 | 0x28 | 0x30);
        self.0.iter().any(|instruction| is_absolute_load(instruction.code) && instruction.operand >= SKF_AD_OFF)
    }

    /// Whether the program keeps a frame of which `bytes` were captured and that had `wire_len` bytes. A load beyond
    /// `bytes`, a division by zero and an instruction that does not exist reject the frame, as in libpcap.
    pub fn matches(&self, bytes: &[u8], wire_len: u32) -> bool {
        self.matches_pieces([&[], bytes], wire_len)
    }

    /// The same of a frame whose bytes are two pieces, one behind the other.
    pub fn matches_pieces(&self, bytes: [&[u8]; 2], wire_len: u32) -> bool {
        self.run(bytes, wire_len).is_some_and(|kept| kept != 0)
    }

    /// The value that the program returns; `None` where it goes wrong.
    pub(super) fn run(&self, bytes: [&[u8]; 2], wire_len: u32) -> Option<u32> {
        let (mut a, mut x) = (0_u32, 0_u32);
        let mut memory = [0_u32; MEMORY_WORDS];
        let mut next = 0_usize;
        for _ in 0..MOST_STEPS {
            let &Instruction { code, jump_true, jump_false, operand: k } = self.0.get(next)?;
            next += 1;
            let at = |base: u32| base.checked_add(k).map(|at| at as usize);
            match code {
                // Loads: word, half word, byte; at k, or at x + k.
                0x20 => a = word(bytes, k as usize)?,
                0x28 => a = half(bytes, k as usize)?,
                0x30 => a = byte(bytes, k as usize)?,
                0x40 => a = word(bytes, at(x)?)?,
                0x48 => a = half(bytes, at(x)?)?,
                0x50 => a = byte(bytes, at(x)?)?,
                0x80 => a = wire_len,
                0x00 => a = k,
                0x60 => a = *memory.get(k as usize)?,
                0x01 => x = k,
                0x61 => x = *memory.get(k as usize)?,
                0x81 => x = wire_len,
                // The length of an IPv4 header.
                0xb1 => x = (byte(bytes, k as usize)? & 0xf) << 2,
                0x02 => *memory.get_mut(k as usize)? = a,
                0x03 => *memory.get_mut(k as usize)? = x,
                // Jumps. A program with `protochain` jumps back: libpcap adds its operand with its sign.
                0x05 => next = next.wrapping_add_signed(isize::try_from(k.cast_signed()).ok()?),
                0x15 => next += jump(a == k, jump_true, jump_false),
                0x25 => next += jump(a > k, jump_true, jump_false),
                0x35 => next += jump(a >= k, jump_true, jump_false),
                0x45 => next += jump(a & k != 0, jump_true, jump_false),
                0x1d => next += jump(a == x, jump_true, jump_false),
                0x2d => next += jump(a > x, jump_true, jump_false),
                0x3d => next += jump(a >= x, jump_true, jump_false),
                0x4d => next += jump(a & x != 0, jump_true, jump_false),
                0x84 => a = a.wrapping_neg(),
                0x07 => x = a,
                0x87 => a = x,
                0x06 => return Some(k),
                0x16 => return Some(a),
                // Arithmetic, with k or with x.
                _ if code & 0x07 == 0x04 => a = arithmetic(code & 0xf0, a, if code & 0x08 == 0 { k } else { x })?,
                _ => return None,
            }
        }
        None
    }
}

fn jump(condition: bool, if_true: u8, if_false: u8) -> usize {
    usize::from(if condition { if_true } else { if_false })
}

fn arithmetic(operation: u16, a: u32, b: u32) -> Option<u32> {
    Some(match operation {
        0x00 => a.wrapping_add(b),
        0x10 => a.wrapping_sub(b),
        0x20 => a.wrapping_mul(b),
        0x30 => a.checked_div(b)?,
        0x40 => a | b,
        0x50 => a & b,
        // A shift by more bits than there are leaves none.
        0x60 => a.checked_shl(b).unwrap_or(0),
        0x70 => a.checked_shr(b).unwrap_or(0),
        0x90 => a.checked_rem(b)?,
        0xa0 => a ^ b,
        _ => return None,
    })
}

fn byte(bytes: [&[u8]; 2], at: usize) -> Option<u32> {
    load(bytes, at).map(|[byte]: [u8; 1]| byte.into())
}

fn half(bytes: [&[u8]; 2], at: usize) -> Option<u32> {
    load(bytes, at).map(|half| u16::from_be_bytes(half).into())
}

fn word(bytes: [&[u8]; 2], at: usize) -> Option<u32> {
    load(bytes, at).map(u32::from_be_bytes)
}

/// `N` bytes at `at` of two pieces.
fn load<const N: usize>([first, second]: [&[u8]; 2], at: usize) -> Option<[u8; N]> {
    if let Some(at) = at.checked_sub(first.len()) {
        return second.get(at..)?.first_chunk().copied();
    }
    let start = first.get(at..)?;
    start.first_chunk().copied().or_else(|| {
        let mut bytes = [0; N];
        let (from_first, from_second) = bytes.split_at_mut(start.len());
        from_first.copy_from_slice(start);
        from_second.copy_from_slice(second.get(..from_second.len())?);
        Some(bytes)
    })
}

#[cfg(test)]
mod tests {
    use pcap::{Capture, Linktype};
    use proptest::prelude::*;

    use super::super::filter;
    use super::*;

    /// Expressions that between them use loads of every size, header lengths, arithmetic, sets of jumps and, with
    /// `protochain`, a loop.
    const EXPRESSIONS: [&str; 14] = [
        "tcp port 80",
        "not port 22",
        "udp and host 192.0.2.1 and not net 198.51.100.0/24",
        "vlan 5 and ip6",
        "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0",
        "ip[2:2] - 4 * (ip[0] & 0xf) > 100 and ip[8] % 3 = 1",
        "ether[0] & 1 = 1 or ether[12:2] = 0x88cc",
        "greater 100",
        "less 60",
        "portrange 1-1023 or icmp or arp",
        "ip6 protochain 6",
        "mpls 100 and ip",
        "(ip[4:4] ^ 0x5a5a) >> 3 = 7 or ip[6] / 2 = 32",
        "geneve and tcp",
    ];

    fn frames() -> impl Strategy<Value = Vec<u8>> {
        let ethertypes = proptest::sample::select(vec![[8, 0], [0x86, 0xdd], [0x81, 0], [0x88, 0x47], [8, 6]]);
        (ethertypes, proptest::collection::vec(any::<u8>(), 0..160), any::<[bool; 2]>()).prop_map(
            |(ethertype, mut rest, [is_ip, is_tcp])| {
                if let (true, [first, .., last]) = (is_ip, rest.as_mut_slice()) {
                    *first = if ethertype == [8, 0] { 0x45 } else { 0x60 };
                    *last = 1;
                }
                if let (true, Some(protocol)) = (is_tcp, rest.get_mut(9)) {
                    *protocol = 6;
                }
                [&[2; 12][..], &ethertype, &rest].concat()
            },
        )
    }

    proptest! {
        /// The verdict is libpcap's own, of a frame that is whole.
        #[test]
        fn whole_frames_are_judged_as_libpcap_judges_them(frame in frames()) {
            for expression in EXPRESSIONS {
                let ours = filter::of_ethernet(expression).unwrap().unwrap();
                let theirs = Capture::dead(Linktype::ETHERNET).unwrap().compile(expression, true).unwrap();
                let length = u32::try_from(frame.len()).unwrap();
                prop_assert_eq!(ours.matches(&frame, length), theirs.filter(&frame), "{}", expression);
                for cut in [1, 13, 15, 20, 36, 37] {
                    let (head, body) = frame.split_at(cut.min(frame.len()));
                    prop_assert_eq!(ours.matches_pieces([head, body], length), theirs.filter(&frame), "{}", expression);
                }
            }
        }

        /// Any instructions come to an end.
        #[test]
        fn any_program_ends(
            code in proptest::collection::vec((any::<u16>(), any::<u8>(), any::<u8>(), any::<u32>()), 0..40),
            frame in frames(),
        ) {
            let one = |(code, jump_true, jump_false, operand)| Instruction { code: code & 0xff, jump_true, jump_false, operand };
            let _ = Program::new(code.into_iter().map(one).collect()).matches(&frame, 1500);
        }
    }

    #[test]
    fn a_cut_frame_is_asked_for_the_length_that_it_had() {
        let program = filter::of_ethernet("greater 1000").unwrap().unwrap();
        assert!(program.matches(&[0; 60], 1514));
        assert!(!program.matches(&[0; 60], 60));
    }

    #[test]
    fn a_loop_without_end_rejects() {
        let jump = Instruction { code: 0x05, jump_true: 0, jump_false: 0, operand: u32::MAX };
        assert!(!Program::new(vec![jump]).matches(&[0; 60], 60));
    }
}
