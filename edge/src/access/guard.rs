//! Which media ports are open, and for whom: told to XDP by the threads that open and latch them.

use super::filter::FilterError;
use super::layout::{self, FAMILY_IPV4, FAMILY_IPV6, FLOW_SOURCES, Flow, FlowKey, Source};
use aya::maps::{HashMap, Map, MapData};
use rustix::fd::OwnedFd;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use tracing::debug;

/// Who may send to a media port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowSource {
    pub address: IpAddr,
    /// `None`: from any port.
    pub port: Option<u16>,
}

impl From<IpAddr> for FlowSource {
    fn from(address: IpAddr) -> Self {
        FlowSource {
            address,
            port: None,
        }
    }
}

impl From<SocketAddr> for FlowSource {
    fn from(source: SocketAddr) -> Self {
        FlowSource {
            address: source.ip(),
            port: Some(source.port()),
        }
    }
}

/// The descriptor of the flow map, there once the program is loaded.
pub(super) type SharedFlows = Arc<OnceLock<OwnedFd>>;

type FlowMap = HashMap<MapData, FlowKey, Flow>;

/// A thread's own handle to the map of open media ports. Every method is one system call at most, never waits and never
/// fails the caller: without XDP, or when the map is full, the port is judged by the relay alone (XDP lets pass what a socket
/// of the host waits for).
///
/// Order: tell the guard before a port's socket is bound, and remove the port after the socket is closed, so that the
/// socket never counts as one of the host's own.
#[derive(Debug)]
pub struct MediaGuard {
    shared: SharedFlows,
    own: Option<FlowMap>,
}

impl Clone for MediaGuard {
    fn clone(&self) -> Self {
        MediaGuard::new(Arc::clone(&self.shared))
    }
}

impl MediaGuard {
    pub(super) fn new(shared: SharedFlows) -> Self {
        MediaGuard { shared, own: None }
    }

    /// A guard that tells nobody.
    pub fn absent() -> Self {
        MediaGuard::new(SharedFlows::default())
    }

    /// Opens `local` for the sources that may latch: at most two. None at all closes the port for everyone.
    pub fn allow_latching(&mut self, local: SocketAddr, sources: &[FlowSource]) {
        let mut flow = Flow::default();
        let family = layout::words(local.ip()).0;
        for source in sources {
            let (source_family, address) = layout::words(source.address);
            // A source of the other family can never send here.
            if source_family != family {
                continue;
            }
            let Some(slot) = flow.sources.get_mut(usize::from(flow.count)) else {
                debug_assert!(false, "more than {FLOW_SOURCES} sources");
                break;
            };
            *slot = Source {
                address,
                port: source.port.unwrap_or(0),
                reserved: 0,
            };
            flow.count += 1;
        }
        self.set(local, flow);
    }

    /// Opens `local` for whoever sends first (`latch = "any"`).
    pub fn allow_any(&mut self, local: SocketAddr) {
        let any = Flow {
            any: 1,
            ..Flow::default()
        };
        self.set(local, any);
    }

    /// Opens `local` for one source: the latch has closed.
    pub fn allow_exact(&mut self, local: SocketAddr, source: SocketAddr) {
        self.allow_latching(local, &[source.into()]);
    }

    /// The port is closed.
    pub fn remove(&mut self, local: SocketAddr) {
        if let Some(map) = self.map() {
            // Not there: it was never told, or the map was full.
            let _ = map.remove(&key(local));
        }
    }

    fn set(&mut self, local: SocketAddr, flow: Flow) {
        let key = key(local);
        let Some(map) = self.map() else { return };
        if let Err(fault) = map.insert(key, flow, 0) {
            // An entry that cannot be replaced would drop the new source.
            let _ = map.remove(&key);
            debug!(%local, %fault, "XDP cannot be told about a media port");
        }
    }

    fn map(&mut self) -> Option<&mut FlowMap> {
        if self.own.is_none() {
            self.own = open(self.shared.get()?)
                .inspect_err(|fault| debug!(%fault, "no handle to the map of media ports"))
                .ok();
        }
        self.own.as_mut()
    }
}

fn open(shared: &OwnedFd) -> Result<FlowMap, FilterError> {
    let fd = shared.try_clone().map_err(FilterError::Descriptor)?;
    let map = Map::from_map_data(MapData::from_fd(fd)?)?;
    Ok(HashMap::try_from(map)?)
}

fn key(local: SocketAddr) -> FlowKey {
    FlowKey {
        port: local.port(),
        family: u16::from(match local.ip().to_canonical() {
            IpAddr::V4(_) => FAMILY_IPV4,
            IpAddr::V6(_) => FAMILY_IPV6,
        }),
    }
}
