//! Which steps would run, in which order. The runner walks this very list.

use super::bind::Component;
use super::document::{Phase, Step};
use super::loops::{self, Over};

/// One step of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedStep {
    /// Indexes into the components, their phases and steps.
    pub component: usize,
    pub phase: usize,
    pub step: usize,
    /// Names, for who shows the plan.
    pub component_name: String,
    pub phase_name: String,
    pub step_name: String,
    pub action: &'static str,
    /// It may be skipped.
    pub conditional: bool,
    pub iterations: Iterations,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Iterations {
    Once,
    Times(u64),
    /// Known when the step begins.
    Unknown,
}

/// The steps of the phases named, or of all: components in their order, phases and steps in the
/// document's. A name that no phase has selects nothing.
pub fn plan(components: &[Component], phases: Option<&[&str]>) -> Vec<PlannedStep> {
    let mut all = Vec::new();
    for (c, component) in components.iter().enumerate() {
        let selected = |p: &Phase| phases.is_none_or(|names| names.contains(&p.name.as_str()));
        for (p, phase) in component.document.phases.iter().enumerate().filter(|(_, p)| selected(p)) {
            for (s, step) in phase.steps.iter().enumerate() {
                all.push(PlannedStep {
                    component: c,
                    phase: p,
                    step: s,
                    component_name: component.label.clone(),
                    phase_name: phase.name.clone(),
                    step_name: step.name.clone(),
                    action: step.action.name,
                    conditional: step.condition.is_some(),
                    iterations: iterations(step),
                });
            }
        }
    }
    all
}

fn iterations(step: &Step) -> Iterations {
    match step.looped.as_ref().map(|l| &l.over) {
        None => Iterations::Once,
        Some(Over::List(items)) => Iterations::Times(items.len() as u64),
        Some(Over::Delimited { list, delimiter }) => match list.literal() {
            Some(text) => Iterations::Times(loops::split(text, *delimiter).len() as u64),
            None => Iterations::Unknown,
        },
        Some(Over::For { start, end, update_by }) => {
            let span = (i128::from(*end) - i128::from(*start))
                / i128::from(*update_by).max(1).max(-i128::from(*update_by));
            Iterations::Times(u64::try_from(span.abs() + 1).unwrap_or(u64::MAX))
        }
    }
}

impl PlannedStep {
    /// The step itself.
    pub fn of<'c>(&self, components: &'c [Component]) -> (&'c Component, &'c Phase, &'c Step) {
        let component = &components[self.component];
        let phase = &component.document.phases[self.phase];
        (component, phase, &phase.steps[self.step])
    }
}
