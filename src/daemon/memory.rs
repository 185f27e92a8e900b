//! How the capture buffers of all sessions share the memory that they may have together.

/// What each of `wanted` bytes gets of `total`: all of it where that is no more than an equal share, so that modest
/// sessions are served first, and none less than its `least`.
pub(super) fn shares(total: u64, wanted: &[(u64, u64)]) -> Vec<u64> {
    let mut left = total;
    let mut shares = vec![0; wanted.len()];
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by_key(|&at| wanted[at].0);
    for (served, &at) in order.iter().enumerate() {
        let (wanted, least) = wanted[at];
        let equal = left / u64::try_from(shares.len() - served).unwrap_or(1).max(1);
        shares[at] = wanted.min(equal).max(least);
        left = left.saturating_sub(shares[at]);
    }
    shares
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn who_asks_for_little_gets_it_and_the_others_share_the_rest() {
        assert_eq!(shares(100, &[(24, 1), (24, 1)]), [24, 24]);
        assert_eq!(shares(100, &[(90, 1), (10, 1), (80, 1)]), [45, 10, 45]);
        assert_eq!(shares(2, &[(24, 1), (24, 1), (24, 1)]), [1, 1, 1], "nobody gets less than works");
        assert_eq!(shares(100, &[(0, 0), (200, 1)]), [0, 100]);
        assert!(shares(100, &[]).is_empty());
    }

    proptest! {
        #[test]
        fn the_total_is_kept_where_it_suffices(total in 100..10_000_u64, wanted in proptest::collection::vec(1..5_000_u64, 1..50)) {
            let wanted: Vec<_> = wanted.into_iter().map(|wanted| (wanted, 1)).collect();
            let shares = shares(total, &wanted);
            prop_assert!(shares.iter().sum::<u64>() <= total);
            prop_assert!(shares.iter().zip(&wanted).all(|(share, (wanted, _))| share <= wanted));
            let asked: u64 = wanted.iter().map(|(wanted, _)| wanted).sum();
            if asked <= total {
                prop_assert_eq!(shares.iter().sum::<u64>(), asked);
            }
        }
    }
}
