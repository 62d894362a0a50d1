//! Requests without the magic cookie, as RFC 2543 has them (RFC 3261 §17.2.3).

use super::*;

const OLD: Request<'static> = Request {
    branch: "",
    ..INVITE
};

const OLD_ACK: Request<'static> = Request {
    method: "ACK",
    to_tag: ";tag=to-1",
    ..OLD
};

#[test]
fn a_repetition_is_recognized_by_its_fields() {
    for branch in ["", ";branch=1", ";branch=z9hG4bK"] {
        let mut layer = layer();
        let first = Request { branch, ..OLD };
        first.receive(&mut layer, at(0), udp());
        assert_eq!(
            first.offer(&mut layer, at(1), udp()),
            RequestDisposition::Absorbed
        );
        for other in [
            Request { cseq: 8, ..first },
            Request {
                call_id: "call-2",
                ..first
            },
            Request {
                to_tag: ";tag=x",
                ..first
            },
        ] {
            let disposition = other.offer(&mut layer, at(1), udp());
            assert!(
                matches!(disposition, RequestDisposition::New(_)),
                "{disposition:?}"
            );
        }
    }
}

#[test]
fn the_ack_of_a_refusal_has_the_to_tag_of_the_refusal() {
    for to_tag in ["", ";tag=dialog"] {
        let mut layer = layer();
        let invite = Request { to_tag, ..OLD };
        let key = invite.receive(&mut layer, at(0), udp());
        respond(&mut layer, at(0), key, &invite.message(), 486);
        drain(&mut layer);
        let ack = |to_tag| Request { to_tag, ..OLD_ACK };
        assert_eq!(
            ack(";tag=wrong").offer(&mut layer, at(1), udp()),
            RequestDisposition::Ack(None)
        );
        let right = if to_tag.is_empty() {
            ";tag=to-1"
        } else {
            to_tag
        };
        assert_eq!(
            ack(right).offer(&mut layer, at(1), udp()),
            RequestDisposition::Absorbed
        );
        assert_eq!(run(&mut layer, at(5_001)), events(&[(5_001, "ServerDone")]));
        assert_empty(&layer);
    }
}

#[test]
fn the_ack_of_a_2xx_is_the_users() {
    let mut layer = layer();
    let key = OLD.receive(&mut layer, at(0), udp());
    respond(&mut layer, at(0), key, &OLD.message(), 200);
    assert_eq!(
        OLD_ACK.offer(&mut layer, at(1), udp()),
        RequestDisposition::Ack(Some(key))
    );
    let own_branch = Request {
        branch: ";branch=2",
        ..OLD_ACK
    };
    assert_eq!(
        own_branch.offer(&mut layer, at(1), udp()),
        RequestDisposition::Ack(Some(key))
    );
}

#[test]
fn a_cancel_finds_its_invite() {
    let mut layer = layer();
    let key = OLD.receive(&mut layer, at(0), udp());
    let cancel = Request {
        method: "CANCEL",
        ..OLD
    };
    let disposition = cancel.offer(&mut layer, at(1), udp());
    assert!(
        matches!(disposition, RequestDisposition::Cancel { invite: Some(found), .. } if found == key),
        "{disposition:?}"
    );
}
