//! Paths, and something noted of each, close together.

use std::cmp::Ordering;

use bytemuck::Pod;
use rayon::prelude::*;

use super::Long;

/// Paths in the order in which they were added, with something about each, and bytes besides.
#[derive(Debug)]
pub struct Paths<T: Pod> {
    /// All paths, one behind another, each with the bytes behind it that go with it.
    bytes: Long<u8>,
    /// Where in the bytes each path ends, and where what goes with it.
    ends: Long<[usize; 2]>,
    about: Long<T>,
}

impl<T: Pod> Default for Paths<T> {
    fn default() -> Paths<T> {
        Paths { bytes: Long::default(), ends: Long::default(), about: Long::default() }
    }
}

impl<T: Pod + Send + Sync> Paths<T> {
    /// How many paths there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.about.len()
    }

    /// Adds a path.
    pub fn push(&mut self, path: &[u8], about: T, besides: &[u8]) {
        self.bytes.extend_from_slice(path);
        let path_ends = self.bytes.len();
        self.bytes.extend_from_slice(besides);
        self.ends.push([path_ends, self.bytes.len()]);
        self.about.push(about);
    }

    /// The path with a number below [`Paths::len`].
    #[must_use]
    pub fn path(&self, number: usize) -> &[u8] {
        path(&self.bytes, &self.ends, number)
    }

    /// What is noted of the path with a number below [`Paths::len`].
    #[must_use]
    pub fn about(&self, number: usize) -> &T {
        self.about.at(number)
    }

    /// Notes something else of the path with a number below [`Paths::len`].
    pub fn set_about(&mut self, number: usize, about: T) {
        self.about.set(number, about);
    }

    /// The bytes that go with the path with a number below [`Paths::len`].
    #[must_use]
    pub fn besides(&self, number: usize) -> &[u8] {
        let [path, end] = *self.ends.at(number);
        self.bytes.slice(path, end)
    }

    /// All, in their order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&[u8], &T)> + ExactSizeIterator {
        (0..self.len()).map(|number| (self.path(number), self.about(number)))
    }

    /// The number of a path, where `order` tells of each how it is to that one; else that of the
    /// first behind it.
    ///
    /// # Errors
    /// It is not there.
    pub fn find(&self, order: impl Fn(&[u8]) -> Ordering) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            match order(self.path(middle)) {
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
                Ordering::Equal => return Ok(middle),
            }
        }
        Err(low)
    }

    /// The numbers of all paths in the order of these, and of the same ones as they were added.
    #[must_use]
    pub fn in_order(&self) -> Long<usize> {
        let mut numbers: Long<usize> = (0..self.len()).collect();
        let path = |number: &usize| self.path(*number);
        numbers.sort_by(|one, other| path(one).cmp(path(other)).then(one.cmp(other)));
        self.bytes.let_go();
        self.ends.let_go();
        numbers
    }

    /// Changes what is noted of each path, on all processors.
    ///
    /// # Errors
    /// Those of `change`.
    pub fn try_change<E: Send>(
        &mut self,
        change: impl Fn(&[u8], &mut T) -> Result<(), E> + Sync,
    ) -> Result<(), E> {
        let Paths { bytes, ends, about } = self;
        about.try_change(|from, part| {
            let part = part.par_iter_mut().enumerate();
            part.try_for_each(|(at, about)| change(path(bytes, ends, from + at), about))
        })
    }

    /// Lets go of what is in memory of files.
    pub fn let_go(&self) {
        self.bytes.let_go();
        self.ends.let_go();
        self.about.let_go();
    }

    /// Gives back room that is not used.
    pub fn shrink(&mut self) {
        self.bytes.shrink();
        self.ends.shrink();
        self.about.shrink();
    }
}

fn path<'b>(bytes: &'b Long<u8>, ends: &Long<[usize; 2]>, number: usize) -> &'b [u8] {
    let start = number.checked_sub(1).map_or(0, |before| ends.at(before)[1]);
    bytes.slice(start, ends.at(number)[0])
}
