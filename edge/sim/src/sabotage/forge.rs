//! Messages that are forged, repeated or swallowed.

use super::Sabotage;
use crate::wire::Sip;
use bytes::Bytes;

/// What is sent in place of a message.
pub fn messages(sabotage: Sabotage, bytes: Bytes) -> Vec<Bytes> {
    let Ok(sip) = Sip::parse(&bytes) else {
        return vec![bytes];
    };
    let text = sip.text();
    let again = |text: String| vec![bytes.clone(), Bytes::from(text)];
    let is_final = sip.header("subscription-state").starts_with("terminated");
    match sabotage {
        Sabotage::Garble => vec![Bytes::from(text.replace("Content-Length", "Length"))],
        Sabotage::ForgeInvite if sip.is_initial_invite() => {
            let forged = text.replace(sip.call_id(), "forged");
            again(forged.replace(sip.branch(), "z9hG4bK00forged"))
        }
        Sabotage::ShowCredentials if sip.is_initial_invite() => {
            let shown = "Authorization: Digest username=\"edge\", nonce=\"n\"\r\nTo: ";
            vec![Bytes::from(text.replacen("To: ", shown, 1))]
        }
        Sabotage::AnswerTwice if sip.cseq().1 == "BYE" && sip.code() >= 200 => again(text),
        Sabotage::SwallowAck if sip.method() == "ACK" => Vec::new(),
        Sabotage::SwallowBye if sip.method() == "BYE" => Vec::new(),
        Sabotage::NotifyTwice if is_final => {
            let (number, _) = sip.cseq();
            let next = text.replace(
                &format!("CSeq: {number} "),
                &format!("CSeq: {} ", number + 1),
            );
            again(next.replace(sip.branch(), "z9hG4bK00twice"))
        }
        Sabotage::ReleaseAtOnce if is_final => {
            let (number, _) = sip.cseq();
            let bye = text.replacen("NOTIFY ", "BYE ", 1).replace(
                &format!("CSeq: {number} NOTIFY"),
                &format!("CSeq: {} BYE", number + 1),
            );
            again(bye.replace(sip.branch(), "z9hG4bK00bye"))
        }
        _ => vec![bytes],
    }
}
