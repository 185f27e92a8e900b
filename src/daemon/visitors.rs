//! A door that costs the daemon nothing, whoever stands before it: so many visitors at once, each for so long, and no more
//! than a thousand a second. It takes tasks of the control plane only, and no thread.

use std::io;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::time::{Instant, sleep, timeout};

use crate::rising::Rising;

/// How many visitors are in at once. The next ones wait in the kernel's queue.
const MOST: usize = 32;
/// After each visitor: the control plane has more to do than to open doors.
const BREATH: Duration = Duration::from_millis(1);
/// After a visitor who could not come in, because the process has no descriptor left.
const PAUSE: Duration = Duration::from_millis(100);

/// Lets visitors in for ever. `enter` waits for the next one, `stay` is what is done for him, `limit` how long it may take;
/// `door` is for messages. Ends only by being dropped.
pub(super) async fn receive<V, S: Future<Output = ()>>(
    door: &str,
    enter: impl AsyncFn() -> io::Result<V>,
    limit: Duration,
    stay: impl Fn(V) -> S,
) {
    let mut inside = FuturesUnordered::new();
    let (mut failures, mut trouble) = (0, Rising::default());
    loop {
        let entered = tokio::select! {
            entered = enter(), if inside.len() < MOST => entered,
            Some(_) = inside.next(), if !inside.is_empty() => continue,
        };
        let pause = match entered {
            Ok(visitor) => {
                inside.push(timeout(limit, stay(visitor)));
                BREATH
            }
            Err(error) => {
                failures += 1;
                if let Some(times) = trouble.news(Instant::now().into_std(), failures) {
                    tracing::warn!("{door}: {times} connections could not be taken: {error}");
                }
                PAUSE
            }
        };
        // Those inside go on meanwhile.
        let breath = sleep(pause);
        tokio::pin!(breath);
        loop {
            tokio::select! {
                () = &mut breath => break,
                Some(_) = inside.next(), if !inside.is_empty() => {}
            }
        }
    }
}
