//! The load kit's SIPp parties (`bench/sipp`), many calls at a time, for tests of what happens to all of them.

use crate::harness::{Net, wait};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// One SIPp of the kit. It is killed when dropped.
pub struct Party {
    child: Child,
    messages: PathBuf,
    errors: PathBuf,
}

impl Party {
    /// Starts a scenario of the kit at `at` (address and port); `extra`: further arguments.
    pub fn start(dir: &Path, scenario: &str, at: (&str, u16), extra: &[&str]) -> Party {
        let kit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bench/sipp");
        let injected = match scenario.strip_suffix("-caller") {
            Some(_) => "callers.csv",
            None => "targets.csv",
        };
        // The kit's numbers, unless the test brings its own.
        let own = !extra.contains(&"-inf");
        let messages = dir.join(format!("{scenario}.messages"));
        let errors = dir.join(format!("{scenario}.errors"));
        for file in [&messages, &errors] {
            let _ = fs::remove_file(file);
        }
        let output = fs::File::create(dir.join(format!("{scenario}.out"))).expect("a file");
        let child = Command::new("sipp")
            .arg("-sf")
            .arg(kit.join(format!("{scenario}.xml")))
            .args(["-i", at.0, "-p", &at.1.to_string(), "-t", "t1", "-nostdin"])
            .args(["-trace_msg", "-message_file"])
            .arg(&messages)
            .args(["-trace_err", "-error_file"])
            .arg(&errors)
            .args(extra)
            .args(
                own.then_some(["-inf".as_ref(), kit.join(injected).as_os_str()])
                    .into_iter()
                    .flatten(),
            )
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a second handle"))
            .stderr(output)
            .spawn()
            .expect("sipp starts");
        Party {
            child,
            messages,
            errors,
        }
    }

    /// Bytes of messages that it has traced so far.
    pub fn traced(&self) -> u64 {
        fs::metadata(&self.messages).map_or(0, |file| file.len())
    }

    /// Call-IDs whose INVITE it saw answered.
    pub fn answered(&self) -> BTreeSet<String> {
        let trace = fs::read(&self.messages).unwrap_or_default();
        let trace = String::from_utf8_lossy(&trace);
        let header = |message: &str, name: &str| {
            let line = message.lines().find_map(|line| line.strip_prefix(name));
            line.map(|value| value.trim().to_owned())
        };
        trace
            .split("-----------------------------------------------")
            .filter(|block| block.contains("message received") && block.contains("SIP/2.0 200"))
            .filter(|block| header(block, "CSeq:").is_some_and(|cseq| cseq.ends_with("INVITE")))
            .filter_map(|block| header(block, "Call-ID:"))
            .collect()
    }

    /// Waits for its end; every call went as the scenario says.
    pub fn passes(&mut self) {
        let status = wait::try_until(3 * wait::PATIENCE, || {
            self.child.try_wait().expect("sipp can be waited for")
        });
        let errors = fs::read_to_string(&self.errors).unwrap_or_default();
        let code = status.and_then(|status| status.code());
        assert_eq!(code, Some(0), "{}:\n{errors}", self.errors.display());
    }
}

impl Drop for Party {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// `ip` as SIPp wants it.
pub fn host(ip: std::net::IpAddr) -> String {
    Net::host(ip)
}
