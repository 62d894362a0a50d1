//! What the service knows of the interfaces that paths lead to.

use super::bystanders::Bystanders;
use super::driver;
use super::interface::Link;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How long an interface is left alone that could not be sent to.
const PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Family {
    Ipv4,
    Ipv6,
}

impl Family {
    fn of(address: IpAddr) -> Family {
        match address {
            IpAddr::V4(_) => Family::Ipv4,
            IpAddr::V6(_) => Family::Ipv6,
        }
    }
}

#[derive(Debug)]
pub struct Interface {
    index: u32,
    pub name: String,
    /// That it sends by.
    pub queues: u32,
    /// Its driver does not send from our memory.
    copies: bool,
    /// Of each family that leaves by it: why not past the kernel's IP.
    objections: HashMap<Family, Option<String>>,
    /// Of which that was found out in this review.
    looked_at: HashSet<Family>,
    /// It could not be sent to.
    pub pause: Option<Pause>,
}

/// An interface that could not be sent to is left alone for a while, for longer each time.
#[derive(Clone, Copy, Debug)]
pub struct Pause {
    pub until: Instant,
    length: Duration,
}

impl Pause {
    pub fn after(before: Option<Pause>, now: Instant) -> Pause {
        // One that has been well for so long is not blamed for what was.
        let lately = before.filter(|before| now < before.until + LONGEST_PAUSE);
        let length = lately.map_or(PAUSE, |before| (before.length * 2).min(LONGEST_PAUSE));
        Pause {
            until: now + length,
            length,
        }
    }

    /// Whether it is the first of its series: worth a line in the log.
    pub fn is_first(self) -> bool {
        self.length == PAUSE
    }
}

impl Interface {
    pub fn new(link: Link) -> Interface {
        Interface {
            index: link.interface,
            queues: driver::transmit_queues(&link.name),
            copies: driver::copies(&link.name),
            name: link.name,
            objections: HashMap::new(),
            looked_at: HashSet::new(),
            pause: None,
        }
    }

    /// What was found out may not be so any more.
    pub fn look_again(&mut self) {
        self.looked_at.clear();
    }

    /// Whether packets from `local` may leave by it past the kernel's IP, as far as was known when it was last looked at. `policies`: what
    /// IPsec has against it.
    pub fn permits(
        &mut self,
        local: IpAddr,
        bystanders: &mut Bystanders,
        policies: Option<&str>,
    ) -> bool {
        let family = Family::of(local);
        if !self.looked_at.insert(family) {
            return matches!(self.objections.get(&family), Some(None));
        }
        let driver =
            (!self.copies).then_some("its driver sends from memory that has to be free again");
        let objection = driver.or(policies).map(str::to_owned).or_else(|| {
            let bystander = bystanders.look(self.index, local);
            bystander.map(|bystander| bystander.to_string())
        });
        let permits = objection.is_none();
        let before = self.objections.insert(family, objection.clone());
        if before.as_ref() != Some(&objection) {
            self.log(family, objection);
        }
        permits
    }

    fn log(&self, family: Family, objection: Option<String>) {
        let interface = &self.name;
        match objection {
            None => tracing::info!(
                interface,
                ?family,
                "media may leave past the kernel's IP (media.fast_path)"
            ),
            Some(reason) => tracing::info!(
                interface,
                ?family,
                reason,
                "media leaves through the kernel's IP"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_until_an_interface_has_been_well_for_long() {
        let start = Instant::now();
        let mut pause = Pause::after(None, start);
        assert!(pause.is_first());
        for doubled in 1..=10 {
            let at = pause.until;
            pause = Pause::after(Some(pause), at);
            assert!(!pause.is_first());
            assert_eq!(
                pause.until - at,
                (PAUSE * (1 << doubled)).min(LONGEST_PAUSE)
            );
        }
        assert!(Pause::after(Some(pause), pause.until + LONGEST_PAUSE).is_first());
    }
}
