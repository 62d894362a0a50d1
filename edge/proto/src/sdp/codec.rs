//! Codecs: what a payload type stands for, and which ones two sides have in common.

use super::MAX_CODECS;
use crate::relay::PayloadMap;
use arrayvec::ArrayVec;
use compact_str::CompactString;

/// One format of an audio stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Codec {
    /// 0-127.
    pub payload_type: u8,
    /// Encoding name; those this edge knows are spelt as registered, others as the peer did.
    pub name: CompactString,
    /// RTP clock rate in Hz, 8000 for G722 (RFC 3551 §4.5.2).
    pub clock_rate: u32,
    /// 1 unless the rtpmap says otherwise.
    pub channels: u8,
    /// Format parameters as written.
    pub fmtp: Option<CompactString>,
}

/// The name of RFC 4733 events.
pub(super) const TELEPHONE_EVENT: &str = "telephone-event";

/// The payload type this edge numbers telephone events with in offers of its own.
const TELEPHONE_EVENT_TYPE: u8 = 101;

/// The most entries of a [`PayloadMap`].
const MAX_MAPPED: usize = 32;

/// The static audio types of RFC 3551 §6: type, name, clock rate, channels.
const STATIC: &[(u8, &str, u32, u8)] = &[
    (0, "PCMU", 8000, 1),
    (3, "GSM", 8000, 1),
    (4, "G723", 8000, 1),
    (5, "DVI4", 8000, 1),
    (6, "DVI4", 16_000, 1),
    (7, "LPC", 8000, 1),
    (8, "PCMA", 8000, 1),
    (9, "G722", 8000, 1),
    (10, "L16", 44_100, 2),
    (11, "L16", 44_100, 1),
    (12, "QCELP", 8000, 1),
    (13, "CN", 8000, 1),
    (14, "MPA", 90_000, 1),
    (15, "G728", 8000, 1),
    (16, "DVI4", 11_025, 1),
    (17, "DVI4", 22_050, 1),
    (18, "G729", 8000, 1),
];

/// Codecs without a static type that this edge can offer by name: type, name, clock rate, channels, parameters.
const DYNAMIC: &[(u8, &str, u32, u8, Option<&str>)] = &[
    (96, "opus", 48_000, 2, None),
    (97, "iLBC", 8000, 1, None),
    (98, "speex", 8000, 1, None),
    (99, "G726-32", 8000, 1, None),
    (TELEPHONE_EVENT_TYPE, TELEPHONE_EVENT, 8000, 1, Some("0-15")),
];

/// Parameters that change the bits on the wire: two formats that differ in one are two codecs to a relay that does not
/// transcode. With the value that an absent parameter stands for.
const WIRE_PARAMETERS: &[(&str, &[(&str, &str)])] = &[
    ("iLBC", &[("mode", "30")]),
    ("G7221", &[("bitrate", "")]),
    (
        "AMR",
        &[
            ("octet-align", "0"),
            ("crc", "0"),
            ("robust-sorting", "0"),
            ("interleaving", ""),
        ],
    ),
    (
        "AMR-WB",
        &[
            ("octet-align", "0"),
            ("crc", "0"),
            ("robust-sorting", "0"),
            ("interleaving", ""),
        ],
    ),
];

impl Codec {
    /// The codec that a payload type stands for when no rtpmap says so (RFC 3551 §6).
    pub fn from_static(payload_type: u8) -> Option<Codec> {
        STATIC.iter().find(|entry| entry.0 == payload_type).map(
            |&(payload_type, name, clock_rate, channels)| Codec {
                payload_type,
                name: name.into(),
                clock_rate,
                channels,
                fmtp: None,
            },
        )
    }

    /// The codec that an rtpmap value (`PCMU/8000`, `opus/48000/2`) describes; `None` when it is not one.
    pub(super) fn from_rtpmap(payload_type: u8, encoding: &str) -> Option<Codec> {
        let mut parts = encoding.trim().split('/');
        let name = parts.next().filter(|name| is_token(name))?;
        let clock_rate = parts.next()?.parse().ok().filter(|&rate| rate > 0)?;
        let channels = match parts.next() {
            None | Some("") => 1,
            Some(channels) => channels.parse().ok().filter(|&channels| channels > 0)?,
        };
        parts.next().is_none().then(|| Codec {
            payload_type,
            name: registered_spelling(name).into(),
            clock_rate,
            channels,
            fmtp: None,
        })
    }

    /// Whether it carries RFC 4733 events.
    pub fn is_telephone_event(&self) -> bool {
        self.name.eq_ignore_ascii_case(TELEPHONE_EVENT)
    }

    /// Whether it carries speech by itself: not events, comfort noise or redundancy.
    pub fn is_speech(&self) -> bool {
        ![
            "telephone-event",
            "tone",
            "CN",
            "red",
            "ulpfec",
            "parityfec",
        ]
        .iter()
        .any(|name| self.name.eq_ignore_ascii_case(name))
    }

    /// A parameter of the fmtp, such as `mode` in `mode=20`.
    fn parameter(&self, name: &str) -> Option<&str> {
        self.fmtp.as_deref()?.split(';').find_map(|item| {
            let (key, value) = item.split_once('=')?;
            key.trim().eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// Whether packets of the one can be sent as the other: the same encoding, clock, channels, and parameters that show on the
/// wire. Payload types may differ.
pub fn same_codec(a: &Codec, b: &Codec) -> bool {
    a.name.eq_ignore_ascii_case(&b.name)
        && a.clock_rate == b.clock_rate
        && a.channels == b.channels
        && WIRE_PARAMETERS
            .iter()
            .filter(|(name, _)| a.name.eq_ignore_ascii_case(name))
            .flat_map(|(_, parameters)| parameters.iter())
            .all(|(parameter, default)| {
                a.parameter(parameter).unwrap_or(default)
                    == b.parameter(parameter).unwrap_or(default)
            })
}

/// Whether there is a codec to speak with: telephone events alone are not a call.
pub fn has_speech(codecs: &[Codec]) -> bool {
    codecs.iter().any(Codec::is_speech)
}

/// What of a remote offer to offer on to a trunk that allows the names in `allowed`: the remote's order, numbers and
/// parameters, each codec once. Empty when no speech codec is left.
pub fn offer_codecs(remote: &[Codec], allowed: &[String]) -> Vec<Codec> {
    let mut kept: Vec<Codec> = Vec::new();
    for codec in remote {
        let listed = allowed
            .iter()
            .any(|name| name.eq_ignore_ascii_case(&codec.name));
        if listed && !kept.iter().any(|known| same_codec(known, codec)) {
            kept.push(codec.clone());
        }
    }
    with_fitting_events(kept)
}

/// What to offer of our own to a trunk that allows the names in `allowed`, in that order. Names this edge has no numbers
/// for are left out.
pub fn default_codecs(allowed: &[String]) -> Vec<Codec> {
    let codecs = allowed.iter().filter_map(|name| {
        let fixed = STATIC
            .iter()
            .find(|entry| entry.1.eq_ignore_ascii_case(name));
        if let Some(entry) = fixed {
            return Codec::from_static(entry.0);
        }
        DYNAMIC
            .iter()
            .find(|entry| entry.1.eq_ignore_ascii_case(name))
            .map(|&(payload_type, name, clock_rate, channels, fmtp)| Codec {
                payload_type,
                name: name.into(),
                clock_rate,
                channels,
                fmtp: fmtp.map(Into::into),
            })
    });
    let mut kept: Vec<Codec> = Vec::new();
    for codec in codecs {
        if !kept.iter().any(|known| same_codec(known, &codec)) {
            kept.push(codec);
        }
    }
    kept
}

/// What to answer to `offer` when `ours` can be received: the offer's order and numbers (RFC 3264 §6.1), the parameters of
/// `ours` where it has some. Empty when there is no speech codec in common.
pub fn answer_codecs(offer: &[Codec], ours: &[Codec]) -> Vec<Codec> {
    let mut kept: Vec<Codec> = Vec::new();
    for codec in offer {
        let Some(own) = ours.iter().find(|own| same_codec(own, codec)) else {
            continue;
        };
        if kept.iter().any(|known| same_codec(known, codec)) {
            continue;
        }
        let mut codec = codec.clone();
        if own.fmtp.is_some() {
            codec.fmtp.clone_from(&own.fmtp);
        }
        kept.push(codec);
    }
    with_fitting_events(kept)
}

/// How to renumber packets of a peer to whom we declared `received_as`, for a peer that declared `send_as`.
pub fn payload_map(received_as: &[Codec], send_as: &[Codec]) -> PayloadMap {
    let mut map = PayloadMap::default();
    for codec in received_as {
        let known = map
            .entries
            .iter()
            .any(|&(from, _)| from == codec.payload_type);
        if known || map.entries.len() >= MAX_MAPPED {
            continue;
        }
        let Some(other) = send_as.iter().find(|other| same_codec(codec, other)) else {
            continue;
        };
        map.entries.push((codec.payload_type, other.payload_type));
        map.clock_rates.push((codec.payload_type, codec.clock_rate));
        if codec.is_telephone_event() && map.telephone_event.is_none() {
            map.telephone_event = Some(codec.payload_type);
        }
    }
    map
}

/// Keeps the telephone events that fit: an event shares its stream's timestamps, so it needs the clock of a speech codec
/// (RFC 4733 §2.1). Where none has the clock of any, all stay: some endpoints pair 8000 Hz events with other clocks.
/// Without a speech codec nothing stays.
fn with_fitting_events(mut codecs: Vec<Codec>) -> Vec<Codec> {
    if !has_speech(&codecs) {
        return Vec::new();
    }
    let clocks: ArrayVec<u32, MAX_CODECS> = codecs
        .iter()
        .filter(|codec| codec.is_speech())
        .map(|codec| codec.clock_rate)
        .take(MAX_CODECS)
        .collect();
    let fits = |codec: &Codec| clocks.contains(&codec.clock_rate);
    if codecs
        .iter()
        .any(|codec| codec.is_telephone_event() && fits(codec))
    {
        codecs.retain(|codec| !codec.is_telephone_event() || fits(codec));
    }
    codecs
}

/// RFC 8866 §9 `token`.
pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !b"\"(),/:;<=>?@[\\]".contains(&byte))
}

fn registered_spelling(name: &str) -> &str {
    STATIC
        .iter()
        .map(|entry| entry.1)
        .chain(DYNAMIC.iter().map(|entry| entry.1))
        .find(|known| known.eq_ignore_ascii_case(name))
        .unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codec(payload_type: u8, rtpmap: &str, fmtp: Option<&str>) -> Codec {
        Codec {
            fmtp: fmtp.map(Into::into),
            ..Codec::from_rtpmap(payload_type, rtpmap).unwrap()
        }
    }

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|&name| name.to_owned()).collect()
    }

    fn types(codecs: &[Codec]) -> Vec<u8> {
        codecs.iter().map(|codec| codec.payload_type).collect()
    }

    #[test]
    fn an_rtpmap_is_read_with_and_without_channels() {
        let opus = codec(111, "opus/48000/2", None);
        assert_eq!((opus.clock_rate, opus.channels), (48_000, 2));
        assert_eq!(codec(0, "pcmu/8000", None).name, "PCMU");
        assert_eq!(
            codec(0, "PCMU/8000/1", None),
            Codec::from_static(0).unwrap()
        );
        for bad in [
            "",
            "PCMU",
            "PCMU/",
            "PCMU/0",
            "PCMU/x",
            "/8000",
            "a b/8000",
            "PCMU/8000/0",
            "PCMU/8000/1/1",
        ] {
            assert_eq!(Codec::from_rtpmap(0, bad), None, "{bad:?}");
        }
    }

    #[test]
    fn an_offer_goes_on_in_the_callers_order_within_the_trunks_list() {
        let remote = [
            codec(8, "PCMA/8000", None),
            codec(18, "G729/8000", None),
            codec(0, "PCMU/8000", None),
            codec(97, "PCMU/8000", None),
            codec(98, "telephone-event/48000", None),
            codec(99, "telephone-event/8000", Some("0-16")),
        ];
        let kept = offer_codecs(&remote, &names(&["PCMU", "pcma", "telephone-event"]));
        assert_eq!(types(&kept), [8, 0, 99]);
        assert_eq!(kept[2].fmtp.as_deref(), Some("0-16"));
        assert_eq!(offer_codecs(&remote, &names(&["telephone-event"])), []);
    }

    #[test]
    fn events_with_the_clock_of_a_kept_codec_are_preferred() {
        let remote = [
            codec(111, "opus/48000/2", None),
            codec(0, "PCMU/8000", None),
            codec(110, "telephone-event/48000", None),
            codec(126, "telephone-event/8000", None),
        ];
        let both = names(&["opus", "PCMU", "telephone-event"]);
        assert_eq!(types(&offer_codecs(&remote, &both)), [111, 0, 110, 126]);
        let narrow = names(&["PCMU", "telephone-event"]);
        assert_eq!(types(&offer_codecs(&remote, &narrow)), [0, 126]);
        let wide = names(&["opus", "telephone-event"]);
        assert_eq!(types(&offer_codecs(&remote, &wide)), [111, 110]);
        let odd = [remote[0].clone(), remote[3].clone()];
        assert_eq!(types(&offer_codecs(&odd, &wide)), [111, 126]);
    }

    #[test]
    fn the_default_offer_follows_the_trunks_list() {
        let codecs = default_codecs(&names(&[
            "PCMU",
            "PCMA",
            "G722",
            "telephone-event",
            "EVS",
            "pcmu",
        ]));
        assert_eq!(types(&codecs), [0, 8, 9, 101]);
        assert_eq!(codecs[2].clock_rate, 8000);
        assert_eq!(codecs[3].fmtp.as_deref(), Some("0-15"));
    }

    #[test]
    fn an_answer_keeps_the_offers_numbers_and_order() {
        let offer = [
            codec(0, "PCMU/8000", None),
            codec(8, "PCMA/8000", None),
            codec(96, "telephone-event/8000", Some("0-16")),
        ];
        let ours = default_codecs(&names(&["telephone-event", "PCMA", "PCMU"]));
        let answer = answer_codecs(&offer, &ours);
        assert_eq!(types(&answer), [0, 8, 96]);
        assert_eq!(answer[2].fmtp.as_deref(), Some("0-15"));
        assert_eq!(answer_codecs(&offer[2..], &ours), []);
    }

    #[test]
    fn parameters_that_change_the_wire_make_two_codecs() {
        let pairs = [
            ("iLBC/8000", "mode=20", "mode=30", false),
            ("iLBC/8000", "", "mode=30", true),
            ("AMR/8000", "octet-align=1", "mode-set=0", false),
            (
                "AMR/8000",
                "octet-align=1; mode-set=7",
                "OCTET-ALIGN=1",
                true,
            ),
            ("G729/8000", "annexb=no", "annexb=yes", true),
        ];
        for (rtpmap, a, b, same) in pairs {
            let (a, b) = (codec(96, rtpmap, Some(a)), codec(97, rtpmap, Some(b)));
            assert_eq!(same_codec(&a, &b), same, "{a:?} {b:?}");
        }
    }

    #[test]
    fn a_map_renumbers_what_both_have_and_nothing_else() {
        let from = [
            codec(0, "PCMU/8000", None),
            codec(9, "G722/8000", None),
            codec(101, "telephone-event/8000", None),
        ];
        let to = [
            codec(96, "telephone-event/8000", None),
            codec(0, "PCMU/8000", None),
        ];
        let map = payload_map(&from, &to);
        assert_eq!(map.entries, [(0, 0), (101, 96)]);
        assert_eq!(map.clock_rates, [(0, 8000), (101, 8000)]);
        assert_eq!(map.telephone_event, Some(101));
    }
}
