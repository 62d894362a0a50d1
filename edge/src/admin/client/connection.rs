//! One request at a time to the admin API.

use super::{CtlError, DEFAULT_ADMIN};
use crate::admin::Token;
use serde_json::Value;
use std::io::{self, BufRead, BufReader, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use ureq::Body;
use ureq::http::Response;

/// Longer than the API lets a request take.
const PATIENCE: Duration = Duration::from_secs(40);
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// A list of 10,000 calls has some megabytes.
const MAX_ANSWER_BYTES: u64 = 64 << 20;
const MAX_EVENT_BYTES: u64 = 1 << 20;
/// Where a token is looked for when none is named: beside a CDR file in the working directory, and in the package's place.
const TOKEN_PLACES: &[&str] = &["admin.token", "/var/lib/sip-edge/admin.token"];

/// How to reach the edge.
#[derive(Debug)]
pub struct Connection {
    base: String,
    token: Option<Token>,
    /// Where a token was looked for, for the error.
    looked_at: Vec<PathBuf>,
}

/// Escapes what would not stay within one segment of a path, or one value of a query.
pub fn path_segment(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                escaped.push(char::from(byte));
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

impl Connection {
    /// Settles the address and the token: what is given, else the environment, else the usual places.
    pub fn new(admin: Option<&str>, token_file: Option<&Path>) -> Result<Self, CtlError> {
        let environment = |name| std::env::var(name).ok().filter(|v: &String| !v.is_empty());
        let admin = admin
            .map(str::to_owned)
            .or_else(|| environment("SIP_EDGE_ADMIN"))
            .unwrap_or_else(|| DEFAULT_ADMIN.to_owned());
        let base = base_url(&admin)?;
        let named = token_file
            .map(Path::to_owned)
            .or_else(|| environment("SIP_EDGE_TOKEN_FILE").map(PathBuf::from));
        if let Some(path) = named {
            let token = Token::load(&path).map_err(|error| CtlError::TokenFile {
                why: error.to_string(),
                path: path.clone(),
            })?;
            return Ok(Connection {
                base,
                token: Some(token),
                looked_at: vec![path],
            });
        }
        // A token that was only found, not named, is for this machine and goes nowhere else.
        let places: &[&str] = if is_loopback(&base) {
            TOKEN_PLACES
        } else {
            &[]
        };
        let looked_at: Vec<PathBuf> = places.iter().map(PathBuf::from).collect();
        Ok(Connection {
            base,
            token: looked_at.iter().find_map(|p| Token::load(p).ok()),
            looked_at,
        })
    }

    pub fn get(&self, path: &str) -> Result<Value, CtlError> {
        let agent = agent(Some(PATIENCE));
        let mut request = agent.get(format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.header("Authorization", token.authorization());
        }
        self.answer(request.call())
    }

    pub fn post(&self, path: &str, body: &Value) -> Result<Value, CtlError> {
        let agent = agent(Some(PATIENCE));
        let mut request = agent.post(format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.header("Authorization", token.authorization());
        }
        self.answer(if body.is_null() {
            request.send_empty()
        } else {
            request
                .header("Content-Type", "application/json")
                .send(body.to_string())
        })
    }

    /// Hands each event of a live stream to `each`, until the edge ends it or `each` fails.
    pub fn stream(
        &self,
        path: &str,
        each: &mut dyn FnMut(Value) -> io::Result<()>,
    ) -> Result<(), CtlError> {
        let agent = agent(None);
        let mut request = agent.get(format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.header("Authorization", token.authorization());
        }
        let response = request.call().map_err(|e| self.transport_error(&e))?;
        if !response.status().is_success() {
            return self.answer(Ok(response)).map(drop);
        }
        let mut reader = BufReader::new(response.into_body().into_reader());
        let mut line = String::new();
        loop {
            line.clear();
            let read = Read::take(&mut reader, MAX_EVENT_BYTES).read_line(&mut line)?;
            if read == 0 {
                return Ok(());
            }
            if let Some(data) = line.strip_prefix("data:")
                && let Ok(event) = serde_json::from_str(data.trim())
            {
                each(event)?;
            }
        }
    }

    fn answer(&self, result: Result<Response<Body>, ureq::Error>) -> Result<Value, CtlError> {
        let mut response = result.map_err(|e| self.transport_error(&e))?;
        let status = response.status().as_u16();
        let text = response
            .body_mut()
            .with_config()
            .limit(MAX_ANSWER_BYTES)
            .read_to_string()
            .map_err(|e| self.transport_error(&e))?;
        let not_ours = |why: &str| CtlError::NotSipEdge {
            url: self.base.clone(),
            why: why.to_owned(),
        };
        let value: Value = serde_json::from_str(&text)
            .map_err(|_| not_ours(&format!("status {status} without JSON")))?;
        if (200..300).contains(&status) {
            return Ok(value);
        }
        let message = value
            .get("message")
            .and_then(Value::as_str)
            .ok_or_else(|| not_ours(&format!("status {status} without a message")))?
            .to_owned();
        if status == 401 {
            return Err(CtlError::Unauthorized {
                message,
                hint: self.token_hint(),
            });
        }
        Err(CtlError::Refused { status, message })
    }

    fn token_hint(&self) -> String {
        let places: Vec<String> = self
            .looked_at
            .iter()
            .map(|p| p.display().to_string())
            .collect();
        match (&self.token, places.is_empty()) {
            (Some(_), _) => format!(
                "The token came from {}: is it this edge's token_file?",
                places.join(" or ")
            ),
            (None, true) => "Name the edge's token file with --token-file".to_owned(),
            (None, false) => format!(
                "No readable token in {}: name the edge's token file with --token-file",
                places.join(" or ")
            ),
        }
    }

    fn transport_error(&self, error: &ureq::Error) -> CtlError {
        let why = match error {
            ureq::Error::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                "the connection was refused".to_owned()
            }
            ureq::Error::Timeout(_) => "it does not answer in time".to_owned(),
            ureq::Error::HostNotFound => "the host name does not resolve".to_owned(),
            ureq::Error::Protocol(_) | ureq::Error::Http(_) => {
                return CtlError::NotSipEdge {
                    url: self.base.clone(),
                    why: error.to_string(),
                };
            }
            other => other.to_string(),
        };
        CtlError::Unreachable {
            url: self.base.clone(),
            why,
        }
    }
}

/// No proxy from the environment: the token is for the edge alone.
fn agent(patience: Option<Duration>) -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None)
        .timeout_connect(Some(CONNECT_PATIENCE))
        .timeout_global(patience)
        .build()
        .into()
}

/// `127.0.0.1:9090`, `http://127.0.0.1:9090/` -> `http://127.0.0.1:9090`.
fn base_url(admin: &str) -> Result<String, CtlError> {
    let lower = admin.to_ascii_lowercase();
    if lower.starts_with("https:") {
        return Err(CtlError::Https);
    }
    let authority = match admin.split_at_checked(7) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http://") => rest,
        _ => admin,
    }
    .trim_end_matches('/');
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
    if authority.is_empty() || !authority.chars().all(plain) {
        return Err(CtlError::BadUrl(admin.to_owned()));
    }
    Ok(format!("http://{authority}"))
}

fn is_loopback(base: &str) -> bool {
    let authority = base.trim_start_matches("http://");
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_understood_in_every_usual_form() {
        let base = |text| base_url(text).ok();
        for text in [
            "127.0.0.1:9090",
            "http://127.0.0.1:9090",
            "HTTP://127.0.0.1:9090/",
        ] {
            assert_eq!(base(text).as_deref(), Some("http://127.0.0.1:9090"));
        }
        assert_eq!(base("[::1]:9090").as_deref(), Some("http://[::1]:9090"));
        for bad in [
            "",
            "http://",
            "ftp://x",
            "http://user@host",
            "http://host/path",
            "a b",
        ] {
            assert!(matches!(base_url(bad), Err(CtlError::BadUrl(_))), "{bad}");
        }
        assert!(matches!(base_url("https://host"), Err(CtlError::Https)));
    }

    #[test]
    fn a_token_that_was_only_found_stays_on_this_machine() {
        for here in [
            "http://127.0.0.1:9090",
            "http://[::1]:9090",
            "http://localhost:9090",
        ] {
            assert!(is_loopback(here), "{here}");
        }
        for there in [
            "http://192.0.2.1:9090",
            "http://[2001:db8::1]:9090",
            "http://localhost.example.net",
        ] {
            assert!(!is_loopback(there), "{there}");
        }
        let remote = Connection::new(Some("192.0.2.1:9090"), None).expect("a URL");
        assert!(remote.token.is_none() && remote.looked_at.is_empty());
    }

    #[test]
    fn ids_cannot_leave_their_place_in_the_path() {
        assert_eq!(path_segment("0af3"), "0af3");
        assert_eq!(path_segment("../x?y#z%é"), "..%2Fx%3Fy%23z%25%C3%A9");
    }
}
