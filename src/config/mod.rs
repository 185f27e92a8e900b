//! From words to a plan: what was written, layer over layer, becomes what is meant, or a list of every mistake.

pub mod defaults;
pub mod plan;

/// Whether `name` matches `pattern`: `*`, `?` and `[…]` as in a shell.
pub fn matches(pattern: &str, name: &str) -> bool {
    glob::Pattern::new(pattern).is_ok_and(|pattern| pattern.matches(name))
}
