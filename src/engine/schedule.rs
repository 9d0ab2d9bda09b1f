//! Which tasks may run now: a pure answer, given what is done and what runs.
//!
//! - Of the steps that may run, the one that most depends on comes first: the longest way to
//!   the end of the plan decides, by rough weights, then the order of the plan.
//! - Steps that wait for the network take no processor from the others, nor do layers:
//!   nothing waits for those but the end, so they are packed on the side, a few at once.

use std::collections::{BTreeMap, BTreeSet};

use crate::plan::{Action, Plan, Step};

/// Fetch steps that may run at once beside the others: they wait for the
/// network, not for processors.
const FETCHES: usize = 4;
/// Layers that are packed at once, each on all processors that are idle.
const LAYERS: usize = 2;

/// One node of the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Task {
    /// Find out a step's tree.
    Step(usize),
    /// Pack a layer of the image.
    Layer(usize),
}

/// What a task takes of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Job,
    Fetch,
    Layer,
}

/// Progress through the graph.
#[derive(Debug)]
pub(super) struct Schedule {
    needs: BTreeMap<Task, Vec<Task>>,
    fetches: BTreeSet<Task>,
    /// All tasks, the most urgent first.
    order: Vec<Task>,
    jobs: usize,
    running: BTreeSet<Task>,
    done: BTreeSet<Task>,
}

impl Schedule {
    pub(super) fn new(plan: &Plan, jobs: usize) -> Schedule {
        let index: BTreeMap<&str, usize> = plan
            .steps
            .iter()
            .enumerate()
            .map(|(index, step)| (step.name.as_str(), index))
            .collect();
        let mut needs = BTreeMap::new();
        let mut fetches = BTreeSet::new();
        for (number, step) in plan.steps.iter().enumerate() {
            let task = Task::Step(number);
            needs.insert(
                task,
                step.root.iter().map(|name| Task::Step(index[name.as_str()])).collect(),
            );
            // Taking the app's files is quick and everything waits for it.
            if step.network || matches!(step.action, Action::Source { .. } | Action::Files { .. }) {
                fetches.insert(task);
            }
        }
        let ways = ways(plan, &index);
        let mut order: Vec<Task> = (0..plan.steps.len()).map(Task::Step).collect();
        // Stable: what is as urgent keeps the order of the plan.
        order.sort_by_key(|task| match task {
            Task::Step(number) => std::cmp::Reverse(ways[*number]),
            Task::Layer(_) => std::cmp::Reverse(0),
        });
        for (number, layer) in plan.image.layers.iter().enumerate() {
            needs.insert(Task::Layer(number), vec![Task::Step(index[layer.step.as_str()])]);
            order.push(Task::Layer(number));
        }
        Schedule {
            needs,
            fetches,
            order,
            jobs: jobs.max(1),
            running: BTreeSet::new(),
            done: BTreeSet::new(),
        }
    }

    /// The tasks to start now, which count as running from here on, the most urgent first.
    pub(super) fn start(&mut self) -> Vec<Task> {
        let mut free =
            BTreeMap::from([(Kind::Job, self.jobs), (Kind::Fetch, FETCHES), (Kind::Layer, LAYERS)]);
        for task in &self.running {
            if let Some(free) = free.get_mut(&self.kind(*task)) {
                *free = free.saturating_sub(1);
            }
        }
        let mut started = Vec::new();
        for task in &self.order {
            let ready = !self.done.contains(task)
                && !self.running.contains(task)
                && self.needs[task].iter().all(|need| self.done.contains(need));
            if ready
                && let Some(free) = free.get_mut(&self.kind(*task))
                && *free > 0
            {
                *free -= 1;
                started.push(*task);
            }
        }
        self.running.extend(started.iter().copied());
        started
    }

    fn kind(&self, task: Task) -> Kind {
        match task {
            Task::Layer(_) => Kind::Layer,
            Task::Step(_) if self.fetches.contains(&task) => Kind::Fetch,
            Task::Step(_) => Kind::Job,
        }
    }

    pub(super) fn finish(&mut self, task: Task) {
        self.running.remove(&task);
        self.done.insert(task);
    }

    /// Whether nothing runs.
    pub(super) fn idle(&self) -> bool {
        self.running.is_empty()
    }
}

/// For each step how long the longest way from its start to the end of the plan is.
fn ways(plan: &Plan, index: &BTreeMap<&str, usize>) -> Vec<u64> {
    let mut ways: Vec<u64> = plan.steps.iter().map(weight).collect();
    // Inputs come first in a plan, so backwards each step comes after those that need it.
    for (number, step) in plan.steps.iter().enumerate().rev() {
        for input in &step.root {
            let input = index[input.as_str()];
            ways[input] = ways[input].max(weight(&plan.steps[input]) + ways[number]);
        }
    }
    ways
}

/// About how long a step takes, in tenths of a second. Only the order of steps depends on it.
fn weight(step: &Step) -> u64 {
    match &step.action {
        // Measured on two cores: half a second, and some 20 MB of .debs a second.
        Action::Packages { packages, .. } => {
            5 + packages.iter().map(|package| package.size).sum::<u64>() / 2_000_000
        }
        Action::Image { .. } => 50,
        Action::Command { .. } => 20,
        Action::Libraries { .. } => 2,
        Action::Take { .. } | Action::Source { .. } | Action::Files { .. } => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::plan::tests::step;
    use crate::plan::{ImageRecipe, LayerRecipe};

    fn schedule(steps: Vec<Step>, layers: &[&str], jobs: usize) -> Schedule {
        let of = |step: &&str| LayerRecipe::whole(step);
        let image = ImageRecipe {
            layers: layers.iter().map(of).collect(),
            environment: BTreeMap::new(),
            processes: BTreeMap::new(),
            labels: BTreeMap::new(),
        };
        Schedule::new(&Plan::new(steps, image).expect("a plan"), jobs)
    }

    fn four(jobs: usize) -> Schedule {
        let mut fetch = step("fetch", &[]);
        fetch.network = true;
        let steps = vec![step("a", &[]), fetch, step("b", &["a", "fetch"]), step("c", &[])];
        schedule(steps, &["a"], jobs)
    }

    #[test]
    fn independent_tasks_start_together_and_fetches_take_no_job() {
        let mut schedule = four(2);
        assert_eq!(schedule.start(), [Task::Step(0), Task::Step(1), Task::Step(3)]);
        assert_eq!(schedule.start(), []);
        schedule.finish(Task::Step(0));
        assert_eq!(schedule.start(), [Task::Layer(0)]);
        schedule.finish(Task::Step(1));
        schedule.finish(Task::Layer(0));
        assert_eq!(schedule.start(), [Task::Step(2)]);
    }

    #[test]
    fn one_job_is_one_at_a_time() {
        let mut schedule = four(1);
        assert_eq!(schedule.start(), [Task::Step(0), Task::Step(1)]);
        schedule.finish(Task::Step(1));
        schedule.finish(Task::Step(0));
        // The layer is packed on the side.
        assert_eq!(schedule.start(), [Task::Step(2), Task::Layer(0)]);
        schedule.finish(Task::Step(2));
        assert_eq!(schedule.start(), [Task::Step(3)]);
        schedule.finish(Task::Step(3));
        schedule.finish(Task::Layer(0));
        assert!(schedule.start().is_empty() && schedule.idle());
    }

    #[test]
    fn the_longest_way_comes_first() {
        let steps = vec![
            step("short", &[]),
            step("first", &[]),
            step("second", &["first"]),
            step("third", &["second"]),
        ];
        let mut schedule = schedule(steps, &[], 1);
        assert_eq!(schedule.start(), [Task::Step(1)]);
        schedule.finish(Task::Step(1));
        assert_eq!(schedule.start(), [Task::Step(2)]);
        schedule.finish(Task::Step(2));
        // Both are the last of their way: the order of the plan.
        assert_eq!(schedule.start(), [Task::Step(0)]);
    }

    #[test]
    fn layers_hold_up_no_step() {
        let steps = vec![step("a", &[]), step("b", &[]), step("c", &[]), step("d", &["a"])];
        let mut schedule = schedule(steps, &["a", "b", "c"], 1);
        for number in [0, 1, 2] {
            assert_eq!(schedule.start().first(), Some(&Task::Step(number)));
            schedule.finish(Task::Step(number));
        }
        // Two of three layers run; the step gets its place all the same.
        assert_eq!(schedule.start(), [Task::Step(3)]);
        schedule.finish(Task::Layer(0));
        assert_eq!(schedule.start(), [Task::Layer(2)]);
    }
}
