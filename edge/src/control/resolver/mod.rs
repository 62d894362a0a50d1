//! Finding the addresses of a host (RFC 3263): SRV, then A and AAAA, on the control thread's own runtime.

mod order;

use edge_proto::b2bua::ResolveQuery;
use edge_proto::config::Transport;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ProtocolConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{Hosts, Resolver as Hickory, TokioResolver, system_conf};
use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// The most addresses an answer has: more would not be tried within a transaction's lifetime.
pub const MAX_ADDRESSES: usize = 16;

/// Lookups that run at the same time on one core.
const CONCURRENT: usize = 64;

/// Lookups that may wait for those; beyond them the answer is an error at once.
const WAITING: usize = 1024;

/// How names are resolved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResolverSettings {
    /// `[dns] servers`: asked instead of those of /etc/resolv.conf.
    pub servers: Vec<SocketAddr>,
    /// One question to one server; each is asked twice.
    pub attempt: Duration,
    /// Everything for one host; then the answer is an error.
    pub total: Duration,
    /// UDP ports that questions must not be sent from: the media range, whose ports a relay may need at any moment.
    pub avoid_ports: Option<RangeInclusive<u16>>,
}

impl Default for ResolverSettings {
    fn default() -> Self {
        ResolverSettings {
            servers: Vec::new(),
            attempt: Duration::from_secs(2),
            total: Duration::from_secs(8),
            avoid_ports: None,
        }
    }
}

/// One per control thread, with a cache of its own that follows the records' TTLs.
pub(super) struct Resolver {
    /// Or why there is none: then only names of /etc/hosts resolve, which suffices where trunks are addresses.
    dns: Result<TokioResolver, String>,
    hosts: Arc<Hosts>,
    total: Duration,
    permits: Semaphore,
    waiting: Cell<usize>,
    dice: RefCell<order::Dice>,
}

impl Resolver {
    /// Reads /etc/hosts and, without `servers`, /etc/resolv.conf. Must run inside the control thread's runtime.
    pub(super) fn new(settings: &ResolverSettings) -> Rc<Self> {
        let hosts = Arc::new(Hosts::from_system().unwrap_or_default());
        let dns = dns_client(settings);
        if let Err(fault) = &dns {
            tracing::warn!(%fault, "host names outside /etc/hosts cannot be resolved");
        }
        Rc::new(Resolver {
            dns,
            hosts,
            total: settings.total,
            permits: Semaphore::new(CONCURRENT),
            waiting: Cell::new(0),
            dice: RefCell::new(order::Dice::from_os()),
        })
    }

    /// Addresses in the order to try, at least one and at most [`MAX_ADDRESSES`]; the error names what was asked for.
    pub(super) async fn resolve(
        self: &Rc<Self>,
        query: ResolveQuery,
    ) -> Result<Vec<SocketAddr>, String> {
        if self.waiting.get() >= WAITING {
            return Err(format!("{}: too many lookups wait", query.host));
        }
        let lookup = async {
            let waiting = Waiting::new(&self.waiting);
            // Held to the end; the semaphore is never closed.
            let _permit = self.permits.acquire().await;
            drop(waiting);
            self.locate(&query).await
        };
        match tokio::time::timeout(self.total, lookup).await {
            Ok(result) => result.and_then(|mut addresses| {
                addresses.truncate(MAX_ADDRESSES);
                if addresses.is_empty() {
                    return Err(format!("{}: no address", query.host));
                }
                Ok(addresses)
            }),
            Err(_elapsed) => Err(format!(
                "{}: not resolved within {:?}",
                query.host, self.total
            )),
        }
    }

    async fn locate(self: &Rc<Self>, query: &ResolveQuery) -> Result<Vec<SocketAddr>, String> {
        // An entry in /etc/hosts is an operator's override and goes before SRV too.
        if let Some(port) = query.port.or_else(|| self.pinned_port(query)) {
            return self.addresses(&query.host, port, query).await;
        }
        match self.services(query).await? {
            Some(targets) => self.addresses_of(targets, query).await,
            None => {
                let port = query.transport.default_port();
                self.addresses(&query.host, port, query).await
            }
        }
    }

    /// The default port where /etc/hosts has the name in any family.
    fn pinned_port(&self, query: &ResolveQuery) -> Option<u16> {
        let name = fully_qualified(&query.host).ok()?;
        [RecordType::A, RecordType::AAAA]
            .into_iter()
            .any(|kind| {
                let question = Query::query(name.clone(), kind);
                self.hosts.lookup_static_host(&question).is_some()
            })
            .then(|| query.transport.default_port())
    }

    /// The host's SRV records in the order to try (RFC 2782); `None` when it has none.
    async fn services(&self, query: &ResolveQuery) -> Result<Option<Vec<SRV>>, String> {
        let service = match query.transport {
            Transport::Tls => "_sips._tcp",
            Transport::Tcp => "_sip._tcp",
            Transport::Udp => "_sip._udp",
        };
        let text = format!("{service}.{}", query.host);
        let records = match self.lookup(fully_qualified(&text)?, RecordType::SRV).await {
            Ok(records) => records,
            Err(Failure::NoRecords) => return Ok(None),
            // Not "no records": to go on with the address of the bare name could reach a host that was never meant.
            Err(failure) => return Err(format!("{text}: {failure}")),
        };
        let mut services: Vec<SRV> = records
            .into_iter()
            .filter_map(|data| match data {
                RData::SRV(srv) => Some(srv),
                _ => None,
            })
            .collect();
        if services.is_empty() {
            return Ok(None);
        }
        // RFC 2782: a target of "." says that the service is decidedly not there.
        services.retain(|srv| !srv.target.is_root());
        if services.is_empty() {
            return Err(format!(
                "{text}: the domain says that it offers no such service"
            ));
        }
        let mut services = order::by_priority_and_weight(services, &mut self.dice.borrow_mut());
        services.truncate(MAX_ADDRESSES);
        Ok(Some(services))
    }

    /// The addresses of all targets, in the targets' order; a target without any is passed over.
    async fn addresses_of(
        self: &Rc<Self>,
        targets: Vec<SRV>,
        query: &ResolveQuery,
    ) -> Result<Vec<SocketAddr>, String> {
        let mut lookups = JoinSet::new();
        for (index, target) in targets.into_iter().enumerate() {
            let (resolver, query) = (self.clone(), query.clone());
            lookups.spawn_local(async move {
                let host = target.target.to_utf8();
                (index, resolver.addresses(&host, target.port, &query).await)
            });
        }
        let mut found = Vec::new();
        while let Some(joined) = lookups.join_next().await {
            found.extend(joined.ok());
        }
        found.sort_by_key(|(index, _)| *index);
        let mut fault = None;
        let mut addresses = Vec::new();
        for (_, result) in found {
            match result {
                Ok(more) => addresses.extend(more),
                Err(text) => fault = fault.or(Some(text)),
            }
        }
        match fault {
            Some(fault) if addresses.is_empty() => Err(fault),
            _ => Ok(addresses),
        }
    }

    /// A and AAAA of one host, the families in turn, so that one that does not work costs at most every second attempt.
    async fn addresses(
        &self,
        host: &str,
        port: u16,
        query: &ResolveQuery,
    ) -> Result<Vec<SocketAddr>, String> {
        let name = possibly_local(host)?;
        let family = |wanted: bool, kind| {
            let name = name.clone();
            async move {
                if wanted {
                    self.lookup(name, kind).await
                } else {
                    Err(Failure::NoRecords)
                }
            }
        };
        let (v6, v4) = tokio::join!(
            family(query.ipv6, RecordType::AAAA),
            family(query.ipv4, RecordType::A)
        );
        let fault = match (&v6, &v4) {
            (Err(Failure::NoRecords), Err(Failure::NoRecords)) => {
                let wanted = match (query.ipv4, query.ipv6) {
                    (true, false) => "IPv4 address (A)",
                    (false, true) => "IPv6 address (AAAA)",
                    _ => "address (A or AAAA)",
                };
                Some(format!("no such host, or it has no {wanted}"))
            }
            (Err(Failure::Other(fault)), Err(_)) | (Err(_), Err(Failure::Other(fault))) => {
                Some(fault.clone())
            }
            _ => None,
        };
        if let Some(fault) = fault {
            return Err(format!("{}: {fault}", host.trim_end_matches('.')));
        }
        let addresses = |found: Result<Vec<RData>, Failure>| {
            found
                .unwrap_or_default()
                .into_iter()
                .filter_map(|data| data.ip_addr())
                .filter(usable)
        };
        Ok(order::in_turn(addresses(v6), addresses(v4))
            .map(|ip| SocketAddr::new(ip, port))
            .collect())
    }

    async fn lookup(&self, name: Name, kind: RecordType) -> Result<Vec<RData>, Failure> {
        let question = Query::query(name.clone(), kind);
        if let Some(found) = self.hosts.lookup_static_host(&question) {
            return Ok(found.answers().iter().map(|r| r.data.clone()).collect());
        }
        let dns = self
            .dns
            .as_ref()
            .map_err(|fault| Failure::Other(fault.clone()))?;
        let found = dns.lookup(name, kind).await.map_err(Failure::from)?;
        Ok(found
            .answers()
            .iter()
            .filter(|record| record.record_type() == kind)
            .map(|record| record.data.clone())
            .collect())
    }
}

/// Counts one lookup that waits for its turn, until dropped (by a timeout, too).
struct Waiting<'a>(&'a Cell<usize>);

impl<'a> Waiting<'a> {
    fn new(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Waiting(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// Why a question has no answer.
#[derive(thiserror::Error, Debug)]
enum Failure {
    #[error("no records")]
    NoRecords,
    #[error("{0}")]
    Other(String),
}

impl From<NetError> for Failure {
    fn from(error: NetError) -> Self {
        match error {
            error if error.is_no_records_found() => Failure::NoRecords,
            NetError::Timeout => Failure::Other("no answer from the DNS servers".to_owned()),
            error => Failure::Other(error.to_string()),
        }
    }
}

/// Addresses that a SIP peer can have; a name that resolves to "any" or a multicast group is a trap or a mistake.
fn usable(address: &IpAddr) -> bool {
    !address.is_unspecified() && !address.is_multicast()
}

fn parse(host: &str) -> Result<Name, String> {
    Name::from_utf8(host).map_err(|error| format!("{host}: not a host name: {error}"))
}

/// The name as it is, without search domains.
fn fully_qualified(host: &str) -> Result<Name, String> {
    let mut name = parse(host)?;
    name.set_fqdn(true);
    Ok(name)
}

/// A name with a dot is complete; a single label may be one of the search domains'.
fn possibly_local(host: &str) -> Result<Name, String> {
    let mut name = parse(host)?;
    if name.num_labels() > 1 {
        name.set_fqdn(true);
    }
    Ok(name)
}

fn dns_client(settings: &ResolverSettings) -> Result<TokioResolver, String> {
    let (config, mut options) = if settings.servers.is_empty() {
        system_conf::read_system_conf().map_err(|error| format!("/etc/resolv.conf: {error}"))?
    } else {
        let servers = settings.servers.iter().map(name_server).collect();
        (
            ResolverConfig::from_name_servers(servers),
            ResolverOpts::default(),
        )
    };
    options.timeout = settings.attempt;
    options.attempts = 2;
    options.use_hosts_file = ResolveHosts::Never; // looked at here, before
    options.cache_size = 1024;
    options.negative_max_ttl = Some(Duration::from_secs(30));
    options.try_tcp_on_error = true;
    options.preserve_intermediates = true;
    if let Some(ports) = &settings.avoid_ports {
        options.avoid_local_udp_ports = Arc::new(ports.clone().collect());
    }
    let mut builder = Hickory::builder_with_config(config, TokioRuntimeProvider::default());
    *builder.options_mut() = options;
    builder.build().map_err(|error| error.to_string())
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let connections = [ProtocolConfig::Udp, ProtocolConfig::Tcp]
        .into_iter()
        .map(|protocol| {
            let mut connection = ConnectionConfig::new(protocol);
            connection.port = address.port();
            connection
        })
        .collect();
    NameServerConfig::new(address.ip(), true, connections)
}
