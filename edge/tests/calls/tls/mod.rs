//! SIP over TLS, with peers of other makes: stunnel in front of SIPp, and baresip.

mod faults;
mod front;
mod phone;
mod sips;

use crate::harness::pki::Issued;
use crate::harness::{EdgeConfig, Net, Pki};
use std::net::SocketAddr;
use std::path::Path;
use tempfile::TempDir;

/// A network whose edge has a TLS listener besides the plain one, and an authority that all sides trust.
pub struct Secure {
    pub net: Net,
    pub dir: TempDir,
    pub pki: Pki,
    edge: Issued,
}

impl Secure {
    pub fn new(net: Net) -> Secure {
        let dir = TempDir::new().expect("a directory");
        let pki = Pki::new(dir.path(), "authority");
        let edge = pki.issue("edge", &net.edge.to_string(), |_| {});
        Secure {
            edge,
            pki,
            dir,
            net,
        }
    }

    /// The TLS listener.
    pub fn listener(&self) -> SocketAddr {
        SocketAddr::new(self.net.edge, 5061)
    }

    /// The certificate of a peer.
    fn peer(&self, file: &str, address: SocketAddr) -> Issued {
        self.pki.issue(file, &address.ip().to_string(), |_| {})
    }

    /// `[[listen]]` for it; `keys`: more of its keys.
    fn listen(&self, keys: &str) -> String {
        format!(
            "[[listen]]\nname = \"secure\"\ntransport = \"tls\"\naddress = \"{}\"\ncertificate = {}\nprivate_key = {}\n{keys}\n",
            self.listener(),
            quoted(&self.edge.certificate),
            quoted(&self.edge.private_key),
        )
    }

    /// Keys of a trunk that is called over TLS, and proves that its server is from our authority.
    pub fn trunk(&self) -> String {
        format!(
            "tls_ca = {}\ntls_certificate = {}\ntls_private_key = {}\n",
            quoted(&self.pki.ca),
            quoted(&self.edge.certificate),
            quoted(&self.edge.private_key)
        )
    }

    /// The usual configuration with the TLS listener.
    pub fn config(&self) -> EdgeConfig {
        EdgeConfig {
            tail: self.listen(""),
            ..EdgeConfig::default()
        }
    }
}

/// A path as TOML.
fn quoted(path: &Path) -> String {
    format!("\"{}\"", path.display())
}
