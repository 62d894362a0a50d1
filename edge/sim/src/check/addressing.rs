//! The edge talks only to whom its configuration names: connections go to addresses that a trunk lists or its `uri` leads to,
//! INVITEs name a trunk's host, and every message of a leg goes to that leg's side.

use super::{Checker, Facts, Seen};
use crate::scenario::Side;
use crate::wire::{Sip, host_of};
use edge_proto::b2bua::Output;
use edge_proto::config::{Config, Transport};
use edge_proto::id::ConnectionId;
use std::net::SocketAddr;

#[derive(Default)]
pub struct Addressing;

impl Checker for Addressing {
    fn name(&self) -> &'static str {
        "addressing"
    }

    fn see(&mut self, facts: &Facts<'_>, seen: &Seen<'_>, faults: &mut Vec<String>) {
        match seen {
            Seen::Output(
                _,
                Output::Connect {
                    remote,
                    transport,
                    tls,
                    ..
                },
            ) => {
                if !facts.configs().any(|config| names(facts, config, *remote)) {
                    faults.push(format!("a connection to {remote}, which no trunk names"));
                }
                if (*transport == Transport::Tls) != tls.is_some() {
                    faults.push(format!("{transport:?} to {remote} with TLS target {tls:?}"));
                }
            }
            Seen::Sent { conn, to, sip } => check_sent(facts, *conn, *to, sip, faults),
            _ => {}
        }
    }
}

/// Whether a trunk lists the address, or its `uri` leads there.
fn names(facts: &Facts<'_>, config: &Config, remote: SocketAddr) -> bool {
    config.trunks.iter().any(|trunk| {
        let listed = trunk.allow.iter().any(|net| net.contains(&remote.ip()));
        let leads = trunk.uris.iter().any(|uri| {
            uri.host == remote.ip().to_string()
                || facts
                    .scenario
                    .places
                    .side_of(remote.ip())
                    .is_some_and(|side| {
                        side.domain() == Some(uri.host.as_str()) && *side.name() == *trunk.name
                    })
        });
        listed || leads
    })
}

fn check_sent(
    facts: &Facts<'_>,
    conn: ConnectionId,
    to: SocketAddr,
    sip: &Sip,
    faults: &mut Vec<String>,
) {
    let listed = facts.configs().any(|config| names(facts, config, to));
    if !listed {
        faults.push(format!(
            "sent to {to} over {conn:?}, which no trunk lists: {}",
            sip.summary()
        ));
    }
    let side = facts.scenario.places.side_of(to.ip());
    if let Some(leg) = facts.book.leg(sip.call_id())
        && side != Some(leg.side)
        && !is_refusal(sip)
    {
        faults.push(format!(
            "a message of a {:?}'s leg was sent to {to}: {}",
            leg.side,
            sip.summary()
        ));
    }
    if sip.is_initial_invite() {
        let host = host_of(sip.uri());
        let right = side.is_some_and(|side| is_host_of(facts, side, host));
        if !right {
            faults.push(format!(
                "the Request-URI's host {host} is none of the trunk's that {to} belongs to"
            ));
        }
    }
}

/// A refusal goes to whoever asked, also where the dialog is another's.
fn is_refusal(sip: &Sip) -> bool {
    sip.code() >= 400
}

/// Whether `host`, with its port as written, is the `uri` of the side's trunk.
fn is_host_of(facts: &Facts<'_>, side: Side, host: &str) -> bool {
    facts.configs().any(|config| {
        config.trunk_named(side.name()).is_some_and(|trunk| {
            trunk.uris.iter().any(|uri| {
                let bracketed = match uri.host.contains(':') {
                    true => format!("[{}]", uri.host),
                    false => uri.host.clone(),
                };
                match uri.port {
                    Some(port) => host == format!("{bracketed}:{port}"),
                    None => host == bracketed,
                }
            })
        })
    })
}
