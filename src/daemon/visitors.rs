//! A door that costs the daemon nothing, whoever stands before it: so many visitors at once, each for so long, and no more
//! than a few thousand a second. It takes tasks of the control plane only, and no thread.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::repeated::Rising;

/// How many visitors are in at once. Where more come, that one goes who has been there longest: somebody who only stands in
/// the way must not keep others out, and at the rate at which they come in an honest one has time enough.
const MOST: usize = 64;
/// How many may come in without a pause: whoever waits in the kernel's queue must not be outrun there by a flood.
const IN_A_ROW: u32 = 8;
/// After so many visitors: the control plane has more to do than to open doors.
const BREATH: Duration = Duration::from_millis(1);
/// After a visitor who could not come in, because the process has no descriptor left.
const PAUSE: Duration = Duration::from_millis(100);

/// Lets visitors in for ever. `enter` waits for the next one, `stay` is what is done for him, `limit` how long it may take;
/// `door` is for messages. Ends only by being dropped, and with it all that are inside.
pub(super) async fn receive<V, E, S>(door: &str, enter: impl Fn() -> E, limit: Duration, stay: impl Fn(V) -> S)
where
    E: Future<Output = io::Result<V>>,
    S: Future<Output = ()> + Send + 'static,
{
    let mut inside = JoinSet::new();
    let mut by_age: VecDeque<AbortHandle> = VecDeque::with_capacity(MOST);
    let (mut failures, mut trouble) = (0, Rising::default());
    let mut in_a_row = 0;
    loop {
        let pause = match enter().await {
            Ok(visitor) => {
                while inside.try_join_next().is_some() {}
                by_age.retain(|handle| !handle.is_finished());
                if by_age.len() >= MOST
                    && let Some(longest) = by_age.pop_front()
                {
                    longest.abort();
                }
                // Who is still there then is shown out.
                by_age.push_back(inside.spawn(timeout(limit, stay(visitor))));
                in_a_row += 1;
                if in_a_row < IN_A_ROW {
                    continue;
                }
                in_a_row = 0;
                BREATH
            }
            Err(error) => {
                failures += 1;
                if let Some(times) = trouble.news(Instant::now(), failures) {
                    tracing::warn!("{door}: {times} connections could not be taken: {error}");
                }
                PAUSE
            }
        };
        sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Counts the visitors that are inside.
    struct Inside(Arc<AtomicUsize>);

    impl Drop for Inside {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn who_stands_in_the_way_goes_when_others_come_and_all_go_in_the_end() {
        let (counted, coming) = (Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0));
        let served = Arc::new(AtomicUsize::new(0));
        let enter = || {
            let number = coming.fetch_add(1, Ordering::Relaxed);
            async move { if number < 3 * MOST { Ok(number) } else { pending().await } }
        };
        let stay = |number: usize| {
            counted.fetch_add(1, Ordering::Relaxed);
            let (inside, served) = (Inside(Arc::clone(&counted)), Arc::clone(&served));
            async move {
                if number.is_multiple_of(7) {
                    served.fetch_add(1, Ordering::Relaxed);
                } else {
                    pending::<()>().await;
                }
                drop(inside);
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let open = receive("a test", enter, Duration::from_hours(1), stay);
            let all_came = async {
                while coming.load(Ordering::Relaxed) <= 3 * MOST {
                    sleep(BREATH).await;
                }
            };
            tokio::select! { () = open => (), () = all_came => () }
        });
        assert_eq!(served.load(Ordering::Relaxed), (3 * MOST).div_ceil(7), "an honest one is never kept out");
        drop(runtime);
        assert_eq!(counted.load(Ordering::Relaxed), 0);
    }
}
