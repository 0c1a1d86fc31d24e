//! Parses the command line, runs it, and says what went wrong: message, causes, hint and exit code.

use std::error::Error as _;
use std::process::ExitCode;

use clap::Parser;
use scaledown::cli::{self, Cli};
use scaledown::error::Error;
use scaledown::run::{alloc, interrupt};

#[global_allocator]
static ALLOCATOR: alloc::Counting = alloc::Counting;

fn main() -> ExitCode {
    alloc::one_candle_thread();
    alloc::keep_freed_memory();
    alloc::join_thread_pool();
    let cli = Cli::parse();
    match interrupt::install().and_then(|()| cli::run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

/// `error: …`, the causes that the message does not already tell, and the hint.
fn print(error: &Error) {
    let mut told = error.to_string();
    eprintln!("error: {told}");
    let mut cause = error.source();
    while let Some(next) = cause {
        let text = next.to_string();
        if !told.contains(&text) {
            eprintln!("  caused by: {text}");
            told.push_str(&text);
        }
        cause = next.source();
    }
    if let Some(hint) = error.hint() {
        eprintln!("\nhint: {hint}");
    }
}
