//! `edgecore`: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    edgecore::cli::main()
}
