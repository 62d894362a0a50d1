//! No call leaves the edge that nobody may ask for: every new INVITE follows from an INVITE that a route sends there, or from
//! a REFER that was proved, allowed, and named exactly that target.

use super::judge::Nonces;
use super::{Checker, Facts, Seen};
use crate::scenario::{FALLBACKS, Side, TARGETS, Verdict, password_of};
use crate::wire::{Sip, user_of};
use edge_proto::b2bua::Output;
use edge_proto::config::{Config, ReferAuth, TransferPolicy};
use edge_proto::event::EventKind;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::rc::Rc;

/// A request and where it came from.
type Arrived = (SocketAddr, Rc<Sip>);

#[derive(Default)]
pub struct Referrals {
    nonces: Nonces,
    /// REFERs that arrived, by Call-ID and CSeq, each with its source.
    refers: BTreeMap<(String, u32), Vec<Arrived>>,
    /// INVITEs that arrived and wait to be judged by what they cause.
    invites: BTreeMap<u32, Vec<Arrived>>,
    /// What each call may still originate.
    grants: BTreeMap<u32, Vec<(Side, String)>>,
    /// REFERs that were answered 202.
    accepted: BTreeSet<(String, u32)>,
    originated: BTreeSet<String>,
    bridged: BTreeMap<u32, u32>,
    /// Transfers that began and that ended, per call. The end may be told before the 202 that began it.
    begun: BTreeMap<u32, u32>,
    ended: BTreeMap<u32, u32>,
}

impl Checker for Referrals {
    fn name(&self) -> &'static str {
        "referrals"
    }

    fn see(&mut self, facts: &Facts<'_>, seen: &Seen<'_>, faults: &mut Vec<String>) {
        match seen {
            Seen::Received { from, sip, .. } => self.received(*from, sip),
            Seen::Decided { sip, .. } => {
                self.nonces.note(facts.now, sip);
                if sip.cseq().1 == "REFER" && (200..300).contains(&sip.code()) {
                    self.on_202(facts, sip, faults);
                }
                if sip.is_initial_invite() {
                    self.on_invite(facts, sip, faults);
                }
            }
            Seen::Output(_, Output::Event(event)) => {
                let call = event.call.as_ref().and_then(|id| facts.book.call(id));
                match (&event.kind, call) {
                    (EventKind::TransferBridged { .. }, Some(call)) => {
                        *self.bridged.entry(call).or_default() += 1;
                    }
                    (EventKind::TransferEnded { id, .. }, Some(call)) if *id > 0 => {
                        *self.ended.entry(call).or_default() += 1;
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }
}

impl Referrals {
    fn received(&mut self, from: SocketAddr, sip: &Rc<Sip>) {
        if sip.method() == "REFER" {
            let key = (sip.call_id().to_owned(), sip.cseq().0);
            self.refers
                .entry(key)
                .or_default()
                .push((from, sip.clone()));
        }
        if sip.is_initial_invite() {
            let call = super::book::call_of(sip);
            self.invites
                .entry(call)
                .or_default()
                .push((from, sip.clone()));
        }
    }

    /// A REFER was accepted: was it right to?
    fn on_202(&mut self, facts: &Facts<'_>, sip: &Sip, faults: &mut Vec<String>) {
        let key = (sip.call_id().to_owned(), sip.cseq().0);
        if !self.accepted.insert(key.clone()) {
            return;
        }
        let candidates = self.refers.get(&key).cloned().unwrap_or_default();
        let mut why = vec!["no such REFER arrived".to_owned()];
        for (from, refer) in candidates {
            match self.judge(facts, from, &refer) {
                Ok((call, mut targets)) => {
                    let begun = self.begun.entry(call).or_default();
                    *begun += 1;
                    let ended = self.ended.get(&call).copied().unwrap_or_default();
                    if *begun > ended + 1 {
                        faults.push(format!(
                            "a REFER was accepted while another is under way: {}",
                            refer.summary()
                        ));
                    }
                    self.grants.entry(call).or_default().append(&mut targets);
                    return;
                }
                Err(fault) => why.push(format!("{fault} (from {from}, {})", refer.summary())),
            }
        }
        faults.push(format!(
            "a REFER was accepted that must not be: {}",
            why.pop().unwrap_or_default()
        ));
    }

    /// What a REFER may originate.
    fn judge(
        &mut self,
        facts: &Facts<'_>,
        from: SocketAddr,
        refer: &Sip,
    ) -> Result<(u32, Vec<(Side, String)>), String> {
        let leg = facts
            .book
            .leg(refer.call_id())
            .filter(|leg| leg.answered_at.is_some())
            .ok_or("its dialog is not answered")?;
        if (refer.from_tag(), refer.to_tag()) != (leg.peer_tag.as_str(), leg.edge_tag.as_str()) {
            return Err("its tags are not the dialog's".to_owned());
        }
        let mut why = "no configuration".to_owned();
        let configs: Vec<_> = facts.configs().cloned().collect();
        for config in configs {
            let done = self.bridged.get(&leg.call).copied().unwrap_or_default();
            match self.policy(facts, &config, leg.side, from, done, refer) {
                Ok(targets) => return Ok((leg.call, targets)),
                Err(fault) => why = fault,
            }
        }
        Err(why)
    }

    fn policy(
        &mut self,
        facts: &Facts<'_>,
        config: &Config,
        side: Side,
        from: SocketAddr,
        done: u32,
        refer: &Sip,
    ) -> Result<Vec<(Side, String)>, String> {
        let trunk = config.trunk_named(side.name()).ok_or("it has no trunk")?;
        if !trunk.allow.iter().any(|net| net.contains(&from.ip())) {
            return Err("its source is not listed".to_owned());
        }
        let policy = trunk
            .transfer
            .as_ref()
            .ok_or("its trunk may not transfer")?;
        if done >= policy.max_transfers {
            return Err(format!(
                "{done} transfers of {} are used up",
                policy.max_transfers
            ));
        }
        let lines: Vec<&str> = refer.headers("refer-to").collect();
        let target = TARGETS
            .iter()
            .find(|target| target.lines == lines)
            .map(|target| target.verdict);
        let Some(Verdict::Call(callee, user)) = target else {
            return Err("its target is not allowed".to_owned());
        };
        if policy.targets.is_empty() {
            return Err("no target is allowed".to_owned());
        }
        if policy.auth == ReferAuth::Digest {
            let name = format!("{}-user", side.name());
            let passwords: Vec<String> = facts
                .configs()
                .filter_map(|config| config.trunk_named(side.name())?.credentials.clone())
                .map(|credentials| credentials.password.expose().to_owned())
                .collect();
            self.nonces.accept(facts.now, refer, &name, &passwords)?;
        }
        Ok(targets(policy, side, callee, user))
    }

    /// A new INVITE leaves: who asked for it?
    fn on_invite(&mut self, facts: &Facts<'_>, sip: &Sip, faults: &mut Vec<String>) {
        let Some(leg) = facts.book.leg(sip.call_id()) else {
            return faults.push(format!("an INVITE for nobody: {}", sip.summary()));
        };
        let number = user_of(sip.uri()).to_owned();
        if number != leg.number {
            return faults.push(format!("its number changed: {}", sip.summary()));
        }
        if !self.originated.insert(sip.call_id().to_owned()) {
            return;
        }
        let wanted = (leg.side, number);
        if let Some(grants) = self.grants.get_mut(&leg.call)
            && let Some(at) = grants.iter().position(|grant| *grant == wanted)
        {
            grants.remove(at);
            return;
        }
        if let Err(why) = self.routed(facts, leg.call, &wanted) {
            faults.push(format!(
                "an INVITE that nobody may ask for ({why}): {}",
                sip.summary()
            ));
        }
    }

    /// Whether the caller's own INVITE leads there. Each may once.
    fn routed(
        &mut self,
        facts: &Facts<'_>,
        call: u32,
        (side, number): &(Side, String),
    ) -> Result<(), String> {
        let invites = self.invites.get(&call).cloned().unwrap_or_default();
        let mut why = "no INVITE and no accepted REFER asks for it".to_owned();
        for (from, invite) in invites {
            let Some(caller) = facts.scenario.places.side_of(from.ip()) else {
                continue;
            };
            let dialled = user_of(invite.uri());
            let routed = match caller {
                Side::Carrier => dialled.starts_with("+1999") && *side == Side::Platform,
                Side::Platform => dialled.starts_with("+44") && *side == Side::Carrier,
                _ => false,
            };
            if !routed || dialled != number {
                continue;
            }
            match self.authenticated(facts, caller, from, &invite) {
                Ok(()) => {
                    self.invites.remove(&call);
                    return Ok(());
                }
                Err(fault) => why = fault,
            }
        }
        Err(why)
    }

    fn authenticated(
        &mut self,
        facts: &Facts<'_>,
        caller: Side,
        from: SocketAddr,
        invite: &Sip,
    ) -> Result<(), String> {
        let listed = |config: &Config| {
            config
                .trunk_named(caller.name())
                .is_some_and(|trunk| trunk.allow.iter().any(|net| net.contains(&from.ip())))
        };
        // The call may have been admitted before the reload: its leg follows within seconds.
        let before = facts.before.map(|(config, _)| config);
        if !listed(facts.config) && !before.is_some_and(|config| listed(config)) {
            return Err(format!("{from} is not listed"));
        }
        let demands = facts
            .config
            .trunk_named(caller.name())
            .is_some_and(|trunk| trunk.auth.demands_digest());
        if demands {
            let passwords = [password_of(caller, false), password_of(caller, true)];
            let name = format!("{}-user", caller.name());
            self.nonces.accept(facts.now, invite, &name, &passwords)?;
        }
        Ok(())
    }
}

/// The REFER's own target, then the fallbacks of the policy.
fn targets(policy: &TransferPolicy, _side: Side, callee: Side, user: &str) -> Vec<(Side, String)> {
    // A telephone number goes to the transferor's `via`.
    let via = policy.via.as_deref();
    let over_via = |side: Side| match (side, via) {
        (Side::Agents, Some("pbx")) => Side::Pbx,
        (side, _) => side,
    };
    let fallbacks = FALLBACKS
        .iter()
        .filter(|(uri, ..)| policy.fallback.iter().any(|own| own == uri))
        .map(|&(_, side, user)| (over_via(side), user.to_owned()));
    std::iter::once((over_via(callee), user.to_owned()))
        .chain(fallbacks)
        .collect()
}
