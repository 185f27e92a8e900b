//! The reader on inputs that come in pieces, and on bytes that are no capture.

use std::fs::File;
use std::io::Write as _;

use proptest::prelude::*;

use super::{Described, Next, Reader};
use crate::config::plan::FilePath;

/// A pcapng file: two sections of different byte order, a named interface, one frame in each section.
fn blocks() -> Vec<u8> {
    let mut file = Vec::new();
    for big in [false, true] {
        let word = |value: u32| if big { value.to_be_bytes() } else { value.to_le_bytes() };
        let half = |value: u16| if big { value.to_be_bytes() } else { value.to_le_bytes() };
        let mut block = |kind: u32, body: &[u8]| {
            let length = word(u32::try_from(12 + body.len()).unwrap());
            file.extend([&word(kind)[..], &length, body, &length].concat());
        };
        block(0x0a0d_0d0a, &[&word(0x1a2b_3c4d)[..], &half(1), &half(0), &[0xff; 8]].concat());
        let name = [&half(2)[..], &half(4), b"eth7", &[0; 4]].concat();
        block(1, &[&half(1)[..], &half(0), &word(0), &name].concat());
        block(0xbad, &[7; 16]);
        block(6, &[[0, 0, 9, 60, 1514].map(word).concat(), vec![5; 60]].concat());
    }
    file
}

/// What a file gives, or `None` where it is refused: frames, interfaces, and whether it ended well.
fn read(bytes: &[u8]) -> Option<(Vec<Vec<u8>>, Vec<Described>, bool)> {
    let file = tempfile::NamedTempFile::new().unwrap();
    File::create(file.path()).unwrap().write_all(bytes).unwrap();
    let mut reader = Reader::open(&FilePath::Path(file.path().to_owned())).ok()?;
    let (mut frames, mut interfaces) = (Vec::new(), Vec::new());
    loop {
        match reader.next() {
            Ok(Next::Record(record)) => {
                frames.push(reader.bytes(&record).to_vec());
                assert!(record.wire_len as usize >= reader.bytes(&record).len());
            }
            Ok(Next::Interface(described)) => interfaces.push(described),
            Ok(Next::Section) => {}
            Ok(Next::Waiting) => panic!("a file does not wait"),
            Ok(Next::Ended) => return Some((frames, interfaces, true)),
            Err(_) => return Some((frames, interfaces, false)),
        }
    }
}

#[test]
fn both_sections_are_read() {
    let (frames, interfaces, ended) = read(&blocks()).unwrap();
    assert_eq!((frames, ended), (vec![vec![5; 60]; 2], true));
    let eth7 = Described { link_type: 1, name: Some("eth7".to_owned()), fcs_len: 0 };
    assert_eq!(interfaces, [eth7.clone(), eth7]);
}

#[test]
fn wherever_it_breaks_off_every_whole_frame_is_given() {
    let whole = blocks();
    for length in 28..whole.len() {
        let (frames, _, ended) = read(&whole[..length]).unwrap();
        assert_eq!(frames.len(), usize::from(length > whole.len() / 2 - 1), "{length} bytes");
        // A file may end between blocks.
        let (rest, ..) = read(&whole).unwrap();
        assert!(!ended || rest.len() >= frames.len());
    }
}

proptest! {
    #[test]
    fn any_bytes_behind_a_sound_beginning_come_to_an_end(
        rest in proptest::collection::vec(any::<u8>(), 0..400),
        at in any::<prop::sample::Index>(),
    ) {
        let mut file = blocks();
        file.truncate(at.index(file.len()));
        file.extend(rest);
        let _ = read(&file);
    }

    /// Any four words, as a block might begin.
    #[test]
    fn any_block_comes_to_an_end(
        kind in proptest::sample::select(vec![1_u32, 2, 3, 6, 10, 0x0a0d_0d0a]),
        words in proptest::collection::vec(prop_oneof![0..600_u32, any::<u32>()], 1..30),
    ) {
        let block = std::iter::once(kind).chain(words).flat_map(u32::to_le_bytes);
        let file: Vec<u8> = blocks().into_iter().take(56).chain(block).collect();
        let _ = read(&file);
    }
}
