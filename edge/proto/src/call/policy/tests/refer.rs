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
            (481, Cause::TargetInvalid)
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

#[test]
fn each_reason_is_its_own() {
    let config = Fixture::new().build();
    let detail = |facts: &ReferFacts<'_>, auth| {
        let refusal = check_refer(&config, facts, &mut || auth)
            .result
            .unwrap_err();
        (refusal.status, refusal.detail)
    };
    let facts = good(&config, TO);
    let ok = AuthOutcome::Accepted;
    let is =
        |got: (u16, String), status: u16, text: &str| assert_eq!(got, (status, text.to_owned()));
    is(
        detail(&facts, AuthOutcome::Missing),
        401,
        "it shows no credentials and is challenged",
    );
    is(
        detail(&facts, AuthOutcome::Refused("stale")),
        401,
        "its credentials are refused: stale",
    );
    is(
        detail(
            &ReferFacts {
                transfers_done: 2,
                ..facts
            },
            ok,
        ),
        403,
        "the call already had 2 of 2 transfers",
    );
    is(
        detail(
            &ReferFacts {
                refers_tried: MAX_REFERS_TRIED,
                ..facts
            },
            ok,
        ),
        403,
        "the call already had 32 REFERs",
    );
    is(
        detail(
            &ReferFacts {
                refer_to: &[],
                ..facts
            },
            ok,
        ),
        400,
        "there is no Refer-To header",
    );
    let twice = &["<tel:+1>", "<tel:+1>"];
    is(
        detail(
            &ReferFacts {
                refer_to: twice,
                ..facts
            },
            ok,
        ),
        400,
        "there is more than one Refer-To header",
    );
    let http = &["<http://example.net>"];
    assert_eq!(
        detail(
            &ReferFacts {
                refer_to: http,
                ..facts
            },
            ok
        )
        .0,
        416
    );
    let carrier = config.trunk_named("carrier").map(|t| &**t);
    is(
        detail(
            &ReferFacts {
                transferor: carrier,
                ..facts
            },
            ok,
        ),
        403,
        "trunk \"carrier\" has no [trunk.transfer]",
    );
}

#[test]
fn a_trusted_dialog_is_never_asked_for_credentials() {
    let mut fixture = Fixture::new();
    fixture.policy().auth = ReferAuth::Dialog;
    let config = fixture.build();
    let verdict = check_refer(&config, &good(&config, TO), &mut || panic!("asked"));
    assert!(verdict.result.is_ok());
}
