//! The mark of a socket: `SO_MARK` of socket(7), which the kernel copies into every packet that the socket sends.

use std::fmt;
use std::str::FromStr;

use super::QuantityError;

/// A socket mark and the bits of it that are compared. Firewalls and container networks keep bits of their own in the
/// marks of packets, so that a packet may come with more bits than its socket gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketMark {
    value: u32,
    mask: u32,
}

impl SocketMark {
    /// What farspan's tunnels carry unless the configuration names another mark.
    pub const DEFAULT: Self = Self { value: 0xfa50_0000, mask: 0xfff0_0000 };

    /// The mark that sockets set. It is not 0, and has no bit outside the mask.
    pub const fn value(self) -> u32 {
        self.value
    }

    /// The bits that are compared.
    pub const fn mask(self) -> u32 {
        self.mask
    }
}

impl FromStr for SocketMark {
    type Err = QuantityError;
    /// `VALUE/MASK` or `VALUE`, of which all bits are compared; each is decimal, or hexadecimal behind `0x`.
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let (value, mask) = text.split_once('/').unwrap_or((text, "0xffffffff"));
        match (word(value), word(mask)) {
            (Some(value), Some(mask)) if value != 0 && value & !mask == 0 => Ok(Self { value, mask }),
            _ => Err(QuantityError::Unreadable {
                what: "socket mark",
                text: text.to_owned(),
                example: "VALUE/MASK, two numbers of 32 bits such as 0xfa500000/0xfff00000, where VALUE is not 0 and has \
                          no bit outside MASK, or off",
            }),
        }
    }
}

impl fmt::Display for SocketMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}/{:#x}", self.value, self.mask)
    }
}

fn word(text: &str) -> Option<u32> {
    let text = text.trim();
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        // Both take a sign, too.
        Some(digits) => u32::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+')),
        None => text.parse().ok().filter(|_| !text.starts_with('+')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_a_value_within_its_mask() {
        for (text, value, mask) in [
            ("0xfa500000/0xfff00000", 0xfa50_0000, 0xfff0_0000),
            ("7", 7, u32::MAX),
            (" 16 / 0xF0 ", 16, 0xf0),
            ("4294967295", u32::MAX, u32::MAX),
        ] {
            let mark: SocketMark = text.parse().unwrap();
            assert_eq!((mark.value(), mark.mask()), (value, mask), "{text}");
            assert_eq!(mark.to_string().parse(), Ok(mark));
        }
        for text in ["", "0", "0/0", "1/0", "3/2", "0x", "-1", "+1", "0x+1", "4294967296", "1/2/3", "on", "0xfa500000/"]
        {
            let refused = text.parse::<SocketMark>().unwrap_err().to_string();
            assert!(refused.contains("is not a socket mark") && refused.contains("0xfa500000/0xfff00000"), "{refused}");
        }
        assert_eq!(SocketMark::DEFAULT.to_string(), "0xfa500000/0xfff00000");
    }
}
