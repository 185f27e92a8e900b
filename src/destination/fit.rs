//! Frames that are larger than the path MTU allows.
