//! `cargo xtask`: everything about this project that is not the program itself.

use std::process::ExitCode;

fn main() -> ExitCode {
    xtask::cli::main()
}
