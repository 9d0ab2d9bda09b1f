//! Room for pieces of a layer, used again and again: fresh memory costs a page fault for each
//! 4 KiB, which is more than copying them.

use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

/// Where rooms of one size lie that nobody uses.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    size: usize,
    free: Arc<Mutex<Vec<Vec<u8>>>>,
}

/// Some bytes in a room, which goes back to its pool when nobody has it any more.
#[derive(Debug)]
pub(super) struct Piece {
    /// As long as the pool says, whatever is in it.
    room: Vec<u8>,
    length: usize,
    pool: Pool,
}

impl Pool {
    /// Rooms of `size` bytes.
    pub(super) fn new(size: usize) -> Pool {
        Pool { size, free: Arc::default() }
    }

    /// A piece with nothing in it.
    pub(super) fn piece(&self) -> Piece {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        // Of zeros the system gives each page only when it is written to.
        let room = free.unwrap_or_else(|| vec![0; self.size]);
        Piece { room, length: 0, pool: self.clone() }
    }
}

impl Piece {
    /// Where nothing is yet.
    pub(super) fn rest(&mut self) -> &mut [u8] {
        &mut self.room[self.length..]
    }

    /// The first bytes of the rest are now something; never more than those.
    pub(super) fn filled(&mut self, bytes: usize) {
        self.length = (self.length + bytes).min(self.room.len());
    }

    /// Takes in as many of the bytes as there is room for; says how many.
    pub(super) fn add(&mut self, bytes: &[u8]) -> usize {
        let rest = self.rest();
        let taken = bytes.len().min(rest.len());
        rest[..taken].copy_from_slice(&bytes[..taken]);
        self.filled(taken);
        taken
    }

    pub(super) fn is_full(&self) -> bool {
        self.length == self.room.len()
    }
}

impl Deref for Piece {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.room[..self.length]
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let room = std::mem::take(&mut self.room);
        self.pool.free.lock().unwrap_or_else(PoisonError::into_inner).push(room);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_used_again_and_what_was_in_it_is_not_seen() {
        let pool = Pool::new(4);
        let mut first = pool.piece();
        assert_eq!((first.add(b"abc"), first.is_full()), (3, false));
        assert_eq!((first.add(b"def"), first.is_full()), (1, true));
        assert_eq!(&*first, b"abcd");
        let room = first.room.as_ptr();
        drop(first);
        let mut second = pool.piece();
        assert_eq!(second.room.as_ptr(), room);
        assert!(second.is_empty());
        second.rest()[..2].copy_from_slice(b"xy");
        second.filled(2);
        assert_eq!(&*second, b"xy");
        assert_ne!(pool.piece().room.as_ptr(), room);
    }
}
