//! Call flows against the whole B2BUA in virtual time: exact messages, with one and with four control threads.

mod basic;
mod transfer;
mod ua;
mod world;
