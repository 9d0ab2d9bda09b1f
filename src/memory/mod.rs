//! How much memory forge takes, however large the image.
//!
//! What there is of each file is in [`Long`] lists, [`Paths`] and [`Bytes`]: those that grow long
//! lie in files of the disk, mapped, and no more of them is in memory than is being looked at.
//!
//! And how much freed memory the allocator keeps for itself:
//!
//! glibc gives each new thread an arena of its own, up to eight for each processor, and what
//! a thread has freed stays with its arena: the more processors and phases of a build, the
//! more memory that nothing is in. A build whose lists needed 64 MB at their highest held 170; with
//! two arenas 108, in the same time.
//!
//! Other C libraries have one heap, or an allocator that this says nothing to.

mod bytes;
mod long;
mod paths;

pub use bytes::Bytes;
pub use long::{Long, keep_in};
pub use paths::Paths;

/// Arenas that threads share. Small pieces come from a cache that each thread has anyway.
#[cfg(target_env = "gnu")]
const ARENAS: libc::c_int = 2;

/// Has threads share few arenas (mallopt(3), `M_ARENA_MAX`). To be called before there is a
/// second thread: arenas that are there stay.
pub(crate) fn share_arenas() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets a number under the allocator's own lock; no memory is concerned.
    #[allow(unsafe_code, reason = "there is no safe way to set it")]
    unsafe {
        // Refused where the number is no number of arenas, which this one is.
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
    }
}
