//! Pre-flight: what would happen, in words, before anything is sent.
