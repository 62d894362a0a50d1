use super::*;

fn sip(text: &str) -> SipUri {
    match Uri::parse(text) {
        Ok(Uri::Sip(uri)) => uri,
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn components() {
    let uri = sip("SIPS:Al%69ce;x=1:pa+ss@Example.NET:5061;transport=TLS;lr?Subject=a%20b&X-A=b=");
    assert!(uri.sips);
    assert_eq!(uri.user.as_deref(), Some("Alice;x=1"));
    assert_eq!(uri.password.as_deref(), Some("pa+ss"));
    assert_eq!(uri.host, Host::Name("example.net".into()));
    assert_eq!(uri.port, Some(5061));
    assert_eq!(uri.transport(), Some("TLS"));
    assert!(uri.lr());
    assert_eq!(uri.maddr(), None);
    assert_eq!(uri.header("subject"), Some("a b"));
    assert_eq!(uri.header("x-a"), Some("b="));
    assert_eq!(
        uri.to_string(),
        "sips:Alice;x=1:pa+ss@example.net:5061;transport=TLS;lr?Subject=a%20b&X-A=b%3D"
    );
    let uri = sip("sip:[2001:db8::9:1]:5070;maddr=192.0.2.1");
    assert_eq!(uri.user, None);
    assert_eq!(uri.host, Host::V6("2001:db8::9:1".parse().unwrap()));
    assert_eq!(uri.maddr(), Some("192.0.2.1"));
    assert_eq!(uri.to_string(), "sip:[2001:db8::9:1]:5070;maddr=192.0.2.1");
}

#[test]
fn no_second_reading_of_the_host() {
    for (text, error) in [
        ("sip:x@evil;p=@127.0.0.4", UriError::SecondAt),
        ("sip:x@evil@127.0.0.4", UriError::SecondAt),
        ("sip:x@evil?p=@127.0.0.4", UriError::SecondAt),
        ("sip:@127.0.0.4", UriError::User),
        ("sip::pw@127.0.0.4", UriError::User),
        ("sip:a:b:c@127.0.0.4", UriError::User),
        ("sip:a%4@127.0.0.4", UriError::User),
        ("sip:a%ff@127.0.0.4", UriError::User),
        ("sip:a\\b@127.0.0.4", UriError::User),
        ("sip:a b@127.0.0.4", UriError::Character),
        ("sip:a@127.0.0.4>", UriError::Character),
        ("sip:a@127.0.0.4\r\nX: y", UriError::Character),
        ("sip:a@127.0.0.4\0", UriError::Character),
        ("sip:a@ex\u{e4}mple", UriError::Character),
        ("sip:a@%31%32%37.0.0.4", UriError::Host(HostError::Invalid)),
        ("sip:a@127.0.0.4#x", UriError::Host(HostError::Invalid)),
        ("sip:a@127.0.0.4/x", UriError::Host(HostError::Invalid)),
        ("sip:a@127.0.0.4,sip:b@evil", UriError::SecondAt),
        ("sip:a@[127.0.0.4]", UriError::Host(HostError::Invalid)),
        ("sip:a@", UriError::Host(HostError::Empty)),
        ("sip:", UriError::Host(HostError::Empty)),
        ("sip://127.0.0.4", UriError::Host(HostError::Invalid)),
        ("sip:a@h:", UriError::Host(HostError::Port)),
        ("sip:a@h:0", UriError::Host(HostError::Port)),
        ("sip:a@h:5060:1", UriError::Host(HostError::Port)),
        ("sip:a@h;", UriError::Param(ParamError::Empty)),
        ("sip:a@h;lr;lr", UriError::Param(ParamError::Duplicate)),
        ("sip:a@h?", UriError::Header),
        ("sip:a@h?x", UriError::Header),
        ("sip:a@h?=x", UriError::Header),
        ("sip:a@h?x=%0", UriError::Header),
        ("sip:a@h?x=a;b", UriError::Header),
        ("", UriError::Scheme),
        ("a@h", UriError::Scheme),
        ("<sip:a@h>", UriError::Scheme),
        ("1sip:a@h", UriError::Scheme),
        ("http:", UriError::Character),
    ] {
        assert_eq!(Uri::parse(text), Err(error), "{text}");
    }
    // The one @ decides: what looks like the host before it is a user part.
    let uri = sip("sip:127.0.0.4;p=a@evil.example");
    assert_eq!(uri.user.as_deref(), Some("127.0.0.4;p=a"));
    assert_eq!(uri.host.to_string(), "evil.example");
    let uri = sip("sip:127.0.0.4%40x@evil.example");
    assert_eq!(uri.to_string(), "sip:127.0.0.4%40x@evil.example");
}

#[test]
fn control_characters_are_kept_told_and_escaped_again() {
    for text in [
        "sip:null-%00-null@example.net",
        "sip:a%0D%0Ab@example.net",
        "sip:a@example.net?Subject=x%0D%0AContact:%20y",
        "sip:a@example.net;p=%0A",
        "sip:a:%7F@example.net",
        "tel:+1;p=%0A",
    ] {
        let uri = Uri::parse(text).unwrap();
        assert!(uri.contains_control(), "{text}");
        assert_eq!(uri.to_string(), text);
    }
    assert!(
        !Uri::parse("sip:a%20b@example.net?x=%C3%A9")
            .unwrap()
            .contains_control()
    );
}

#[test]
fn tel_numbers_lose_their_separators() {
    let tel = |text: &str| match Uri::parse(text) {
        Ok(Uri::Tel(uri)) => uri,
        other => panic!("{text}: {other:?}"),
    };
    let uri = tel("tel:+1-(201).555-0123;ext=22");
    assert_eq!(uri.number, "+12015550123");
    assert!(uri.is_global());
    assert_eq!(uri.to_string(), "tel:+12015550123;ext=22");
    assert_eq!(tel("TEL:*31#").number, "*31#");
    assert_eq!(tel("tel:7042;phone-context=example.net").number, "7042");
    for text in [
        "tel:",
        "tel:+",
        "tel:--",
        "tel:+12a",
        "tel:%2B1",
        "tel:1@h",
        "tel:1?x=y",
        "tel:+1;",
    ] {
        assert!(Uri::parse(text).is_err(), "{text}");
    }
    assert!(tel("tel:+1-2;a=b;c=d").equivalent(&tel("tel:+12;C=D;a=B")));
    assert!(!tel("tel:+12;a=b").equivalent(&tel("tel:+12")));
    assert!(!tel("tel:+12").equivalent(&tel("tel:12")));
}

#[test]
fn equivalence_as_in_rfc_3261_19_1_4() {
    for (a, b) in [
        (
            "sip:%61lice@atlanta.com;transport=TCP",
            "sip:alice@AtLanTa.CoM;Transport=tcp",
        ),
        ("sip:carol@chicago.com", "sip:carol@chicago.com;newparam=5"),
        ("sip:carol@chicago.com", "sip:carol@chicago.com;security=on"),
        (
            "sip:carol@chicago.com;newparam=5",
            "sip:carol@chicago.com;security=on",
        ),
        (
            "sip:biloxi.com;transport=tcp;method=REGISTER?to=sip:bob%40biloxi.com",
            "sip:biloxi.com;method=REGISTER;transport=tcp?to=sip:bob%40biloxi.com",
        ),
        (
            "sip:alice@atlanta.com?subject=project%20x&priority=urgent",
            "sip:alice@atlanta.com?priority=urgent&subject=project%20x",
        ),
    ] {
        assert!(sip(a).equivalent(&sip(b)), "{a} {b}");
    }
    for (a, b) in [
        (
            "SIP:ALICE@AtLanTa.CoM;Transport=udp",
            "sip:alice@AtLanTa.CoM;Transport=UDP",
        ),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com:5060"),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com;transport=udp"),
        (
            "sip:bob@biloxi.com",
            "sip:bob@biloxi.com:6000;transport=tcp",
        ),
        (
            "sip:carol@chicago.com",
            "sip:carol@chicago.com?Subject=next%20meeting",
        ),
        ("sip:bob@phone21.boxesbybob.com", "sip:bob@192.0.2.4"),
        (
            "sip:carol@chicago.com;security=off",
            "sip:carol@chicago.com;security=on",
        ),
        ("sip:a@h", "sips:a@h"),
        ("sip:a@h", "sip:a:p@h"),
        ("sip:a@h", "sip:a@h;maddr=192.0.2.1"),
    ] {
        assert!(!sip(a).equivalent(&sip(b)), "{a} {b}");
        assert!(!sip(b).equivalent(&sip(a)), "{b} {a}");
    }
}

#[test]
fn other_schemes_are_kept() {
    let uri = Uri::parse("SOAP.beep://192.0.2.103:3002").unwrap();
    assert_eq!(uri.scheme(), "soap.beep");
    assert_eq!(uri.to_string(), "soap.beep://192.0.2.103:3002");
}
