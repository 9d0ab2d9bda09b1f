//! What is in a file, to be read here and there.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;

use memmap2::{Mmap, UncheckedAdvice};

use super::long::{AT_ONCE, IN_MEMORY, is_mapped_safely};

/// Bytes that are enough for paths, and what is said of one: no system has longer ones than 4096.
const SOME: usize = 64 << 10;

/// The bytes of a file: in memory, or mapped where they are many.
#[derive(Debug)]
pub struct Bytes {
    place: Place,
    length: usize,
}

#[derive(Debug)]
enum Place {
    Memory(Vec<u8>),
    File(Mmap),
}

impl Bytes {
    /// Those of a file that nobody writes into any more, though it may be removed.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn of(mut file: File) -> io::Result<Bytes> {
        if file.metadata()?.len() > IN_MEMORY as u64 && is_mapped_safely(&file) {
            // SAFETY: files that are given to this are written under another name and are put in
            // their place when they are whole, so this one stays as it is, also when it is removed.
            #[allow(unsafe_code, reason = "files are mapped no other way")]
            if let Ok(mapped) = unsafe { Mmap::map(&file) } {
                let length = mapped.len();
                return Ok(Bytes { place: Place::File(mapped), length });
            }
            // A file system that maps nothing can still be read.
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes.into())
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first so many, if there are more.
    #[must_use]
    pub fn first(self, length: usize) -> Bytes {
        Bytes { length: self.length.min(length), ..self }
    }

    fn all(&self) -> &[u8] {
        match &self.place {
            Place::Memory(bytes) => &bytes[..self.length],
            Place::File(mapped) => &mapped[..self.length],
        }
    }

    /// Those in a range, as far as there are any.
    #[must_use]
    pub fn part(&self, range: Range<usize>) -> &[u8] {
        self.pass(range.start, range.end);
        self.peek(range)
    }

    /// The same for who looks ahead, and says with [`Bytes::pass`] how far he came.
    #[must_use]
    pub fn peek(&self, range: Range<usize>) -> &[u8] {
        let end = range.end.min(self.length);
        &self.all()[range.start.min(end)..end]
    }

    /// Those from one on, not many: what is read there is shorter. To be told how far he came.
    #[must_use]
    pub fn some_from(&self, from: usize) -> &[u8] {
        self.peek(from..from.saturating_add(SOME))
    }

    /// Lets go of what is in memory of a file, each time that a part of it was passed.
    pub fn pass(&self, from: usize, to: usize) {
        if from / AT_ONCE != to / AT_ONCE {
            self.let_go();
        }
    }

    /// Lets go of what is in memory of a file.
    pub fn let_go(&self) {
        if let Place::File(mapped) = &self.place {
            // SAFETY: nobody writes into the mapping; who reads it next has the same bytes from the
            // file.
            #[allow(unsafe_code, reason = "there is no safe way to say it")]
            let _stays_in_memory_if_refused =
                unsafe { mapped.unchecked_advise(UncheckedAdvice::DontNeed) };
        }
    }

    /// All in parts, one behind another.
    pub fn parts(&self) -> impl Iterator<Item = &[u8]> {
        let starts = (0..self.len()).step_by(AT_ONCE);
        starts.map(|start| self.part(start..self.len().min(start + AT_ONCE)))
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Bytes {
        Bytes { length: bytes.len(), place: Place::Memory(bytes) }
    }
}
