//! One edge and its three peers: what nearly every test starts from, and what it asks at the end.

use super::scenario::Scenario;
use super::{Edge, EdgeConfig, Net, RtpParty, Sipp, have_sipp, wait};
use serde_json::Value;
use std::net::SocketAddr;
use tempfile::TempDir;

/// An edge between a carrier, an AI platform and a human, each with a voice of its own.
pub struct Scene {
    pub edge: Edge,
    pub carrier: RtpParty,
    pub ai: RtpParty,
    pub human: RtpParty,
    pub dir: TempDir,
    pub net: Net,
}

impl Scene {
    /// A running edge on addresses of its own; `None`, said aloud, where SIPp is missing.
    pub fn v4(config: &EdgeConfig) -> Option<Scene> {
        have_sipp().then(|| Scene::new(Net::v4(), config))
    }

    /// A running edge on `net`.
    pub fn new(net: Net, config: &EdgeConfig) -> Scene {
        Scene::with(net, TempDir::new().expect("a directory"), config)
    }

    /// The same with files in a directory that exists.
    pub fn with(net: Net, dir: TempDir, config: &EdgeConfig) -> Scene {
        Scene {
            edge: Edge::start(&net, dir.path(), config),
            carrier: RtpParty::new(net.carrier, 0xc1),
            ai: RtpParty::new(net.ai, 0xa1),
            human: RtpParty::new(net.human, 0x41),
            dir,
            net,
        }
    }

    /// A SIPp that waits at `local` to be called.
    pub fn called(&self, name: &str, scenario: &Scenario, local: SocketAddr) -> Sipp {
        // Credentials are computed for the Contact that the edge gives out (SIPp would take its own view of the peer).
        let auth_uri = format!("edge@{};transport=tcp", self.edge.sip);
        let extra = ["-auth_uri", auth_uri.as_str()];
        Sipp::start(self.dir.path(), name, scenario, local, None, &extra).listening(local)
    }

    /// The AI platform calls `number`, and can show credentials.
    pub fn ai_calls(&self, scenario: &Scenario, number: &str) -> Sipp {
        let local = SocketAddr::new(self.net.ai, 5072);
        let auth_uri = format!("{number}@{};transport=TCP", self.edge.sip);
        let (dir, edge) = (self.dir.path(), Some(self.edge.sip));
        Sipp::start(dir, "ai", scenario, local, edge, &["-auth_uri", &auth_uri])
    }

    /// The AI platform at the address of its trunk.
    pub fn ai_answers(&self, scenario: &Scenario) -> Sipp {
        self.called("ai", scenario, SocketAddr::new(self.net.ai, 5070))
    }

    /// The human at the address of the agents' trunk.
    pub fn human_answers(&self, scenario: &Scenario) -> Sipp {
        self.called("human", scenario, SocketAddr::new(self.net.human, 5080))
    }

    /// The carrier at the address of its trunk, as callee.
    pub fn carrier_answers(&self, scenario: &Scenario) -> Sipp {
        self.called("carrier", scenario, SocketAddr::new(self.net.carrier, 5060))
    }

    /// The carrier calls.
    pub fn carrier_calls(&self, scenario: &Scenario) -> Sipp {
        let local = SocketAddr::new(self.net.carrier, 5062);
        self.calls("carrier", scenario, local)
    }

    /// Somebody calls the edge from `local`.
    pub fn calls(&self, name: &str, scenario: &Scenario, local: SocketAddr) -> Sipp {
        Sipp::start(
            self.dir.path(),
            name,
            scenario,
            local,
            Some(self.edge.sip),
            &[],
        )
    }

    /// Any SIPp, with arguments of its own; those after the usual ones win.
    pub fn sipp(
        &self,
        name: &str,
        scenario: &Scenario,
        local: SocketAddr,
        remote: Option<SocketAddr>,
        extra: &[&str],
    ) -> Sipp {
        Sipp::start(self.dir.path(), name, scenario, local, remote, extra)
    }

    /// Lets two parties speak to where their SDP told them, and waits until each hears the other.
    pub fn talk(&self, one: (&RtpParty, &Sipp), other: (&RtpParty, &Sipp)) {
        one.0.speak_to(one.1.remote_media());
        other.0.speak_to(other.1.remote_media());
        one.0.hears(other.0, 5);
        other.0.hears(one.0, 5);
    }

    /// Waits until the one call of this test is over and every leg has its CDR line.
    pub fn story(&self, legs: usize) -> Story {
        let calls: Value = wait::until("the call is over", || {
            let calls: Value = serde_json::from_str(&self.edge.get("/v1/calls")).ok()?;
            let ended = calls["calls"].as_array()?.iter().map(|c| &c["state"]);
            (ended.clone().count() == 1 && ended.clone().all(|s| s == "ended")).then_some(calls)
        });
        let call = calls["calls"][0]["call"].as_str().expect("an id");
        let legs = self.edge.cdrs(legs);
        assert!(legs.iter().all(|leg| leg["call"] == call), "{legs:#?}");
        Story {
            legs,
            timeline: self.edge.timeline(call),
            call: call.to_owned(),
        }
    }
}

/// What the edge reports of a call that is over.
#[derive(Debug)]
pub struct Story {
    pub call: String,
    /// Its CDR lines.
    pub legs: Vec<Value>,
    /// `kind detail reason` of each event.
    pub timeline: Vec<String>,
}

impl Story {
    /// The CDR line of the only leg of a trunk.
    pub fn leg(&self, trunk: &str) -> &Value {
        let mut legs = self.legs.iter().filter(|leg| leg["trunk"] == trunk);
        match (legs.next(), legs.next()) {
            (Some(leg), None) => leg,
            _ => panic!("not one leg of {trunk}: {:#?}", self.legs),
        }
    }

    /// Asserts that the timeline has entries with these texts, in this order.
    pub fn tells(&self, wanted: &[&str]) {
        let mut entries = self.timeline.iter();
        for text in wanted {
            assert!(
                entries.any(|entry| entry.contains(text)),
                "no {text:?} (in this place) in\n{}",
                self.timeline.join("\n")
            );
        }
    }

    /// Asserts that no entry of the timeline has this text.
    pub fn never_tells(&self, text: &str) {
        let found = self.timeline.iter().find(|entry| entry.contains(text));
        assert_eq!(found, None, "in\n{}", self.timeline.join("\n"));
    }
}
