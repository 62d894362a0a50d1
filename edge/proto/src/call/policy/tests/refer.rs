//! The ordered check of a REFER.

use super::*;
use crate::call::policy::{
    AuthOutcome, Families, MAX_REFERS_TRIED, ReferFacts, ReferStep, ReferVerdict, Transferee,
    check_refer,
};
use crate::config::{Network, ReferAuth};
use crate::event::Cause;
use proptest::prelude::*;

const V4: Transferee = Transferee {
    families: Families {
        ipv4: true,
        ipv6: false,
    },
    bridges: false,
};

fn good<'a>(config: &'a Config, refer_to: &'a [&'a str]) -> ReferFacts<'a> {
    ReferFacts {
        transferor: Some(ai(config)),
        source_allowed: true,
        answered: true,
        transfer_pending: false,
        transfers_done: 0,
        refers_tried: 0,
        refer_to,
        transferee: V4,
    }
}

fn check(config: &Config, facts: &ReferFacts<'_>) -> ReferVerdict {
    check_refer(config, facts, &mut || AuthOutcome::Accepted)
}

const TO: &[&str] = &["<tel:+1234567890>"];

#[test]
fn a_good_refer_passes_every_step_in_order() {
    let config = Fixture::new().build();
    let verdict = check(&config, &good(&config, TO));
    assert_eq!(verdict.result.unwrap().user, "+1234567890");
    let steps: Vec<_> = verdict.steps.iter().map(|s| (s.step, s.passed)).collect();
    assert_eq!(steps, ReferStep::ALL.map(|step| (step, true)));
}

/// Makes exactly `step` fail, and gives the status and cause that it has to fail with.
fn break_step(step: ReferStep, fixture: &mut Fixture, facts: &mut Facts) -> (u16, Cause) {
    match step {
        ReferStep::Dialog => {
            facts.dialog = false;
            (481, Cause::DialogUnknown)
        }
        ReferStep::Source => {
            facts.source = false;
            (403, Cause::TransferUnauthorized)
        }
        ReferStep::Answered => {
            facts.answered = false;
            (403, Cause::NotAnswered)
        }
        ReferStep::NonePending => {
            facts.pending = true;
            (491, Cause::TransferPending)
        }
        ReferStep::Enabled => {
            fixture.policy().max_transfers = 0;
            (403, Cause::TransferDisabled)
        }
        ReferStep::Authenticated => {
            facts.auth = AuthOutcome::Refused("wrong_credentials");
            (401, Cause::TransferUnauthorized)
        }
        ReferStep::Limit => {
            facts.done = 2;
            (403, Cause::TransferLimit)
        }
        ReferStep::ReferTo => {
            facts.to = &["<sip:bob@>"];
            (400, Cause::TargetInvalid)
        }
        ReferStep::Target => {
            fixture.policy().targets.clear();
            (403, Cause::TargetNotAllowed)
        }
        ReferStep::Family => {
            fixture.trunks[2].network = Network::Ipv6;
            (403, Cause::NetworkMismatch)
        }
    }
}

struct Facts {
    dialog: bool,
    source: bool,
    answered: bool,
    pending: bool,
    auth: AuthOutcome,
    done: u32,
    to: &'static [&'static str],
}

impl Facts {
    fn good() -> Facts {
        Facts {
            dialog: true,
            source: true,
            answered: true,
            pending: false,
            auth: AuthOutcome::Accepted,
            done: 0,
            to: TO,
        }
    }

    fn check(&self, config: &Config) -> (ReferVerdict, u32) {
        let facts = ReferFacts {
            transferor: self.dialog.then(|| ai(config)),
            source_allowed: self.source,
            answered: self.answered,
            transfer_pending: self.pending,
            transfers_done: self.done,
            ..good(config, self.to)
        };
        let mut asked = 0;
        let verdict = check_refer(config, &facts, &mut || {
            asked += 1;
            self.auth
        });
        (verdict, asked)
    }
}

proptest! {
    /// Whatever is wrong at once, the first step in the order decides, and no later one is looked at.
    #[test]
    fn the_first_failing_step_decides(broken in proptest::collection::vec(any::<bool>(), 10)) {
        let mut fixture = Fixture::new();
        let mut facts = Facts::good();
        let mut expected = None;
        for (step, broken) in ReferStep::ALL.into_iter().zip(broken) {
            if broken {
                let how = break_step(step, &mut fixture, &mut facts);
                expected.get_or_insert((step, how));
            }
        }
        let config = fixture.build();
        let (verdict, asked) = facts.check(&config);
        let got = verdict.result.as_ref().err().map(|r| (r.step, (r.status, r.cause)));
        prop_assert_eq!(got, expected);
        let last = expected.map_or(ReferStep::Family, |(step, _)| step);
        prop_assert_eq!(asked, u32::from(last >= ReferStep::Authenticated));
        let steps: Vec<_> = verdict.steps.iter().map(|s| (s.step, s.passed)).collect();
        let wanted: Vec<_> = ReferStep::ALL.into_iter().take_while(|&s| s <= last)
            .map(|s| (s, expected.is_none_or(|(failed, _)| failed != s))).collect();
        prop_assert_eq!(steps, wanted);
    }
}

/// Status and detail of the refusal of what `change` makes of a good REFER.
fn refusal(auth: AuthOutcome, change: impl FnOnce(&mut ReferFacts<'_>)) -> (u16, String) {
    let config = Fixture::new().build();
    let mut facts = good(&config, TO);
    change(&mut facts);
    let verdict = check_refer(&config, &facts, &mut || auth);
    let refusal = verdict.result.unwrap_err();
    (refusal.status, refusal.detail)
}

#[track_caller]
fn is(found: (u16, String), status: u16, detail: &str) {
    assert_eq!((found.0, found.1.as_str()), (status, detail));
}

#[test]
fn credentials_that_are_missing_and_wrong_are_told_apart() {
    let missing = refusal(AuthOutcome::Missing, |_| {});
    is(missing, 401, "it shows no credentials and is challenged");
    let stale = refusal(AuthOutcome::Refused("stale"), |_| {});
    is(stale, 401, "its credentials are refused: stale");
}

#[test]
fn both_limits_have_their_own_reason() {
    let ok = AuthOutcome::Accepted;
    let done = refusal(ok, |facts| facts.transfers_done = 2);
    is(done, 403, "the call already had 2 of 2 transfers");
    let tried = refusal(ok, |facts| facts.refers_tried = MAX_REFERS_TRIED);
    is(tried, 403, "the call already had 32 REFERs");
}

#[test]
fn there_is_exactly_one_refer_to() {
    let ok = AuthOutcome::Accepted;
    let none = refusal(ok, |facts| facts.refer_to = &[]);
    is(none, 400, "there is no Refer-To header");
    let two = refusal(ok, |facts| facts.refer_to = &["<tel:+1>", "<tel:+1>"]);
    is(two, 400, "there is more than one Refer-To header");
    let http = refusal(ok, |facts| facts.refer_to = &["<http://example.net>"]);
    assert_eq!(http.0, 416);
}

#[test]
fn a_trunk_without_a_policy_never_transfers() {
    let config = Fixture::new().build();
    let carrier = config.trunk_named("carrier").map(|trunk| &**trunk);
    let facts = ReferFacts {
        transferor: carrier,
        ..good(&config, TO)
    };
    let refusal = check(&config, &facts).result.unwrap_err();
    assert_eq!(refusal.detail, "trunk \"carrier\" has no [trunk.transfer]");
}

#[test]
fn a_trusted_dialog_is_never_asked_for_credentials() {
    let mut fixture = Fixture::new();
    fixture.policy().auth = ReferAuth::Dialog;
    let config = fixture.build();
    let verdict = check_refer(&config, &good(&config, TO), &mut || panic!("asked"));
    assert!(verdict.result.is_ok());
}
