//! A network namespace of the bench's own.

use anyhow::{Context as _, Result, ensure};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use std::fs;
use std::process::Command;

/// Moves the calling thread, and what it starts from now on, into a network namespace that has nothing but loopback, and in which the kernel
/// gives none of the ports `reserved` (`10000-60000`) to outgoing sockets. False: that needs root, and nothing has
/// changed.
pub fn enter(reserved: &str) -> Result<bool> {
    // SAFETY: NEWNET does not touch the table of file descriptors.
    if unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.is_err() {
        return Ok(false);
    }
    let up = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status()
        .context("starting ip")?;
    ensure!(up.success(), "loopback does not come up");
    fs::write("/proc/sys/net/ipv4/ip_local_reserved_ports", reserved)
        .context("reserving the media ports")?;
    Ok(true)
}
