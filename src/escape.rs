//! Text that others choose, as a terminal or a log may show it.
//!
//! Names of interfaces, files, namespaces and sessions come from containers, tenants and senders. A terminal carries out the
//! control characters in them (ECMA-48), and a line feed in a name makes a line of a log that nobody wrote.

use std::borrow::Cow;
use std::fmt::Write as _;

/// `text` in one line without anything that a terminal carries out: control characters become `\x1b`, and what changes the
/// direction of text or is invisible becomes `\u{202e}`.
pub fn in_one_line(text: &str) -> Cow<'_, str> {
    escaped(text, is_active, |character, out| match u32::from(character) {
        code @ 0..=0xff => write!(out, "\\x{code:02x}"),
        code => write!(out, "\\u{{{code:x}}}"),
    })
}

/// The same for text of several lines: its line feeds and tabs are left alone.
pub fn in_lines(text: &str) -> Cow<'_, str> {
    let is_refused = |character| is_active(character) && !matches!(character, '\n' | '\t');
    escaped(text, is_refused, |character, out| match u32::from(character) {
        code @ 0..=0xff => write!(out, "\\x{code:02x}"),
        code => write!(out, "\\u{{{code:x}}}"),
    })
}

/// JSON that is shown as it is: what a terminal would carry out can only stand inside its strings, where JSON has an escape for
/// it (RFC 8259, section 7).
pub fn in_json(json: &str) -> Cow<'_, str> {
    let is_refused = |character| is_active(character) && !matches!(character, '\n' | '\t' | '\r');
    escaped(json, is_refused, |character, out| {
        character.encode_utf16(&mut [0; 2]).iter().try_for_each(|unit| write!(out, "\\u{unit:04x}"))
    })
}

fn escaped(
    text: &str,
    is_refused: impl Fn(char) -> bool,
    write: impl Fn(char, &mut String) -> std::fmt::Result,
) -> Cow<'_, str> {
    if !text.contains(&is_refused) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_refused(character) {
            // Writing into a String cannot fail.
            let _ = write(character, &mut out);
        } else {
            out.push(character);
        }
    }
    Cow::Owned(out)
}

/// Whether a terminal carries `character` out, or shows other text because of it: control characters (C0, DEL, C1), line and
/// paragraph separators, marks of the direction of text (UAX #9), and characters that show nothing.
fn is_active(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_carry_out_is_shown() {
        assert_eq!(in_one_line("hx\x1b]0;P\x07"), r"hx\x1b]0;P\x07");
        assert_eq!(in_one_line("a\nb\tc\u{9b}2J\u{7f}\u{202e}d"), r"a\x0ab\x09c\x9b2J\x7f\u{202e}d");
        assert_eq!(in_lines("a\n\tb\x1b[1m\r"), "a\n\tb\\x1b[1m\\x0d");
        assert!(matches!(in_one_line("eth0 — größe 大"), Cow::Borrowed(_)), "letters of all languages are left alone");
    }

    proptest::proptest! {
        #[test]
        fn json_means_the_same_and_holds_nothing_active(text in "\\PC*|[\\x00-\\u{ff}\\u{2000}-\\u{2070}\\u{e0000}-\\u{e0080}]*") {
            let json = serde_json::to_string(&text).unwrap();
            let shown = in_json(&json);
            proptest::prop_assert!(!shown.contains(is_active), "{shown:?}");
            proptest::prop_assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), text);
        }

        #[test]
        fn nothing_active_is_left(text in "[\\x00-\\u{ff}\\u{2000}-\\u{2070}]*") {
            proptest::prop_assert!(!in_one_line(&text).contains(is_active));
        }
    }
}
