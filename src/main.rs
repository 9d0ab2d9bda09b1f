//! The program: hands its arguments to [`forge::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    forge::cli::main()
}
