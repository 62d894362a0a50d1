//! What REFERs ask for, and by hand what becomes of it: the checkers do not ask the policy that they check.

use super::Side;

/// The number that `targets` lists.
pub const VIA_NUMBER: &str = "+1234567890";

/// `fallback` of the policy, with the number that is called and who is.
pub const FALLBACKS: [(&str, Side, &str); 2] = [
    ("sip:desk9@pbx.example.net", Side::Pbx, "desk9"),
    ("tel:+1234567891", Side::Agents, "+1234567891"),
];

/// What must become of a target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The user that is called, and at whose trunk.
    Call(Side, &'static str),
    Refuse,
}

/// One Refer-To.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// All Refer-To lines of the REFER, values only.
    pub lines: &'static [&'static str],
    pub verdict: Verdict,
}

const VIA: Verdict = Verdict::Call(Side::Agents, VIA_NUMBER);

macro_rules! target {
    ($verdict:expr, $($line:literal),*) => {
        Target { lines: &[$($line),*], verdict: $verdict }
    };
}

/// Every target that transferors know. The first are what honest ones use.
pub const TARGETS: &[Target] = &[
    target!(VIA, "<sip:+1234567890@edge.example.net>"),
    target!(VIA, "<tel:+1-234-567-890>"),
    target!(VIA, "\"Human\" <sip:+1234567890@192.0.2.1>"),
    target!(
        Verdict::Call(Side::Pbx, "desk42"),
        "<sip:desk42@pbx.example.net?X-Customer-ID=77>"
    ),
    target!(VIA, "+1234567890"),
    target!(
        Verdict::Call(Side::Pbx, "desk42"),
        "<sip:desk42@PBX.example.net;unknown=1>"
    ),
    // Not on the list, or nobody's.
    target!(Verdict::Refuse, "<sip:+1999@edge.example.net>"),
    target!(Verdict::Refuse, "<tel:+1999>"),
    target!(Verdict::Refuse, "<sip:x@evil.example.com>"),
    target!(Verdict::Refuse, "<sip:x@203.0.113.66>"),
    // Dressed up as somebody on the list.
    target!(
        Verdict::Refuse,
        "<sip:x@evil.example.com;p=@pbx.example.net>"
    ),
    target!(
        Verdict::Refuse,
        "<sip:x%40pbx.example.net@evil.example.com>"
    ),
    target!(
        Verdict::Refuse,
        "<sip:x@pbx.example.net;maddr=203.0.113.66>"
    ),
    target!(Verdict::Refuse, "<sip:x:secret@pbx.example.net>"),
    target!(Verdict::Refuse, "<sip:x@pbx.example.net;method=BYE>"),
    target!(
        Verdict::Refuse,
        "<sip:x@pbx.example.net?Replaces=a%3Bto-tag%3Db%3Bfrom-tag%3Dc>"
    ),
    target!(
        Verdict::Refuse,
        "<sip:x@pbx.example.net?X-A=b%0d%0aRoute:%20%3Csip:203.0.113.66%3E>"
    ),
    target!(Verdict::Refuse, "<sip:x%0d%0aRoute:y@pbx.example.net>"),
    // No target at all.
    target!(Verdict::Refuse, "<http://pbx.example.net/>"),
    target!(Verdict::Refuse, "<sip:pbx.example.net>"),
    target!(Verdict::Refuse, "<sip:"),
    target!(Verdict::Refuse,),
    target!(
        Verdict::Refuse,
        "<sip:desk42@pbx.example.net>",
        "<sip:desk43@pbx.example.net>"
    ),
];

impl Target {
    /// How many of [`TARGETS`] honest transferors use.
    pub const HONEST: usize = 6;
}
