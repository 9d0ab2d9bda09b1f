//! A list that may grow very long.

use std::cmp::Ordering;
use std::fmt::{self, Debug, Formatter};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bytemuck::Pod;
use memmap2::{MmapMut, RemapOptions, UncheckedAdvice};
use rustix::fs::{FallocateFlags, FsWord, IFlags};

/// Bytes up to which a list stays in memory: what tens of thousands of files need.
pub(super) const IN_MEMORY: usize = 2 << 20;

/// Whoever goes through a list that lies in a file has each time that he passes so many bytes
/// what he has read and written taken out of memory: it is in the file.
pub(super) const AT_ONCE: usize = 1 << 20;

/// Where files of long lists are made.
static FOLDER: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Has long lists kept in files in this folder; they have no name there. Without a folder, and
/// where it gives no room, lists stay in memory: then it takes as much as they need, and nothing
/// else is different.
pub fn keep_in(folder: &Path) {
    *FOLDER.lock().unwrap_or_else(PoisonError::into_inner) = Some(folder.to_owned());
}

/// A list that grows at its end: in memory, or in a file where it is long.
pub struct Long<T> {
    place: Place<T>,
}

enum Place<T> {
    Memory(Vec<T>),
    /// The file is there as long as the list may grow.
    File {
        file: Option<File>,
        mapped: MmapMut,
        length: usize,
    },
}

impl<T> Default for Long<T> {
    fn default() -> Long<T> {
        Long { place: Place::Memory(Vec::new()) }
    }
}

impl<T: Pod + Debug> Debug for Long<T> {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        to.debug_list().entries(self.all()).finish()
    }
}

impl<T: Pod> Extend<T> for Long<T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, items: I) {
        items.into_iter().for_each(|item| self.push(item));
    }
}

impl<T: Pod> FromIterator<T> for Long<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Long<T> {
        let mut list = Long::default();
        list.extend(items);
        list.shrink();
        list
    }
}

impl<T: Pod> Long<T> {
    /// Items of no length have no place.
    const HAS_LENGTH: () = assert!(size_of::<T>() > 0);

    /// How many items there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.place {
            Place::Memory(items) => items.len(),
            Place::File { length, .. } => *length,
        }
    }

    fn all(&self) -> &[T] {
        match &self.place {
            Place::Memory(items) => items,
            Place::File { mapped, length, .. } => {
                bytemuck::cast_slice(&mapped[..length * size_of::<T>()])
            }
        }
    }

    fn all_mut(&mut self) -> &mut [T] {
        match &mut self.place {
            Place::Memory(items) => items,
            Place::File { mapped, length, .. } => {
                bytemuck::cast_slice_mut(&mut mapped[..*length * size_of::<T>()])
            }
        }
    }

    /// The item with a number below [`Long::len`].
    #[must_use]
    pub fn at(&self, number: usize) -> &T {
        self.pass(number, number + 1);
        &self.all()[number]
    }

    /// All items.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = T> + ExactSizeIterator {
        (0..self.len()).map(|number| *self.at(number))
    }

    /// Changes the item with a number below [`Long::len`].
    pub fn set(&mut self, number: usize, item: T) {
        self.pass(number, number + 1);
        self.all_mut()[number] = item;
    }

    /// Items that lie next to each other.
    #[must_use]
    pub fn slice(&self, from: usize, to: usize) -> &[T] {
        self.pass(from, to);
        self.peek(from, to)
    }

    /// The same for who looks ahead, and says with [`Long::pass`] how far he came.
    #[must_use]
    pub fn peek(&self, from: usize, to: usize) -> &[T] {
        &self.all()[from..to]
    }

    /// Whether it lies in a file.
    #[must_use]
    pub fn is_in_file(&self) -> bool {
        matches!(self.place, Place::File { .. })
    }

    /// Has items changed that lie next to each other, so many that all processors have something
    /// to do; `change` is told the number of the first.
    ///
    /// # Errors
    /// Those of `change`.
    pub fn try_change<E>(
        &mut self,
        mut change: impl FnMut(usize, &mut [T]) -> Result<(), E>,
    ) -> Result<(), E> {
        let at_once = (4 * AT_ONCE / size_of::<T>()).max(1);
        for from in (0..self.len()).step_by(at_once) {
            let to = self.len().min(from + at_once);
            change(from, &mut self.all_mut()[from..to])?;
            self.let_go();
        }
        Ok(())
    }

    /// Adds an item.
    pub fn push(&mut self, item: T) {
        self.extend_from_slice(&[item]);
    }

    /// Adds items.
    pub fn extend_from_slice(&mut self, items: &[T]) {
        let () = Self::HAS_LENGTH;
        let (from, to) = (self.len(), self.len() + items.len());
        self.make_room(to);
        match &mut self.place {
            Place::Memory(all) => all.extend_from_slice(items),
            Place::File { length, .. } => {
                *length = to;
                self.all_mut()[from..].copy_from_slice(items);
            }
        }
        self.pass(from, to);
    }

    /// Sees to it that there is room for so many items.
    fn make_room(&mut self, items: usize) {
        let place = match &mut self.place {
            Place::Memory(all) => {
                // Asked for once each time that it grows.
                if items <= all.capacity() || items * size_of::<T>() <= IN_MEMORY {
                    return;
                }
                folder().ok_or(()).and_then(|folder| in_file(&folder, all, items).map_err(drop))
            }
            Place::File { file, mapped, .. } => {
                let (now, wanted) = (mapped.len(), items * size_of::<T>());
                if wanted <= now {
                    return;
                }
                match grow(file.as_ref(), mapped, wanted.max(now + now / 4)) {
                    Ok(()) => return,
                    Err(_) => Err(()),
                }
            }
        };
        // Where no file can be had, it is in memory: nothing else is different.
        self.place = place.unwrap_or_else(|()| {
            let mut all = match std::mem::replace(&mut self.place, Place::Memory(Vec::new())) {
                Place::Memory(all) => all,
                place @ Place::File { .. } => Long { place }.all().to_vec(),
            };
            all.reserve(items - all.len());
            Place::Memory(all)
        });
    }

    /// Gives back what is only for a list that grows: what comes then may go into memory.
    pub fn shrink(&mut self) {
        match &mut self.place {
            Place::Memory(items) => items.shrink_to_fit(),
            // A process may have few open.
            Place::File { file, .. } => *file = None,
        }
    }

    /// Sorts the items.
    pub fn sort(&mut self)
    where
        T: Ord,
    {
        self.sort_by(T::cmp);
    }

    /// Sorts the items so; those of which none comes first have no order.
    pub fn sort_by(&mut self, order: impl FnMut(&T, &T) -> Ordering) {
        self.all_mut().sort_unstable_by(order);
        self.let_go();
    }

    /// Lets go of what is in memory of a file, each time that a part of it was passed.
    pub fn pass(&self, from: usize, to: usize) {
        if let Place::File { .. } = self.place
            && from * size_of::<T>() / AT_ONCE != to * size_of::<T>() / AT_ONCE
        {
            self.let_go();
        }
    }

    /// Lets go of what is in memory of a file.
    pub fn let_go(&self) {
        if let Place::File { mapped, .. } = &self.place {
            // SAFETY: the mapping is shared with its file, which has all that was written; who
            // reads it next, in whatever thread, has the same bytes from there.
            #[allow(unsafe_code, reason = "there is no safe way to say it")]
            let _stays_in_memory_if_refused =
                unsafe { mapped.unchecked_advise(UncheckedAdvice::DontNeed) };
        }
    }
}

fn folder() -> Option<PathBuf> {
    FOLDER.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// A list with room for so many items, and more, in a file.
fn in_file<T: Pod>(folder: &Path, all: &[T], items: usize) -> io::Result<Place<T>> {
    let file = tempfile::tempfile_in(folder)?;
    if !is_mapped_safely(&file) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    reserve(&file, items * size_of::<T>() * 2)?;
    // SAFETY: the file has no name, so nobody else can make it shorter, and its room is there for as
    // long as it is: where file systems do not keep such a promise, none is mapped.
    #[allow(unsafe_code, reason = "files are mapped no other way")]
    let mut mapped = unsafe { MmapMut::map_mut(&file)? };
    let bytes = bytemuck::cast_slice(all);
    mapped[..bytes.len()].copy_from_slice(bytes);
    Ok(Place::File { file: Some(file), mapped, length: all.len() })
}

fn grow(file: Option<&File>, mapped: &mut MmapMut, wanted: usize) -> io::Result<()> {
    reserve(file.ok_or(io::ErrorKind::Unsupported)?, wanted)?;
    // SAFETY: whoever holds the mapping alone refers to nothing in it, and the file has the room.
    #[allow(unsafe_code, reason = "there is no safe way to do it")]
    unsafe {
        mapped.remap(wanted, RemapOptions::new().may_move(true))
    }
}

/// Whether a mapping of a file is as good as the file: what was reserved is there when it is written
/// to, also again, and what was written is there when it is read. A process that finds otherwise is
/// ended, so it must be known: network file systems and those of other programs promise less.
pub(super) fn is_mapped_safely(file: &File) -> bool {
    // statfs(2).
    const BTRFS: FsWord = 0x9123_683e;
    const OTHERS: [FsWord; 5] = [
        0xef53,      // ext2, ext3, ext4
        0x5846_5342, // XFS
        0xf2f5_2010, // F2FS
        0x0102_1994, // tmpfs, which is memory
        0x794c_7630, // overlayfs: of one of these, in general
    ];
    let Ok(found) = rustix::fs::fstatfs(file) else { return false };
    let kind = found.f_type;
    // Btrfs writes again to another place, unless it is told not to.
    let is_new = || file.metadata().is_ok_and(|metadata| metadata.len() == 0);
    OTHERS.contains(&kind)
        || kind == BTRFS && (!is_new() || rustix::fs::ioctl_setflags(file, IFlags::NOCOW).is_ok())
}

/// Makes a file so long, and sees to it that there is room for it on the disk.
fn reserve(file: &File, length: usize) -> io::Result<()> {
    Ok(rustix::fs::fallocate(file, FallocateFlags::empty(), 0, length as u64)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resident(list: &Long<u64>) -> usize {
        let Place::File { mapped, .. } = &list.place else { return usize::MAX };
        let start = mapped.as_ptr() as usize;
        let maps = std::fs::read_to_string("/proc/self/smaps").expect("maps");
        let mut lines = maps.lines().skip_while(|line| !line.starts_with(&format!("{start:x}-")));
        let line = lines.find(|line| line.starts_with("Rss:")).expect("said");
        line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
    }

    fn filed(folder: &Path) -> Long<u64> {
        Long { place: in_file(folder, &[], 1).expect("a file") }
    }

    #[test]
    fn long_lists_lie_in_files() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut list = filed(folder.path());
        let count = 3_000_000;
        list.extend((0..count).map(|number| number * 7));
        assert!(matches!(list.place, Place::File { .. }));
        assert_eq!(std::fs::read_dir(folder.path()).expect("there").count(), 0);
        assert!(list.iter().eq((0..count).map(|number| number * 7)));
        // In kilobytes; the list has 24 000.
        assert!(resident(&list) < 3_000, "{}", resident(&list));
        list.try_change(|from, part| {
            let from = from as u64;
            part.iter_mut().zip(from..).for_each(|(item, number)| *item = count - number);
            Ok::<(), ()>(())
        })
        .expect("changed");
        assert_eq!(list.slice(10, 12), [count - 10, count - 11]);
        list.set(0, 0);
        list.sort();
        assert!(list.iter().eq(0..count));
        assert!(resident(&list) < 3_000, "{}", resident(&list));
    }

    #[test]
    fn without_room_they_stay_in_memory() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut list = filed(folder.path());
        list.extend(0..1000);
        // A file that does not grow.
        if let Place::File { file, .. } = &mut list.place {
            *file = Some(File::open("/proc/self/exe").expect("open"));
        }
        list.extend(1000..500_000);
        assert!(matches!(list.place, Place::Memory(_)));
        assert!(list.iter().eq(0..500_000));
        assert!(in_file::<u64>(Path::new("/proc/none"), &[], 1).is_err());
    }

    #[test]
    fn short_lists_stay_in_memory() {
        let list: Long<[u8; 8]> = (0..1000_u64).map(u64::to_le_bytes).collect();
        assert!(matches!(list.place, Place::Memory(_)));
        assert_eq!(*list.at(999), 999_u64.to_le_bytes());
    }
}
