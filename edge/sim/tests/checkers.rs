//! Each checker reports a B2BUA that was sabotaged to break its rule.

use edge_sim::sabotage::{Sabotage, Saboteur};
use edge_sim::scenario::Scenario;
use edge_sim::{Outcome, Trace, play};

fn sabotaged(seed: u64, sabotage: Sabotage) -> Outcome {
    let make = move |params, now| -> Box<dyn edge_sim::subject::Subject> {
        Box::new(Saboteur::new(params, now, sabotage))
    };
    play(Scenario::draw(seed), &make, Trace::off())
}

/// Another checker may see what comes of it first: a message too many takes the number of the next.
#[test]
fn every_sabotage_is_reported_by_its_checker() {
    for (sabotage, checker) in Sabotage::ALL {
        let violations = (0..60).filter_map(|seed| sabotaged(seed, sabotage).violation);
        let mut others = Vec::new();
        let reported = violations
            .inspect(|violation| others.push(violation.checker))
            .any(|violation| violation.checker == checker);
        assert!(reported, "{sabotage:?} is reported by {others:?} alone");
    }
}

#[test]
fn every_checker_has_a_sabotage() {
    let covered: Vec<&str> = Sabotage::ALL.iter().map(|&(_, checker)| checker).collect();
    for name in edge_sim::check::Checks::default().names() {
        assert!(covered.contains(&name), "{name} is never shown to fail");
    }
}

#[test]
fn what_depends_on_another_life_has_another_fingerprint() {
    let differs = (0..20).any(|seed| {
        let runs = [0, 1].map(|_| sabotaged(seed, Sabotage::Remember).fingerprint);
        runs[0] != runs[1]
    });
    assert!(differs);
}
