//! stunnel: TLS in front of a SIPp, which speaks none.

use super::pki::Issued;
use super::sipp::is_listening;
use super::wait;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Whether stunnel is installed; says so when a test is skipped for it.
pub fn have_stunnel() -> bool {
    let found = Command::new("stunnel4").arg("-version").output().is_ok();
    if !found {
        eprintln!("SKIPPED: stunnel4 is not installed (apt install stunnel4)");
    }
    found
}

/// A running stunnel. It is killed when dropped.
pub struct Tunnel {
    child: Child,
}

/// One of its services.
pub struct Service {
    accept: SocketAddr,
    lines: String,
}

impl Service {
    /// TLS at `accept`, plain text to `connect`. The other side's certificate must be from `demands`, where it is given.
    pub fn server(
        accept: SocketAddr,
        connect: SocketAddr,
        own: &Issued,
        demands: Option<&Path>,
    ) -> Service {
        let demands = demands.map_or(String::new(), |ca| {
            format!("verifyChain = yes\nCAfile = {}\n", ca.display())
        });
        Service {
            accept,
            lines: format!(
                "accept = {accept}\nconnect = {connect}\n{demands}{}",
                shown(own)
            ),
        }
    }

    /// Plain text at `accept`, TLS to `connect` from the address of `accept`, showing `own` where it is given. The server's
    /// certificate must be from `ca` and name `connect`.
    pub fn client(
        accept: SocketAddr,
        connect: SocketAddr,
        ca: &Path,
        own: Option<&Issued>,
    ) -> Service {
        let shown = own.map_or(String::new(), shown);
        Service {
            accept,
            lines: format!(
                "client = yes\naccept = {accept}\nconnect = {connect}\nlocal = {}\nverifyChain = yes\nCAfile = {}\ncheckIP = {}\n{shown}",
                accept.ip(),
                ca.display(),
                connect.ip(),
            ),
        }
    }
}

fn shown(own: &Issued) -> String {
    format!(
        "cert = {}\nkey = {}\n",
        own.certificate.display(),
        own.private_key.display()
    )
}

impl Tunnel {
    pub fn start(dir: &Path, name: &str, services: &[Service]) -> Tunnel {
        let mut config = "foreground = yes\npid =\ndebug = 5\n".to_owned();
        for (number, service) in services.iter().enumerate() {
            config.push_str(&format!("[{number}]\n{}", service.lines));
        }
        let file = dir.join(format!("{name}.stunnel"));
        fs::write(&file, config).expect("the configuration is written");
        let log = dir.join(format!("{name}.stunnel.log"));
        let output = fs::File::create(&log).expect("a log file");
        let child = Command::new("stunnel4")
            .arg(&file)
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a second handle"))
            .stderr(output)
            .spawn()
            .expect("stunnel starts");
        let mut tunnel = Tunnel { child };
        let ready = wait::try_until(wait::PATIENCE, || {
            assert!(
                matches!(tunnel.child.try_wait(), Ok(None)),
                "{}",
                read(&log)
            );
            let all = services.iter().all(|service| is_listening(service.accept));
            all.then_some(())
        });
        assert!(ready.is_some(), "stunnel does not listen:\n{}", read(&log));
        tunnel
    }
}

fn read(log: &Path) -> String {
    fs::read_to_string(log).unwrap_or_default()
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
