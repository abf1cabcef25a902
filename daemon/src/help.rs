//! Completions and manual pages, made from the definition of the command line.

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::{exit, output};

/// The script that has `shell` complete commands and options of the program `name`.
#[must_use]
pub fn completions<C: CommandFactory>(shell: Shell, name: &str) -> Vec<u8> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut C::command(), name, &mut text);
    text
}

/// The manual page of the program, or of one of its commands; `None` if there is no such command.
pub fn manual<C: CommandFactory>(of: Option<&str>) -> io::Result<Option<Vec<u8>>> {
    let mut program = C::command();
    program.build();
    let page = match of {
        None => Some(program),
        Some(of) => program.find_subcommand(of).cloned(),
    };
    let Some(page) = page else { return Ok(None) };
    let mut text = Vec::new();
    clap_mangen::Man::new(page).render(&mut text)?;
    Ok(Some(text))
}

/// Prints the script for `shell`.
#[must_use]
pub fn print_completions<C: CommandFactory>(shell: Shell, name: &str) -> ExitCode {
    let _ = io::stdout().write_all(&completions::<C>(shell, name));
    ExitCode::SUCCESS
}

/// Prints the manual page of the program `name`, or of its command `of`.
#[must_use]
pub fn print_manual<C: CommandFactory>(of: Option<&str>, name: &str) -> ExitCode {
    match manual::<C>(of) {
        Ok(Some(page)) => {
            let _ = io::stdout().write_all(&page);
            ExitCode::SUCCESS
        }
        Ok(None) => {
            output::failed(exit::USAGE, &format!("there is no such command; {name} --help lists them"))
        }
        Err(error) => output::failed(exit::FAILED, &error),
    }
}
