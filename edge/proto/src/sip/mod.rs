//! SIP: framing, messages, typed header values, digest, transactions and dialogs.

pub mod auth;
pub mod builder;
pub mod dialog;
pub mod framer;
pub(crate) mod grammar;
pub mod header;
mod host;
mod limits;
pub mod message;
pub mod method;
pub mod name_addr;
mod params;
pub mod sipfrag;
pub mod status;
pub mod transaction;
pub mod uri;
pub mod via;

pub use builder::{HeaderLike, RequestBuilder, ResponseBuilder};
pub use dialog::{Dialog, DialogError, DialogState, OutOfOrder, ViaLine};
pub use framer::{Frame, FramingError, StreamFramer, frame_datagram};
pub use header::{CSeq, HeaderName};
pub use message::{Message, MessageError, MessageFault, MessageLimits, ResponseHint};
pub use method::Method;
pub use name_addr::{NameAddr, NameAddrError};
pub use transaction::{
    ClientKey, RequestDisposition, ResponseDisposition, ServerKey, TransactionEvent,
    TransactionLayer, TransactionOutput,
};
pub use uri::{Host, Params, SipUri, TelUri, Uri, UriError};
pub use via::Via;
