//! Breakpoints: places in a build where somebody is called into the guest.

use super::layers::position;
use super::plan::Plan;
use crate::model::{Failure, FailureKind};
use std::fmt;
use std::str::FromStr;

/// `before:install`, `after:install/Configure`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Break {
    pub after: bool,
    /// A component, or a component and, behind its last slash, a step.
    pub place: String,
}

/// A breakpoint of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// Index of the component.
    pub component: usize,
    /// So many of its steps have run; None: the component as a whole has not begun.
    pub steps: Option<usize>,
    pub text: String,
}

impl FromStr for Break {
    type Err = String;
    fn from_str(s: &str) -> Result<Break, String> {
        let (when, place) = s.split_once(':').unwrap_or_default();
        let after = match when {
            "before" => false,
            "after" => true,
            _ => return Err(format!("`{s}` is not before:COMPONENT[/STEP] or after:COMPONENT[/STEP]")),
        };
        if place.is_empty() {
            return Err(format!("`{s}` names no component"));
        }
        Ok(Break { after, place: place.into() })
    }
}

impl fmt::Display for Break {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", if self.after { "after" } else { "before" }, self.place)
    }
}

impl Break {
    /// Where it is among these components; of each its label and its steps' names.
    fn find(&self, components: &[(&str, Vec<&str>)]) -> Option<Stop> {
        let labels = components.iter().map(|(label, _)| *label);
        let text = self.to_string();
        let whole = match self.place.contains('/') {
            true => labels.clone().position(|label| label == self.place),
            false => position(labels.clone(), &self.place),
        };
        // One that has nothing to do before seal is passed without a halt.
        if let Some(component) = whole.filter(|component| !components[*component].1.is_empty()) {
            let steps = self.after.then(|| components[component].1.len());
            return Some(Stop { component, steps, text });
        }
        let (component, step) = self.place.rsplit_once('/')?;
        let component = position(labels, component)?;
        let step = components[component].1.iter().position(|name| *name == step)?;
        Some(Stop { component, steps: Some(step + usize::from(self.after)), text })
    }

    /// # Errors
    /// The plan has no such place before seal.
    pub fn of(&self, plan: &Plan) -> Result<Stop, Failure> {
        let steps = |index: usize| {
            let own = plan.provision.iter().filter(move |s| s.component == index);
            own.map(|s| s.step_name.as_str()).collect()
        };
        let components: Vec<(&str, Vec<&str>)> =
            plan.components.iter().enumerate().map(|(i, c)| (c.label.as_str(), steps(i))).collect();
        self.find(&components).ok_or_else(|| {
            let message = format!("--break {self}: no component or step of build and validate is called so");
            let places: Vec<String> = components
                .iter()
                .flat_map(|(label, steps)| steps.iter().map(move |step| format!("{label}/{step}")))
                .collect();
            Failure::new(FailureKind::Input, message).hint(format!("There are: {}.", places.join(", ")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_found() {
        let components =
            [("install", vec!["Fetch", "Unpack"]), ("site/1.0.0/1", vec!["Write"]), ("tests", vec![])];
        let find =
            |text: &str| text.parse::<Break>().unwrap().find(&components).map(|s| (s.component, s.steps));
        assert_eq!(find("before:install"), Some((0, None)));
        assert_eq!(find("after:install"), Some((0, Some(2))));
        assert_eq!(find("before:install/Unpack"), Some((0, Some(1))));
        assert_eq!(find("after:install/Unpack"), Some((0, Some(2))));
        assert_eq!(find("before:site"), Some((1, None)));
        assert_eq!(find("after:site/1.0.0/1/Write"), Some((1, Some(1))));
        assert_eq!(find("before:install/None"), None);
        assert_eq!(find("before:none"), None);
        assert_eq!(find("before:tests"), None);
        assert_eq!(find("before:install/Fetc"), None);
        for bad in ["install", "before", "before:", "between:install"] {
            assert!(bad.parse::<Break>().is_err(), "{bad}");
        }
    }
}
