//! Packages that are known only when something was built: those of the libraries
//! that it links against.

use std::fs;

use super::{Engine, EngineError, State};
use crate::debian::linked::{self, Placed};
use crate::digest::Digest;
use crate::plan::{Action, LIBRARIES, MadeFile, Step};
use crate::tree::Tree;

impl Engine<'_> {
    /// Names the packages that the last `inspected` inputs link against.
    pub(super) fn libraries(
        &self,
        step: &Step,
        inputs: &[Digest],
        inspected: usize,
    ) -> Result<(Digest, Tree), EngineError> {
        let lists =
            inputs.iter().map(|tree| self.store.read_tree(tree)).collect::<Result<Vec<_>, _>>()?;
        let roots: Vec<_> = inputs.iter().map(|tree| self.store.tree_path(tree)).collect();
        let placed: Vec<Placed<'_>> =
            lists.iter().zip(&roots).map(|(list, root)| (list, root.as_path())).collect();
        let (others, inspected) = placed.split_at(placed.len().saturating_sub(inspected));
        let (there, packages) = others.split_at(others.len().min(1));
        let needed =
            linked::needed(inspected, there, packages, self.architecture()).map_err(|source| {
                EngineError::Io {
                    action: "read the libraries in",
                    path: self.store.root().join("trees"),
                    source,
                }
            })?;
        for (library, program) in &needed.unknown {
            self.events.notice(
                format!("`{library}`, which /{program} links against, is in no package here"),
                Some(format!(
                    "if the app uses it, add its package: `[packages] runtime` in forge.toml (step {})",
                    step.name
                )),
            );
        }
        let names: String = needed.packages.iter().map(|name| format!("{name}\n")).collect();
        let files = [(
            LIBRARIES.to_owned(),
            MadeFile::File { content: names.into_bytes().into(), mode: 0o644 },
        )];
        let tree = self.write_made(&files.into_iter().collect())?;
        Ok((tree, self.store.read_tree(&tree)?))
    }

    /// Fills in the packages of a step that are known only now: because another
    /// step names some, or because it stands on an image of others.
    pub(super) fn complete(&self, state: &State, index: usize) -> Result<(), EngineError> {
        let step = &self.plan.steps[index];
        let Action::Packages { linked, names, .. } = &step.action else { return Ok(()) };
        if !is_chosen_late(step) {
            return Ok(());
        }
        let mut all = names.clone();
        if let Some(linked) = linked {
            all.extend(self.linked_packages(state, linked)?);
        }
        all.sort();
        all.dedup();
        let mut step = step.clone();
        if let Action::Packages { names, .. } = &mut step.action {
            names.clone_from(&all);
        }
        if !all.is_empty() {
            let ground = self.ground(state, &step)?;
            if let Action::Packages { release, .. } = &mut step.action
                && let Some(found) =
                    ground.image.as_ref().and_then(|(_, base)| base.debian_release())
            {
                *release = found.to_owned();
            }
            let chosen = (self.choose)(&step, &ground)?;
            if let Action::Packages { packages, .. } = &mut step.action {
                *packages = chosen;
            }
        }
        // Set once: each step is one task.
        let _first = state.chosen[index].set(step);
        let mut late = self.plan.steps.iter().zip(&state.chosen);
        if late.all(|(step, chosen)| !is_chosen_late(step) || chosen.get().is_some()) {
            (self.all_chosen)();
        }
        Ok(())
    }

    /// What a step for libraries has named.
    fn linked_packages(&self, state: &State, step: &str) -> Result<Vec<String>, EngineError> {
        let named_by = self.index(step);
        let Some(tree) = state.trees[named_by].get() else {
            return Err(EngineError::Interrupted);
        };
        self.ensure_tree(state, named_by, tree)?;
        let path = self.store.tree_path(tree).join(LIBRARIES);
        let text = fs::read_to_string(&path).map_err(|source| EngineError::Io {
            action: "read",
            path,
            source,
        })?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// The step as it is carried out.
    pub(super) fn definition<'a>(&'a self, state: &'a State, index: usize) -> &'a Step {
        state.chosen[index].get().unwrap_or(&self.plan.steps[index])
    }

    pub(super) fn architecture(&self) -> &str {
        self.platform.split('/').next_back().unwrap_or_default()
    }
}

/// Whether the packages of a step cannot be chosen before the build.
#[must_use]
pub fn is_chosen_late(step: &Step) -> bool {
    match &step.action {
        Action::Packages { linked, release, .. } => linked.is_some() || release.is_empty(),
        _ => false,
    }
}
