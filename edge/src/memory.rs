//! What the process keeps of a busy hour's memory when the hour is over.

use libmimalloc_sys::{mi_option_set_default, mi_option_t};

/// `mi_option_purge_delay` of `mimalloc.h`, in milliseconds: the bindings have the options' numbers, but not a name for each.
const PURGE_DELAY: mi_option_t = 15;

/// Lets the allocator give memory back to the kernel as soon as nothing is left in a piece of it (64 KiB and up), unless
/// `MIMALLOC_PURGE_DELAY` in the environment says otherwise. Call it before anything else.
///
/// By itself the allocator waits for a second, and then for the next piece to become free: none does once the last call is over, so
/// that what thousands of calls had would stay for as long as the edge is idle. Within that second a piece may also be used again
/// for something smaller, and all of it would stay in RAM as long as that does.
#[allow(unsafe_code)]
pub fn give_back_at_once() {
    // SAFETY: stores a number, which the allocator reads when something is freed.
    unsafe { mi_option_set_default(PURGE_DELAY, 0) };
}
