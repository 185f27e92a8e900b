//! Capture files, written here byte by byte after the specifications.

use std::path::{Path, PathBuf};

/// Files of one test.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn directory(&self) -> &Path {
        self.0.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        std::fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }
}

/// The destination that writes a file.
pub fn pcap_file(path: &Path) -> String {
    format!("pcap:{}", path.display())
}

/// An Ethernet frame of 64 bytes: IPv4 with this identification, UDP to port 9.
pub fn ethernet(id: u16) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    let ip = [0x45, 0, 0, 50, high, low, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2];
    let udp = [0x30, 0x39, 0, 9, 0, 30, 0, 0];
    [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0][..], &ip, &udp, &[0x5a; 22]].concat()
}

/// Classic pcap, little-endian, with microseconds: second, microsecond, frame.
pub fn pcap(records: &[(u32, u32, Vec<u8>)], snaplen: u32, link_type: u32) -> Vec<u8> {
    let mut file = [0xa1b2_c3d4, 2 | 4 << 16, 0, 0, snaplen, link_type].map(u32::to_le_bytes).concat();
    for (second, micro, frame) in records {
        let length = u32::try_from(frame.len()).unwrap();
        file.extend([*second, *micro, length, length].map(u32::to_le_bytes).concat());
        file.extend(frame);
    }
    file
}

/// An option: code, value.
pub type Choice = (u16, Vec<u8>);

pub fn section(big: bool) -> Vec<u8> {
    let body = [&u32_in(big, 0x1a2b_3c4d)[..], &u16_in(big, 1), &u16_in(big, 0), &[0xff; 8]].concat();
    block(big, 0x0a0d_0d0a, &body)
}

/// Interface description block; microseconds.
pub fn idb(big: bool, link_type: u16, snaplen: u32, options: &[Choice]) -> Vec<u8> {
    let body = [&u16_in(big, link_type)[..], &[0, 0], &u32_in(big, snaplen), &written(big, options)].concat();
    block(big, 1, &body)
}

/// Enhanced packet block of a whole frame.
pub fn epb(big: bool, interface: u32, micros: u64, frame: &[u8], options: &[Choice]) -> Vec<u8> {
    let length = u32::try_from(frame.len()).unwrap();
    let halves = [micros >> 32, micros & 0xffff_ffff].map(|half| u32::try_from(half).unwrap());
    let fixed = [interface, halves[0], halves[1], length, length].map(|word| u32_in(big, word)).concat();
    let padding = vec![0; frame.len().next_multiple_of(4) - frame.len()];
    block(big, 6, &[&fixed[..], frame, &padding, &written(big, options)].concat())
}

fn written(big: bool, options: &[Choice]) -> Vec<u8> {
    if options.is_empty() {
        return Vec::new();
    }
    let mut bytes = Vec::new();
    for (code, value) in options {
        bytes.extend([u16_in(big, *code), u16_in(big, u16::try_from(value.len()).unwrap())].concat());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    [bytes, vec![0; 4]].concat()
}

fn block(big: bool, kind: u32, body: &[u8]) -> Vec<u8> {
    let length = u32_in(big, u32::try_from(12 + body.len()).unwrap());
    [&u32_in(big, kind)[..], &length, body, &length].concat()
}

fn u16_in(big: bool, value: u16) -> [u8; 2] {
    if big { value.to_be_bytes() } else { value.to_le_bytes() }
}

fn u32_in(big: bool, value: u32) -> [u8; 4] {
    if big { value.to_be_bytes() } else { value.to_le_bytes() }
}
