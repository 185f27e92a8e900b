//! tcpdump at the place where something should arrive.

use std::fs;
use std::path::{Path, PathBuf};

use crate::lab::{Lab, Namespace, Process, await_that};

/// A running tcpdump.
pub struct Capture {
    process: Process,
    file: PathBuf,
    log: PathBuf,
}

impl Capture {
    /// Captures what passes `link` and `filter` from now on.
    pub fn start(lab: &Lab, namespace: &Namespace, link: &str, filter: &str) -> Self {
        let (file, log) = (lab.path(&format!("{link}.pcap")), lab.path(&format!("tcpdump-{link}.log")));
        // Unbuffered and in immediate mode: a frame that has arrived is in the file. The buffer is large, so that the
        // judge itself loses nothing; it must not give up root, because only root can write into the folder.
        let command =
            format!("tcpdump -i {link} -w {} -U --immediate-mode -s 9300 -B 65536 -Z root -n {filter}", file.display());
        let process = namespace.start(&command, &log);
        let capture = Self { process, file, log };
        await_that("tcpdump to listen", || capture.said("listening on"));
        capture
    }

    /// The capture file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The frames so far.
    pub fn frames(&self) -> Vec<Vec<u8>> {
        frames_of(&self.file)
    }

    /// Waits for the `count`-th frame.
    pub fn await_frames(&self, count: usize) {
        await_that(&format!("{count} frames in {}", self.file.display()), || self.frames().len() >= count);
    }

    /// Ends the capture and returns its file.
    ///
    /// # Panics
    /// When tcpdump itself lost frames: then it cannot judge.
    pub fn stop(mut self) -> PathBuf {
        self.process.interrupt();
        assert!(self.said("\n0 packets dropped by kernel"), "the judge lost frames:\n{}", self.words());
        self.file
    }

    fn words(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn said(&self, words: &str) -> bool {
        self.words().contains(words)
    }
}

/// The frames of a capture file, up to its end or to the first damaged record.
pub fn frames_of(file: &Path) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    if let Ok(mut capture) = pcap::Capture::from_file(file) {
        while let Ok(packet) = capture.next_packet() {
            frames.push(packet.data.to_vec());
        }
    }
    frames
}

/// Whether a capture file holds other things than whole Ethernet frames that an IP packet can carry: then what comes
/// out of a tunnel cannot be compared with it.
pub fn truncated_or_foreign(file: &Path) -> bool {
    /// An outer IPv4 packet of 65,535 bytes less the longest of our headers over IPv4 (ERSPAN III).
    const LARGEST: usize = 65_535 - 40;
    let Ok(mut capture) = pcap::Capture::from_file(file) else { return true };
    if capture.get_datalink() != pcap::Linktype::ETHERNET {
        return true;
    }
    loop {
        match capture.next_packet() {
            Ok(packet) => {
                let whole = packet.header.caplen == packet.header.len;
                if !whole || !(14..=LARGEST).contains(&packet.data.len()) {
                    return true;
                }
            }
            Err(pcap::Error::NoMorePackets) => return false,
            Err(_) => return true,
        }
    }
}
