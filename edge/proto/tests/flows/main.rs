//! Call flows against the whole B2BUA in virtual time: exact messages, CDR lines, timeline and media commands, each with one
//! and with four control threads.

mod access;
mod admission;
mod agreement;
mod basic;
mod bytes;
mod cancel;
mod challenge;
mod cores;
mod ending;
mod failover;
mod harness;
mod identity;
mod modify;
mod platform;
mod progress;
mod refer_auth;
mod refer_checks;
mod refer_target;
mod reload;
mod six;
mod transfer;
mod transfer_fails;
mod transfer_headers;
mod transfer_leaving;
mod transfer_media;
mod transfer_notify;
mod transports;
mod unreached;
