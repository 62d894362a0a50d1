//! TLS and UDP, as far as the protocol sees them.

use crate::harness::*;
use edge_proto::b2bua::TlsTarget;
use edge_proto::id::ListenerId;

/// `ai` is reached over TLS by name.
fn over_tls() -> Config {
    config_with(|config| {
        config.listeners.push(listener(
            1,
            "tls",
            Transport::Tls,
            "192.0.2.1:5061".parse().expect("an address"),
        ));
        edit_trunk(config, "ai", |trunk| {
            trunk.listen = vec![ListenerId(1)];
            trunk.uris = vec![TrunkUri {
                host: "ai.example.net".into(),
                port: None,
                transport: Transport::Tls,
                sips: false,
            }];
        });
    })
}

#[test]
fn the_name_in_the_certificate_is_the_trunks() {
    flow(over_tls, |w| {
        let caller = calling(w);
        let query = w.resolve(Ok(vec![w.site.ai]));
        assert_eq!(query.transport, Transport::Tls);
        assert_eq!(
            w.connects[0].tls,
            Some(TlsTarget {
                server_name: "ai.example.net".into(),
                trunk: "ai".into(),
            })
        );
        let (mut agent, invite) = invited(w, w.site.ai, AGENT_RTP);
        let shown = text(&invite);
        assert!(
            shown.starts_with("INVITE sip:+19995550123@ai.example.net;transport=tls SIP/2.0\r\n"),
            "{shown}"
        );
        assert!(
            shown.contains("Via: SIP/2.0/TLS 192.0.2.1:5061;"),
            "{shown}"
        );
        assert!(
            shown.contains("Contact: <sip:edge@192.0.2.1:5061;transport=tls>"),
            "{shown}"
        );
        agent.contact = "<sip:ua@192.0.2.20:5070;transport=tls>".into();
        let (mut caller, mut agent) = answering(w, caller, agent, &invite);
        hang_up(w, &mut caller, &mut [&mut agent]);
    });
}

#[test]
fn a_certificate_that_does_not_verify() {
    for why in ["certificate expired", "unknown issuer", "wrong name"] {
        flow(over_tls, |w| {
            w.untrusted = vec![(w.site.ai, why)];
            let mut caller = calling(w);
            w.resolve(Ok(vec![w.site.ai]));
            w.assert_silent(w.site.ai);
            let refusal = caller.gets(w, "502 INVITE");
            caller.acks(w, &refusal);
            w.assert_told(&[&format!(
                "2 unreachable: 192.0.2.20:5070: TLS failed: {why} [unreachable]"
            )]);
            w.assert_cdr(&[
                "1 in carrier 502 unreachable edge",
                "2 out ai - unreachable edge",
            ]);
        });
    }
}

/// The carrier speaks UDP.
fn over_udp() -> Config {
    config_with(|config| config.listeners[0].transport = Transport::Udp).with_tcp_for_others()
}

trait Others {
    fn with_tcp_for_others(self) -> Self;
}

impl Others for Config {
    fn with_tcp_for_others(mut self) -> Config {
        let edge = self.listeners[0].address;
        self.listeners
            .push(listener(1, "tcp", Transport::Tcp, edge));
        for name in ["ai", "agents", "spare"] {
            edit_trunk(&mut self, name, |trunk| trunk.listen = vec![ListenerId(1)]);
        }
        self.allow = edge_proto::trunk::AllowTable::build(&self.listeners, &self.trunks);
        self
    }
}

fn udp_caller(w: &mut World) -> Ua {
    let link = Link::Datagram(ListenerId(0));
    Ua::caller_on(w, link, w.site.carrier, NUMBER, CALLER_RTP)
}

#[test]
fn datagrams_that_are_lost_and_repeated() {
    flow(over_udp, |w| {
        let mut caller = udp_caller(w);
        let body = caller.sdp.text();
        let invite = caller.request("INVITE", &[], &body);
        w.send(caller.link, caller.address, invite.clone());
        caller.gets(w, "100 INVITE");
        let (mut agent, inner) = invited(w, w.site.ai, AGENT_RTP);
        w.send(caller.link, caller.address, invite);
        caller.gets(w, "100 INVITE");
        w.assert_silent(w.site.ai);
        agent.accepts(w, &inner, 200);
        agent.gets(w, "ACK");
        caller.gets(w, "200 INVITE");
        // The 200 was lost; it is repeated until the ACK comes.
        w.advance(millis(500));
        let ok = caller.gets(w, "200 INVITE");
        caller.acks(w, &ok);
        w.advance(seconds(10));
        w.assert_silent(w.site.carrier);
        w.assert_bridges(&["4000<>4100"]);
        // Our BYE is lost twice.
        w.losing.insert(w.site.carrier, 2);
        agent.says(w, "BYE");
        agent.gets(w, "200 BYE");
        w.assert_silent(w.site.carrier);
        w.advance(seconds(2));
        gets_bye(w, &mut caller);
    });
}

#[test]
fn a_datagram_of_a_stranger() {
    flow(over_udp, |w| {
        let stranger = w.site.stranger;
        let link = Link::Datagram(ListenerId(0));
        let mut ua = Ua::caller_on(w, link, stranger, NUMBER, CALLER_RTP);
        ua.invites(w);
        w.send(link, stranger, "\r\n\r\n");
        w.assert_silent(stranger);
        w.assert_cdr(&[]);
    });
}

#[test]
fn a_transfer_of_a_caller_on_udp() {
    flow(over_udp, |w| {
        let mut caller = udp_caller(w);
        caller.invites(w);
        caller.gets(w, "100 INVITE");
        let (agent, invite) = invited(w, w.site.ai, AGENT_RTP);
        let (mut caller, mut agent) = answering(w, caller, agent, &invite);
        referred(w, &mut agent, TARGET, &[]);
        let (mut human, invite) = invited(w, w.site.human, HUMAN_RTP);
        let last = bridging(w, &mut agent, &mut human, &invite);
        w.assert_bridges(&["4000<>4200"]);
        agent.answers(w, &last, 200);
        gets_bye(w, &mut agent);
        hang_up(w, &mut human, &mut [&mut caller]);
    });
}
