//! Whether an INVITE that starts a dialog may become a call: whose it is, and whether it proved it.

use crate::b2bua::{B2bua, Context, Origin, RETRY_AFTER_S};
use crate::config::{DigestAlgorithm, Trunk};
use crate::event::{CallId, EventKind, LegNumber};
use crate::sip::auth::{DigestFailure, peek_username};
use crate::sip::transaction::ServerKey;
use crate::sip::{HeaderName, Message, Uri};
use crate::trunk::{Identified, identify};
use std::sync::Arc;

/// What became of an INVITE.
pub(crate) enum Admission {
    /// It is this trunk's.
    Admitted(Arc<Trunk>),
    /// It was refused or challenged; the response is sent.
    Answered,
}

impl B2bua {
    /// Identifies and authenticates the sender of an INVITE outside any dialog.
    pub(crate) fn admit(
        &mut self,
        origin: &Origin,
        key: ServerKey,
        request: &Message,
    ) -> Admission {
        let full = self.calls.len() >= self.cx.config.sip.limits.calls;
        if self.cx.draining || self.cx.overloaded || full {
            // The first that there is.
            let queue = [(full, "calls"), (self.cx.overloaded, "signalling")];
            if let Some((_, queue)) = queue.into_iter().find(|(is_full, _)| *is_full) {
                self.cx.event(None, None, EventKind::Overflow { queue });
            }
            self.cx.reply_retry_after(key, request, 503);
            return Admission::Answered;
        }
        let Some(Uri::Sip(uri)) = request.uri() else {
            // RFC 3261 §8.2.2.1: any scheme but sip and sips.
            self.cx.reply(key, request, 416);
            return Admission::Answered;
        };
        let username = request
            .headers(HeaderName::Authorization)
            .find_map(peek_username);
        let trunk = origin.trunk.as_deref();
        let identified = match trunk.and_then(|name| self.cx.config.trunk_named(name)) {
            Some(trunk) => Identified::Trunk(trunk.clone()),
            None => identify(
                &self.cx.config,
                origin.listener,
                origin.remote.ip(),
                &uri.host.to_string(),
                username.as_deref(),
            ),
        };
        match identified {
            Identified::Trunk(trunk) => self.authenticate(key, request, trunk),
            Identified::NeedUsername(trunks) => {
                if let Some(trunk) = trunks.first() {
                    self.cx.challenge(key, request, trunk, false);
                }
                Admission::Answered
            }
            Identified::Ambiguous => {
                self.cx.event(
                    None,
                    None,
                    EventKind::Malformed {
                        source: origin.remote,
                        fault: format!("several trunks list the source and nothing tells them apart (Request-URI host {})", uri.host),
                    },
                );
                self.cx.reply(key, request, 403);
                Admission::Answered
            }
            Identified::Unlisted => {
                self.cx.reply(key, request, 403);
                Admission::Answered
            }
        }
    }

    fn authenticate(&mut self, key: ServerKey, request: &Message, trunk: Arc<Trunk>) -> Admission {
        if !trunk.auth.demands_digest() {
            return Admission::Admitted(trunk);
        }
        let verdict = self.cx.verify_digest(request, &trunk);
        self.cx.digest_verdict(None, &trunk, verdict);
        match verdict {
            Ok(()) => Admission::Admitted(trunk),
            Err(failure) => {
                self.cx.challenge(key, request, &trunk, failure.is_stale());
                Admission::Answered
            }
        }
    }
}

impl Context {
    /// Judges the request's Authorization headers against the trunk's credentials.
    pub fn verify_digest(&mut self, request: &Message, trunk: &Trunk) -> Result<(), DigestFailure> {
        let Some(credentials) = &trunk.credentials else {
            // The configuration check demands credentials where digest is on; nothing opens without them.
            return Err(DigestFailure::Missing);
        };
        let method = request.method();
        self.digest.verify(
            self.now,
            request.headers(HeaderName::Authorization),
            method.as_ref().map_or("", |method| method.as_str()),
            request.request_uri().unwrap_or_default(),
            request.call_id(),
            &trunk.realm,
            &trunk.digest_algorithms,
            credentials,
        )
    }

    /// 401 with one WWW-Authenticate per algorithm, in order of preference (RFC 8760 §2.4). Always 401: we are a UAS.
    pub fn challenge(&mut self, key: ServerKey, request: &Message, trunk: &Trunk, stale: bool) {
        let algorithms: &[DigestAlgorithm] = &trunk.digest_algorithms;
        let challenges =
            self.digest
                .challenges(self.now, &trunk.realm, algorithms, request.call_id(), stale);
        let mut response = self.response(request, 401, None);
        for challenge in &challenges {
            response = response.header(HeaderName::WwwAuthenticate, challenge);
        }
        self.respond(key, 401, response);
        let whose = self.server_owner(key);
        self.digest_event(whose, trunk, "challenged");
    }

    /// Reports what credentials were worth. A request without any is merely challenged, which is reported with the challenge.
    pub fn digest_verdict(
        &mut self,
        whose: Option<(CallId, LegNumber)>,
        trunk: &Trunk,
        verdict: Result<(), DigestFailure>,
    ) {
        match verdict {
            Ok(()) => self.digest_event(whose, trunk, "accepted"),
            Err(DigestFailure::Missing) => {}
            Err(failure) => self.digest_event(whose, trunk, failure.outcome()),
        }
    }

    /// An event about digest, of a leg where one is known.
    pub fn digest_event(
        &mut self,
        whose: Option<(CallId, LegNumber)>,
        trunk: &Trunk,
        outcome: &'static str,
    ) {
        let (call, leg) = whose.unzip();
        let trunk = trunk.name.clone();
        self.event(call, leg, EventKind::Digest { trunk, outcome });
    }

    /// A refusal that asks the peer to try later (RFC 3261 §20.33).
    pub fn reply_retry_after(&mut self, key: ServerKey, request: &Message, code: u16) {
        let response = self
            .response(request, code, None)
            .header(HeaderName::RetryAfter, RETRY_AFTER_S);
        self.respond(key, code, response);
    }
}
