//! `sip-edge check`: is this configuration good, and what do the peers have to know?

use super::ConfigArgs;
use crate::config::{ConfigError, Diagnostic, PeerAddresses, Settings, load, peer_addresses};
use clap::Args;
use serde::Serialize;
use std::io::{self, Write};
use std::process::ExitCode;

/// Arguments of `sip-edge check`.
#[derive(Args, Debug)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    ok: bool,
    file: &'a std::path::Path,
    diagnostics: &'a [Diagnostic],
    peers: Vec<PeerAddresses>,
}

/// 0: the file may be put in force, perhaps with warnings; 1: it is refused.
pub(super) fn run(args: &CheckArgs) -> ExitCode {
    let judged = load(&args.config.config);
    // A reader that went away (`| head`) changes nothing about the verdict.
    let _ = print(args, &judged, &mut io::stdout().lock());
    match judged {
        Ok(_) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn print(
    args: &CheckArgs,
    judged: &Result<Settings, ConfigError>,
    out: &mut impl Write,
) -> io::Result<()> {
    let diagnostics = match judged {
        Ok(settings) => &settings.warnings,
        Err(error) => &error.diagnostics,
    };
    let peers = judged.as_ref().map(|s| peer_addresses(&s.protocol));
    if args.json {
        let report = Report {
            ok: judged.is_ok(),
            file: &args.config.config,
            diagnostics,
            peers: peers.unwrap_or_default(),
        };
        serde_json::to_writer_pretty(&mut *out, &report)?;
        return writeln!(out);
    }
    for diagnostic in diagnostics {
        writeln!(out, "{diagnostic}")?;
    }
    let file = args.config.config.display();
    let Ok(settings) = judged else {
        return writeln!(out, "{file}: refused");
    };
    let protocol = &settings.protocol;
    writeln!(
        out,
        "{file}: good; {}, {}, {}",
        count(protocol.listeners.len(), "listener"),
        count(protocol.trunks.len(), "trunk"),
        count(protocol.routes.len(), "route"),
    )?;
    print_peers(&peers.unwrap_or_default(), out)
}

fn count(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

fn print_peers(peers: &[PeerAddresses], out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "\nWhat each trunk's peer has to allow (the edge opens connections from the same addresses, from any port):"
    )?;
    for peer in peers {
        writeln!(out, "  {}", peer.trunk)?;
        for address in &peer.signalling {
            writeln!(out, "    signalling  {address}")?;
        }
        for address in &peer.media {
            writeln!(out, "    media       {address}")?;
        }
        if peer.signalling.is_empty() || peer.media.is_empty() {
            writeln!(
                out,
                "    nothing of this edge's addresses fits its network and listeners"
            )?;
        }
    }
    Ok(())
}
