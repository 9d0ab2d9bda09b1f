//! Which units share a layer: a pure function of their names and sizes.
//!
//! ```text
//! units, heaviest class first ─┬─► the first few of at least ALONE bytes: a layer each
//!                              └─► the others: one bucket; one of more than FULL bytes is
//!                                  halved by the next bit of the names' hashes, three times at most
//! ```
//!
//! - A unit's bucket follows from its name, so that a new version moves nothing. What its size
//!   decides, it decides in steps: heavy are compared by the power of two, and within one by the
//!   names' hashes, so a unit that grows moves at most one other; a bucket that grows too large
//!   becomes two, and the other buckets stay.
//! - Nothing of earlier builds goes in: two machines come to the same layers.
//! - Tried and left, by the bumps of `benches/splitting.py`: ranks by size, which send no less, and
//!   neighbours of about one size change places; twelve alone and twelve buckets, which sends a
//!   tenth more and makes a small environment many layers of a few kilobytes; doubling [`ALONE`]
//!   until few enough are above it, which leaves layers unused.

use std::collections::BTreeMap;

use crate::digest::Digest;

/// Bytes from which a unit may have a layer of its own, and a tree is split at all. Compressed it
/// is half a megabyte: what sending that with others costs, the requests for one more layer cost
/// too. It decides the image's digest: changing it gives every user other layers once.
pub const ALONE: u64 = 2 << 20;

/// Bytes from which a bucket is halved. Changing it gives every user other layers once.
pub const FULL: u64 = 8 << 20;

/// The part of a unit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// What belongs to no unit.
    Rest,
    /// A layer of its own.
    Alone(String),
    /// With all others whose names' hashes begin with these bits.
    Bucket(String),
}

impl Place {
    /// What people call it.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Place::Rest => "rest".to_owned(),
            Place::Alone(unit) => unit.clone(),
            Place::Bucket(bits) if bits.is_empty() => "others".to_owned(),
            Place::Bucket(bits) => format!("others {bits}"),
        }
    }
}

/// How many units may be alone, and how many bits buckets may have, so that with the rest there
/// are at most `most` parts. `None` when that is too few to be worth it.
fn share(most: usize) -> Option<(usize, usize)> {
    let bits = (most / 3).checked_ilog2()?;
    let buckets = 1_usize << bits;
    Some((most - buckets - 1, usize::try_from(bits).unwrap_or(0)))
}

/// Where each unit goes, given the bytes of each, in at most `most` parts, of which one is left
/// for what belongs to no unit.
#[must_use]
pub fn assign(units: &BTreeMap<String, u64>, most: usize) -> BTreeMap<String, Place> {
    let Some((alone, bits)) = share(most) else {
        return units.keys().map(|unit| (unit.clone(), Place::Rest)).collect();
    };
    let mut heavy: Vec<(&String, u32, String)> = units
        .iter()
        .filter(|(_, size)| **size >= ALONE)
        .map(|(unit, size)| (unit, size.ilog2(), hash(unit)))
        .collect();
    heavy.sort_by(|one, other| other.1.cmp(&one.1).then_with(|| one.2.cmp(&other.2)));
    heavy.truncate(alone);
    let mut places: BTreeMap<String, Place> =
        heavy.into_iter().map(|(unit, ..)| (unit.clone(), Place::Alone(unit.clone()))).collect();
    let others: Vec<Light> = units
        .iter()
        .filter(|(unit, _)| !places.contains_key(*unit))
        .map(|(unit, size)| Light { unit, size: *size, hash: hash(unit) })
        .collect();
    halve(others, "", bits, &mut places);
    places
}

/// A unit that has no layer of its own.
struct Light<'u> {
    unit: &'u String,
    size: u64,
    hash: String,
}

fn halve(units: Vec<Light<'_>>, bits: &str, left: usize, places: &mut BTreeMap<String, Place>) {
    let size: u64 = units.iter().map(|light| light.size).sum();
    if left == 0 || size <= FULL {
        let bucket = |light: Light<'_>| (light.unit.clone(), Place::Bucket(bits.to_owned()));
        places.extend(units.into_iter().map(bucket));
        return;
    }
    let (low, high): (Vec<_>, Vec<_>) =
        units.into_iter().partition(|light| light.hash.as_bytes()[bits.len()] == b'0');
    halve(low, &format!("{bits}0"), left - 1, places);
    halve(high, &format!("{bits}1"), left - 1, places);
}

/// The hash of a name as binary digits.
fn hash(unit: &str) -> String {
    let hex = Digest::of(unit.as_bytes()).hex();
    let first = u64::from_str_radix(&hex[..16], 16).unwrap_or_default();
    format!("{first:064b}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// A hundred units as an environment has them: a few heavy ones, many light ones.
    fn units() -> BTreeMap<String, u64> {
        (0..100_u64).map(|n| (format!("unit-{n}"), (190 << 20) / ((n + 1) * (n + 1)))).collect()
    }

    /// What is in each part: unit and version.
    fn parts(units: &BTreeMap<String, (u64, u32)>) -> BTreeMap<Place, BTreeSet<(String, u32)>> {
        let sizes = units.iter().map(|(unit, (size, _))| (unit.clone(), *size)).collect();
        let mut parts: BTreeMap<Place, BTreeSet<(String, u32)>> = BTreeMap::new();
        for (unit, place) in assign(&sizes, 24) {
            let version = units[&unit].1;
            parts.entry(place).or_default().insert((unit, version));
        }
        parts
    }

    fn versions() -> BTreeMap<String, (u64, u32)> {
        units().into_iter().map(|(unit, size)| (unit, (size, 1))).collect()
    }

    /// How many parts are new when units change so.
    fn changed(change: impl FnOnce(&mut BTreeMap<String, (u64, u32)>)) -> usize {
        changed_of(versions(), change)
    }

    fn changed_of(
        mut units: BTreeMap<String, (u64, u32)>,
        change: impl FnOnce(&mut BTreeMap<String, (u64, u32)>),
    ) -> usize {
        let before = parts(&units);
        change(&mut units);
        let after = parts(&units);
        after.values().filter(|part| !before.values().any(|known| known == *part)).count()
    }

    #[test]
    fn a_bump_changes_one_part() {
        for name in versions().keys() {
            for percent in [100, 101, 97] {
                let bump = |units: &mut BTreeMap<String, (u64, u32)>| {
                    let unit = units.get_mut(name).expect("a unit");
                    *unit = (unit.0 * percent / 100, 2);
                };
                // One that crosses `ALONE` moves, and may fill its bucket; here none does.
                assert_eq!(changed(bump), 1, "{name} {percent}");
            }
        }
    }

    #[test]
    fn one_that_comes_or_goes_changes_two_at_most() {
        for name in versions().keys() {
            // Its layer is no more, or its bucket is less; a heavy one lets another go up.
            assert!(changed(|units| units.retain(|unit, _| unit != name)) <= 2, "{name}");
        }
        for size in [1, 1 << 10, 1 << 20, 5 << 20, 500 << 20] {
            for number in 0..20 {
                let add = |units: &mut BTreeMap<String, (u64, u32)>| {
                    units.insert(format!("new-{number}"), (size, 1));
                };
                // Its own layer, or its bucket, which may have become two.
                assert!(changed(add) <= 2, "{size} {number}: {}", changed(add));
                // Where all places are taken, another goes to its bucket.
                let heavy = versions().into_iter().map(|(unit, (size, _))| (unit, (size * 20, 1)));
                assert!(changed_of(heavy.collect(), add) <= 2, "{size} {number}");
            }
        }
    }

    #[test]
    fn heavy_ones_of_a_class_do_not_change_places() {
        let units: BTreeMap<String, (u64, u32)> =
            (0..40).map(|n| (format!("unit-{n}"), ((33 + n) << 20, 1))).collect();
        let of_class = |n: u64| (33 + n).ilog2() == 5;
        for number in (0..40).filter(|n| of_class(*n)) {
            // As heavy as its class allows: by rank it would pass many.
            let grow = |units: &mut BTreeMap<String, (u64, u32)>| {
                units.insert(format!("unit-{number}"), (63 << 20, 2));
            };
            assert_eq!(changed_of(units.clone(), grow), 1, "{number}");
        }
    }

    #[test]
    fn there_are_no_more_parts_than_allowed() {
        for most in 0..=24 {
            for count in [0, 1, 10, 100, 1000] {
                let units = (0..count).map(|n| (format!("unit-{n}"), 50 << 20)).collect();
                let places: BTreeSet<Place> = assign(&units, most).into_values().collect();
                // One is for what belongs to no unit.
                assert!(places.len() < most.max(2), "{most} {count}: {}", places.len());
            }
        }
    }

    #[test]
    fn little_is_not_split() {
        let units = (0..200).map(|n| (format!("unit-{n}"), 10_000)).collect();
        let places: BTreeSet<Place> = assign(&units, 24).into_values().collect();
        assert_eq!(places, BTreeSet::from([Place::Bucket(String::new())]));
    }

    /// Pins the assignment: a change here gives every user other layers.
    #[test]
    fn the_assignment_is_pinned() {
        let mut text = String::new();
        for (unit, place) in assign(&units(), 24) {
            text.push_str(&format!("{unit} {}\n", place.name()));
        }
        assert_eq!(
            Digest::of(text.as_bytes()).to_string(),
            "sha256:d6d6fc81b82f89c0de663b2d1b68f48d8a9e32dd710019b5fd9f5a9e72d78274"
        );
    }
}
