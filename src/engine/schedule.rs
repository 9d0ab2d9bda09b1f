//! Which tasks may run now: a pure answer, given what is done and what runs.

use std::collections::{BTreeMap, BTreeSet};

use crate::plan::{Action, Plan};

/// Fetch steps that may run at once beside the others: they wait for the
/// network, not for processors.
const FETCHES: usize = 4;

/// One node of the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Task {
    /// Find out a step's tree.
    Step(usize),
    /// Pack a layer of the image.
    Layer(usize),
}

/// Progress through the graph.
#[derive(Debug)]
pub(super) struct Schedule {
    needs: BTreeMap<Task, Vec<Task>>,
    fetches: BTreeSet<Task>,
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
        for (number, layer) in plan.image.layers.iter().enumerate() {
            needs.insert(Task::Layer(number), vec![Task::Step(index[layer.step.as_str()])]);
        }
        Schedule {
            needs,
            fetches,
            jobs: jobs.max(1),
            running: BTreeSet::new(),
            done: BTreeSet::new(),
        }
    }

    /// The tasks to start now, which count as running from here on. Steps come
    /// before layers, in the order of the plan.
    pub(super) fn start(&mut self) -> Vec<Task> {
        let fetching = self.running.intersection(&self.fetches).count();
        let mut free_fetches = FETCHES.saturating_sub(fetching);
        let mut free_jobs = self.jobs.saturating_sub(self.running.len() - fetching);
        let mut started = Vec::new();
        for (task, needs) in &self.needs {
            let ready = !self.done.contains(task)
                && !self.running.contains(task)
                && needs.iter().all(|need| self.done.contains(need));
            let free = if self.fetches.contains(task) { &mut free_fetches } else { &mut free_jobs };
            if ready && *free > 0 {
                *free -= 1;
                started.push(*task);
            }
        }
        self.running.extend(started.iter().copied());
        started
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::plan::tests::step;
    use crate::plan::{ImageRecipe, LayerRecipe};

    fn schedule(jobs: usize) -> Schedule {
        let mut fetch = step("fetch", &[]);
        fetch.network = true;
        let steps = vec![step("a", &[]), fetch, step("b", &["a", "fetch"]), step("c", &[])];
        let image = ImageRecipe {
            layers: vec![LayerRecipe::whole("a")],
            environment: BTreeMap::new(),
            processes: BTreeMap::new(),
            labels: BTreeMap::new(),
        };
        Schedule::new(&Plan::new(steps, image).expect("a plan"), jobs)
    }

    #[test]
    fn independent_tasks_start_together_and_fetches_take_no_job() {
        let mut schedule = schedule(2);
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
        let mut schedule = schedule(1);
        assert_eq!(schedule.start(), [Task::Step(0), Task::Step(1)]);
        schedule.finish(Task::Step(0));
        assert_eq!(schedule.start(), [Task::Step(3)]);
        schedule.finish(Task::Step(3));
        schedule.finish(Task::Step(1));
        assert_eq!(schedule.start(), [Task::Step(2)]);
        schedule.finish(Task::Step(2));
        assert_eq!(schedule.start(), [Task::Layer(0)]);
        schedule.finish(Task::Layer(0));
        assert!(schedule.start().is_empty() && schedule.idle());
    }
}
