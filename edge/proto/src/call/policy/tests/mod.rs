//! The policy from outside: one configuration, many questions.

mod family;
mod refer;
mod route;
mod target;

use crate::config::{
    Config, Listener, MediaAddress, MediaConfig, Route, SipConfig, TransferPolicy, Transport,
    Trunk, TrunkUri,
};
use crate::id::{ListenerId, TrunkId};
use crate::time::Duration;
use crate::trunk::AllowTable;
use std::net::IpAddr;
use std::sync::Arc;

fn uri(host: &str, port: Option<u16>) -> TrunkUri {
    TrunkUri {
        host: host.to_owned(),
        port,
        transport: Transport::Tcp,
        sips: false,
    }
}

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|&text| text.to_owned()).collect()
}

/// Trunks: carrier (192.0.2.2), ai (192.0.2.3:5070, may transfer via agents), agents (192.0.2.4, 2001:db8::4), pbx (pbx.example.net:5080),
/// inbound (no uri). The edge is 192.0.2.1:5060 and edge.example.net.
struct Fixture {
    trunks: Vec<Trunk>,
    routes: Vec<Route>,
    media: Vec<IpAddr>,
}

impl Fixture {
    fn new() -> Fixture {
        let names = ["carrier", "ai", "agents", "pbx", "inbound"];
        let trunk = |(id, name)| Trunk::new(TrunkId(id), name, vec![ListenerId(0)]);
        let mut trunks: Vec<Trunk> = (0u16..).zip(names).map(trunk).collect();
        trunks[0].uris = vec![uri("192.0.2.2", None)];
        trunks[1].uris = vec![uri("192.0.2.3", Some(5070))];
        trunks[2].uris = vec![uri("192.0.2.4", None), uri("2001:db8::4", None)];
        trunks[3].uris = vec![uri("pbx.example.net", Some(5080))];
        trunks[1].transfer = Some(TransferPolicy {
            max_transfers: 2,
            via: Some("agents".to_owned()),
            targets: strings(&[
                "+1*",
                "sip:*@192.0.2.4",
                "sip:*@[2001:db8::4]",
                "sip:9*@pbx.example.net",
            ]),
            ..TransferPolicy::default()
        });
        Fixture {
            trunks,
            routes: Vec::new(),
            media: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
        }
    }

    /// The policy of the trunk "ai".
    fn policy(&mut self) -> &mut TransferPolicy {
        self.trunks[1].transfer.as_mut().unwrap()
    }

    fn build(self) -> Config {
        let listeners = vec![Listener {
            id: ListenerId(0),
            name: "public".to_owned(),
            transport: Transport::Tcp,
            address: "192.0.2.1:5062".parse().unwrap(),
            advertised: "192.0.2.1:5062".parse().unwrap(),
        }];
        let trunks: Vec<_> = self.trunks.into_iter().map(Arc::new).collect();
        let media = |v4: bool| {
            let address = self.media.iter().find(|a| a.is_ipv4() == v4).copied();
            address.map(|bind| MediaAddress {
                bind,
                advertised: bind,
            })
        };
        Config {
            domains: strings(&["edge.example.net", "192.0.2.1"]),
            sip: SipConfig::default(),
            media: MediaConfig {
                ipv4: media(true),
                ipv6: media(false),
                ports: 10_000..=10_999,
                timeout: Duration::from_secs(60),
            },
            allow: AllowTable::build(&listeners, &trunks),
            listeners,
            trunks,
            routes: self.routes,
        }
    }
}

fn ai(config: &Config) -> &Trunk {
    config.trunk_named("ai").unwrap()
}
