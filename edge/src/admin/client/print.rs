//! Answers as text for people. What peers sent is cleaned before it meets a terminal.

use edge_proto::event::{Privacy, Text};
use serde_json::Value;
use std::io::{self, Write};

/// A field as text; `-` when it is missing or null.
fn field(value: &Value, name: &str) -> String {
    match value.get(name) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => Text(text, Privacy::Shown).to_string(),
        Some(other) => other.to_string(),
    }
}

fn items<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value
        .get(name)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

fn names(value: &Value, name: &str) -> String {
    let texts: Vec<String> = items(value, name)
        .iter()
        .filter_map(Value::as_str)
        .map(|t| Text(t, Privacy::Shown).to_string())
        .collect();
    if texts.is_empty() {
        "-".to_owned()
    } else {
        texts.join(" ")
    }
}

/// Milliseconds as `1:02:03`, `2:03` or `3.4 s`.
fn duration(value: &Value) -> String {
    let Some(ms) = value.get("duration_ms").and_then(Value::as_u64) else {
        return "-".to_owned();
    };
    let (h, m, s) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
    match (h, m) {
        (0, 0) => format!("{s}.{} s", ms / 100 % 10),
        (0, _) => format!("{m}:{s:02}"),
        _ => format!("{h}:{m:02}:{s:02}"),
    }
}

/// `2026-03-01T12:00:00.123456Z` without the fraction.
fn time(value: &Value, name: &str) -> String {
    let text = field(value, name);
    match text.split_once('.') {
        Some((seconds, _)) => format!("{}Z", seconds.replace('T', " ")),
        None => text,
    }
}

/// Columns as wide as their widest cell; the last one is not padded.
fn table(out: &mut impl Write, header: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
    let mut widths: Vec<usize> = header.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let head: Vec<String> = header.iter().map(|h| (*h).to_owned()).collect();
    for row in std::iter::once(&head).chain(rows) {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, &width)| format!("{cell:width$}"))
            .collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

pub fn calls(out: &mut impl Write, answer: &Value) -> io::Result<()> {
    let rows: Vec<Vec<String>> = items(answer, "calls")
        .iter()
        .map(|call| {
            let legs: Vec<String> = items(call, "legs")
                .iter()
                .map(|l| format!("{}:{}", field(l, "trunk"), field(l, "state")))
                .collect();
            let state = match call.get("cause").and_then(Value::as_str) {
                Some(cause) => cause.to_owned(),
                None => field(call, "state"),
            };
            vec![
                // Twelve digits of a random id are enough to name a call.
                field(call, "call").chars().take(12).collect(),
                time(call, "start"),
                duration(call),
                state,
                field(call, "from"),
                field(call, "to"),
                legs.join(" "),
            ]
        })
        .collect();
    if rows.is_empty() {
        return writeln!(out, "no calls");
    }
    let header = ["CALL", "START", "DURATION", "STATE", "FROM", "TO", "LEGS"];
    table(out, &header, &rows)?;
    writeln!(out, "{} active", field(answer, "active"))
}

pub fn call(out: &mut impl Write, call: &Value) -> io::Result<()> {
    writeln!(
        out,
        "call {}: {} since {}, {}, core {}",
        field(call, "call"),
        match call.get("cause").and_then(Value::as_str) {
            Some(cause) => format!("ended ({cause})"),
            None => field(call, "state"),
        },
        time(call, "start"),
        duration(call),
        field(call, "core"),
    )?;
    writeln!(out)?;
    let rows: Vec<Vec<String>> = items(call, "legs").iter().map(leg_row).collect();
    let header = [
        "LEG",
        "TRUNK",
        "DIRECTION",
        "STATE",
        "DURATION",
        "STATUS",
        "CAUSE",
        "RTP IN/OUT",
        "FROM",
        "TO",
    ];
    table(out, &header, &rows)?;
    writeln!(out)?;
    for line in items(call, "timeline") {
        timeline_line(out, line)?;
    }
    Ok(())
}

fn leg_row(leg: &Value) -> Vec<String> {
    let packets = |direction: &str| {
        leg.get("media")
            .and_then(|m| m.get(direction))
            .map_or_else(|| "-".to_owned(), |d| field(d, "packets"))
    };
    let cause = match leg.get("cause_code").and_then(Value::as_u64) {
        Some(code) => format!("{} {code}", field(leg, "cause")),
        None => field(leg, "cause"),
    };
    vec![
        field(leg, "leg"),
        field(leg, "trunk"),
        field(leg, "direction"),
        field(leg, "state"),
        duration(leg),
        field(leg, "sip_status"),
        cause,
        format!("{}/{}", packets("received"), packets("sent")),
        field(leg, "from"),
        field(leg, "to"),
    ]
}

/// `12:00:01.234567  leg 2  refer             REFER to ... refused with 403 (target_not_allowed: ...)`
fn timeline_line(out: &mut impl Write, line: &Value) -> io::Result<()> {
    let at = field(line, "at");
    let clock = at
        .split_once('T')
        .map_or(at.as_str(), |(_, time)| time.trim_end_matches('Z'));
    let leg = match field(line, "leg").as_str() {
        "-" => "     ".to_owned(),
        leg => format!("leg {leg}"),
    };
    let reason = match field(line, "reason").as_str() {
        "-" => String::new(),
        reason => format!(" ({reason})"),
    };
    writeln!(
        out,
        "{clock:15}  {leg}  {:16}  {}{reason}",
        field(line, "kind"),
        field(line, "detail"),
    )
}

/// A line of the live stream, with its call.
pub fn event(out: &mut impl Write, event: &Value) -> io::Result<()> {
    if let Some(missed) = event.get("missed") {
        return writeln!(out, "({missed} events were missed)");
    }
    let call: String = field(event, "call").chars().take(12).collect();
    write!(out, "{call:12}  ")?;
    timeline_line(out, event)
}

pub fn trunks(out: &mut impl Write, answer: &Value) -> io::Result<()> {
    let rows: Vec<Vec<String>> = items(answer, "trunks")
        .iter()
        .map(|trunk| {
            let limit = match trunk.get("max_calls").and_then(Value::as_u64) {
                None | Some(0) => String::new(),
                Some(limit) => format!("/{limit}"),
            };
            let transfer = trunk.get("transfer").filter(|t| !t.is_null()).map_or_else(
                || "-".to_owned(),
                |t| format!("{} via {}", field(t, "auth"), field(t, "via")),
            );
            vec![
                field(trunk, "name"),
                format!("{}{limit}", field(trunk, "active")),
                field(trunk, "auth"),
                field(trunk, "network"),
                names(trunk, "listen"),
                names(trunk, "uri"),
                transfer,
                allowed_networks(trunk),
            ]
        })
        .collect();
    let header = [
        "TRUNK", "LEGS", "AUTH", "NETWORK", "LISTEN", "URI", "TRANSFER", "ALLOW",
    ];
    table(out, &header, &rows)
}

/// A few networks; an allow list may have thousands.
fn allowed_networks(trunk: &Value) -> String {
    const SHOWN: usize = 4;
    let networks = items(trunk, "allow");
    let shown: Vec<&str> = networks
        .iter()
        .filter_map(Value::as_str)
        .take(SHOWN)
        .collect();
    match networks.len() {
        0 => "-".to_owned(),
        n if n > SHOWN => format!("{} and {} more", shown.join(" "), n - SHOWN),
        _ => shown.join(" "),
    }
}

pub fn allow_test(out: &mut impl Write, answer: &Value) -> io::Result<()> {
    let verdict = |value: &Value| match value.get("allowed") {
        Some(Value::Bool(true)) => "allowed",
        _ => "not allowed",
    };
    writeln!(
        out,
        "{} as {}: {}: {}",
        field(answer, "ip"),
        field(answer, "trunk"),
        verdict(answer),
        field(answer, "reason"),
    )?;
    for listener in items(answer, "listeners") {
        writeln!(
            out,
            "  {} ({} {}): {}; trunks of this address there: {}",
            field(listener, "listener"),
            field(listener, "transport"),
            field(listener, "address"),
            verdict(listener),
            names(listener, "trunks"),
        )?;
    }
    Ok(())
}

pub fn reload(out: &mut impl Write, answer: &Value) -> io::Result<()> {
    writeln!(out, "the new configuration is in force")?;
    for (name, what) in [
        ("trunks_added", "trunks added"),
        ("trunks_removed", "trunks removed"),
    ] {
        if !items(answer, name).is_empty() {
            writeln!(out, "{what}: {}", names(answer, name))?;
        }
    }
    for (name, what) in [
        ("needs_restart", "needs a restart"),
        ("warnings", "warning"),
    ] {
        for text in items(answer, name).iter().filter_map(Value::as_str) {
            writeln!(out, "{what}: {}", Text(text, Privacy::Shown))?;
        }
    }
    Ok(())
}

pub fn drain(out: &mut impl Write, answer: &Value) -> io::Result<()> {
    writeln!(
        out,
        "draining: no new calls; {} under way",
        field(answer, "active")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn durations_read_like_a_clock() {
        let of = |ms: u64| duration(&json!({ "duration_ms": ms }));
        assert_eq!(of(3_449), "3.4 s");
        assert_eq!(of(63_000), "1:03");
        assert_eq!(of(3_723_000), "1:02:03");
        assert_eq!(duration(&json!({})), "-");
    }

    #[test]
    fn a_peers_text_cannot_drive_the_terminal() {
        let mut out = Vec::new();
        let line =
            json!({"at": "2026-03-01T12:00:01.5Z", "kind": "note", "detail": "\u{1b}[2Jx\n"});
        timeline_line(&mut out, &line).expect("memory takes it");
        let text = String::from_utf8(out).expect("text");
        assert!(text.starts_with("12:00:01.5"), "{text}");
        assert_eq!(text.matches(char::is_control).collect::<Vec<_>>(), ["\n"]);
    }

    #[test]
    fn a_long_allow_list_stays_on_its_line() {
        let trunk = json!({"allow": ["a", "b", "c", "d", "e", "f"]});
        assert_eq!(allowed_networks(&trunk), "a b c d and 2 more");
    }
}
