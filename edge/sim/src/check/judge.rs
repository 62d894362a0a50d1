//! Whether credentials are good, judged apart from the edge: what nonces it minted, and which counts were used.

use crate::digest::{self, parameter};
use crate::wire::Sip;
use edge_proto::time::{Duration, Instant};
use std::collections::{BTreeMap, BTreeSet};

/// How old a nonce may be; the edge says 30 s, and a decision may come out a little later.
const LIFETIME: Duration = Duration::from_millis(30_500);

/// The nonces that the edge has minted, and what was done with them.
#[derive(Default)]
pub struct Nonces {
    minted: BTreeMap<String, (String, Instant)>,
    used: BTreeSet<(String, String)>,
}

impl Nonces {
    /// Notes the challenges in a response of the edge.
    pub fn note(&mut self, now: Instant, sip: &Sip) {
        for header in sip.headers("www-authenticate") {
            if let Some(nonce) = parameter(header, "nonce") {
                self.minted
                    .entry(nonce)
                    .or_insert((sip.call_id().to_owned(), now));
            }
        }
    }

    /// Whether the edge minted the nonce.
    pub fn is_minted(&self, nonce: &str) -> bool {
        self.minted.contains_key(nonce)
    }

    /// Uses up the credentials of a request that was accepted.
    ///
    /// # Errors
    /// Why it should not have been.
    pub fn accept(
        &mut self,
        now: Instant,
        sip: &Sip,
        user: &str,
        passwords: &[String],
    ) -> Result<(), String> {
        let mut fault = "it shows no credentials".to_owned();
        for header in sip.headers("authorization") {
            match self.judge(now, sip, header, user, passwords) {
                Ok(key) => {
                    self.used.insert(key);
                    return Ok(());
                }
                Err(why) => fault = why,
            }
        }
        Err(fault)
    }

    fn judge(
        &self,
        now: Instant,
        sip: &Sip,
        header: &str,
        user: &str,
        passwords: &[String],
    ) -> Result<(String, String), String> {
        let get = |name| parameter(header, name).unwrap_or_default();
        let nonce = get("nonce");
        let (call_id, at) = self
            .minted
            .get(&nonce)
            .ok_or("its nonce was never minted")?;
        if call_id != sip.call_id() {
            return Err("its nonce is of another call".to_owned());
        }
        if now.saturating_since(*at) > LIFETIME {
            return Err("its nonce is too old".to_owned());
        }
        let key = (nonce, get("nc"));
        if self.used.contains(&key) {
            return Err("its nonce count was used before".to_owned());
        }
        if get("uri") != sip.uri() {
            return Err("its digest-uri is not its Request-URI".to_owned());
        }
        let right = passwords
            .iter()
            .any(|password| digest::is_right(header, password, sip.method()));
        match right && get("username") == user {
            true => Ok(key),
            false => Err("its credentials are wrong".to_owned()),
        }
    }
}
