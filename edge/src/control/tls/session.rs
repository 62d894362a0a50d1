//! One TLS connection between owned buffers: ciphertext in, plaintext out, and the other way round.

use super::describe;
use bytes::{Bytes, BytesMut};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};
use std::io::{Read, Write};
use std::sync::Arc;

/// rustls with its records in memory. The connection's tasks move ciphertext to and from the socket.
pub struct TlsSession {
    /// Boxed: a session moves between tasks before it comes to rest.
    connection: Box<Connection>,
}

/// What came of ciphertext handed to [`TlsSession::feed`].
#[derive(Debug, Default)]
pub struct Fed {
    /// In order; may be empty.
    pub plaintext: Bytes,
    /// The peer said close_notify: nothing follows.
    pub peer_closed: bool,
    /// The connection is unusable and the text names the fault; `plaintext` came before it. An alert waits in the output.
    pub fault: Option<String>,
}

impl TlsSession {
    /// The accepting side.
    pub fn server(config: Arc<ServerConfig>) -> Result<Self, String> {
        let connection = ServerConnection::new(config).map_err(|error| describe(&error))?;
        Ok(Self::from(connection.into()))
    }

    /// The connecting side; `server_name` (a DNS name or an IP literal) must be in the peer's certificate.
    pub fn client(config: Arc<ClientConfig>, server_name: &str) -> Result<Self, String> {
        let name = ServerName::try_from(server_name.to_owned())
            .map_err(|_| format!("{server_name} is neither a host name nor an address"))?;
        let connection = ClientConnection::new(config, name).map_err(|error| describe(&error))?;
        Ok(Self::from(connection.into()))
    }

    fn from(mut connection: Connection) -> Self {
        // The connection's write queue has the limit; plaintext never waits inside rustls.
        connection.set_buffer_limit(None);
        TlsSession {
            connection: Box::new(connection),
        }
    }

    /// Before the peer is verified, no plaintext may be written.
    pub fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// Ciphertext from the socket, cut anywhere.
    pub fn feed(&mut self, mut ciphertext: &[u8]) -> Fed {
        let mut fed = Fed::default();
        let mut plaintext = BytesMut::new();
        while !ciphertext.is_empty() && fed.fault.is_none() {
            match self.connection.read_tls(&mut ciphertext) {
                // What follows a close_notify is ignored (RFC 8446 §6.1).
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => {
                    fed.fault = Some(error.to_string());
                    break;
                }
            }
            match self.connection.process_new_packets() {
                Ok(state) => {
                    let wanted = state.plaintext_bytes_to_read();
                    self.take_plaintext(&mut plaintext, wanted);
                    fed.peer_closed |= state.peer_has_closed();
                }
                Err(error) => fed.fault = Some(describe(&error)),
            }
        }
        fed.plaintext = plaintext.freeze();
        fed
    }

    fn take_plaintext(&mut self, into: &mut BytesMut, wanted: usize) {
        let start = into.len();
        into.resize(start + wanted, 0);
        let (_, room) = into.split_at_mut(start);
        let taken = match self.connection.reader().read_exact(room) {
            Ok(()) => wanted,
            // rustls just said that so many bytes are there.
            Err(_) => 0,
        };
        into.truncate(start + taken);
    }

    /// Encrypts `plaintext`; take the result with [`TlsSession::take_output`].
    pub fn write(&mut self, plaintext: &[u8]) {
        // Into memory without a limit: cannot fail.
        let _ = self.connection.writer().write_all(plaintext);
    }

    /// Says that nothing follows (RFC 8446 §6.1). Only after the handshake: before it there is nothing to protect from
    /// truncation, and an unlisted source gets no answer at all.
    pub fn close(&mut self) {
        if !self.is_handshaking() {
            self.connection.send_close_notify();
        }
    }

    /// Ciphertext for the socket; empty when there is none.
    pub fn take_output(&mut self) -> Bytes {
        let mut output = Vec::new();
        while self.connection.wants_write() {
            if !matches!(self.connection.write_tls(&mut output), Ok(written) if written > 0) {
                break;
            }
        }
        output.into()
    }

    /// For the log: `TLSv1_3 TLS13_AES_256_GCM_SHA384`.
    pub fn summary(&self) -> String {
        match (
            self.connection.protocol_version(),
            self.connection.negotiated_cipher_suite(),
        ) {
            (Some(version), Some(suite)) => format!("{version:?} {:?}", suite.suite()),
            _ => "no TLS yet".to_owned(),
        }
    }
}
