//! What the four machines ask of the layer: small sets, by value, in the order to carry out.

use super::timing::Timer;
use crate::time::Duration;
use arrayvec::ArrayVec;

/// What a client transaction asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientAction {
    /// Transmit the request.
    Send,
    /// Transmit the ACK for the 3xx-6xx.
    Ack,
    /// Give the response to the transaction user.
    Deliver,
    /// Tell the transaction user that no (final) response came in time.
    Timeout,
    /// Tell the transaction user that the request could not be delivered.
    TransportFailed,
    /// Start a timer, or start it anew.
    Set(Timer, Duration),
    /// Stop a timer.
    Clear(Timer),
}

/// What a server transaction asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ServerAction {
    /// Transmit the latest response, if there is one.
    Send,
    /// Give the ACK to the transaction user.
    DeliverAck,
    /// Tell the transaction user that its 2xx was never acknowledged.
    NoAck,
    /// Start a timer, or start it anew.
    Set(Timer, Duration),
    /// Stop a timer.
    Clear(Timer),
}

/// As many actions as one transition can ask for.
pub type Actions<A> = ArrayVec<A, 6>;

/// A set of actions from a list; what exceeds the capacity would be dropped, and every list here is a short literal.
pub(super) fn actions<A: Copy>(list: &[A]) -> Actions<A> {
    list.iter().copied().take(6).collect()
}
