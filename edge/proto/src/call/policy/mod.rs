//! What may be done: target patterns, the verdict on a REFER, header rules, address families, routing.
//!
//! Pure functions of the configuration and of plain facts. The live call and `sip-edge explain` ask the same ones, so a dry
//! run cannot say anything else than the edge would do.

mod dry_run;
mod family;
mod glob;
mod headers;
mod pattern;
mod refer;
mod reserved;
mod route;
mod target;

pub use dry_run::DryRun;
pub use family::{Families, FamilyMismatch, Transferee, family_check, other_parties};
pub use glob::Glob;
pub use headers::{CopiedHeaders, DroppedHeader, HeaderPattern, HeaderSources, copy_headers};
pub use pattern::{PatternError, TargetPattern};
pub use refer::{
    AuthOutcome, MAX_REFERS_TRIED, ReferFacts, ReferRefusal, ReferStep, ReferVerdict, StepResult,
    check_refer,
};
pub use reserved::{is_never_copied, is_sips_own};
pub use route::{RouteRefusal, Routed, route};
pub use target::{
    ReferTo, Target, TargetRefusal, allow_target, as_refer_to, evaluate_fallback,
    evaluate_refer_to, parse_refer_to,
};

#[cfg(test)]
mod tests;
