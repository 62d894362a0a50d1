//! What was freed is not the process's any more, under the allocator of the daemon.

use std::fs;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Memory of this process that is in RAM, in bytes.
fn resident() -> usize {
    let pages = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = pages.split(' ').nth(1).unwrap().parse().unwrap();
    pages * rustix::param::page_size()
}

#[test]
fn what_is_freed_leaves_the_process_at_once_though_nothing_is_freed_after_it() {
    const MANY: usize = 64 << 20;
    const SLACK: usize = 4 << 20;
    sip_edge::memory::give_back_at_once();
    // As calls have it, and as tables do that grew with them.
    for piece in [100, 2 << 10, 40 << 10, 1 << 20] {
        let before = resident();
        let pieces: Vec<Vec<u8>> = (0..MANY / piece).map(|_| vec![1; piece]).collect();
        let most = resident();
        assert!(most > before + MANY - SLACK, "{before} {most}");
        drop(pieces);
        let after = resident();
        assert!(after < before + SLACK, "{piece}: {before} {most} {after}");
    }
}
