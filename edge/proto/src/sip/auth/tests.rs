//! Both sides against each other.

use super::hash::Inputs;
use super::*;
use crate::config::{Credentials, DigestAlgorithm, PresentedCredentials, Secret};
use crate::id::CoreId;
use crate::time::Instant;

pub(super) const KEY: [u8; 32] = [7; 32];
pub(super) const URI: &str = "sip:edge@203.0.113.1:5060;transport=tcp";
pub(super) const CALL: &str = "call-1@203.0.113.9";
pub(super) const REALM: &str = "sip-edge";
pub(super) const NOW: Instant = Instant::from_millis(100_000);
const BOTH: &[DigestAlgorithm] = &[DigestAlgorithm::Sha256, DigestAlgorithm::Md5];

pub(super) fn server() -> DigestServer {
    DigestServer::new(KEY, CoreId(1))
}

/// A peer's own edge, with another key: what the client side of these tests compares nonces with.
pub(super) fn elsewhere() -> DigestServer {
    DigestServer::new([8; 32], CoreId(0))
}

pub(super) fn credentials() -> Credentials {
    Credentials {
        username: "trunk-user".into(),
        password: Secret::new("s3cret"),
    }
}

pub(super) fn presented(username: &str, password: &str) -> PresentedCredentials {
    PresentedCredentials {
        username: username.into(),
        password: Secret::new(password),
        realm: None,
    }
}

fn answer_with(challenges: &[String], nc: u32) -> String {
    answer(
        challenges.iter().map(String::as_str),
        &presented("trunk-user", "s3cret"),
        "REFER",
        URI,
        "0a4f113b",
        nc,
        &elsewhere(),
    )
    .unwrap()
}

fn verify_in(
    server: &mut DigestServer,
    now: Instant,
    call_id: &str,
    headers: &[&str],
) -> Result<(), DigestFailure> {
    server.verify(
        now,
        headers.iter().copied(),
        "REFER",
        URI,
        call_id,
        REALM,
        BOTH,
        &credentials(),
    )
}

pub(super) fn verify(server: &mut DigestServer, header: &str) -> Result<(), DigestFailure> {
    verify_in(server, NOW, CALL, &[header])
}

/// A server that has just challenged, and the right answer to it.
fn round() -> (DigestServer, String) {
    let mut server = server();
    let challenges = server.challenges(NOW, REALM, BOTH, CALL, false);
    let header = answer_with(&challenges, 1);
    (server, header)
}

/// `header` with one parameter's text replaced; `""` removes it.
fn with(header: &str, name: &str, value: &str) -> String {
    let list = header.strip_prefix("Digest ").unwrap();
    let mut found = false;
    let items: Vec<String> = list
        .split(", ")
        .filter_map(|item| {
            if item.split('=').next() != Some(name) {
                return Some(item.to_owned());
            }
            found = true;
            (!value.is_empty()).then(|| format!("{name}={value}"))
        })
        .collect();
    assert!(found, "{name} in {header}");
    format!("Digest {}", items.join(", "))
}

#[test]
fn a_challenge_is_one_header_per_algorithm_in_order() {
    let challenges = server().challenges(NOW, REALM, BOTH, CALL, true);
    let parsed: Vec<Challenge> = challenges
        .iter()
        .map(|text| Challenge::parse(text).unwrap())
        .collect();
    assert_eq!(
        parsed
            .iter()
            .map(|challenge| challenge.algorithm.as_deref().unwrap())
            .collect::<Vec<_>>(),
        ["SHA-256", "MD5"]
    );
    for challenge in parsed {
        assert_eq!(challenge.qop.as_deref(), Some("auth"));
        assert!(challenge.stale && challenge.offers_auth());
        assert_eq!(challenge.realm, REALM);
    }
}

#[test]
fn the_right_answer_is_accepted_once_per_count() {
    let (mut server, header) = round();
    assert_eq!(verify(&mut server, &header), Ok(()));
    assert_eq!(verify(&mut server, &header), Err(DigestFailure::Replayed));
}

#[test]
fn counts_may_overtake_each_other() {
    let mut server = server();
    let challenges = server.challenges(NOW, REALM, BOTH, CALL, false);
    for nc in [3, 1, 2, 10] {
        assert_eq!(
            verify(&mut server, &answer_with(&challenges, nc)),
            Ok(()),
            "{nc}"
        );
    }
    let late = answer_with(&challenges, 200);
    assert_eq!(verify(&mut server, &late), Ok(()));
    let forgotten = answer_with(&challenges, 4);
    assert_eq!(verify(&mut server, &forgotten), Err(DigestFailure::Stale));
}

#[test]
fn a_nonce_lives_thirty_seconds() {
    let (mut server, header) = round();
    let last = NOW + NONCE_LIFETIME;
    let over = Instant::from_nanos(last.as_nanos() + 1);
    assert_eq!(
        verify_in(&mut server, over, CALL, &[&header]),
        Err(DigestFailure::Stale)
    );
    let before = Instant::from_nanos(NOW.as_nanos() - 1);
    assert_eq!(
        verify_in(&mut server, before, CALL, &[&header]),
        Err(DigestFailure::Stale)
    );
    assert_eq!(verify_in(&mut server, last, CALL, &[&header]), Ok(()));
}

#[test]
fn a_nonce_is_good_in_its_call_at_its_core_and_in_its_process_only() {
    let (mut server, header) = round();
    assert_eq!(
        verify_in(&mut server, NOW, "call-2@203.0.113.9", &[&header]),
        Err(DigestFailure::Stale)
    );
    let mut sibling = DigestServer::new(KEY, CoreId(2));
    assert_eq!(verify(&mut sibling, &header), Err(DigestFailure::Stale));
    let mut restarted = DigestServer::new([9; 32], CoreId(1));
    assert_eq!(verify(&mut restarted, &header), Err(DigestFailure::Stale));
    assert_eq!(verify(&mut server, &header), Ok(()));
}

#[test]
fn a_wrong_response_is_never_called_stale() {
    let (mut server, header) = round();
    let forged = with(&header, "response", &format!("\"{}\"", "0".repeat(64)));
    let over = NOW + NONCE_LIFETIME + NONCE_LIFETIME;
    for now in [NOW, over] {
        let verdict = verify_in(&mut server, now, CALL, &[&forged]);
        assert_eq!(verdict, Err(DigestFailure::WrongResponse));
        assert!(!verdict.unwrap_err().is_stale());
    }
    assert!(DigestFailure::Stale.is_stale() && DigestFailure::Replayed.is_stale());
}

#[test]
fn each_fault_has_its_name() {
    let (mut server, header) = round();
    let cases = [
        ("realm", "\"other\"", DigestFailure::WrongRealm),
        ("realm", "\"SIP-EDGE\"", DigestFailure::WrongRealm),
        ("username", "\"someone\"", DigestFailure::WrongUser),
        ("username", "\"Trunk-user\"", DigestFailure::WrongUser),
        ("uri", "\"sip:203.0.113.1\"", DigestFailure::WrongUri),
        ("cnonce", "\"other\"", DigestFailure::WrongResponse),
        ("nc", "00000002", DigestFailure::WrongResponse),
        ("qop", "Auth", DigestFailure::WrongResponse),
        ("algorithm", "SHA-512-256", DigestFailure::WrongAlgorithm),
        ("algorithm", "AKAv1-MD5", DigestFailure::WrongAlgorithm),
        ("algorithm", "MD5", DigestFailure::WrongResponse),
        (
            "qop",
            "auth-int",
            DigestFailure::Malformed(AuthError::Invalid("qop")),
        ),
        (
            "qop",
            "",
            DigestFailure::Malformed(AuthError::Missing("qop")),
        ),
        ("nc", "", DigestFailure::Malformed(AuthError::Missing("nc"))),
        (
            "cnonce",
            "",
            DigestFailure::Malformed(AuthError::Missing("cnonce")),
        ),
        (
            "nonce",
            "",
            DigestFailure::Malformed(AuthError::Missing("nonce")),
        ),
        (
            "nc",
            "1",
            DigestFailure::Malformed(AuthError::Invalid("nc")),
        ),
    ];
    for (name, value, failure) in cases {
        assert_eq!(
            verify(&mut server, &with(&header, name, value)),
            Err(failure),
            "{name}={value}"
        );
    }
    assert_eq!(
        verify(&mut server, &format!("{header}, userhash=true")),
        Err(DigestFailure::WrongUser)
    );
    assert_eq!(
        verify(&mut server, &format!("{header}, uri=\"{URI}\"")),
        Err(DigestFailure::Malformed(AuthError::Duplicate))
    );
    assert_eq!(verify(&mut server, &header), Ok(()));
}

/// The answer is right for the URI it was computed for; only which URI that is differs.
#[test]
fn the_digest_uri_is_the_request_uri_or_equivalent() {
    for (digest_uri, verdict) in [
        ("sip:edge@203.0.113.1:5060;transport=tcp", Ok(())),
        ("SIP:edge@203.0.113.1:5060;transport=TCP", Ok(())),
        ("sip:%65dge@203.0.113.1:5060;transport=tcp;lr", Ok(())),
        (
            "sip:EDGE@203.0.113.1:5060;transport=tcp",
            Err(DigestFailure::WrongUri),
        ),
        (
            "sip:edge@203.0.113.1;transport=tcp",
            Err(DigestFailure::WrongUri),
        ),
        ("sip:edge@203.0.113.1:5060", Err(DigestFailure::WrongUri)),
        (
            "sips:edge@203.0.113.1:5060;transport=tcp",
            Err(DigestFailure::WrongUri),
        ),
        ("", Err(DigestFailure::WrongUri)),
    ] {
        let mut server = server();
        let challenges = server.challenges(NOW, REALM, BOTH, CALL, false);
        let header = answer(
            challenges.iter().map(String::as_str),
            &presented("trunk-user", "s3cret"),
            "REFER",
            digest_uri,
            "0a4f113b",
            1,
            &elsewhere(),
        )
        .unwrap();
        assert_eq!(verify(&mut server, &header), verdict, "{digest_uri}");
    }
}

#[test]
fn no_digest_credentials_are_missing_ones() {
    let mut server = server();
    assert_eq!(
        verify_in(&mut server, NOW, CALL, &[]),
        Err(DigestFailure::Missing)
    );
    assert_eq!(
        verify(&mut server, "Basic dXNlcjpwYXNz"),
        Err(DigestFailure::Missing)
    );
}

/// RFC 3261 §22.3: credentials for several realms; ours are found behind others, but not behind any number of them.
#[test]
fn credentials_are_found_among_those_for_others() {
    let (mut server, header) = round();
    let foreign = with(&header, "realm", "\"other\"");
    let broken = "Digest nonsense";
    let forged = with(&header, "cnonce", "\"x\"");
    assert_eq!(
        verify_in(&mut server, NOW, CALL, &[broken, &foreign]),
        Err(DigestFailure::Malformed(AuthError::Grammar))
    );
    assert_eq!(
        verify_in(&mut server, NOW, CALL, &[&foreign, &forged, broken]),
        Err(DigestFailure::WrongResponse)
    );
    let mut many = vec![foreign.as_str(); MAX_HEADERS];
    many.push(&header);
    assert_eq!(
        verify_in(&mut server, NOW, CALL, &many),
        Err(DigestFailure::WrongRealm)
    );
    assert_eq!(
        verify_in(
            &mut server,
            NOW,
            CALL,
            &[broken, &foreign, &forged, &header]
        ),
        Ok(())
    );
}

/// What SIPp and others write: no spaces, qop and algorithm in quotes, no algorithm at all for MD5.
#[test]
fn other_clients_spellings_are_understood() {
    let mut server = server();
    let challenges = server.challenges(NOW, REALM, &[DigestAlgorithm::Md5], CALL, false);
    for (nc, respell) in [
        (1, (|text| text) as fn(String) -> String),
        (2, |text| text.replace(", ", ",")),
        (3, |text| text.replace("qop=auth", "qop=\"auth\"")),
        (4, |text| text.replace("algorithm=MD5", "algorithm=\"md5\"")),
        (5, |text| text.replace("algorithm=MD5, ", "")),
        (6, |text| text.replace("username=", "UserName =  ")),
        (7, |text| text.replace("nc=00000007", "nc=\"00000007\"")),
        (8, |text| format!("{text}, x-vendor=\"a, b\"")),
    ] {
        let header = respell(answer_with(&challenges, nc));
        assert_eq!(verify(&mut server, &header), Ok(()), "{header}");
    }
}

#[test]
fn our_own_nonce_is_never_answered() {
    let mut ours = server();
    let mut attacker = elsewhere();
    let genuine = attacker.challenges(NOW, REALM, BOTH, CALL, false);
    for core in [1, 5] {
        let reflected =
            DigestServer::new(KEY, CoreId(core)).challenges(NOW, "r", BOTH, "any", false);
        for list in [
            reflected.clone(),
            vec![genuine[0].clone(), reflected[0].clone()],
            vec![reflected[1].replace("MD5", "unknown"), genuine[0].clone()],
        ] {
            assert_eq!(
                answer(
                    list.iter().map(String::as_str),
                    &presented("u", "p"),
                    "INVITE",
                    URI,
                    "c",
                    1,
                    &ours
                ),
                Err(AnswerError::OwnNonce)
            );
        }
        assert!(ours.is_own_nonce(&Challenge::parse(&reflected[0]).unwrap().nonce));
    }
    let own = Challenge::parse(&ours.challenges(NOW, REALM, BOTH, CALL, false)[0]).unwrap();
    assert_eq!(ours.nonce_core(&own.nonce), Some(CoreId(1)));
    assert_eq!(ours.nonce_core("0a4f113b"), None);
}

#[test]
fn the_first_challenge_that_fits_is_answered() {
    let challenges = [
        "Basic realm=\"a\"",
        "Digest realm=\"a\"",
        "Digest realm=\"b\", nonce=\"1\", algorithm=SHA-256, qop=\"auth\"",
        "Digest realm=\"a\", nonce=\"2\", algorithm=AKAv2-SHA-256, qop=\"auth\"",
        "Digest realm=\"a\", nonce=\"3\", algorithm=SHA-512-256, qop=\"auth-int\"",
        "Digest realm=\"a\", nonce=\"4\", algorithm=SHA-256, qop=\"auth-int, auth\", opaque=\"o\\\"\"",
        "Digest realm=\"a\", nonce=\"5\", algorithm=SHA-512-256, qop=\"auth\"",
    ];
    let only_a = PresentedCredentials {
        realm: Some("a".into()),
        ..presented("u\"\\", "p")
    };
    let own = elsewhere();
    let ask = |list: &[&str]| {
        answer(
            list.iter().copied(),
            &only_a,
            "INVITE",
            "sip:+1234567890@example.net",
            "c",
            0x1f,
            &own,
        )
    };
    let given = Authorization::parse(&ask(&challenges).unwrap()).unwrap();
    assert_eq!((given.nonce.as_str(), given.realm.as_str()), ("4", "a"));
    assert_eq!(given.username, "u\"\\");
    assert_eq!(given.opaque.as_deref(), Some("o\""));
    assert_eq!(given.nc.as_deref(), Some("0000001f"));
    for (count, error) in [
        (0, AnswerError::NoChallenge),
        (1, AnswerError::NoChallenge),
        (2, AnswerError::Malformed(AuthError::Missing("nonce"))),
        (3, AnswerError::WrongRealm),
        (4, AnswerError::UnsupportedAlgorithm),
        (5, AnswerError::UnsupportedQop),
    ] {
        assert_eq!(ask(&challenges[..count]), Err(error));
    }
}

#[test]
fn without_qop_the_answer_is_that_of_rfc_2069() {
    for (algorithm, written) in [
        (DigestAlgorithm::Md5, ""),
        (DigestAlgorithm::Md5, ", algorithm=MD5"),
        (DigestAlgorithm::Md5Sess, ", algorithm=MD5-sess"),
    ] {
        let challenge = format!("Digest realm=\"carrier\", nonce=\"abc\"{written}");
        let header = answer(
            [challenge.as_str()].into_iter(),
            &presented("u", "p"),
            "INVITE",
            URI,
            "cc",
            1,
            &elsewhere(),
        )
        .unwrap();
        let given = Authorization::parse(&header).unwrap();
        assert_eq!((&given.qop, &given.nc), (&None, &None));
        assert_eq!(given.cnonce.is_some(), algorithm.is_session());
        assert_eq!(given.algorithm.is_some(), !written.is_empty());
        let expected = Inputs {
            algorithm,
            username: "u",
            realm: "carrier",
            password: "p",
            method: "INVITE",
            uri: URI,
            nonce: "abc",
            cnonce: "cc",
            protection: None,
        };
        assert_eq!(given.response, expected.response().as_str());
    }
}

#[test]
fn a_stale_challenge_is_recognised() {
    let plain = "Digest realm=\"a\", nonce=\"1\"";
    assert!(!stale([plain, "Digest stale=true", "Basic x"].into_iter()));
    let list = [plain, "Digest realm=\"a\", nonce=\"2\", stale=\"TRUE\""];
    assert!(stale(list.into_iter()));
}

#[test]
fn no_secret_is_printed() {
    let printed = format!("{:?} {:?}", server(), presented("user", "hunter2"));
    assert!(!printed.contains("hunter2") && !printed.contains("7, 7"));
}
