//! `sip-edge ctl`: the admin API from a shell.

mod connection;
mod print;

use connection::Connection;
use serde_json::Value;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

/// Where the edge listens unless told otherwise.
pub const DEFAULT_ADMIN: &str = "http://127.0.0.1:9090";

/// Arguments of `sip-edge ctl`.
#[derive(clap::Args, Clone, Debug)]
pub struct CtlArgs {
    /// The edge's admin API [default: $SIP_EDGE_ADMIN, else http://127.0.0.1:9090]
    #[arg(long, value_name = "URL", global = true)]
    pub admin: Option<String>,
    /// File with the bearer token [default: $SIP_EDGE_TOKEN_FILE; for an edge on this machine also ./admin.token and
    /// /var/lib/sip-edge/admin.token]
    #[arg(long, value_name = "FILE", global = true)]
    pub token_file: Option<PathBuf>,
    /// Print the API's answer as JSON
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: CtlCommand,
}

/// What to do.
#[derive(clap::Subcommand, Clone, Debug)]
pub enum CtlCommand {
    /// Calls under way and recently ended
    Calls {
        /// Only those under way
        #[arg(long, conflicts_with = "ended")]
        active: bool,
        /// Only those that ended
        #[arg(long)]
        ended: bool,
        /// At most so many
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
    /// One call: its legs and its timeline
    Call {
        /// The call's id, or the start of it
        id: String,
    },
    /// The trunks and their load
    Trunks,
    /// Send the caller of a call to another target (not built yet)
    Transfer {
        /// The call's id, or the start of it
        id: String,
        /// A number, tel:, sip: or sips:
        uri: String,
    },
    /// May this address signal as this trunk? Exit status 1 when not
    AllowTest {
        /// The trunk's name
        trunk: String,
        /// An IPv4 or IPv6 address
        ip: IpAddr,
    },
    /// Read the configuration file again; one with an error changes nothing
    Reload,
    /// Have the edge take no new calls, and end with the last one, however long that takes
    Drain,
    /// Events as they happen, until interrupted
    Events {
        /// Only those of this call (whole id)
        #[arg(long)]
        call: Option<String>,
    },
}

/// Why a command failed; the text is for whoever typed it.
#[derive(thiserror::Error, Debug)]
pub enum CtlError {
    #[error(
        "{url} is not reachable: {why}. Is sip-edge running, and is --admin the address in its [admin] section?"
    )]
    Unreachable { url: String, why: String },
    #[error("{0:?} is no URL of an admin API; expected something like {DEFAULT_ADMIN}")]
    BadUrl(String),
    #[error(
        "https is not spoken here: put the edge's admin API on loopback, or reach it through an SSH tunnel"
    )]
    Https,
    #[error("the token file {path}: {why}")]
    TokenFile { path: PathBuf, why: String },
    #[error("{message}. {hint}")]
    Unauthorized { message: String, hint: String },
    /// The API's own words.
    #[error("{message}")]
    Refused { status: u16, message: String },
    #[error("{url} does not answer like sip-edge: {why}")]
    NotSipEdge { url: String, why: String },
    #[error("cannot print: {0}")]
    Output(#[from] io::Error),
}

/// Runs the command. 0: done (`allow-test`: allowed); 1: refused, or not allowed; 2: the edge could not be asked.
pub fn run(args: &CtlArgs) -> ExitCode {
    let mut out = io::stdout().lock();
    match execute(args, &mut out).and_then(|done| out.flush().map(|()| done).map_err(Into::into)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // `ctl calls | head` is no error.
        Err(CtlError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("sip-edge: {error}");
            match error {
                CtlError::Refused { .. } => ExitCode::FAILURE,
                _ => ExitCode::from(2),
            }
        }
    }
}

/// Asks the edge and prints its answer to `out`. `Ok(false)`: the answer is no.
pub fn execute(args: &CtlArgs, out: &mut impl Write) -> Result<bool, CtlError> {
    let connection = Connection::new(args.admin.as_deref(), args.token_file.as_deref())?;
    if let CtlCommand::Events { call } = &args.command {
        return follow(&connection, call.as_deref(), args.json, out);
    }
    let answer = ask(&connection, &args.command)?;
    if args.json {
        serde_json::to_writer_pretty(&mut *out, &answer).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        match &args.command {
            CtlCommand::Calls { .. } => print::calls(out, &answer)?,
            CtlCommand::Call { .. } => print::call(out, &answer)?,
            CtlCommand::Trunks => print::trunks(out, &answer)?,
            CtlCommand::AllowTest { .. } => print::allow_test(out, &answer)?,
            CtlCommand::Reload => print::reload(out, &answer)?,
            CtlCommand::Drain => print::drain(out, &answer)?,
            CtlCommand::Transfer { .. } => writeln!(out, "the transfer has started")?,
            CtlCommand::Events { .. } => {}
        }
    }
    let refused = matches!(args.command, CtlCommand::AllowTest { .. })
        && answer.get("allowed") != Some(&Value::Bool(true));
    Ok(!refused)
}

fn ask(connection: &Connection, command: &CtlCommand) -> Result<Value, CtlError> {
    let segment = connection::path_segment;
    match command {
        CtlCommand::Calls {
            active,
            ended,
            limit,
        } => {
            let state = match (active, ended) {
                (true, _) => "active",
                (_, true) => "ended",
                _ => "all",
            };
            connection.get(&format!("/v1/calls?state={state}&limit={limit}"))
        }
        CtlCommand::Call { id } => connection.get(&format!("/v1/calls/{}", segment(id))),
        CtlCommand::Trunks => connection.get("/v1/trunks"),
        CtlCommand::Transfer { id, uri } => connection.post(
            &format!("/v1/calls/{}/transfer", segment(id)),
            &serde_json::json!({ "target": uri }),
        ),
        CtlCommand::AllowTest { trunk, ip } => {
            connection.get(&format!("/v1/trunks/{}/allow?ip={ip}", segment(trunk)))
        }
        CtlCommand::Reload => connection.post("/v1/reload", &Value::Null),
        CtlCommand::Drain => connection.post("/v1/drain", &Value::Null),
        CtlCommand::Events { .. } => Ok(Value::Null),
    }
}

/// Prints events until the edge or the reader of `out` goes away.
fn follow(
    connection: &Connection,
    call: Option<&str>,
    json: bool,
    out: &mut impl Write,
) -> Result<bool, CtlError> {
    let filter = call.map_or_else(String::new, |c| {
        format!("?call={}", connection::path_segment(c))
    });
    connection.stream(&format!("/v1/events{filter}"), &mut |event| {
        if json {
            writeln!(out, "{event}")?;
        } else {
            print::event(out, &event)?;
        }
        out.flush()
    })?;
    Ok(true)
}
