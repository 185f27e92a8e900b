use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;

/// A sink that takes an entry whenever it is allowed to, and what it took.
struct Gated {
    allowed: Receiver<()>,
    took: Sender<Vec<u8>>,
}

impl Sink for Gated {
    fn write(&mut self, entry: &[u8], progress: &mut dyn FnMut()) -> io::Result<()> {
        self.allowed.recv().map_err(|_| ErrorKind::BrokenPipe)?;
        progress();
        self.took.send(entry.to_vec()).map_err(|_| ErrorKind::BrokenPipe.into())
    }
}

fn gated(content: Content) -> (Spool, Sender<()>, Receiver<Vec<u8>>) {
    let ((allow, allowed), (took, taken)) = (channel(), channel());
    (Spool::start("test", content, Gated { allowed, took }), allow, taken)
}

#[test]
fn a_reader_that_reads_nothing_blocks_nobody_and_what_is_dropped_is_counted() {
    let (spool, allow, taken) = gated(Content::Notices);
    for number in 0..MOST_ENTRIES + 10 {
        spool.offer(number.to_string().into_bytes());
    }
    assert!(!spool.drain(Patience::Stalled(Duration::from_millis(20))));
    for _ in 0..MOST_ENTRIES + 20 {
        allow.send(()).unwrap();
    }
    assert!(spool.drain(Patience::Endless));
    let took: Vec<_> = taken.try_iter().collect();
    // One left the queue when it came; where the others are missing stands what their spool says of it.
    assert!((MOST_ENTRIES + 1..=MOST_ENTRIES + 2).contains(&took.len()), "{}", took.len());
    assert_eq!(took[..MOST_ENTRIES], (0..MOST_ENTRIES).map(|n| n.to_string().into_bytes()).collect::<Vec<_>>());
}

#[test]
fn bytes_are_bounded_too_but_a_result_is_taken_as_a_whole() {
    let (spool, allow, taken) = gated(Content::Results);
    spool.offer(vec![0; MOST_BYTES + 1]);
    spool.give(vec![1; MOST_BYTES + 1]);
    allow.send(()).unwrap();
    allow.send(()).unwrap();
    assert!(spool.drain(Patience::Endless));
    let took: Vec<usize> = taken.try_iter().map(|entry| entry.len()).collect();
    assert_eq!(took, [0, MOST_BYTES + 1], "the gap, then the result");
}

#[test]
fn another_thread_goes_on_in_order_where_the_first_one_is_stuck() {
    let (spool, allow, taken) = gated(Content::Notices);
    spool.offer(b"first".to_vec());
    while spool.shared.state().queue.len() == 1 {
        thread::yield_now();
    }
    renew();
    spool.offer(b"second".to_vec());
    allow.send(()).unwrap();
    allow.send(()).unwrap();
    assert!(spool.drain(Patience::Endless));
    assert_eq!(taken.try_iter().collect::<Vec<_>>(), [b"first".to_vec(), b"second".to_vec()]);
}

#[test]
fn a_slow_reader_is_waited_for_while_it_makes_progress() {
    let (reader, writer) = io::pipe().unwrap();
    let spool = Spool::start("test", Content::Results, Descriptor::of(&writer));
    let text: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    spool.give(text.clone());
    let reading = thread::spawn(move || {
        let (mut reader, mut read) = (reader, Vec::<u8>::new());
        let mut chunk = vec![0; 40_000];
        while read.len() < 1_200_000 {
            let length = io::Read::read(&mut reader, &mut chunk).unwrap();
            read.extend(&chunk[..length]);
            thread::sleep(Duration::from_millis(5));
        }
        read
    });
    assert!(spool.drain(Patience::Stalled(Duration::from_secs(20))));
    assert_eq!(reading.join().unwrap(), text);
}

#[test]
fn a_reader_that_has_gone_is_an_error_of_the_result() {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let spool = Spool::start("test", Content::Results, Descriptor::of(&writer));
    spool.give(b"ledger".to_vec());
    assert!(spool.drain(Patience::Endless));
    assert_eq!(spool.take_error().map(|error| error.kind()), Some(ErrorKind::BrokenPipe));
}
