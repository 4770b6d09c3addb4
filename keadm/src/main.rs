//! `keadm`: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    keadm::cli::main()
}
