//! One line: fields, types, and whether they agree with each other.

use edge_proto::event::Cause;
use jiff::Timestamp;
use serde_json::{Map, Value};

/// What the judgement of a whole call needs to know of a leg.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Leg {
    pub call: String,
    pub number: u64,
    pub inbound: bool,
    pub start: Option<Timestamp>,
    /// REFERs that were accepted.
    pub accepted_refers: u64,
    pub transfer: Option<Transfer>,
}

/// `transfer` of a leg.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transfer {
    pub id: u64,
    pub attempt: u64,
    pub completed: bool,
}

const RESULTS: &[&str] = &[
    "completed",
    "failed",
    "timeout",
    "no-answer",
    "busy",
    "denied",
    "cancelled",
];

impl Leg {
    /// Parses a line and notes everything wrong with it. `None` when it cannot even be assigned to a leg of a call.
    pub fn parse(bytes: &[u8], problems: &mut Vec<String>) -> Option<Leg> {
        let object: Map<String, Value> = match serde_json::from_slice(bytes) {
            Ok(object) => object,
            Err(error) => {
                problems.push(format!("not a JSON object: {error}"));
                return None;
            }
        };
        let mut fields = Fields {
            object: &object,
            within: "",
            problems,
        };
        let call = fields.string("call");
        let number = fields.number("leg");
        let direction = fields.one_of("direction", &["inbound", "outbound"]);
        fields.string("trunk");
        // Empty where the peer sent nothing: an anonymous caller, a Request-URI without a user.
        for name in ["sip_call_id", "from", "to"] {
            fields.required(name, Value::as_str, "a string");
        }
        if let Some(source) = fields.optional("source", Value::as_str, "a string")
            && source.parse::<std::net::SocketAddr>().is_err()
        {
            fields.wrong("source", "is no address and port");
        }
        let times = Times::parse(&mut fields);
        let cause = cause(&mut fields);
        status(&mut fields, times.answer.is_some(), cause);
        fields.one_of("hangup_by", &["local", "remote", "edge"]);
        let accepted_refers = refers(&mut fields, &times);
        let transfer = transfer(&mut fields, times.answer.is_some());
        media(&mut fields);
        let (call, number) = (call?, number?);
        if number == 0 {
            problems.push("leg: counts from 1".to_owned());
            return None;
        }
        Some(Leg {
            call: call.to_owned(),
            number,
            inbound: direction == Some("inbound"),
            start: times.start,
            accepted_refers,
            transfer,
        })
    }
}

/// The fields of one object, and where its problems go.
struct Fields<'a, 'p> {
    object: &'a Map<String, Value>,
    /// Prefix of the names in messages: `media.received.`.
    within: &'static str,
    problems: &'p mut Vec<String>,
}

impl<'a> Fields<'a, '_> {
    fn wrong(&mut self, name: &str, what: &str) {
        self.problems.push(format!("{}{name}: {what}", self.within));
    }

    /// The field, which must exist; `None` when it is missing (noted) or null.
    fn present(&mut self, name: &str) -> Option<&'a Value> {
        match self.object.get(name) {
            None => {
                self.wrong(name, "is missing");
                None
            }
            Some(Value::Null) => None,
            Some(value) => Some(value),
        }
    }

    fn optional<T>(
        &mut self,
        name: &str,
        get: impl FnOnce(&'a Value) -> Option<T>,
        expected: &str,
    ) -> Option<T> {
        let value = get(self.present(name)?);
        if value.is_none() {
            self.wrong(name, &format!("is not {expected}"));
        }
        value
    }

    fn required<T>(
        &mut self,
        name: &str,
        get: impl FnOnce(&'a Value) -> Option<T>,
        expected: &str,
    ) -> Option<T> {
        if self.object.get(name) == Some(&Value::Null) {
            self.wrong(name, &format!("is null, not {expected}"));
            return None;
        }
        self.optional(name, get, expected)
    }

    fn string(&mut self, name: &str) -> Option<&'a str> {
        let text = self.required(name, Value::as_str, "a string")?;
        if text.is_empty() {
            self.wrong(name, "is empty");
        }
        Some(text)
    }

    fn number(&mut self, name: &str) -> Option<u64> {
        self.required(name, Value::as_u64, "a whole number, zero or more")
    }

    fn one_of(&mut self, name: &str, known: &[&str]) -> Option<&'a str> {
        let text = self.required(name, Value::as_str, "a string")?;
        if !known.contains(&text) {
            self.wrong(name, &format!("{text:?} is none of {}", known.join(", ")));
        }
        Some(text)
    }

    fn time(&mut self, name: &str, required: bool) -> Option<Timestamp> {
        let text = if required {
            self.required(name, Value::as_str, "a time")
        } else {
            self.optional(name, Value::as_str, "a time or null")
        }?;
        let time = text.parse::<Timestamp>().ok();
        // 2026-03-01T12:00:00.000000Z, exactly: what sorts as text sorts as time.
        if time.is_none_or(|t| format!("{t:.6}") != text) {
            self.wrong(
                name,
                &format!("{text:?} is no RFC 3339 time in UTC with microseconds"),
            );
        }
        time
    }
}

struct Times {
    start: Option<Timestamp>,
    answer: Option<Timestamp>,
    end: Option<Timestamp>,
}

impl Times {
    fn parse(fields: &mut Fields<'_, '_>) -> Times {
        let start = fields.time("start", true);
        let ring = fields.time("ring", false);
        let answer = fields.time("answer", false);
        let end = fields.time("end", true);
        let mut last: Option<(&str, Timestamp)> = None;
        for (name, time) in [
            ("start", start),
            ("ring", ring),
            ("answer", answer),
            ("end", end),
        ] {
            let Some(time) = time else { continue };
            if let Some((earlier, then)) = last
                && time < then
            {
                fields.wrong(name, &format!("is before {earlier}"));
            }
            last = Some((name, time));
        }
        let told = fields.number("duration_ms");
        if let (Some(start), Some(end), Some(told)) = (start, end, told) {
            let real = end.as_microsecond().saturating_sub(start.as_microsecond()) / 1_000;
            // Times are cut to microseconds, so the millisecond may round the other way.
            if real.abs_diff(i64::try_from(told).unwrap_or(i64::MAX)) > 1 {
                fields.wrong(
                    "duration_ms",
                    &format!("is {told}, but from start to end it is {real}"),
                );
            }
        }
        Times { start, answer, end }
    }
}

fn cause(fields: &mut Fields<'_, '_>) -> Option<Cause> {
    let name = fields.string("cause")?;
    let cause = Cause::ALL.iter().copied().find(|c| c.as_str() == name);
    let code = fields.optional("cause_code", Value::as_u64, "a number or null");
    match cause {
        None => fields.wrong("cause", &format!("{name:?} is not known")),
        Some(cause) if cause.code().map(u64::from) != code => {
            let expected = cause.code().map_or("null".to_owned(), |c| c.to_string());
            fields.wrong(
                "cause_code",
                &format!("must be {expected} with cause {name}"),
            );
        }
        Some(_) => {}
    }
    cause
}

fn status(fields: &mut Fields<'_, '_>, answered: bool, cause: Option<Cause>) {
    let status = fields.optional("sip_status", Value::as_u64, "a status code or null");
    if status.is_some_and(|s| !(200..=699).contains(&s)) {
        fields.wrong("sip_status", "is no final status");
    }
    let success = status.is_some_and(|s| (200..=299).contains(&s));
    if answered && !success {
        fields.wrong("sip_status", "must be 2xx on an answered leg");
    }
    if cause == Some(Cause::Completed) && !answered {
        fields.wrong("cause", "is completed, but the leg was not answered");
    }
}

/// The number of accepted REFERs.
fn refers(fields: &mut Fields<'_, '_>, times: &Times) -> u64 {
    let Some(refers) = fields.required("refers", Value::as_array, "an array") else {
        return 0;
    };
    let mut accepted = 0;
    for refer in refers {
        let Some(object) = refer.as_object() else {
            fields.wrong("refers", "holds something that is no object");
            continue;
        };
        let mut refer = Fields {
            object,
            within: "refers.",
            problems: &mut *fields.problems,
        };
        refer.required("target", Value::as_str, "a string");
        if let Some(at) = refer.time("at", true)
            && (times.start.is_some_and(|s| at < s) || times.end.is_some_and(|e| at > e))
        {
            refer.wrong("at", "is outside the leg's life");
        }
        let status = refer.number("status");
        let success = status.is_some_and(|s| (200..=299).contains(&s));
        accepted += u64::from(success);
        let cause = refer.optional("cause", Value::as_str, "a string or null");
        match cause {
            Some(name) if !Cause::ALL.iter().any(|c| c.as_str() == name) => {
                refer.wrong("cause", &format!("{name:?} is not known"));
            }
            Some(_) if success => refer.wrong("cause", "must be null when accepted"),
            None if !success => refer.wrong("cause", "must say why it was refused"),
            _ => {}
        }
    }
    accepted
}

fn transfer(fields: &mut Fields<'_, '_>, answered: bool) -> Option<Transfer> {
    let object = fields.optional("transfer", Value::as_object, "an object or null")?;
    let mut transfer = Fields {
        object,
        within: "transfer.",
        problems: &mut *fields.problems,
    };
    transfer.string("target");
    transfer.string("via");
    let result = transfer.one_of("result", RESULTS)?;
    let (id, attempt) = (transfer.number("id")?, transfer.number("attempt")?);
    if id == 0 || attempt == 0 {
        transfer.wrong("id", "and attempt count from 1");
    }
    let completed = result == "completed";
    if completed && !answered {
        transfer.wrong("result", "is completed, but the leg was not answered");
    }
    Some(Transfer {
        id,
        attempt,
        completed,
    })
}

fn media(fields: &mut Fields<'_, '_>) {
    let Some(object) = fields.optional("media", Value::as_object, "an object or null") else {
        return;
    };
    let mut media = Fields {
        object,
        within: "media.",
        problems: &mut *fields.problems,
    };
    media.optional("codec", Value::as_str, "a string or null");
    media.string("encryption");
    media.one_of("lane", &["io_uring", "xdp"]);
    for (name, within) in [("received", "media.received."), ("sent", "media.sent.")] {
        let Some(object) = media.required(name, Value::as_object, "an object") else {
            continue;
        };
        let mut direction = Fields {
            object,
            within,
            problems: &mut *media.problems,
        };
        let packets = direction.number("packets");
        direction.number("bytes");
        direction.optional("lost", Value::as_u64, "a whole number or null");
        let jitter = direction.optional("jitter_ms", Value::as_f64, "a number or null");
        if jitter.is_some_and(|j| j < 0.0) {
            direction.wrong("jitter_ms", "is negative");
        }
        let first = direction.optional("first_packet_ms", Value::as_u64, "a whole number or null");
        if packets == Some(0) && first.is_some() {
            direction.wrong("first_packet_ms", "is given, but there was no packet");
        }
    }
}
