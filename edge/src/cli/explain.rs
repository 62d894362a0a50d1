//! `sip-edge explain refer`: the policy's verdict on a REFER that nobody sent, step by step.

use super::ConfigArgs;
use crate::config::load;
use clap::Args;
use edge_proto::call::policy::{
    CopiedHeaders, DryRun, HeaderSources, ReferStep, ReferVerdict, Target, copy_headers,
    evaluate_fallback,
};
use edge_proto::config::{Config, Trunk};
use serde::Serialize;
use std::io::{self, Write};
use std::net::IpAddr;
use std::process::ExitCode;

/// Arguments of `sip-edge explain refer`.
#[derive(Args, Debug)]
pub(super) struct ReferArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The trunk that sends the REFER
    #[arg(long, value_name = "NAME")]
    trunk: String,
    /// The target: +1234567890, tel:, sip: or sips:
    #[arg(long, value_name = "URI")]
    refer_to: String,
    /// The address that the REFER comes from [default: one that the trunk lists]
    #[arg(long, value_name = "IP")]
    source: Option<IpAddr>,
    /// Transfers that the call already had
    #[arg(long, value_name = "N", default_value_t = 0)]
    transfers_done: u32,
    /// A header of the REFER, to see whether it would be copied; may be repeated
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

fn header(text: &str) -> Result<(String, String), String> {
    let split = text.split_once(':');
    let (name, value) = split.ok_or("expected NAME: VALUE")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

/// The answer, as `--json` prints it.
#[derive(Serialize, Debug, PartialEq)]
struct Explanation {
    trunk: String,
    refer_to: String,
    accepted: bool,
    /// Of the response to the REFER.
    status: u16,
    cause: Option<&'static str>,
    steps: Vec<Step>,
    #[serde(skip_serializing_if = "Option::is_none")]
    call: Option<NewCall>,
}

/// One check.
#[derive(Serialize, Debug, PartialEq)]
struct Step {
    question: &'static str,
    /// `yes`, `no`, or `not asked` behind a `no`.
    answer: &'static str,
    /// The answer was supposed: nothing in the question decides it.
    supposed: bool,
    detail: String,
}

/// What the edge would do after its 202.
#[derive(Serialize, Debug, PartialEq)]
struct NewCall {
    trunk: String,
    /// Request-URIs in the order they are tried.
    request_uris: Vec<String>,
    /// Shown when the target challenges.
    username: Option<String>,
    copied: Vec<(String, String)>,
    dropped: Vec<(String, String)>,
    ring_timeout_s: u64,
    /// Tried in order when the target fails: the target and the trunk that calls it.
    fallback: Vec<(String, String)>,
}

/// 0: it would be accepted; 1: refused; 2: there is no such trunk, or the configuration is refused.
pub(super) fn run(args: &ReferArgs) -> ExitCode {
    let settings = match load(&args.config.config) {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    let config = &settings.protocol;
    let Some(trunk) = config.trunk_named(&args.trunk) else {
        let names: Vec<_> = config.trunks.iter().map(|t| &*t.name).collect();
        eprintln!(
            "sip-edge: there is no trunk {:?}; expected one of {}",
            args.trunk,
            names.join(", ")
        );
        return ExitCode::from(2);
    };
    let explanation = explain(config, trunk, args);
    // A reader that went away (`| head`) changes nothing about the verdict.
    let _ = print(&explanation, args.json, &mut io::stdout().lock());
    if explanation.accepted {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn explain(config: &Config, trunk: &Trunk, args: &ReferArgs) -> Explanation {
    let question = DryRun {
        transferor: trunk,
        refer_to: &args.refer_to,
        source: args.source,
        transfers_done: args.transfers_done,
    };
    let verdict = question.judge(config);
    let (status, cause, call) = match &verdict.result {
        Ok(target) => (202, None, Some(new_call(config, trunk, target, args))),
        Err(refusal) => (refusal.status, Some(refusal.cause.as_str()), None),
    };
    Explanation {
        trunk: trunk.name.to_string(),
        refer_to: args.refer_to.clone(),
        accepted: verdict.result.is_ok(),
        status,
        cause,
        steps: steps(&verdict, &question),
        call,
    }
}

fn steps(verdict: &ReferVerdict, question: &DryRun<'_>) -> Vec<Step> {
    let explain = |step: ReferStep| {
        let result = verdict.steps.iter().find(|result| result.step == step);
        Step {
            question: step.question(),
            answer: match result {
                Some(result) if result.passed => "yes",
                Some(_) => "no",
                None => "not asked",
            },
            supposed: question.supposes(step) && result.is_some(),
            detail: result
                .map(|result| result.detail.clone())
                .unwrap_or_default(),
        }
    };
    ReferStep::ALL.into_iter().map(explain).collect()
}

fn new_call(config: &Config, transferor: &Trunk, target: &Target, args: &ReferArgs) -> NewCall {
    let trunk = &target.trunk;
    let present = trunk.present.as_ref().or(transferor.present.as_ref());
    let policy = transferor.transfer.clone().unwrap_or_default();
    let headers: Vec<_> = args
        .headers
        .iter()
        .map(|(n, v)| (n.as_str(), v.as_str()))
        .collect();
    let CopiedHeaders {
        copied,
        own,
        dropped,
    } = copy_headers(
        &policy,
        HeaderSources {
            refer: &headers,
            embedded: &target.embedded,
            trunk: &trunk.headers,
        },
    );
    let fallback = policy.fallback.iter().map(|uri| {
        let resolved = evaluate_fallback(config, transferor, uri);
        let via = resolved.map_or_else(|refusal| refusal.detail, |t| t.trunk.name.to_string());
        (uri.clone(), via)
    });
    NewCall {
        trunk: trunk.name.to_string(),
        request_uris: request_uris(trunk, &target.user),
        username: present.map(|present| present.username.clone()),
        copied: copied.into_iter().chain(own).collect(),
        dropped: dropped.into_iter().map(|d| (d.name, d.rule)).collect(),
        ring_timeout_s: policy.ring_timeout.as_secs(),
        fallback: fallback.collect(),
    }
}

fn request_uris(trunk: &Trunk, user: &str) -> Vec<String> {
    let uri = |uri: &edge_proto::config::TrunkUri| {
        let scheme = if uri.sips { "sips" } else { "sip" };
        let host = if uri.host.contains(':') {
            format!("[{}]", uri.host)
        } else {
            uri.host.clone()
        };
        let port = uri.port.map_or_else(String::new, |port| format!(":{port}"));
        let transport = uri.transport.uri_name();
        format!("{scheme}:{user}@{host}{port};transport={transport}")
    };
    trunk.uris.iter().map(uri).collect()
}

fn print(explanation: &Explanation, json: bool, out: &mut impl Write) -> io::Result<()> {
    if json {
        serde_json::to_writer_pretty(&mut *out, explanation)?;
        return writeln!(out);
    }
    writeln!(
        out,
        "REFER from trunk \"{}\" to {}\n",
        explanation.trunk, explanation.refer_to
    )?;
    for step in &explanation.steps {
        let supposed = if step.supposed { " (supposed)" } else { "" };
        let gap = if step.detail.is_empty() { "" } else { " " };
        writeln!(
            out,
            "  {:<9}  {}?{supposed}{gap}{}",
            step.answer, step.question, step.detail
        )?;
    }
    match (&explanation.call, explanation.cause) {
        (Some(call), _) => print_call(call, out),
        (None, cause) => {
            let cause = cause.unwrap_or_default();
            writeln!(out, "\nRefused: {} {cause}", explanation.status)
        }
    }
}

fn print_call(call: &NewCall, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "\nAccepted: 202. Then trunk \"{}\" sends", call.trunk)?;
    for uri in &call.request_uris {
        writeln!(out, "  INVITE {uri}")?;
    }
    match &call.username {
        Some(username) => writeln!(out, "  and answers a challenge as \"{username}\"")?,
        None => writeln!(out, "  and has no credentials to answer a challenge with")?,
    }
    for (name, value) in &call.copied {
        writeln!(out, "  with {name}: {value}")?;
    }
    for (name, rule) in &call.dropped {
        writeln!(out, "  without {name} ({rule})")?;
    }
    writeln!(
        out,
        "  and gives up after {} s of ringing",
        call.ring_timeout_s
    )?;
    for (uri, trunk) in &call.fallback {
        writeln!(out, "  if that fails, calls {uri} over trunk \"{trunk}\"")?;
    }
    Ok(())
}
