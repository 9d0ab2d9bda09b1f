//! Which of the chosen packages is configured first: pure arithmetic on positions.

use std::collections::BTreeSet;

/// What a package needs, as positions; `first` are the pre-dependencies among `any`.
#[derive(Clone, Debug, Default)]
pub(super) struct Needs {
    pub(super) any: BTreeSet<usize>,
    pub(super) first: BTreeSet<usize>,
}

/// Orders so that needs come first; among those that are ready the first in
/// `by_name`. When all that is left is in or behind a cycle, a cycle that needs
/// nothing outside of itself is cut: one member goes first, if possible one
/// whose pre-dependencies are done, then the rest of the cycle, then the others.
pub(super) fn order(by_name: &[usize], needs: &[Needs]) -> Vec<usize> {
    let mut ordered = Vec::with_capacity(by_name.len());
    order_into(&mut ordered, &mut BTreeSet::new(), by_name.to_vec(), needs);
    ordered
}

fn order_into(
    ordered: &mut Vec<usize>,
    done: &mut BTreeSet<usize>,
    mut left: Vec<usize>,
    needs: &[Needs],
) {
    while !left.is_empty() {
        if let Some(position) = left.iter().position(|&at| needs[at].any.is_subset(done)) {
            let at = left.remove(position);
            done.insert(at);
            ordered.push(at);
            continue;
        }
        // What reaches the fewest is in such a cycle, and reaches just that.
        let reached = left.iter().map(|&at| reach(at, needs, done));
        let Some(cycle) = reached.min_by_key(BTreeSet::len) else {
            return;
        };
        let (mut members, others): (Vec<usize>, Vec<usize>) =
            left.iter().partition(|at| cycle.contains(at));
        left = others;
        let cut = members.iter().position(|&at| needs[at].first.is_subset(done)).unwrap_or(0);
        let at = members.remove(cut);
        done.insert(at);
        ordered.push(at);
        order_into(ordered, done, members, needs);
    }
}

/// `from` and what it needs, directly or not, that is not done.
fn reach(from: usize, needs: &[Needs], done: &BTreeSet<usize>) -> BTreeSet<usize> {
    let mut seen = BTreeSet::from([from]);
    let mut open = vec![from];
    while let Some(at) = open.pop() {
        for &next in needs[at].any.difference(done) {
            if seen.insert(next) {
                open.push(next);
            }
        }
    }
    seen
}
