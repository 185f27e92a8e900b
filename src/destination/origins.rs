//! The interfaces of a pcapng file that stand for tunnelled streams: one for each sender, encapsulation and id.

use super::shared_file::SharedFile;
use crate::frame::Origin;
use crate::wire::pcapng::Interface;

/// Most streams of a session that have an interface of their own in its files. The frames of later ones are recorded on
/// that of their endpoint: senders that forge addresses may not make files of interfaces.
const MOST: usize = 1024;

/// By what numbers a file knows the streams that it has seen.
#[derive(Debug)]
pub(super) struct Origins {
    /// The stream's number and the file's, in the order of the former.
    known: Vec<(u32, u32)>,
    /// Where in `known` the last frame's stream is: the next frame is mostly of the same.
    latest: usize,
    /// The file could not be told of a stream since the last flush.
    refused: bool,
}

impl Origins {
    /// None yet. The memory for all of them is claimed when the first comes, since most sessions have none.
    pub(super) const fn new() -> Self {
        Self { known: Vec::new(), latest: 0, refused: false }
    }

    /// The file's number for frames of `origin` that came to `endpoint`. `None` beyond [`MOST`], and where the file takes
    /// no more of them.
    pub(super) fn number_of(&mut self, origin: &Origin, endpoint: &str, file: &SharedFile) -> Option<u32> {
        if let Some(&(_, number)) = self.known.get(self.latest).filter(|(known, _)| *known == origin.number) {
            return Some(number);
        }
        let at = match self.known.binary_search_by_key(&origin.number, |(known, _)| *known) {
            Ok(at) => at,
            Err(_) if self.known.len() == MOST || self.refused => return None,
            Err(at) => {
                let Some(number) = file.number_of_one_of_many(interface(origin, endpoint)) else {
                    self.refused = true;
                    return None;
                };
                self.known.reserve_exact(MOST - self.known.len());
                self.known.insert(at, (origin.number, number));
                at
            }
        };
        self.latest = at;
        Some(self.known[at].1)
    }

    /// What the file is to release when nothing is recorded any more.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u32> {
        self.known.iter().map(|&(_, number)| number)
    }

    /// What was refused may be tried again.
    pub(super) fn retry(&mut self) {
        self.refused = false;
    }
}

/// How the file describes a stream: `192.0.2.1 vxlan 7`, and in a sentence.
fn interface(origin: &Origin, endpoint: &str) -> Interface {
    let Origin { sender, encapsulation, id, .. } = origin;
    let (label, word) = (encapsulation.label(), encapsulation.id_word());
    let (name, which) = match id {
        Some(id) => (format!("{sender} {label} {id}"), format!("{word} {id}")),
        None => (format!("{sender} {label}"), format!("no {word}")),
    };
    let comment = format!("{label} from {sender}, {which}, received by {endpoint}");
    Interface { name, comment: Some(comment) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::local_end::CaptureFilePlan;
    use crate::config::plan::FilePath;
    use crate::wire::decapsulate::Tunnel;

    fn origin(number: u32, id: Option<u32>) -> Origin {
        Origin { number, sender: [192, 0, 2, 1].into(), encapsulation: Tunnel::Erspan2, id }
    }

    #[test]
    fn a_stream_is_described_in_full() {
        let with = |id| interface(&origin(0, id), "erspan://0.0.0.0");
        let described = |name: &str, comment: &str| Interface { name: name.into(), comment: Some(comment.into()) };
        assert_eq!(
            with(Some(7)),
            described("192.0.2.1 erspan2 7", "erspan2 from 192.0.2.1, session 7, received by erspan://0.0.0.0")
        );
        assert_eq!(
            with(None),
            described("192.0.2.1 erspan2", "erspan2 from 192.0.2.1, no session, received by erspan://0.0.0.0")
        );
    }

    #[test]
    fn streams_keep_their_numbers_and_a_flood_of_them_costs_no_more_than_its_bound() {
        let directory = tempfile::tempdir().unwrap();
        let file = CaptureFilePlan::plain(FilePath::Path(directory.path().join("x.pcapng")));
        let file = SharedFile::create(&file).unwrap();
        let mut origins = Origins::new();
        let mut number = |stream: u32| origins.number_of(&origin(stream, Some(stream)), "erspan://[::]", &file);
        assert_eq!([9, 4, 9, 4, 5].map(&mut number), [Some(0), Some(1), Some(0), Some(1), Some(2)]);
        for stream in 1000..5000 {
            number(stream);
        }
        assert_eq!([5, 4999, 1000, 6000].map(&mut number), [Some(2), None, Some(3), None]);
        assert_eq!(origins.known.len(), MOST);
    }

    #[test]
    fn a_file_that_takes_nothing_is_asked_again_after_a_flush() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("full.pcapng");
        let file = SharedFile::create(&CaptureFilePlan::plain(FilePath::Path(path))).unwrap();
        let mut origins = Origins { refused: true, ..Origins::new() };
        let ask = |origins: &mut Origins| origins.number_of(&origin(3, None), "erspan://[::]", &file);
        assert_eq!(ask(&mut origins), None);
        origins.retry();
        assert_eq!(ask(&mut origins), Some(0));
    }
}
