//! What a developer and CI run: `cargo xtask demo`, `cargo xtask test`, `cargo xtask bench NAME`.

mod bench;
mod cargo;
mod demo;
mod deny;
mod nextest;
mod rules;
mod say;
mod stages;
mod test;
mod tools;

use clap::Parser;

/// What a developer and CI run.
#[derive(Parser)]
#[command(name = "cargo xtask")]
enum Command {
    Demo(demo::DemoArgs),
    Test(test::TestArgs),
    Bench(bench::BenchArgs),
}

fn main() -> std::process::ExitCode {
    let result = match Command::parse() {
        Command::Demo(args) => demo::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Bench(args) => bench::run(&args),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            say::problem(format_args!("{error:#}"));
            std::process::ExitCode::FAILURE
        }
    }
}
