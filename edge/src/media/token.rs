//! What a completion is about, packed into its 64 bits of user data.

use edge_proto::id::AllocationId;
use edge_proto::relay::Component;

/// Slots that fit beside a generation.
pub const MAX_SLOTS: u32 = 1 << 24;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The read of the wake-up's eventfd.
    Wake,
    /// A multishot receive that tells each packet's source.
    ReceiveFrom,
    /// A multishot receive on a connected socket.
    Receive,
    /// A multishot receive on a connected socket that tells when the kernel got each packet.
    ReceiveStamped,
    /// A multishot receive on a socket that flows share, whose number is in the place of the slot.
    ReceiveShared,
    /// A send that failed (one that succeeds has no completion).
    Send,
    /// A cancellation that found nothing to cancel.
    Cancel,
}

/// Layout: generation (32 bits), slot (24), component (1), kind (7).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Token {
    pub kind: Kind,
    pub allocation: AllocationId,
    pub component: Component,
}

impl Token {
    pub const WAKE: Token = Token {
        kind: Kind::Wake,
        allocation: AllocationId {
            slot: 0,
            generation: 0,
        },
        component: Component::Rtp,
    };

    /// The receive of shared socket `number`.
    pub fn shared(number: u32) -> Token {
        Token {
            kind: Kind::ReceiveShared,
            allocation: AllocationId {
                slot: number,
                generation: 0,
            },
            component: Component::Rtp,
        }
    }

    pub fn to_bits(self) -> u64 {
        let kind = match self.kind {
            Kind::Wake => 0,
            Kind::ReceiveFrom => 1,
            Kind::Receive => 2,
            Kind::Send => 3,
            Kind::Cancel => 4,
            Kind::ReceiveStamped => 5,
            Kind::ReceiveShared => 6,
        };
        u64::from(self.allocation.generation) << 32
            | u64::from(self.allocation.slot & (MAX_SLOTS - 1)) << 8
            | (self.component.index() as u64) << 7
            | kind
    }

    /// `None` for bits that `to_bits` never gave.
    pub fn from_bits(bits: u64) -> Option<Token> {
        let kind = match bits & 0x7f {
            0 => Kind::Wake,
            1 => Kind::ReceiveFrom,
            2 => Kind::Receive,
            3 => Kind::Send,
            4 => Kind::Cancel,
            5 => Kind::ReceiveStamped,
            6 => Kind::ReceiveShared,
            _ => return None,
        };
        Some(Token {
            kind,
            allocation: AllocationId {
                slot: (bits >> 8) as u32 & (MAX_SLOTS - 1),
                generation: (bits >> 32) as u32,
            },
            component: if bits & 0x80 == 0 {
                Component::Rtp
            } else {
                Component::Rtcp
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_the_kernel() {
        for kind in [
            Kind::Wake,
            Kind::ReceiveFrom,
            Kind::Receive,
            Kind::ReceiveStamped,
            Kind::ReceiveShared,
            Kind::Send,
            Kind::Cancel,
        ] {
            for component in Component::ALL {
                for (slot, generation) in [(0, 0), (1, u32::MAX), (MAX_SLOTS - 1, 1), (77, 88)] {
                    let token = Token {
                        kind,
                        allocation: AllocationId { slot, generation },
                        component,
                    };
                    assert_eq!(Token::from_bits(token.to_bits()), Some(token));
                }
            }
        }
        assert_eq!(Token::from_bits(7), None);
    }
}
