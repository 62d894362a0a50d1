//! What the edge reported, in forms that are short to write in an assertion.

use super::world::World;
use edge_proto::event::{Direction, EventKind, LegRecord, Privacy};
use edge_proto::id::{AllocationId, CoreId};
use edge_proto::relay::{MediaCommand, PayloadMap};

impl World {
    /// The CDR lines so far, by leg.
    pub fn records(&self) -> Vec<&LegRecord> {
        let mut records: Vec<_> = self
            .events
            .iter()
            .filter_map(|event| match &event.kind {
                EventKind::LegEnded(record) => Some(&**record),
                _ => None,
            })
            .collect();
        records.sort_by_key(|record| (record.start, record.leg));
        records
    }

    /// The CDR lines so far, one short text each: leg, direction, trunk, status, cause, who hung up; then the REFERs with
    /// status and cause, and the transfer with its id, attempt, target, via and result.
    pub fn cdr(&self) -> Vec<String> {
        self.records().into_iter().map(short).collect()
    }

    pub fn assert_cdr(&self, expected: &[&str]) {
        assert_eq!(self.cdr(), expected);
    }

    /// The CDR line of the only leg of `trunk`.
    pub fn record(&self, trunk: &str) -> &LegRecord {
        let of_trunk = |record: &&LegRecord| &*record.trunk == trunk;
        let records: Vec<_> = self.records().into_iter().filter(of_trunk).collect();
        match records.as_slice() {
            [one] => one,
            other => panic!("{} CDR lines of {trunk}", other.len()),
        }
    }

    /// The timeline of all calls, and what belongs to none: leg, kind, detail and reason.
    pub fn timeline(&self) -> Vec<String> {
        self.events
            .iter()
            .map(|event| {
                let entry = event.entry(Privacy::Shown);
                let leg = entry.leg.map_or("-".to_owned(), |leg| leg.to_string());
                let reason = entry
                    .reason
                    .map_or(String::new(), |reason| format!(" [{reason}]"));
                format!("{leg} {}: {}{reason}", entry.kind, entry.detail)
            })
            .collect()
    }

    /// These entries are in the timeline, in this order; each is given by a part of its text.
    pub fn assert_told(&self, expected: &[&str]) {
        let timeline = self.timeline();
        let mut rest = timeline.iter();
        for part in expected {
            assert!(
                rest.any(|line| line.contains(part)),
                "{part:?} is not in the timeline, or not after what is expected before it"
            );
        }
    }

    /// Outcomes of digest on both sides, in order.
    pub fn digests(&self) -> Vec<&'static str> {
        let outcome = |kind: &EventKind| match kind {
            EventKind::Digest { outcome, .. } => Some(*outcome),
            _ => None,
        };
        self.events
            .iter()
            .filter_map(|event| outcome(&event.kind))
            .collect()
    }

    /// Statuses and causes of the REFERs so far.
    pub fn verdicts(&self) -> Vec<String> {
        self.events
            .iter()
            .filter_map(|event| match &event.kind {
                EventKind::Refer { status, cause, .. } => Some(match cause {
                    None => status.to_string(),
                    Some(cause) => format!("{status} {}", cause.as_str()),
                }),
                _ => None,
            })
            .collect()
    }

    /// Who hears whom now, as the media thread was told last, by the peers' RTP ports: `4000<>4100`, `4000>4100`
    /// (4100 hears 4000 and not the other way round), `4000|4100`.
    pub fn bridges(&self) -> Vec<String> {
        self.bridge_commands()
            .into_iter()
            .map(|(core, a, b, to_b, to_a)| {
                let sign = match (to_b.is_some(), to_a.is_some()) {
                    (true, true) => "<>",
                    (true, false) => ">",
                    (false, true) => "<",
                    (false, false) => "|",
                };
                format!("{}{sign}{}", self.remote(core, a), self.remote(core, b))
            })
            .collect()
    }

    pub fn assert_bridges(&self, expected: &[&str]) {
        assert_eq!(self.bridges(), expected);
    }

    /// How payload types are renumbered on the way from the leg whose peer is at RTP port `from`.
    pub fn renumbered(&self, from: u16) -> Vec<(u8, u8)> {
        for (core, a, b, to_b, to_a) in self.bridge_commands() {
            for (leg, map) in [(a, to_b), (b, to_a)] {
                if self.remote(core, leg) == from {
                    return map.map_or_else(Vec::new, |map| map.entries);
                }
            }
        }
        panic!("{from} is not bridged")
    }

    #[allow(clippy::type_complexity)]
    fn bridge_commands(
        &self,
    ) -> Vec<(
        CoreId,
        AllocationId,
        AllocationId,
        Option<PayloadMap>,
        Option<PayloadMap>,
    )> {
        let mut bridges: Vec<(CoreId, AllocationId, AllocationId, _, _)> = Vec::new();
        for (core, command) in &self.media {
            match command {
                MediaCommand::Bridge {
                    a,
                    b,
                    a_to_b,
                    b_to_a,
                } => {
                    bridges.retain(|(on, x, y, _, _)| {
                        on != core || (![x, y].contains(&a) && ![x, y].contains(&b))
                    });
                    bridges.push((*core, *a, *b, a_to_b.clone(), b_to_a.clone()));
                }
                MediaCommand::Unbridge { allocation } | MediaCommand::Close { allocation } => {
                    bridges.retain(|(on, x, y, _, _)| on != core || ![x, y].contains(&allocation));
                }
                _ => {}
            }
        }
        bridges
    }

    /// The RTP port that the media thread was told last for an allocation.
    fn remote(&self, core: CoreId, of: AllocationId) -> u16 {
        self.media
            .iter()
            .rev()
            .find_map(|(on, command)| match command {
                MediaCommand::SetRemote { allocation, remote }
                    if *on == core && *allocation == of =>
                {
                    Some(remote.rtp.port())
                }
                _ => None,
            })
            .unwrap_or(0)
    }
}

fn short(record: &LegRecord) -> String {
    let direction = match record.direction {
        Direction::Inbound => "in",
        Direction::Outbound => "out",
    };
    let status = record
        .sip_status
        .map_or("-".to_owned(), |status| status.to_string());
    let mut text = format!(
        "{} {direction} {} {status} {} {}",
        record.leg,
        record.trunk,
        record.cause.as_str(),
        record.hangup_by.as_str()
    );
    for refer in &record.refers {
        let cause = refer.cause.map_or("", |cause| cause.as_str());
        text.push_str(&format!(" refer:{} {cause}", refer.status));
        text.truncate(text.trim_end().len());
    }
    if let Some(transfer) = &record.transfer {
        text.push_str(&format!(
            " transfer:{}.{} {} via {}: {}",
            transfer.id, transfer.attempt, transfer.target, transfer.via, transfer.result
        ));
    }
    text
}
