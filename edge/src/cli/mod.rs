//! The command line: what can be asked, and who answers.

mod check;
mod completions;
mod explain;
mod log;

use crate::admin::client::{self, CtlArgs};
use crate::cdr::verify::{self, VerifyArgs};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// A SIP edge for voice carriers: bridges callers to AI agents and transfers them to people by REFER.
#[derive(Parser, Debug)]
#[command(name = "sip-edge", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the edge in the foreground; SIGHUP reloads, SIGTERM drains and ends, a second SIGTERM ends the calls that are left
    Run(RunArgs),
    /// Check a configuration file; tells what each trunk's peer has to put on its own allowlist
    Check(check::CheckArgs),
    /// Say what the edge would decide, and why, without doing it
    #[command(subcommand)]
    Explain(ExplainCommand),
    /// Ask or tell a running edge
    Ctl(CtlArgs),
    /// Work with call detail records
    #[command(subcommand)]
    Cdr(CdrCommand),
    /// Print completions for a shell
    #[command(hide = true)]
    Completions(completions::CompletionsArgs),
}

#[derive(Subcommand, Debug)]
enum ExplainCommand {
    /// Would a REFER from this trunk be accepted? Exit status: 0 yes, 1 no, 2 the question makes no sense
    Refer(explain::ReferArgs),
}

#[derive(Subcommand, Debug)]
enum CdrCommand {
    /// Check CDR files: does every line parse, and do the lines of a call tell all of it?
    Verify(VerifyArgs),
}

/// Arguments of `sip-edge run`.
#[derive(Args, Debug)]
struct RunArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    log: log::LogArgs,
}

/// Which configuration file.
#[derive(Args, Debug)]
struct ConfigArgs {
    /// The configuration file
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/sip-edge/sip-edge.toml"
    )]
    config: PathBuf,
}

impl Cli {
    /// Does what was asked.
    pub fn run(self) -> ExitCode {
        match self.command {
            Command::Run(args) => run(&args),
            Command::Check(args) => check::run(&args),
            Command::Explain(ExplainCommand::Refer(args)) => explain::run(&args),
            Command::Ctl(args) => client::run(&args),
            Command::Cdr(CdrCommand::Verify(args)) => verify::run(&args),
            Command::Completions(args) => completions::run(&args),
        }
    }
}

/// 0: it was told to end; 1: the configuration is refused, or the edge could not start or go on.
fn run(args: &RunArgs) -> ExitCode {
    let settings = match crate::config::load(&args.config.config) {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let _log = match args.log.install() {
        Ok(log) => log,
        Err(fault) => {
            eprintln!("sip-edge: {fault}");
            return ExitCode::FAILURE;
        }
    };
    match crate::supervisor::run(settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}
