//! `[[route]]`.

use super::trunk::Names;
use crate::config::diagnostic::Sink;
use crate::config::raw::{RawRewrite, RawRoute};
use edge_proto::config::{Rewrite, Route};

const MAX_ROUTES: usize = 10_000;
const MAX_TRIED: usize = 8;

pub(super) fn routes(sink: &mut Sink<'_>, raw: &[RawRoute], names: &Names) -> Vec<Route> {
    if let Some(extra) = raw.get(MAX_ROUTES) {
        sink.error(
            &extra.place,
            format!("expected at most {MAX_ROUTES} routes"),
        );
    }
    let mut routes: Vec<Route> = Vec::new();
    for raw in raw {
        let Some(route) = route(sink, raw, names) else {
            continue;
        };
        let hides = |earlier: &&Route| {
            let all = earlier.number == "*" || earlier.number == route.number;
            earlier.from == route.from && all
        };
        if let Some(earlier) = routes.iter().find(hides) {
            let number = &earlier.number;
            sink.warning(
                &raw.place,
                format!("an earlier route for {number:?} takes every call of this one"),
            );
        }
        routes.push(route);
    }
    routes
}

fn route(sink: &mut Sink<'_>, raw: &RawRoute, names: &Names) -> Option<Route> {
    let from = raw.from.as_ref();
    if let Some(from) = from {
        names.expect_trunk(sink, from);
    }
    let to = raw.to.as_ref();
    if let Some(to) = to {
        to.items
            .iter()
            .for_each(|name| names.expect_callable(sink, name));
        if to.written == 0 {
            sink.error(&to.place, "expected at least one trunk");
        }
        if to.written > MAX_TRIED {
            sink.error(&to.place, format!("expected at most {MAX_TRIED} trunks"));
        }
    }
    Some(Route {
        from: from?.value.clone(),
        number: raw.number.as_ref()?.value.clone(),
        to: to?.items.iter().map(|name| name.value.clone()).collect(),
        rewrite: raw.rewrite.as_ref().map(rewrite),
    })
}

fn rewrite(raw: &RawRewrite) -> Rewrite {
    let text = |key: &Option<crate::config::diagnostic::At<String>>| {
        key.as_ref()
            .map_or_else(String::new, |found| found.value.clone())
    };
    Rewrite {
        strip: text(&raw.strip),
        prepend: text(&raw.prepend),
    }
}
