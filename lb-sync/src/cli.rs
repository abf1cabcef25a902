//! The command line: which commands there are.

use clap::{Parser, Subcommand};
use clap_complete::Shell;

use crate::command::{ExplainOptions, LookOptions};
use crate::options::{ProbeOptions, RunOptions};

/// Makes HAProxy follow the registry, over its runtime socket and without a reload.
#[derive(Debug, Parser)]
#[command(name = "lb-sync", version, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Verb,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Follow the registry until told to stop (TERM or INT). HAProxy is left as it is then.
    Run(RunOptions),
    /// Say what would be done now, and why, without doing it. Exits with 0 if that is nothing, with 2 if it is something.
    Plan(LookOptions),
    /// See whether all is in place that `run` needs: options, etcd, HAProxy, permissions. Exits with 1 if anything failed.
    Check(LookOptions),
    /// Say all that is known of one instance, and why it gets traffic or not. Exits with 1 if it is not known.
    Explain(ExplainOptions),
    /// Ask a running lb-sync for its health; exits as `grpc_health_probe` does (0 serving, 1 bad arguments, 2 cannot
    /// connect, 3 no answer, 4 not serving).
    Probe(ProbeOptions),
    /// Print the script that completes commands and options in a shell.
    Completions {
        /// Which shell.
        shell: Shell,
    },
    /// Print a manual page, for `man -l -`.
    Man {
        /// Of this command; of the whole without.
        command: Option<String>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_manual_page_and_every_shell_its_script() {
        for of in [None, Some("run"), Some("probe")] {
            let page = String::from_utf8(daemon::help::manual::<Cli>(of).unwrap().unwrap()).unwrap();
            assert!(page.contains(".TH lb-sync") && page.contains("\n.SH"), "{of:?}: {page}");
        }
        assert_eq!(daemon::help::manual::<Cli>(Some("nothing")).unwrap(), None);
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = String::from_utf8(daemon::help::completions::<Cli>(shell, "lb-sync")).unwrap();
            assert!(script.contains("lb-sync") && script.contains("etcd-endpoints"), "{shell}");
        }
    }
}
