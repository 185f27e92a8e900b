//! The XDP program that passes everything on: bpf(2), `linux/bpf.h`.
//!
//! Most drivers send in zero-copy mode only while a program is attached to the interface. This one changes nothing.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use libc::c_int;

use super::length_of;
use crate::quantity::Ifindex;

/// The program, loaded and attached to nothing.
#[derive(Debug)]
pub struct PassProgram(OwnedFd);

/// The program on an interface, which it leaves on drop.
#[derive(Debug)]
pub struct Attached(#[expect(dead_code, reason = "closing it detaches the program")] OwnedFd);

impl PassProgram {
    /// Loads the program.
    ///
    /// # Errors
    /// `EPERM` without `CAP_BPF` and `CAP_NET_ADMIN` (or `CAP_SYS_ADMIN`), `ENOSYS` when the kernel has no bpf(2).
    pub fn load() -> io::Result<Self> {
        // What is never looked at may as well come in pieces: with long frames drivers insist on it. Linux 5.18.
        Self::load_with(BPF_F_XDP_HAS_FRAGS).or_else(|_| Self::load_with(0))
    }

    fn load_with(flags: u32) -> io::Result<Self> {
        let attributes = ProgramLoad {
            kind: BPF_PROG_TYPE_XDP,
            instruction_count: length_of::<[Instruction; 2]>() / length_of::<Instruction>(),
            instructions: PASS.as_ptr() as u64,
            license: c"Apache-2.0".as_ptr() as u64,
            log_level: 0,
            log_size: 0,
            log: 0,
            kernel_version: 0,
            flags,
            name: *b"farspan_pass\0\0\0\0",
            interface: 0,
            attach_type: BPF_XDP,
        };
        // SAFETY: the attributes are those of BPF_PROG_LOAD; the instructions and the license, a C string, are statics.
        unsafe { bpf(BPF_PROG_LOAD, &attributes) }.map(Self)
    }

    /// Attaches the program to `device`, in the driver. The driver may reset the interface for that.
    ///
    /// # Errors
    /// `EBUSY` or `EEXIST` when the interface has a program already, `EOPNOTSUPP` when the driver takes none, `EINVAL`
    /// before Linux 5.9, `ENODEV`.
    pub fn attach(&self, device: Ifindex) -> io::Result<Attached> {
        let attributes = LinkCreate {
            program: self.0.as_raw_fd(),
            interface: device.value(),
            attach_type: BPF_XDP,
            flags: XDP_FLAGS_DRV_MODE,
        };
        // SAFETY: the attributes are those of BPF_LINK_CREATE for an interface; they point to nothing.
        unsafe { bpf(BPF_LINK_CREATE, &attributes) }.map(Attached)
    }
}

/// One instruction, `struct bpf_insn`.
#[repr(C)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// `r0 = XDP_PASS; exit`.
static PASS: [Instruction; 2] = [
    // BPF_ALU64 | BPF_MOV | BPF_K, XDP_PASS
    Instruction { code: 0xb7, registers: 0, offset: 0, immediate: 2 },
    // BPF_JMP | BPF_EXIT
    Instruction { code: 0x95, registers: 0, offset: 0, immediate: 0 },
];

// linux/bpf.h and linux/if_link.h; libc lacks them.
const BPF_PROG_LOAD: c_int = 5;
const BPF_LINK_CREATE: c_int = 28;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// `union bpf_attr` of `BPF_PROG_LOAD`, as far as is of use here. The kernel takes what is left out as zero.
#[repr(C)]
struct ProgramLoad {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach_type: u32,
}

/// `union bpf_attr` of `BPF_LINK_CREATE`.
#[repr(C)]
struct LinkCreate {
    program: c_int,
    interface: u32,
    attach_type: u32,
    flags: u32,
}

/// A command of bpf(2) that answers with a new descriptor, closed on exec as all of bpf(2)'s.
///
/// # Safety
/// `attributes` must be what `command` takes, without padding, and what they point to must live until the return.
unsafe fn bpf<T>(command: c_int, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: bpf(2): "the size argument is the size of the union pointed to by attr", which the kernel only reads for
    // these commands; `attributes` and, by this function's contract, what they point to outlive the call.
    let descriptor = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), length_of::<T>()) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    let descriptor = c_int::try_from(descriptor).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    // SAFETY: the kernel has just returned this descriptor, so it is open and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::testing::{TestNamespace, index_of};

    #[test]
    #[ignore = "needs root: run scripts/test"]
    fn the_program_lets_everything_pass_and_leaves_the_interface_on_drop() {
        let (near, _far) = TestNamespace::pair();
        let shown = || near.output("ip -d link show dev fke0");
        let attach = || near.run(|| PassProgram::load().unwrap().attach(index_of("fke0")));
        assert!(!shown().contains("xdp"), "{}", shown());

        let attached = attach().unwrap();
        assert!(shown().contains("prog/xdp") && shown().contains("name farspan_pass"), "{}", shown());
        near.output("ping -n -c 1 -W 5 192.0.2.2");
        assert_eq!(attach().unwrap_err().raw_os_error(), Some(libc::EBUSY));

        drop(attached);
        assert!(!shown().contains("xdp"), "{}", shown());
    }
}
