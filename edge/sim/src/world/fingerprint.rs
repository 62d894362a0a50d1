//! One number that stands for everything the cores did (FNV-1a, 64 bits).

use edge_proto::b2bua::Output;
use edge_proto::id::CoreId;
use edge_proto::time::Instant;
use std::fmt::{self, Write};

pub struct Fingerprint(u64);

impl Default for Fingerprint {
    fn default() -> Self {
        Fingerprint(0xcbf2_9ce4_8422_2325)
    }
}

impl Fingerprint {
    pub fn value(&self) -> u64 {
        self.0
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// Takes in what a core wants done.
    pub fn output(&mut self, now: Instant, core: CoreId, output: &Output) {
        self.bytes(&now.as_nanos().to_le_bytes());
        self.bytes(&[core.0]);
        match output {
            // Its text would be much longer than itself.
            Output::Transmit { connection, bytes } => {
                let _ = write!(self, "{connection:?}");
                self.bytes(bytes);
            }
            output => {
                let _ = write!(self, "{output:?}");
            }
        }
    }
}

impl Write for Fingerprint {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.bytes(text.as_bytes());
        Ok(())
    }
}
