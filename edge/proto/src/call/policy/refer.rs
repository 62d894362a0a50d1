//! The verdict on a REFER: checks in a fixed order, each with its own reason.
//!
//! The live call gathers [`ReferFacts`] from its dialog; `sip-edge explain refer` assumes those it cannot know. Both call
//! [`check_refer`].

use super::family::{Transferee, family_check};
use super::target::{ReferTo, Target, TargetRefusal, allow_target, parse_refer_to};
use crate::config::{Config, ReferAuth, Trunk};
use crate::event::Cause;
use std::fmt;

/// The most REFERs that one call may have judged after authentication, bridged or not: a target list cannot be searched by trial.
pub const MAX_REFERS_TRIED: u32 = 32;

/// One check. The order of the variants is the order of the checks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum ReferStep {
    /// The request belongs to a dialog of this edge.
    Dialog,
    /// Its source is allowed by the dialog's trunk.
    Source,
    /// The transferor's leg is answered.
    Answered,
    /// No other transfer of the call is under way.
    NonePending,
    /// The trunk may transfer at all.
    Enabled,
    /// Credentials, or trust in the dialog.
    Authenticated,
    /// Bridged transfers and tried REFERs are below their limits.
    Limit,
    /// One Refer-To, well formed, with a scheme that can be called.
    ReferTo,
    /// The target is on the list and some trunk can call it.
    Target,
    /// The trunks share an address family.
    Family,
}

impl ReferStep {
    /// All, in order.
    pub const ALL: [ReferStep; 10] = [
        ReferStep::Dialog,
        ReferStep::Source,
        ReferStep::Answered,
        ReferStep::NonePending,
        ReferStep::Enabled,
        ReferStep::Authenticated,
        ReferStep::Limit,
        ReferStep::ReferTo,
        ReferStep::Target,
        ReferStep::Family,
    ];

    /// What the step asks.
    pub const fn question(self) -> &'static str {
        match self {
            ReferStep::Dialog => "is the dialog known",
            ReferStep::Source => "may the source signal on the dialog's trunk",
            ReferStep::Answered => "is the call answered",
            ReferStep::NonePending => "is no other transfer pending",
            ReferStep::Enabled => "are transfers enabled",
            ReferStep::Authenticated => "is it authenticated",
            ReferStep::Limit => "are transfers left",
            ReferStep::ReferTo => "is Refer-To valid",
            ReferStep::Target => "is the target allowed",
            ReferStep::Family => "do the address families match",
        }
    }
}

impl fmt::Display for ReferStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.question())
    }
}

/// What the verdict depends on.
#[derive(Clone, Copy, Debug)]
pub struct ReferFacts<'a> {
    /// The trunk of the dialog that the REFER belongs to; `None`: there is no such dialog.
    pub transferor: Option<&'a Trunk>,
    /// The source is in the `allow` of that trunk.
    pub source_allowed: bool,
    /// The leg was answered and acknowledged, or at least answered: RFC 3515 lets a REFER race the ACK.
    pub answered: bool,
    /// A transfer of this call was accepted and has not ended.
    pub transfer_pending: bool,
    /// Transfers of this call that were bridged.
    pub transfers_done: u32,
    /// Earlier REFERs of this call that were authenticated, whatever became of them.
    pub refers_tried: u32,
    /// The values of all Refer-To headers.
    pub refer_to: &'a [&'a str],
    /// The leg that stays.
    pub transferee: Transferee,
}

/// What looking at the credentials of a REFER showed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AuthOutcome {
    /// They are right.
    Accepted,
    /// There are none: the request is challenged.
    Missing,
    /// They are not right, and the request is challenged again. The text is an outcome of
    /// [`crate::event::EventKind::Digest`].
    Refused(&'static str),
    /// A dry run supposes that they are right.
    Assumed,
}

/// One check that passed or, as the last of the list, failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StepResult {
    pub step: ReferStep,
    pub passed: bool,
    /// A sentence: what was found.
    pub detail: String,
}

/// The first check that failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReferRefusal {
    pub step: ReferStep,
    /// The SIP status to answer with. 401 carries the challenge.
    pub status: u16,
    pub cause: Cause,
    pub detail: String,
}

/// The verdict.
#[derive(Clone, Debug)]
pub struct ReferVerdict {
    /// The checks that were made, in order. Those behind a failed one were not.
    pub steps: Vec<StepResult>,
    /// `Ok`: answer 202 and call the target.
    pub result: Result<Target, ReferRefusal>,
}

/// Judges a REFER.
///
/// `authenticate` is asked at most once, only when the checks before it passed and the trunk demands digest, so that a refused
/// request uses up no nonce count.
pub fn check_refer(
    config: &Config,
    facts: &ReferFacts<'_>,
    authenticate: &mut dyn FnMut() -> AuthOutcome,
) -> ReferVerdict {
    let mut steps = Steps(Vec::with_capacity(ReferStep::ALL.len()));
    let result = steps.run(config, facts, authenticate);
    if let Err(refusal) = &result {
        steps.0.push(StepResult {
            step: refusal.step,
            passed: false,
            detail: refusal.detail.clone(),
        });
    }
    ReferVerdict {
        steps: steps.0,
        result,
    }
}

struct Steps(Vec<StepResult>);

impl Steps {
    fn pass(&mut self, step: ReferStep, detail: impl Into<String>) {
        self.0.push(StepResult {
            step,
            passed: true,
            detail: detail.into(),
        });
    }

    fn run(
        &mut self,
        config: &Config,
        facts: &ReferFacts<'_>,
        authenticate: &mut dyn FnMut() -> AuthOutcome,
    ) -> Result<Target, ReferRefusal> {
        let transferor = self.check_dialog(facts)?;
        self.check_authority(transferor, facts, authenticate)?;
        let refer_to = self.check_refer_to(facts)?;
        let target = allow_target(config, transferor, refer_to).map_err(at(ReferStep::Target))?;
        self.pass(
            ReferStep::Target,
            format!("trunk \"{}\" calls \"{}\"", target.trunk.name, target.user),
        );
        let families = family_check(config, transferor, facts.transferee, &target.trunk);
        match families {
            Ok(families) => self.pass(ReferStep::Family, format!("{families}")),
            Err(mismatch) => {
                return Err(refuse(
                    ReferStep::Family,
                    403,
                    Cause::NetworkMismatch,
                    mismatch.to_string(),
                ));
            }
        }
        Ok(target)
    }

    /// Dialog, source, answered, none pending.
    fn check_dialog<'a>(&mut self, facts: &ReferFacts<'a>) -> Result<&'a Trunk, ReferRefusal> {
        let Some(transferor) = facts.transferor else {
            let detail = "the REFER belongs to no call of this edge";
            return Err(refuse(ReferStep::Dialog, 481, Cause::DialogUnknown, detail));
        };
        self.pass(
            ReferStep::Dialog,
            format!("a dialog of trunk \"{}\"", transferor.name),
        );
        if !facts.source_allowed {
            let detail = format!(
                "the source is not in the allow list of trunk \"{}\"",
                transferor.name
            );
            return Err(refuse(
                ReferStep::Source,
                403,
                Cause::TransferUnauthorized,
                detail,
            ));
        }
        self.pass(ReferStep::Source, "the trunk lists it");
        if !facts.answered {
            let detail = "the call is not answered yet";
            return Err(refuse(ReferStep::Answered, 403, Cause::NotAnswered, detail));
        }
        self.pass(ReferStep::Answered, "answered");
        if facts.transfer_pending {
            let detail = "another transfer of this call is under way";
            return Err(refuse(
                ReferStep::NonePending,
                491,
                Cause::TransferPending,
                detail,
            ));
        }
        self.pass(ReferStep::NonePending, "none is");
        Ok(transferor)
    }

    /// Enabled, authenticated, limit.
    fn check_authority(
        &mut self,
        transferor: &Trunk,
        facts: &ReferFacts<'_>,
        authenticate: &mut dyn FnMut() -> AuthOutcome,
    ) -> Result<(), ReferRefusal> {
        let disabled =
            |detail: String| refuse(ReferStep::Enabled, 403, Cause::TransferDisabled, detail);
        let Some(policy) = &transferor.transfer else {
            return Err(disabled(format!(
                "trunk \"{}\" has no [trunk.transfer]",
                transferor.name
            )));
        };
        let max = policy.max_transfers;
        if max == 0 {
            return Err(disabled(format!(
                "max_transfers of trunk \"{}\" is 0",
                transferor.name
            )));
        }
        self.pass(ReferStep::Enabled, format!("max_transfers is {max}"));
        let accepted = authenticated(policy.auth, authenticate)?;
        self.pass(ReferStep::Authenticated, accepted);
        let limit = |detail: String| refuse(ReferStep::Limit, 403, Cause::TransferLimit, detail);
        if facts.transfers_done >= max {
            return Err(limit(format!(
                "the call already had {} of {max} transfers",
                facts.transfers_done
            )));
        }
        if facts.refers_tried >= MAX_REFERS_TRIED {
            return Err(limit(format!(
                "the call already had {MAX_REFERS_TRIED} REFERs"
            )));
        }
        self.pass(
            ReferStep::Limit,
            format!("{} of {max} used", facts.transfers_done),
        );
        Ok(())
    }

    fn check_refer_to(&mut self, facts: &ReferFacts<'_>) -> Result<ReferTo, ReferRefusal> {
        let malformed =
            |detail: &str| refuse(ReferStep::ReferTo, 400, Cause::TargetInvalid, detail);
        let value = match facts.refer_to {
            [value] => value,
            [] => return Err(malformed("there is no Refer-To header")),
            _ => return Err(malformed("there is more than one Refer-To header")),
        };
        let refer_to = parse_refer_to(value).map_err(at(ReferStep::ReferTo))?;
        self.pass(ReferStep::ReferTo, refer_to.text());
        Ok(refer_to)
    }
}

fn authenticated(
    demanded: ReferAuth,
    authenticate: &mut dyn FnMut() -> AuthOutcome,
) -> Result<&'static str, ReferRefusal> {
    let refused = |detail: String| {
        refuse(
            ReferStep::Authenticated,
            401,
            Cause::TransferUnauthorized,
            detail,
        )
    };
    if demanded == ReferAuth::Dialog {
        return Ok("trusted inside its dialog, from a listed source");
    }
    match authenticate() {
        AuthOutcome::Accepted => Ok("the credentials are right"),
        AuthOutcome::Assumed => Ok("digest; right credentials are supposed"),
        AuthOutcome::Missing => Err(refused(
            "it shows no credentials and is challenged".to_owned(),
        )),
        AuthOutcome::Refused(outcome) => {
            Err(refused(format!("its credentials are refused: {outcome}")))
        }
    }
}

fn refuse(step: ReferStep, status: u16, cause: Cause, detail: impl Into<String>) -> ReferRefusal {
    ReferRefusal {
        step,
        status,
        cause,
        detail: detail.into(),
    }
}

fn at(step: ReferStep) -> impl Fn(TargetRefusal) -> ReferRefusal {
    move |refusal| refuse(step, refusal.status, refusal.cause, refusal.detail)
}
