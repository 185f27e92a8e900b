//! Parts of a whole: of the frames, of a CPU core, of a link, of the time.

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

/// CPU time in parts of one core's: what is used of it, or may be. 1000 is a core all the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CpuShare(u32);

impl CpuShare {
    /// As many cores as Linux can have.
    const MOST: u32 = 8192 * 1000;

    /// How many cores: 0.2 is 20 % of one.
    pub fn cores(self) -> f64 {
        f64::from(self.0) / 1000.0
    }
}

impl FromStr for CpuShare {
    type Err = QuantityError;
    /// `20%`, `20 % of a core`, `150%`: a hundred percent is one core.
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        const WHAT: &str = "CPU share";
        let number = text.trim().strip_suffix("of a core").unwrap_or(text);
        match permille(number) {
            Some(share) if (1..=Self::MOST).contains(&share) => Ok(Self(share)),
            _ => Err(QuantityError::Unreadable { what: WHAT, text: text.to_owned(), example: "20% of a core" }),
        }
    }
}

impl fmt::Display for CpuShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} % of a core", f64::from(self.0) / 10.0)
    }
}

/// A part of a whole, such as of a link's speed or of the time, more than nothing and at most all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u32);

impl Share {
    /// As a fraction of 1.
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / 1000.0
    }
}

impl FromStr for Share {
    type Err = QuantityError;
    /// `90%`.
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        match permille(text) {
            Some(share) if (1..=1000).contains(&share) => Ok(Self(share)),
            _ => Err(QuantityError::Unreadable { what: "share", text: text.to_owned(), example: "90%" }),
        }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", f64::from(self.0) / 10.0)
    }
}

/// Percent with at most one decimal, in thousandths.
fn permille(text: &str) -> Option<u32> {
    let number = text.trim().strip_suffix('%')?.trim();
    let (whole, tenths) = number.split_once('.').unwrap_or((number, "0"));
    let digit = |text: &str| (text.len() == 1).then(|| text.parse::<u32>().ok()).flatten();
    let is_number = !whole.is_empty() && whole.bytes().all(|byte| byte.is_ascii_digit());
    let whole = is_number.then(|| whole.parse::<u32>().ok()).flatten()?;
    whole.checked_mul(10)?.checked_add(digit(tenths)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_percent() {
        for text in ["20%", "20 %", "20% of a core", " 20 % of a core", "20.0%"] {
            assert_eq!(text.parse(), Ok(CpuShare(200)), "{text}");
        }
        assert_eq!("150%".parse::<CpuShare>().map(CpuShare::cores), Ok(1.5));
        assert_eq!("12.5%".parse::<Share>().map(|share| share.to_string()), Ok("12.5 %".into()));
        assert_eq!("20%".parse::<CpuShare>().unwrap().to_string(), "20 % of a core");
        for wrong in ["", "20", "%", "-1%", "0%", "1.25%", "x%", "20% of", "9999999999%", "+5%", "1.-%"] {
            assert!(wrong.parse::<CpuShare>().is_err() && wrong.parse::<Share>().is_err(), "{wrong}");
        }
        assert!("101%".parse::<Share>().is_err());
    }

    #[test]
    fn a_sample_is_one_in_so_many() {
        assert_eq!("1/10".parse::<SampleRate>().map(SampleRate::one_in), Ok(10));
        assert_eq!("1 / 1".parse(), Ok(SampleRate::ALL));
        for wrong in ["", "10", "2/3", "1/0", "1/1000001", "1/x", "1/-1", "/4"] {
            assert!(wrong.parse::<SampleRate>().is_err(), "{wrong}");
        }
    }
}
