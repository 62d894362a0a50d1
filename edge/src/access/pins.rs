//! Pins on the BPF file system, so that what filters (and later forwards) outlives the daemon.
//!
//! `<root>/v<layout>/<network namespace>-<process>-<serial>/` holds every map under its own name and `link-<interface>` for
//! every attachment. Its owner holds a lock on the directory, so a directory that can be locked belongs to a daemon that
//! crashed: the next one takes its attachments over without a gap, whatever version wrote them, and removes it.

use super::filter::{Filter, told};
use super::interface;
use super::layout::LAYOUT_VERSION;
use aya::programs::links::{FdLink, PinnedLink};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use thiserror::Error;
use tracing::{debug, warn};

/// Where the BPF file system is mounted on every distribution, and the edge's directory in it.
pub const DEFAULT_ROOT: &str = "/sys/fs/bpf/sip-edge";

const LINK: &str = "link-";

/// Why nothing is pinned. The filter works without; only a crash then detaches it.
#[derive(Debug, Error)]
pub enum PinFault {
    #[error(
        "{path}: {fault} (is a BPF file system mounted there, and may this process write to it?)"
    )]
    Directory { path: String, fault: io::Error },
    #[error("{path}: {fault}")]
    Pin { path: String, fault: String },
}

/// The directory of this process. Dropping it removes it and everything in it.
#[derive(Debug)]
pub struct Pins {
    directory: PathBuf,
    /// Locked as long as the owner lives.
    _lock: File,
}

impl Pins {
    /// Makes the directory under `root` and pins the maps in it.
    pub fn create(root: &Path, filter: &Filter) -> Result<Pins, PinFault> {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let version = root.join(format!("v{LAYOUT_VERSION}"));
        let fault = |path: &Path, fault| PinFault::Directory {
            path: path.display().to_string(),
            fault,
        };
        let namespace = namespace().map_err(|e| fault(Path::new(NAMESPACE), e))?;
        let directory = version.join(format!("{namespace}-{}-{serial}", std::process::id()));
        for path in [root, &version, &directory] {
            match fs::create_dir(path) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                result => result.map_err(|e| fault(path, e))?,
            }
        }
        let lock = File::open(&directory).map_err(|e| fault(&directory, e))?;
        lock.try_lock().map_err(|e| fault(&directory, e.into()))?;
        let pins = Pins {
            directory,
            _lock: lock,
        };
        for (name, map) in filter.maps() {
            // Sections of the object that are no map of layout.h, such as .rodata, have a dot, which bpffs refuses.
            if name.contains('.') {
                continue;
            }
            let path = pins.directory.join(name);
            map.pin(&path).map_err(|e| PinFault::Pin {
                path: path.display().to_string(),
                fault: told(&e),
            })?;
        }
        Ok(pins)
    }

    /// Pins the attachment to `interface`. On failure the attachment is lost, and so detached.
    pub fn pin_link(&self, interface: &str, link: FdLink) -> Result<PinnedLink, PinFault> {
        let path = self.directory.join(link_name(interface));
        // A pin of an attachment that is no more would be in the way.
        let _ = fs::remove_file(&path);
        link.pin(&path).map_err(|e| PinFault::Pin {
            path: path.display().to_string(),
            fault: told(&e),
        })
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        remove(&self.directory);
        // Gone when no other daemon has anything there.
        for parent in self.directory.ancestors().skip(1).take(2) {
            let _ = fs::remove_dir(parent);
        }
    }
}

/// What daemons that crashed in this network namespace left behind.
#[derive(Debug, Default)]
pub struct Remains {
    /// Attachments by interface.
    links: BTreeMap<String, PinnedLink>,
    directories: Vec<(PathBuf, File)>,
}

impl Remains {
    /// Looks under `root` for directories of this network namespace that nobody owns any more.
    pub fn find(root: &Path) -> Remains {
        let mut remains = Remains::default();
        let Ok(namespace) = namespace() else {
            return remains;
        };
        let prefix = format!("{namespace}-");
        for version in entries(root) {
            for directory in entries(&version) {
                let ours = name(&directory).is_some_and(|name| name.starts_with(&prefix));
                if let (true, Ok(lock)) = (ours, File::open(&directory))
                    && lock.try_lock().is_ok()
                {
                    remains.collect(&directory);
                    remains.directories.push((directory, lock));
                }
            }
        }
        remains
    }

    fn collect(&mut self, directory: &Path) {
        for path in entries(directory) {
            let Some(interface) = name(&path).and_then(interface_name) else {
                continue;
            };
            match PinnedLink::from_pin(&path) {
                Ok(link) => {
                    self.links.insert(interface, link);
                }
                Err(fault) => {
                    debug!(path = %path.display(), %fault, "a pinned attachment cannot be opened")
                }
            }
        }
    }

    /// The attachment to `interface`, which stays in force as long as the result lives.
    pub fn take(&mut self, interface: &str) -> Option<FdLink> {
        self.links.remove(interface).and_then(unpinned)
    }
}

/// The attachment without its pin. `None`: the pin cannot be removed, and holds it.
fn unpinned(link: PinnedLink) -> Option<FdLink> {
    link.unpin()
        .inspect_err(|fault| warn!(%fault, "an attachment cannot be unpinned"))
        .ok()
}

impl Drop for Remains {
    /// Detaches what was not taken and removes the directories.
    fn drop(&mut self) {
        for (name, link) in std::mem::take(&mut self.links) {
            let before = interface::query(&name);
            drop(unpinned(link));
            if let Ok(before) = before {
                interface::await_release(&name, before);
            }
            warn!(
                interface = name,
                "detached the XDP program that an earlier process left behind"
            );
        }
        for (directory, _lock) in &self.directories {
            remove(directory);
        }
    }
}

const NAMESPACE: &str = "/proc/thread-self/ns/net";

/// The inode of the calling thread's network namespace: interface names mean something only inside it.
fn namespace() -> io::Result<u64> {
    Ok(fs::metadata(NAMESPACE)?.ino())
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    entries.flatten().map(|entry| entry.path()).collect()
}

fn name(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

fn remove(directory: &Path) {
    for path in entries(directory) {
        if let Err(fault) = fs::remove_file(&path) {
            warn!(path = %path.display(), %fault, "a pin cannot be removed");
        }
    }
    if let Err(fault) = fs::remove_dir(directory) {
        warn!(path = %directory.display(), %fault, "a directory of pins cannot be removed");
    }
}

/// File name of an attachment: bpffs takes no dots, which names of VLAN interfaces have.
fn link_name(interface: &str) -> String {
    format!(
        "{LINK}{}",
        interface.replace('%', "%25").replace('.', "%2E")
    )
}

fn interface_name(file: &str) -> Option<String> {
    let name = file.strip_prefix(LINK)?;
    Some(name.replace("%2E", ".").replace("%25", "%"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_names_have_no_dots_and_lead_back_to_the_interface() {
        for interface in ["eth0", "eth0.100", "a%2Eb", "%", "50%.x"] {
            let file = link_name(interface);
            assert!(!file.contains('.'), "{file}");
            assert_eq!(interface_name(&file).as_deref(), Some(interface));
        }
        assert_eq!(interface_name("flows"), None);
    }
}
