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

#[test]
fn every_sabotage_is_reported_by_its_checker() {
    for (sabotage, checker) in Sabotage::ALL {
        let reported = (0..60).find_map(|seed| sabotaged(seed, sabotage).violation);
        let reported = reported.unwrap_or_else(|| panic!("nobody reports {sabotage:?}"));
        assert_eq!(reported.checker, checker, "{sabotage:?}: {}", reported.text);
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
