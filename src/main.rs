//! The `farspan` program: arguments → one command → exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    farspan::cli::run().into()
}
