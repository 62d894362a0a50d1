//! The memory that packets are received into and sent from: one provided-buffer ring per media thread.

use io_uring::types::BufRingEntry;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

/// Octets of a cache line.
const LINE: usize = 64;

/// The most buffers a ring can have (the kernel's limit).
pub const MAX_BUFFERS: u16 = 1 << 15;

/// One buffer that the kernel has handed over: proof that it does not write there. Given back by [`BufferPool::recycle`].
///
/// Neither `Copy` nor `Clone`, so a buffer is given back at most once.
#[derive(Debug)]
#[must_use = "a buffer that is not recycled is lost"]
pub struct Buffer {
    id: u16,
}

/// Zeroed whole pages, freed with their last owner. What is in them is the [`BufferPool`]'s business: others know them by their place
/// alone.
#[derive(Debug)]
pub struct Memory {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: no reference to the octets is made without the pool that owns them; the pages belong to no thread.
unsafe impl Send for Memory {}
// SAFETY: as above; a shared `Memory` tells its place only.
unsafe impl Sync for Memory {}

impl Memory {
    fn new(octets: usize) -> Memory {
        let (start, layout) = allocate(octets);
        Memory { start, layout }
    }

    /// Where it is, and how many octets it has, both multiples of a page, for its registration with the kernel.
    pub fn place(&self) -> (u64, u64) {
        let start = self.start.as_ptr().expose_provenance();
        (start as u64, self.layout.size() as u64)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: it was allocated with this layout, and there is no other owner.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

/// Equal buffers, and the ring through which the kernel gets them.
///
/// Buffers belong to the kernel while they are in the ring, from `recycle` (or the start) until a completion names them.
#[derive(Debug)]
pub struct BufferPool {
    memory: Arc<Memory>,
    ring: NonNull<BufRingEntry>,
    ring_layout: Layout,
    size: usize,
    /// From one buffer to the next.
    stride: usize,
    count: u16,
    /// Entries written so far; the kernel sees them at `publish`.
    tail: u16,
}

impl BufferPool {
    /// `count` buffers (rounded up to a power of two, at most [`MAX_BUFFERS`]) of `size` octets, all in the ring.
    pub fn new(count: u16, size: usize) -> Self {
        let count = count
            .clamp(2, MAX_BUFFERS)
            .checked_next_power_of_two()
            .unwrap_or(MAX_BUFFERS);
        // Whole cache lines, so that no two packets share one.
        let size = size.clamp(256, 1 << 16).next_multiple_of(LINE);
        // An odd number of them, so that the first lines of all buffers do not compete for the same few sets of the caches.
        let stride = if (size / LINE).is_multiple_of(2) {
            size + LINE
        } else {
            size
        };
        let memory = Arc::new(Memory::new(usize::from(count) * stride));
        let (ring, ring_layout) =
            allocate(usize::from(count) * std::mem::size_of::<BufRingEntry>());
        let mut pool = BufferPool {
            memory,
            ring: ring.cast(),
            ring_layout,
            size,
            stride,
            count,
            tail: 0,
        };
        for id in 0..count {
            pool.recycle(Buffer { id });
        }
        pool.publish();
        pool
    }

    /// Address and number of entries of the ring, for its registration.
    pub fn ring(&self) -> (u64, u16) {
        (self.ring.as_ptr().expose_provenance() as u64, self.count)
    }

    /// What the buffers are in.
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Where the octet `at` of a buffer is in [`BufferPool::memory`].
    pub fn place(&self, buffer: &Buffer, at: usize) -> usize {
        usize::from(buffer.id) * self.stride + at
    }

    /// Octets of one buffer.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The buffer that a completion names; `None` for an id that is not of this pool.
    ///
    /// # Safety
    /// The kernel must have named `id` in a completion that was not used for this before, so that the buffer is no longer its.
    pub unsafe fn claim(&self, id: u16) -> Option<Buffer> {
        (id < self.count).then_some(Buffer { id })
    }

    /// The octets `range` of a buffer; `None` where they are not within it.
    pub fn bytes(&mut self, buffer: &Buffer, range: Range<usize>) -> Option<&mut [u8]> {
        if range.start > range.end || range.end > self.size || buffer.id >= self.count {
            return None;
        }
        let offset = usize::from(buffer.id) * self.stride + range.start;
        // SAFETY: buffer and range are within the memory, as checked; the memory was zeroed, so all of it is initialised.
        // `buffer` proves that the kernel does not have it, and the borrow of `self` that nobody else has a slice of it.
        Some(unsafe {
            std::slice::from_raw_parts_mut(self.memory.start.as_ptr().add(offset), range.len())
        })
    }

    /// Gives a buffer back. The kernel can use it after the next `publish`.
    pub fn recycle(&mut self, buffer: Buffer) {
        let index = usize::from(self.tail & (self.count - 1));
        let offset = usize::from(buffer.id) * self.stride;
        // SAFETY: `index` is below the number of entries, a power of two; the kernel reads no entry at or beyond the
        // published tail, and no more than `count` buffers exist, so this entry is not one that it still has to read.
        // The fields are written one by one because the ring's tail lies in the first entry's last field.
        unsafe {
            let entry = &mut *self.ring.as_ptr().add(index);
            entry.set_addr(self.memory.start.as_ptr().add(offset).expose_provenance() as u64);
            entry.set_len(self.size as u32);
            entry.set_bid(buffer.id);
        }
        self.tail = self.tail.wrapping_add(1);
    }

    /// Lets the kernel see what was recycled.
    pub fn publish(&mut self) {
        // SAFETY: the ring's first entry is valid, and its tail is a 16-bit field that only this thread writes; the kernel
        // reads it with acquire semantics, which this store pairs with.
        unsafe {
            let tail = BufRingEntry::tail(self.ring.as_ptr());
            (*tail.cast::<AtomicU16>()).store(self.tail, Ordering::Release);
        }
    }
}

impl Drop for BufferPool {
    fn drop(&mut self) {
        // SAFETY: it was allocated with this layout. The owner drops the ring's registration first.
        unsafe { dealloc(self.ring.as_ptr().cast(), self.ring_layout) };
    }
}

/// Zeroed whole pages.
fn allocate(bytes: usize) -> (NonNull<u8>, Layout) {
    let page = rustix::param::page_size();
    let Ok(layout) = Layout::from_size_align(bytes.max(1).next_multiple_of(page), page) else {
        // At most 2^15 buffers of 2^16 octets: always a valid layout.
        handle_alloc_error(Layout::new::<u8>());
    };
    // SAFETY: the layout's size is not zero.
    match NonNull::new(unsafe { alloc_zeroed(layout) }) {
        Some(memory) => (memory, layout),
        None => handle_alloc_error(layout),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_rounded_and_bounded() {
        let pool = BufferPool::new(1000, 1000);
        assert_eq!((pool.ring().1, pool.size()), (1024, 1024));
        assert_eq!(BufferPool::new(0, 0).ring().1, 2);
        assert_eq!(BufferPool::new(u16::MAX, 256).ring().1, MAX_BUFFERS);
    }

    #[test]
    fn buffers_do_not_overlap_and_ranges_are_checked() {
        let mut pool = BufferPool::new(4, 256);
        // SAFETY: no kernel has this pool.
        let buffers: Vec<Buffer> = (0..4).filter_map(|id| unsafe { pool.claim(id) }).collect();
        for buffer in &buffers {
            let mark = buffer.id as u8 + 1;
            pool.bytes(buffer, 0..256).unwrap().fill(mark);
        }
        for buffer in &buffers {
            let mark = buffer.id as u8 + 1;
            assert!(
                pool.bytes(buffer, 0..256)
                    .unwrap()
                    .iter()
                    .all(|&b| b == mark)
            );
        }
        assert_eq!(pool.bytes(&buffers[3], 250..256).unwrap().len(), 6);
        assert!(pool.bytes(&buffers[3], 250..257).is_none());
        #[expect(clippy::reversed_empty_ranges)]
        let reversed = 10..5;
        assert!(pool.bytes(&buffers[3], reversed).is_none());
        // SAFETY: as above.
        assert!(unsafe { pool.claim(4) }.is_none());
    }

    #[test]
    fn a_recycled_buffer_is_offered_at_the_next_entry() {
        let mut pool = BufferPool::new(2, 256);
        // SAFETY: no kernel has this pool.
        let buffer = unsafe { pool.claim(1) }.unwrap();
        pool.recycle(buffer);
        pool.publish();
        // SAFETY: the ring has two entries, and its tail lies in the first.
        let (entry, tail) = unsafe {
            (
                &*pool.ring.as_ptr(),
                *BufRingEntry::tail(pool.ring.as_ptr()),
            )
        };
        assert_eq!((entry.bid(), entry.len(), tail), (1, 256, 3));
        assert_eq!(
            entry.addr(),
            pool.memory.start.as_ptr().addr() as u64 + 256 + 64
        );
    }
}
