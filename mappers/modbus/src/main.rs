//! The Modbus mapper. See the library for everything.

fn main() -> std::process::ExitCode {
    mapper_sdk::main(mapper_modbus::Modbus, mapper_sdk::about!())
}
