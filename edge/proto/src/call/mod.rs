//! Calls, their legs, and transfers.
