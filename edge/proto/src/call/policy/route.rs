//! Where a new call goes: `[[route]]`.

use super::glob::Glob;
use crate::config::{Config, Rewrite, Route, Trunk};
use crate::event::Cause;
use std::sync::Arc;

/// A route that matched.
#[derive(Clone, Debug)]
pub struct Routed<'a> {
    pub route: &'a Route,
    /// Tried in order; never empty.
    pub trunks: Vec<Arc<Trunk>>,
    /// The user part of the new Request-URI: the called number, rewritten.
    pub number: String,
}

/// Why a call has nowhere to go.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RouteRefusal {
    /// The Request-URI has no user part, so nothing was called.
    #[error("the Request-URI has no user part: no number was called")]
    NumberMissing,
    #[error("no route of this trunk matches the called number")]
    NoRoute,
}

impl RouteRefusal {
    /// 484 Address Incomplete or 404 Not Found (RFC 3261 §21.4.19, §21.4.5).
    pub const fn status(self) -> u16 {
        match self {
            RouteRefusal::NumberMissing => 484,
            RouteRefusal::NoRoute => 404,
        }
    }

    pub const fn cause(self) -> Cause {
        match self {
            RouteRefusal::NumberMissing => Cause::NumberMissing,
            RouteRefusal::NoRoute => Cause::NoRoute,
        }
    }
}

/// The first route of `from` whose `number` matches `user`, the unescaped user part of the Request-URI.
///
/// Any text may be an identifier; it is compared with its case, and a leading + is significant.
pub fn route<'a>(
    config: &'a Config,
    from: &Trunk,
    user: Option<&str>,
) -> Result<Routed<'a>, RouteRefusal> {
    let user = user
        .filter(|user| !user.is_empty())
        .ok_or(RouteRefusal::NumberMissing)?;
    let matching =
        |route: &&Route| *route.from == *from.name && Glob::new(&route.number).matches(user);
    let route = config
        .routes
        .iter()
        .find(matching)
        .ok_or(RouteRefusal::NoRoute)?;
    let trunks: Vec<_> = route
        .to
        .iter()
        .filter_map(|name| config.trunk_named(name).cloned())
        .collect();
    if trunks.is_empty() {
        return Err(RouteRefusal::NoRoute);
    }
    let number = match &route.rewrite {
        Some(rewrite) => rewritten(rewrite, user),
        None => user.to_owned(),
    };
    if number.is_empty() {
        return Err(RouteRefusal::NumberMissing);
    }
    Ok(Routed {
        route,
        trunks,
        number,
    })
}

fn rewritten(rewrite: &Rewrite, user: &str) -> String {
    let rest = user.strip_prefix(rewrite.strip.as_str()).unwrap_or(user);
    format!("{}{rest}", rewrite.prepend)
}
