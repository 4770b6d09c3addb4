//! The virtual mapper. See the library for everything.

fn main() -> std::process::ExitCode {
    mapper_sdk::main(mapper_virtual::Virtual, mapper_sdk::about!())
}
