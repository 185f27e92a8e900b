//! Classic BPF programs, written as steps with named places to jump to: `Documentation/networking/filter.rst`.

use std::collections::HashMap;
use std::hash::Hash;

use libc::sock_filter;

/// One instruction, or a place. Jumps go forward only.
#[derive(Clone, Copy, Debug)]
pub enum Step<Place> {
    /// Code and operand.
    Do(u32, u32),
    /// Continues at the place when A compares with the operand as the code says.
    If(u32, u32, Place),
    /// Continues at the place.
    Go(Place),
    /// Marks the place.
    Here(Place),
}

use Step::{Do, Go, Here, If};

// linux/bpf_common.h: class, size, mode, operation, operand.
pub const LOAD_AT: [u32; 3] = [0x40, 0x48, 0x50]; // [X + k]: word, half, byte
pub const LOAD_ABSOLUTE: [u32; 3] = [0x20, 0x28, 0x30];
pub const WORD: usize = 0;
pub const HALF: usize = 1;
pub const BYTE: usize = 2;
pub const LOAD_M: u32 = 0x60;
pub const LOADX: u32 = 0x01;
pub const LOADX_M: u32 = 0x61;
pub const STORE: u32 = 0x02;
pub const STOREX: u32 = 0x03;
pub const ADD: u32 = 0x04;
pub const ADD_X: u32 = 0x0c;
pub const MULTIPLY: u32 = 0x24;
pub const AND: u32 = 0x54;
pub const SHIFT_LEFT: u32 = 0x64;
pub const SHIFT_RIGHT: u32 = 0x74;
pub const JUMP: u32 = 0x05;
pub const EQUAL: u32 = 0x15;
pub const EQUAL_X: u32 = 0x1d;
pub const ABOVE: u32 = 0x25;
pub const ANY_BIT: u32 = 0x45;
pub const RETURN: u32 = 0x06;
pub const RETURN_A: u32 = 0x16;
pub const TO_X: u32 = 0x07;
pub const TO_A: u32 = 0x87;

/// `SKF_AD_OFF`: what is beside the bytes (`linux/filter.h`).
pub const BESIDE: u32 = (-0x1000_i32).cast_unsigned();
pub const PROTOCOL: u32 = BESIDE;
pub const PACKET_TYPE: u32 = BESIDE + 4;
pub const HARDWARE_TYPE: u32 = BESIDE + 28;
pub const OUTGOING: u32 = 4;

/// Turns places into distances.
pub fn assembled<Place: Copy + Eq + Hash>(steps: &[Step<Place>]) -> Vec<sock_filter> {
    let mut places = HashMap::new();
    let mut count: u32 = 0;
    for step in steps {
        match step {
            Here(place) => drop(places.insert(*place, count)),
            Do(..) | If(..) | Go(_) => count += 1,
        }
    }
    let mut program: Vec<sock_filter> = Vec::new();
    for step in steps {
        let next = u32::try_from(program.len()).unwrap_or(u32::MAX).saturating_add(1);
        let distance = |place: &Place| places.get(place).map_or(0, |at| at.saturating_sub(next));
        let instruction = |code: u32, jt: u32, k: u32| sock_filter {
            code: u16::try_from(code).unwrap_or(u16::MAX),
            jt: u8::try_from(jt).unwrap_or(u8::MAX),
            jf: 0,
            k,
        };
        program.extend(match step {
            Do(code, k) => Some(instruction(*code, 0, *k)),
            If(code, k, place) => Some(instruction(*code, distance(place), *k)),
            Go(place) => Some(instruction(JUMP, 0, distance(place))),
            Here(_) => None,
        });
    }
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A conditional jump has one byte for its distance.
    #[test]
    fn every_conditional_jump_reaches_its_place() {
        let far = |count| {
            let mut steps = vec![If(EQUAL, 1, ())];
            steps.extend(vec![Do(RETURN, 0); count]);
            steps.push(Here(()));
            assembled(&steps)[0].jt
        };
        assert_eq!((far(3), far(254), far(255)), (3, 254, 255));
        for (name, program) in [
            ("flows", super::super::flow_program::program(0)),
            ("flows in a tunnel", super::super::flow_program::program(1)),
            ("flows in eight tunnels", super::super::flow_program::program(8)),
            ("merges", super::super::tunnel::merge_program_of_ipv4()),
        ] {
            // 255 is what a jump gets that is too far.
            assert!(program.iter().all(|step| step.jt < 255), "{name}");
            assert!(program.len() < 4096, "{name}: BPF_MAXINSNS");
        }
    }
}
