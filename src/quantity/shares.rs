//! Parts of a whole: of the frames, of a CPU core, of a link.

use std::fmt;
use std::str::FromStr;

use super::{QuantityError, whole_number};

/// Which part of the frames a sample keeps: one in N.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleRate(u32);

impl SampleRate {
    /// Every frame.
    pub const ALL: Self = Self(1);
    /// The largest N.
    const MOST: u32 = 1_000_000;

    /// N: 1 to a million.
    pub const fn one_in(self) -> u32 {
        self.0
    }
}

impl FromStr for SampleRate {
    type Err = QuantityError;
    /// `1/10`.
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        const WHAT: &str = "sample";
        let unreadable = || QuantityError::Unreadable { what: WHAT, text: text.to_owned(), example: "1/10" };
        let (one, number) = text.split_once('/').ok_or_else(unreadable)?;
        let value = whole_number(number).filter(|_| one.trim() == "1").ok_or_else(unreadable)?;
        match u32::try_from(value) {
            Ok(number) if (1..=Self::MOST).contains(&number) => Ok(Self(number)),
            _ => Err(QuantityError::OutOfRange { what: WHAT, value, least: 1, most: Self::MOST.into() }),
        }
    }
}

impl fmt::Display for SampleRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1/{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_one_in_so_many() {
        assert_eq!("1/10".parse::<SampleRate>().map(SampleRate::one_in), Ok(10));
        assert_eq!("1 / 1".parse(), Ok(SampleRate::ALL));
        for wrong in ["", "10", "2/3", "1/0", "1/1000001", "1/x", "1/-1", "/4"] {
            assert!(wrong.parse::<SampleRate>().is_err(), "{wrong}");
        }
    }
}
