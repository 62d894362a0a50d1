//! What the machine says that a configuration depends on.

use rustix::process::{Resource, getrlimit};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// Facts about this machine and about how this process was started.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Environment {
    /// net.ipv4.ip_local_port_range: where the kernel takes the ports of outgoing sockets from.
    pub ephemeral_ports: Option<RangeInclusive<u16>>,
    /// net.ipv4.ip_local_reserved_ports: those of them that it leaves alone.
    pub reserved_ports: Vec<RangeInclusive<u16>>,
    /// RLIMIT_NOFILE, the hard limit, to which the edge raises its own; `None`: unlimited or unknown.
    pub open_files: Option<u64>,
    /// The network interfaces; `None`: unknown.
    pub interfaces: Option<Vec<String>>,
    /// $CREDENTIALS_DIRECTORY: where the service manager put this process's secrets (systemd.exec(5)).
    pub credentials: Option<PathBuf>,
}

impl Environment {
    /// Asks /proc and /sys; what cannot be read stays unknown.
    pub fn probe() -> Environment {
        let sysctl = Path::new("/proc/sys/net/ipv4");
        let read = |name: &str| std::fs::read_to_string(sysctl.join(name)).ok();
        let names = std::fs::read_dir("/sys/class/net").ok().map(|entries| {
            let name = |entry: std::io::Result<std::fs::DirEntry>| {
                entry.ok()?.file_name().into_string().ok()
            };
            entries.filter_map(name).collect()
        });
        Environment {
            ephemeral_ports: read("ip_local_port_range").and_then(|text| port_pair(&text)),
            reserved_ports: read("ip_local_reserved_ports")
                .map(|text| reserved(&text))
                .unwrap_or_default(),
            open_files: getrlimit(Resource::Nofile).maximum,
            interfaces: names,
            credentials: std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from),
        }
    }

    /// The first port of `ports` that the kernel may give to an outgoing socket. As far as that is known: see
    /// [`Environment::handed_out_port`].
    pub(super) fn contested_port(&self, ports: &RangeInclusive<u16>) -> Option<u16> {
        let ephemeral = self.ephemeral_ports.as_ref()?;
        let is_reserved = |port: &u16| self.reserved_ports.iter().any(|r| r.contains(port));
        ports
            .clone()
            .find(|port| ephemeral.contains(port) && !is_reserved(port))
    }

    /// The first port of `ports` of which it is not sure that the kernel gives it to nobody who did not ask for it.
    pub fn handed_out_port(&self, ports: &RangeInclusive<u16>) -> Option<u16> {
        match self.ephemeral_ports {
            Some(_) => self.contested_port(ports),
            None => Some(*ports.start()),
        }
    }
}

/// Two ports with white space between them.
fn port_pair(text: &str) -> Option<RangeInclusive<u16>> {
    let mut words = text.split_whitespace();
    Some(words.next()?.parse().ok()?..=words.next()?.parse().ok()?)
}

/// `8080,9148-9150`.
fn reserved(text: &str) -> Vec<RangeInclusive<u16>> {
    let range = |item: &str| {
        let (low, high) = item.split_once('-').unwrap_or((item, item));
        Some(low.trim().parse().ok()?..=high.trim().parse().ok()?)
    };
    text.split(',').filter_map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contested_ports_are_those_the_kernel_hands_out() {
        let environment = Environment {
            ephemeral_ports: port_pair("32768\t60999\n"),
            reserved_ports: reserved("8080,32768-40000\n"),
            ..Environment::default()
        };
        assert_eq!(environment.contested_port(&(10_000..=32_767)), None);
        assert_eq!(environment.contested_port(&(10_000..=40_000)), None);
        assert_eq!(environment.contested_port(&(10_000..=60_000)), Some(40_001));
        assert_eq!(
            Environment::default().contested_port(&(10_000..=60_000)),
            None
        );
        assert_eq!(environment.handed_out_port(&(10_000..=40_000)), None);
        assert_eq!(
            Environment::default().handed_out_port(&(10_000..=40_000)),
            Some(10_000)
        );
    }
}
