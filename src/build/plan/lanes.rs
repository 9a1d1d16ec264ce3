//! Where components run, and what cannot be there.

use super::{BUILD_PHASES, Plan};
use crate::build::recipe::{ComponentUse, Lane, Recipe};
use crate::component::action::Verb;
use crate::component::action::field::Value;
use crate::component::expression::Part;
use crate::component::{Component, Inputs, Step};
use crate::support::diagnostic::{Diagnostic, Findings};
use crate::support::source::Span;

/// The lane of a component as its recipe says it.
pub fn lane_of(recipe: &Recipe, used: &ComponentUse) -> Lane {
    used.run.unwrap_or(recipe.settings.run)
}

/// What in a component cannot be where nothing is booted.
pub fn refuse(recipe: &Recipe, used: &ComponentUse, component: &Component) -> Vec<Diagnostic> {
    let mut findings = Findings::new(&component.document.source);
    let phases = component.document.phases.iter().filter(|p| BUILD_PHASES.contains(&p.name.as_str()));
    for step in phases.flat_map(|p| &p.steps) {
        let found = match step.action.verb {
            Verb::Reboot => Some((step.span, "reboots")),
            Verb::ExecuteBash => {
                exits_to_reboot(step, &findings).map(|place| (place, "exits with 194 to reboot"))
            }
            _ => None,
        };
        if let Some((place, does)) = found {
            let message = format!(
                "step `{}` {does}, but this component runs in the appliance, where nothing is booted",
                step.name
            );
            let help = format!(
                "say `run: booted` for it in {}, line {}, or take the step out",
                recipe.source.name, used.span.line
            );
            findings.error(place, "no-reboot", message).help = Some(help);
        }
    }
    findings.into_sorted()
}

/// A line of the script that can only mean "reboot, and run this step again".
fn exits_to_reboot(step: &Step, findings: &Findings) -> Option<Span> {
    const EXIT: &str = "exit 194";
    let Inputs::Items(items) = &step.inputs else { return None };
    let Some(Value::Texts(commands)) = items.first().and_then(|i| i.get("commands")) else { return None };
    let says = |line: &str| {
        let end = line.find(EXIT).map(|at| &line[at + EXIT.len()..]);
        let whole = end.is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphanumeric()));
        whole && !line.trim_start().starts_with('#')
    };
    let found = commands.iter().find(|command| {
        let texts =
            command.parts.iter().filter_map(|p| if let Part::Text(text) = p { Some(text) } else { None });
        texts.flat_map(|t| t.lines()).any(says)
    })?;
    Some(findings.source.find(found.span, EXIT, 0))
}

impl Plan {
    /// Where a component runs; None when it has nothing to do before seal.
    pub fn lane(&self, component: usize) -> Option<Lane> {
        let steps = self.provision.iter().any(|step| step.component == component);
        (steps || !self.files[component].is_empty()).then_some(self.lanes[component])
    }

    /// Where the first of them runs that no layer has. When none has anything to do it is what the recipe says for all.
    pub fn first_lane(&self) -> Lane {
        let first = (self.layers.done()..self.components.len()).find_map(|component| self.lane(component));
        first.unwrap_or(match self.layers.resume {
            // Nothing runs: the appliance that seals the disk is all it needs.
            Some(_) => Lane::Appliance,
            None => self.recipe.settings.run,
        })
    }
}
