//! Network namespaces of the test's own. They have no name: a namespace is gone with its last thread, whatever becomes of the
//! test.

use std::process::Command;

/// Puts the calling thread into a network namespace of its own with the loopback interface up. `None` where that is not
/// allowed.
pub fn enter() -> Option<()> {
    // SAFETY: NEWNET does not touch the table of file descriptors.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.ok()?;
    ip("link set lo up");
    Some(())
}

/// Runs `ip` in the calling thread's namespace.
pub fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split_ascii_whitespace())
        .output()
        .expect("iproute2 is installed");
    assert!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
