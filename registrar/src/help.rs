//! Completions and manual pages, drawn up from the definition of the command line.

use std::io;

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::cli::Cli;

/// The script that has `shell` complete commands and options.
#[must_use]
pub fn completions(shell: Shell) -> Vec<u8> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "registrar", &mut text);
    text
}

/// The manual page of the whole, or of one of its commands; `None` if there is no such command.
pub fn manual(of: Option<&str>) -> io::Result<Option<Vec<u8>>> {
    let mut whole = Cli::command();
    whole.build();
    let page = match of {
        None => Some(whole),
        Some(of) => whole.find_subcommand(of).cloned(),
    };
    let Some(page) = page else { return Ok(None) };
    let mut text = Vec::new();
    clap_mangen::Man::new(page).render(&mut text)?;
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_and_every_shell_its_script() {
        for of in [None, Some("run"), Some("probe")] {
            let page = String::from_utf8(manual(of).unwrap().unwrap()).unwrap();
            assert!(page.contains(".TH registrar") && page.contains("\n.SH"), "{of:?}: {page}");
        }
        assert_eq!(manual(Some("nothing")).unwrap(), None);
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = String::from_utf8(completions(shell)).unwrap();
            assert!(script.contains("registrar") && script.contains("etcd-endpoints"), "{shell}");
        }
    }
}
