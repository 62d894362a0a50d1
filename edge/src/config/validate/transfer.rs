//! `[trunk.transfer]`.

use super::trunk::Names;
use super::value_or;
use crate::config::diagnostic::{At, Listed, Place, Sink};
use crate::config::raw::{RawTransfer, RawTrunk};
use edge_proto::call::policy::{
    HeaderPattern, TargetPattern, Transferee, evaluate_fallback, family_check, is_never_copied,
    other_parties,
};
use edge_proto::config::{Config, OnFailure, ReferAuth, TransferPolicy, Trunk};
use edge_proto::time::Duration;
use std::collections::BTreeSet;
use std::sync::Arc;

const MAX_TARGETS: usize = 1000;
const MAX_HEADER_PATTERNS: usize = 100;
const MAX_FALLBACKS: usize = 8;

/// The policy of one trunk, as far as it can be judged without the other trunks.
pub(super) fn policy(
    sink: &mut Sink<'_>,
    raw: &RawTransfer,
    trunk: &Trunk,
    names: &Names,
) -> TransferPolicy {
    let default = TransferPolicy::default();
    let seconds = |key: &Option<At<u64>>, default: Duration| {
        key.as_ref()
            .map_or(default, |s| Duration::from_secs(s.value))
    };
    let policy = TransferPolicy {
        max_transfers: u32::try_from(value_or(&raw.max_transfers, 0)).unwrap_or(u32::MAX),
        auth: value_or(&raw.auth, ReferAuth::Digest),
        via: raw.via.as_ref().map(|via| via.value.clone()),
        targets: raw.targets.iter().map(|t| t.value.clone()).collect(),
        pass_headers: header_patterns(sink, &raw.pass_headers, default.pass_headers, true),
        drop_headers: header_patterns(sink, &raw.drop_headers, default.drop_headers, false),
        fallback: raw.fallback.iter().map(|f| f.value.clone()).collect(),
        ring_timeout: seconds(&raw.ring_timeout_s, default.ring_timeout),
        auth_timeout: seconds(&raw.auth_timeout_s, default.auth_timeout),
        on_failure: value_or(&raw.on_failure, OnFailure::Return),
    };
    if let Some(via) = &raw.via {
        names.expect_callable(sink, via);
    }
    if policy.auth == ReferAuth::Digest && trunk.credentials.is_none() {
        let place = raw.auth.as_ref().map_or(&raw.place, |auth| &auth.place);
        sink.error(place, "auth = \"digest\" needs the keys \"username\" and \"password\" or \"password_file\" of the trunk");
    }
    if policy.auth == ReferAuth::Dialog && trunk.allow.is_empty() {
        let place = raw.auth.as_ref().map_or(&raw.place, |auth| &auth.place);
        sink.error(
            place,
            "\"dialog\" trusts a REFER because its source is listed, and allow lists nobody",
        );
    }
    targets(sink, raw);
    if let Some(extra) = raw.fallback.get(MAX_FALLBACKS) {
        sink.error(
            &extra.place,
            format!("expected at most {MAX_FALLBACKS} fallbacks"),
        );
    }
    policy
}

fn targets(sink: &mut Sink<'_>, raw: &RawTransfer) {
    if let Some(extra) = raw.targets.get(MAX_TARGETS) {
        sink.error(
            &extra.place,
            format!("expected at most {MAX_TARGETS} targets"),
        );
    }
    for At { value: text, place } in &raw.targets {
        match TargetPattern::parse(text) {
            Err(fault) => sink.error(place, format!("the pattern {text:?} {fault}")),
            Ok(TargetPattern::Number(_) | TargetPattern::Tel(_)) if raw.via.is_none() => {
                sink.error(place, "a telephone number needs the key \"via\": the trunk that calls it");
            }
            Ok(pattern) if pattern.allows_any_number() => sink.warning(
                place,
                "every number of the world may be called; expected as few as are needed, such as \"+1234*\"",
            ),
            Ok(_) => {}
        }
    }
}

fn header_patterns(
    sink: &mut Sink<'_>,
    listed: &Option<Listed<String>>,
    default: Vec<String>,
    copies: bool,
) -> Vec<String> {
    let Some(listed) = listed else {
        return default;
    };
    if let Some(extra) = listed.items.get(MAX_HEADER_PATTERNS) {
        sink.error(
            &extra.place,
            format!("expected at most {MAX_HEADER_PATTERNS} entries"),
        );
    }
    for At { value, place } in &listed.items {
        if HeaderPattern::parse(value).is_none() {
            sink.error(place, format!("expected a header name, or the beginning of one and *, such as \"X-*\", found {value:?}"));
        } else if copies && is_never_copied(value) {
            sink.error(
                place,
                format!("{value} is a header that SIP itself uses; it is never copied"),
            );
        }
    }
    listed.items.iter().map(|p| p.value.clone()).collect()
}

/// What transfers mean between trunks: targets and fallbacks that nobody can call, families that do not match.
pub(super) fn cross_check(sink: &mut Sink<'_>, config: &Config, raw: &[RawTrunk]) {
    for (trunk, raw) in config.trunks.iter().zip(raw) {
        if trunk.allow.is_empty() && trunk.uris.is_empty() {
            sink.warning(
                &raw.place,
                "neither allow nor uri: no call can ever use this trunk",
            );
        }
        if let (Some(policy), Some(raw)) = (&trunk.transfer, &raw.transfer) {
            warn_of_refusal(sink, policy, raw);
            let mut callees = BTreeSet::new();
            if let Some(via) = &policy.via {
                let place = raw.via.as_ref().map_or(&raw.place, |via| &via.place);
                check_families(sink, config, trunk, via, place);
                callees.insert(via.clone());
            }
            for fallback in &raw.fallback {
                match evaluate_fallback(config, trunk, &fallback.value) {
                    Err(refusal) => sink.error(&fallback.place, refusal.detail),
                    Ok(target) if callees.insert(target.trunk.name.to_string()) => {
                        check_families(sink, config, trunk, &target.trunk.name, &fallback.place);
                    }
                    Ok(_) => {}
                }
            }
            check_hosts(sink, config, trunk, raw, &mut callees);
        }
    }
}

/// Warns of a policy that can accept nothing.
fn warn_of_refusal(sink: &mut Sink<'_>, policy: &TransferPolicy, raw: &RawTransfer) {
    if policy.max_transfers == 0 {
        let place = raw
            .max_transfers
            .as_ref()
            .map_or(&raw.place, |max| &max.place);
        sink.warning(place, "max_transfers is 0: every REFER is refused");
    } else if policy.targets.is_empty() {
        sink.warning(&raw.place, "targets is empty: every REFER is refused");
    }
}

/// Warns of patterns whose host no trunk has, and judges the families of those that one has.
fn check_hosts(
    sink: &mut Sink<'_>,
    config: &Config,
    trunk: &Trunk,
    raw: &RawTransfer,
    callees: &mut BTreeSet<String>,
) {
    for At { value: text, place } in &raw.targets {
        let Ok(TargetPattern::Sip { host, .. }) = TargetPattern::parse(text) else {
            continue;
        };
        let is_served = |t: &&Arc<Trunk>| t.uris.iter().any(|uri| host.matches(&uri.host));
        let mut served = config.trunks.iter().filter(is_served).peekable();
        let own = config.domains.iter().any(|domain| host.matches(domain));
        if served.peek().is_none() && !own {
            sink.warning(place, format!("{text:?} can match nothing: its host is neither this edge nor in the uri of a trunk"));
        }
        for callee in served {
            if callees.insert(callee.name.to_string()) {
                check_families(sink, config, trunk, &callee.name, place);
            }
        }
    }
}

/// Warns where the families of the trunks of a transfer do not match, so that it would be refused.
fn check_families(
    sink: &mut Sink<'_>,
    config: &Config,
    transferor: &Trunk,
    callee: &str,
    place: &Place,
) {
    let Some(callee) = config.trunk_named(callee) else {
        return;
    };
    let mut faults = BTreeSet::new();
    for other in other_parties(config, transferor) {
        let possible = Transferee::possible(config, other);
        for families in possible.families.each() {
            let transferee = Transferee {
                families,
                ..possible
            };
            if let Err(mismatch) = family_check(config, transferor, transferee, callee) {
                faults.insert(format!(
                    "with calls of trunk \"{}\": {mismatch}",
                    other.name
                ));
            }
        }
    }
    for fault in faults {
        sink.warning(place, format!("transfers would be refused {fault}"));
    }
}
