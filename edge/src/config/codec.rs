//! Names of codecs.

use edge_proto::sdp::{default_codecs, has_speech};

/// Encodings that this edge relays without having a payload type of its own to offer them with.
const RELAYED: &[&str] = &[
    "AMR", "AMR-WB", "EVRC", "EVS", "G7221", "G726-16", "G726-24", "G726-40", "GSM-EFR", "SILK",
];

/// An entry of `codecs`, in its registered spelling.
pub(super) fn parse(text: &str) -> Result<String, String> {
    if let Some(codec) = default_codecs(&[text.to_owned()]).first() {
        return Ok(codec.name.to_string());
    }
    let known = RELAYED.iter().find(|name| name.eq_ignore_ascii_case(text));
    known.map(|&name| name.to_owned()).ok_or_else(|| {
        format!("expected an encoding name such as \"PCMU\", \"PCMA\", \"G722\" or \"telephone-event\", found {text:?}")
    })
}

/// Whether a list of codecs is enough to talk with.
pub(super) fn speaks(names: &[String]) -> bool {
    let relayed = |name: &String| RELAYED.iter().any(|r| r.eq_ignore_ascii_case(name));
    names.iter().any(relayed) || has_speech(&default_codecs(names))
}
