//! `[[route]]`.

use super::*;
use crate::call::policy::{RouteRefusal, route};
use crate::config::Rewrite;

fn entry(from: &str, number: &str, to: &[&str], rewrite: Option<(&str, &str)>) -> Route {
    Route {
        from: from.to_owned(),
        number: number.to_owned(),
        to: strings(to),
        rewrite: rewrite.map(|(strip, prepend)| Rewrite {
            strip: strip.to_owned(),
            prepend: prepend.to_owned(),
        }),
    }
}

#[test]
fn the_first_match_wins() {
    let mut fixture = Fixture::new();
    fixture.routes = vec![
        entry("pbx", "*", &["carrier"], None),
        entry("carrier", "+19991", &["pbx"], None),
        entry("carrier", "+1999*", &["ai", "pbx"], Some(("+1", "00"))),
        entry("carrier", "sales", &["agents"], Some(("x", ""))),
        entry("carrier", "gone", &["agents"], Some(("gone", ""))),
    ];
    let config = fixture.build();
    let ask = |user| {
        route(&config, config.trunk_named("carrier").unwrap(), user).map(|routed| {
            let names: Vec<_> = routed.trunks.iter().map(|t| &*t.name).collect();
            format!("{} to {}", routed.number, names.join(","))
        })
    };
    assert_eq!(ask(Some("+19991")).unwrap(), "+19991 to pbx");
    assert_eq!(ask(Some("+19992")).unwrap(), "009992 to ai,pbx");
    assert_eq!(ask(Some("sales")).unwrap(), "sales to agents");
    assert_eq!(ask(Some("Sales")), Err(RouteRefusal::NoRoute));
    assert_eq!(
        ask(Some("19991")),
        Err(RouteRefusal::NoRoute),
        "a leading + is significant"
    );
    assert_eq!(ask(Some("")), Err(RouteRefusal::NumberMissing));
    assert_eq!(ask(None), Err(RouteRefusal::NumberMissing));
    assert_eq!(ask(Some("gone")), Err(RouteRefusal::NumberMissing));
    assert_eq!(
        (
            RouteRefusal::NumberMissing.status(),
            RouteRefusal::NoRoute.status()
        ),
        (484, 404)
    );
}
