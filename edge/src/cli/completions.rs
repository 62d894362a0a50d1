//! `sip-edge completions`: for the packages, which install what it prints.

use clap::CommandFactory;
use clap_complete::Shell;
use std::process::ExitCode;

/// Arguments of `sip-edge completions`.
#[derive(clap::Args, Debug)]
pub(super) struct CompletionsArgs {
    /// For which shell
    shell: Shell,
}

/// Prints the completions to standard output.
pub(super) fn run(args: &CompletionsArgs) -> ExitCode {
    let mut command = super::Cli::command();
    clap_complete::generate(args.shell, &mut command, "sip-edge", &mut std::io::stdout());
    ExitCode::SUCCESS
}
