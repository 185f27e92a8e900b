//! A worker, its capture buffer and a relay, in made-up time.

use std::collections::BinaryHeap;

use super::*;
use crate::frame::testing;
use crate::quantity::Timestamp;

/// VXLAN over IPv4.
const ENCAPSULATION: usize = 36;
/// How long frames come together in the capture buffer.
const TURN: u64 = 2 * MILLISECOND;
/// The path MTU: longer frames are split in two.
const ROOM: usize = 1400;

/// What carries the output back onto the mirrored interface.
#[derive(Clone, Copy)]
struct Relay {
    /// What it adds to an IP packet, Ethernet header included, and what it pads to.
    overhead: usize,
    padding: usize,
    latency: u64,
    /// When somebody ends the loop.
    until: u64,
}

#[derive(Debug, Default)]
struct Outcome {
    captured: usize,
    sent: usize,
    /// When the alarm was raised, after so many frames.
    raised: Vec<(u64, usize)>,
    cleared: Vec<u64>,
    /// Frames that were not sent, and the longest time that one waited in the buffer.
    refused: usize,
    longest_wait: u64,
    experiments: usize,
}

/// Mirrors `honest` frames, times and lengths, until the time `end`.
fn mirror(honest: impl IntoIterator<Item = (u64, usize)>, relay: Option<Relay>, end: u64) -> Outcome {
    let mut feedback = Feedback::default();
    let mut buffer: BinaryHeap<std::cmp::Reverse<(u64, usize)>> = honest.into_iter().map(std::cmp::Reverse).collect();
    let mut outcome = Outcome::default();
    // Nothing begins at time zero.
    let mut now = SECOND;
    while now < end {
        let mut lengths = Lengths::default();
        let mut output = Vec::new();
        while let Some(&std::cmp::Reverse((at, length))) = buffer.peek()
            && at <= now
        {
            buffer.pop();
            outcome.captured += 1;
            outcome.longest_wait = outcome.longest_wait.max(now - at);
            if !feedback.admits(&frame(at, length), &Layers::default()) {
                outcome.refused += 1;
                continue;
            }
            outcome.sent += 1;
            let pieces = if length > ROOM { vec![ROOM, length - ROOM + 34] } else { vec![length] };
            output.extend(pieces.into_iter().map(|piece| piece + ENCAPSULATION));
        }
        for (number, length) in output.into_iter().enumerate() {
            lengths.note(length);
            // A relay takes a hundred frames per millisecond.
            if let Some(relay) = relay.filter(|relay| now < relay.until && number < 200) {
                let captured = (length + relay.overhead).next_multiple_of(relay.padding);
                buffer.push(std::cmp::Reverse((now + relay.latency, captured)));
            }
        }
        match feedback.end_turn(now, &lengths) {
            Order::GoOn => now += TURN,
            Order::Pause(pause) => {
                outcome.experiments += 1;
                now += u64::try_from(pause.as_nanos()).unwrap();
            }
            Order::Raise(_) => {
                outcome.raised.push((now, outcome.captured));
                now += TURN;
            }
            Order::Clear => {
                outcome.cleared.push(now);
                now += TURN;
            }
        }
    }
    outcome
}

fn frame(at: u64, length: usize) -> Frame<'static> {
    Frame { wire_len: u32::try_from(length).unwrap(), timestamp: Timestamp::from_nanos(at), ..testing::frame(&[0; 60]) }
}

/// So many frames per second of lengths that `length` tells by number, from one second to another.
fn flow(rate: u64, seconds: std::ops::Range<u64>, length: impl Fn(u64) -> usize) -> Vec<(u64, usize)> {
    let count = rate * (seconds.end - seconds.start);
    (0..count).map(|number| (seconds.start * SECOND + number * SECOND / rate, length(number))).collect()
}

/// Request and reply of a ping.
fn ping(at: u64) -> Vec<(u64, usize)> {
    vec![(at, 98), (at + MILLISECOND / 10, 98)]
}

fn endless(overhead: usize, latency: u64) -> Relay {
    Relay { overhead, padding: 1, latency, until: u64::MAX }
}

#[test]
fn a_loop_after_one_ping_is_throttled_within_about_forty_frames() {
    for overhead in [42, 58, 74, 100] {
        for latency in [MILLISECOND / 10, MILLISECOND, 7 * MILLISECOND, 20 * MILLISECOND] {
            for padding in [1, 16] {
                let relay = Relay { padding, ..endless(overhead, latency) };
                let outcome = mirror(ping(2 * SECOND), Some(relay), 6 * SECOND);
                let case = format!("{overhead} bytes, {latency} ns, padding {padding}: {outcome:?}");
                assert_eq!(outcome.raised.len(), 1, "{case}");
                assert!(outcome.raised[0].1 <= 42, "{case}");
                assert!(outcome.captured < 60, "{case}");
                assert!(outcome.cleared.is_empty(), "{case}");
            }
        }
    }
}

#[test]
fn a_loop_beside_honest_frames_is_throttled_to_ten_per_second() {
    let relay = endless(74, MILLISECOND);
    for (rate, length) in [(20, 500), (100, 98), (100, 1300), (1000, 700), (10_000, 98), (20_000, 1300)] {
        let outcome = mirror(flow(rate, 2..22, |_| length), Some(relay), 22 * SECOND);
        let case = format!("{rate} per second of {length}: {outcome:?}");
        assert_eq!(outcome.raised.len(), 1, "{case}");
        assert!(outcome.cleared.is_empty(), "{case}");
        let (raised, _) = outcome.raised[0];
        let most_after = usize::try_from((22 * SECOND - raised) / THROTTLE).unwrap() + 1;
        assert!(outcome.sent <= outcome.raised[0].1 + most_after, "{case}");
    }
}

#[test]
fn the_throttle_ends_when_the_loop_has_and_does_not_come_again() {
    let relay = Relay { until: 8 * SECOND, ..endless(74, MILLISECOND) };
    for (rate, lengths) in [(100, 1), (100, 400), (1000, 900)] {
        let honest = flow(rate, 2..30, |number| 98 + usize::try_from(number * 7919 % lengths).unwrap());
        let outcome = mirror(honest, Some(relay), 30 * SECOND);
        let case = format!("{rate} per second of {lengths} lengths: {outcome:?}");
        assert!(outcome.raised.iter().all(|&(at, _)| at < 8 * SECOND), "{case}");
        assert_eq!(outcome.raised.len(), outcome.cleared.len(), "{case}");
        let last = *outcome.cleared.last().unwrap();
        assert!((8 * SECOND..14 * SECOND).contains(&last), "{case}");
    }
}

#[test]
fn honest_flows_never_raise_an_alarm_and_lose_nothing() {
    let number = |number: u64| usize::try_from(number).unwrap();
    let mut cases: Vec<(String, Vec<(u64, usize)>)> = Vec::new();
    for rate in [25, 50, 100, 400, 2_000, 20_000] {
        for length in [64, 98, 590, 1514] {
            cases.push((format!("{length} bytes, {rate}"), flow(rate, 2..6, |_| length)));
        }
        // ping -g -h: request and reply grow, by what the encapsulation and a tunnel would add too.
        for step in [1, 8, 50, 78, 110, 136] {
            let sweep = flow(rate, 2..6, |n| 98 + number(n / 2) * step % 1400);
            cases.push((format!("sweep by {step}, {rate}"), sweep));
        }
        // A request, and an answer that is longer by as much.
        cases.push((format!("request and response, {rate}"), flow(rate, 2..6, |n| if n % 2 == 0 { 100 } else { 210 })));
        // TCP in one direction: full segments and acknowledgements.
        cases.push((format!("bulk, {rate}"), flow(rate, 2..6, |n| if n % 3 == 2 { 66 } else { 1514 })));
        // Every length, in no order.
        cases.push((format!("mix, {rate}"), flow(rate, 2..6, |n| 64 + number(n * 7919 % 1450))));
        // Ten lengths, each longer than the one before by the same.
        cases.push((format!("stairs, {rate}"), flow(rate, 2..6, |n| 100 + number(n % 10) * 110)));
        // Several flows of one length.
        let flows =
            (0..5).flat_map(|shift| flow(rate, 2..6, |_| 300).into_iter().map(move |(at, l)| (at + shift * 77_777, l)));
        cases.push((format!("five flows, {rate}"), flows.collect()));
    }
    // Bursts with silence between them, whose frames look like a loop.
    for (length, period, between) in
        [(30, 90, 1000), (30, 40, 1000), (10, 25, 1000), (12, 33, 500), (40, 60, 300), (8, 20, 100), (60, 120, 1500)]
    {
        let bursts = (0..4000 / period).flat_map(|burst| {
            let begin = 2 * SECOND + burst * period * MILLISECOND;
            (0..length).map(move |n| (begin + n * between * 1000, 98 + 110 * number(n % 12)))
        });
        cases.push((format!("{length} frames every {period} ms"), bursts.collect()));
    }
    for (name, honest) in cases {
        let frames = honest.len();
        let outcome = mirror(honest, None, 7 * SECOND);
        assert!(outcome.raised.is_empty(), "{name}: {outcome:?}");
        assert_eq!((outcome.captured, outcome.refused), (frames, 0), "{name}");
        assert!(outcome.experiments <= 24, "{name}: {outcome:?}");
        assert!(outcome.longest_wait <= LONGEST_PAUSE + 2 * TURN, "{name}: {outcome:?}");
    }
}

#[test]
fn the_alarm_names_the_flow_and_the_filter() {
    let flow =
        Flow { addresses: [[192, 0, 2, 1].into(), [192, 0, 2, 2].into()], protocol: layers::UDP, port: Some(51820) };
    let text = Alarm { overhead: 74, flow: Some(flow) }.to_string();
    assert!(text.contains("about 74 bytes longer"), "{text}");
    assert!(text.ends_with("`not (udp port 51820 and host 192.0.2.2)`"), "{text}");
    assert!(Alarm { overhead: 74, flow: None }.to_string().ends_with("with a filter"));
}

/// Each worker sees the loops of its own flows. Together they mirror what one would.
#[test]
fn r01_throttled_workers_share_the_rate_of_the_session() {
    let pace = Pace::default();
    let mut workers: Vec<Throttle> = (0..4).map(|_| Throttle::new(pace.share(), 1, 0, SECOND)).collect();
    // A thousand frames per second and worker; the turns are not in step.
    let mirrored = |workers: &mut [Throttle], milliseconds: std::ops::Range<u64>| -> Vec<u64> {
        let mut admitted = vec![0; workers.len()];
        for millisecond in milliseconds {
            for (number, (worker, admitted)) in (0..).zip(workers.iter_mut().zip(&mut admitted)) {
                let at = millisecond * MILLISECOND + number;
                if worker.admits(at, 100) {
                    *admitted += 1;
                    let mut sent = Lengths::default();
                    sent.note(136);
                    // Frames are captured while the turn goes on.
                    worker.end_turn(at + (number + 2) * MILLISECOND, &sent);
                }
            }
        }
        admitted
    };
    let admitted = mirrored(&mut workers, 1_000..11_000);
    let sum: u64 = admitted.iter().sum();
    assert!((95..=100).contains(&sum), "{admitted:?}");
    assert!(admitted.iter().all(|&frames| frames > 20), "each has to learn whether its loop has ended: {admitted:?}");
    // A clock that is set back by ten seconds closes none of them.
    let sum: u64 = mirrored(&mut workers, 1_000..3_000).iter().sum();
    assert!((16..=24).contains(&sum), "{sum}");

    workers.truncate(1);
    let alone: u64 = mirrored(&mut workers, 11_000..21_000).iter().sum();
    assert!((98..=101).contains(&alone), "{alone}");
}
