//! From which layer a build starts, and why not from a deeper one.

use super::key::{self, Part, keys};
use super::parts::ComponentInputs;
use super::span::{Ttl, ago};
use crate::build::breaks::Break;
use crate::catalog::artifact::Artifact;
use crate::catalog::layer::{ImageLayer, Layer};
use crate::catalog::{Catalog, CatalogError, Transaction};
use crate::support::clock;
use serde_json::{Value, json};

/// Changes that a reason names.
const MOST_CHANGES: usize = 3;

/// What may be reused.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Reuse {
    /// Nothing.
    pub none: bool,
    /// Nothing from this component on: its label, or its name.
    pub none_from: Option<String>,
    /// Nothing that has a time to live.
    pub refresh: bool,
    /// Places that the build is to pass.
    pub breaks: Vec<Break>,
    /// No component may run.
    pub locked: bool,
}

/// What a recipe says of one component's layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// It needs what the component before left in memory.
    pub needs_live: bool,
    /// What it does holds so long.
    pub ttl: Option<Ttl>,
    /// No layer is kept after it.
    pub no_freeze: bool,
}

/// A component with what goes into its layer.
#[derive(Clone, Debug)]
pub struct Entry {
    pub label: String,
    pub inputs: ComponentInputs,
    pub wishes: Wishes,
    /// It has nothing to do before seal.
    pub idle: bool,
}

/// The layers of a plan: keys, and what to start from.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    pub start: Vec<Part>,
    pub entries: Vec<Entry>,
    /// One more than components: of the disk before the first and after each.
    pub keys: Vec<String>,
    pub resume: Option<Resume>,
    /// Of every component: why it runs; None for one that does not have to.
    pub why: Vec<Option<Why>>,
}

/// A layer to start from.
#[derive(Clone, Debug)]
pub struct Resume {
    /// So many components are in it.
    pub done: usize,
    pub layer: Layer,
    pub artifact: Artifact,
    /// When each of them ran, in ms since the epoch.
    pub ran: Vec<i64>,
}

/// Why a component runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// In words.
    Reason(String),
    /// One before it does.
    Follows,
}

impl Layers {
    /// Components that the start has already.
    pub fn done(&self) -> usize {
        self.resume.as_ref().map_or(0, |r| r.done)
    }

    /// No component has to run: the layer has them all.
    pub fn is_complete(&self) -> bool {
        self.resume.is_some() && self.done() == self.entries.len()
    }

    /// A layer may be kept after this component.
    pub fn keeps(&self, component: usize) -> bool {
        // One that has nothing to do comes out of any layer.
        let next = self.entries[component + 1..].iter().find(|e| !e.idle);
        !next.is_some_and(|e| e.wishes.needs_live)
            && !self.entries[component].wishes.no_freeze
            && self.entries[..=component].iter().all(|e| e.inputs.volatile.is_none())
    }

    fn ttl(&self, component: usize) -> Option<(Ttl, String)> {
        let entry = &self.entries[component];
        match entry.wishes.ttl {
            Some(ttl) => Some((ttl, format!("component {}", entry.label))),
            None => entry.inputs.ttl.clone(),
        }
    }

    /// The first component whose time is over, given when they ran, and what to say of it.
    fn over(&self, ran: &[i64], refresh: bool, now: i64) -> Option<String> {
        ran.iter().enumerate().take(self.entries.len()).find_map(|(index, then)| {
            let (ttl, why) = self.ttl(index)?;
            let what = format!("{why}: it ran {} ago", ago(*then, now));
            match ttl {
                Ttl::Never => None,
                _ if refresh => Some(format!("{what}, and is to be refreshed")),
                ttl if ttl.is_over(*then, now) => Some(format!("{what}, and holds {ttl}")),
                _ => None,
            }
        })
    }

    /// What was made of the same inputs, by components that ran then, is no longer the same.
    pub fn is_over_since(&self, ran: &[i64], refresh: bool) -> Option<String> {
        self.over(ran, refresh, clock::now_ms())
    }

    /// What the catalog keeps with a layer after so many components: the parts, and when each component ran.
    pub fn record(&self, components: usize, ran: &[i64]) -> String {
        let list = |parts: &[Part]| Value::from(parts.iter().map(Part::json).collect::<Vec<_>>());
        let of = |e: &Entry| list(&e.inputs.parts);
        let components: Vec<Value> = self.entries[..components].iter().map(of).collect();
        json!({"start": list(&self.start), "components": components, "ran": ran}).to_string()
    }

    /// Notes which of the image's layers were there before its build.
    pub fn reused(&self, t: &Transaction, image: i64) -> Result<(), CatalogError> {
        let Some(resume) = &self.resume else { return Ok(()) };
        let chain = t.chain_of(&resume.artifact.digest)?;
        for (index, key) in self.keys[1..=resume.done].iter().enumerate() {
            if self.entries[index].idle {
                self.pass_on(t, image, index)?;
                continue;
            }
            let Some(layer) = t.find_layer(key)? else { continue };
            if chain.iter().any(|artifact| artifact.digest == layer.disk) {
                let (position, component) = (index as u32, self.entries[index].label.clone());
                t.note_image_layer(
                    image,
                    &ImageLayer { position, component, disk: layer.disk, reused: true },
                )?;
            }
        }
        Ok(())
    }

    /// Notes that an idle component leaves the image's disk as the one before did, where that is kept.
    pub fn pass_on(&self, t: &Transaction, image: i64, component: usize) -> Result<(), CatalogError> {
        let before = match component.checked_sub(1) {
            None => t.image(image)?.parent.map(|disk| (disk, true)),
            Some(before) => {
                let layers = t.layers_of(image)?.into_iter();
                layers.map(|l| (l.position, (l.disk, l.reused))).find(|l| l.0 as usize == before).map(|l| l.1)
            }
        };
        let Some((disk, reused)) = before else { return Ok(()) };
        let label = self.entries[component].label.clone();
        t.note_image_layer(image, &ImageLayer { position: component as u32, component: label, disk, reused })
    }

    /// Finds the deepest layer that still holds.
    pub fn choose(
        start: Vec<Part>,
        entries: Vec<Entry>,
        recipe: &str,
        reuse: &Reuse,
        most: usize,
        catalog: &Catalog,
    ) -> Result<Layers, CatalogError> {
        let parts: Vec<Vec<Part>> = entries.iter().map(|e| e.inputs.parts.clone()).collect();
        let keys = keys(&start, &parts);
        let mut layers = Layers { start, entries, keys, resume: None, why: Vec::new() };
        let limit = layers.limit(reuse).min(most);
        // Why the layer of a boundary does not do, as found on the way down.
        let mut refused: Vec<Option<String>> = vec![None; layers.keys.len()];
        for done in (1..=limit).rev().filter(|done| layers.keeps(done - 1)) {
            match layers.look(done, reuse.refresh, catalog)? {
                Ok(resume) => {
                    layers.resume = Some(resume);
                    break;
                }
                Err(reason) => refused[done] = reason,
            }
        }
        layers.pass_idle();
        let done = layers.done();
        let mut why: Vec<Option<Why>> = vec![None; done];
        for index in done..layers.entries.len() {
            why.push(Some(match index == done {
                true => Why::Reason(layers.reason(index, limit, &refused, recipe, reuse, catalog)?),
                false => Why::Follows,
            }));
        }
        layers.why = why;
        Ok(layers)
    }

    /// Again, when the layer to start from has gone since: somebody made room. Returns whether it had.
    pub fn choose_again(
        &mut self,
        recipe: &str,
        reuse: &Reuse,
        catalog: &Catalog,
    ) -> Result<bool, CatalogError> {
        let Some(resume) = &self.resume else { return Ok(false) };
        // Breakpoints lie behind it.
        let most = if reuse.breaks.is_empty() { self.entries.len() } else { resume.done };
        if catalog.read(|t| t.find_artifact(&resume.artifact.digest))?.is_some() {
            return Ok(false);
        }
        let (start, entries) = (std::mem::take(&mut self.start), std::mem::take(&mut self.entries));
        *self = Layers::choose(start, entries, recipe, reuse, most, catalog)?;
        Ok(true)
    }

    /// Components that have nothing to do are as good as done.
    fn pass_idle(&mut self) {
        let Some(resume) = &mut self.resume else { return };
        while self.entries.get(resume.done).is_some_and(|entry| entry.idle) {
            resume.done += 1;
            resume.ran.push(clock::now_ms());
        }
    }

    /// So many components at most may come from a layer.
    fn limit(&self, reuse: &Reuse) -> usize {
        if reuse.none {
            return 0;
        }
        let labels = || self.entries.iter().map(|e| e.label.as_str());
        let from = reuse.none_from.as_ref().and_then(|name| position(labels(), name));
        from.unwrap_or(self.entries.len())
    }

    /// The layer after so many components, or why there is none that holds; None when there never was one.
    fn look(
        &self,
        done: usize,
        refresh: bool,
        catalog: &Catalog,
    ) -> Result<Result<Resume, Option<String>>, CatalogError> {
        let Some(layer) = catalog.read(|t| t.find_layer(&self.keys[done]))? else { return Ok(Err(None)) };
        let record: Value = serde_json::from_str(&layer.parts).unwrap_or_default();
        let ran =
            record["ran"].as_array().into_iter().flatten().filter_map(Value::as_i64).collect::<Vec<_>>();
        if ran.len() != done {
            return Ok(Err(Some("what is known of its layer cannot be read".into())));
        }
        if let Some(over) = self.over(&ran, refresh, clock::now_ms()) {
            return Ok(Err(Some(over)));
        }
        let chain = catalog.read(|t| t.chain_of(&layer.disk))?;
        for artifact in &chain {
            let path = catalog.artifact_path(artifact);
            let Ok(found) = std::fs::metadata(&path) else {
                return Ok(Err(Some(format!("{} of its layer is gone", path.display()))));
            };
            let (modified, recorded) =
                (catalog.modified(artifact)?, catalog.read(|t| t.modified_once(&artifact.digest))?);
            if found.len() != artifact.bytes || recorded.is_some_and(|then| then != modified) {
                return Ok(Err(Some(format!("{} of its layer was written to by somebody", path.display()))));
            }
        }
        let artifact = chain.into_iter().next().expect("it begins with the layer's disk");
        Ok(Ok(Resume { done, layer, artifact, ran }))
    }

    /// Why the first component that runs has to.
    fn reason(
        &self,
        index: usize,
        limit: usize,
        refused: &[Option<String>],
        recipe: &str,
        reuse: &Reuse,
        catalog: &Catalog,
    ) -> Result<String, CatalogError> {
        if reuse.none {
            return Ok("layers are not to be used (--no-cache)".into());
        }
        // Of the layers after it: the nearest one that is there and does not do.
        if let Some(reason) = refused[index + 1..].iter().flatten().next() {
            return Ok(reason.clone());
        }
        if index >= limit {
            let named = reuse.none_from.is_some();
            return Ok(match named {
                true => "its layer is not to be used (--no-cache-from)".into(),
                false => "the build is to stop at it (--break)".into(),
            });
        }
        if let Some(name) = self.entries[..=index].iter().find_map(|e| e.inputs.volatile.as_ref()) {
            return Ok(format!("{name} is another one in every build"));
        }
        if !self.keeps(index) {
            let following = self.entries.get(index + 1).filter(|e| e.wishes.needs_live);
            return Ok(match following {
                Some(next) => format!("{} needs what is in memory after it (needs: live)", next.label),
                None => "no layer is kept after it (freeze: false)".into(),
            });
        }
        let Some(before) = catalog.read(|t| t.newest_layer(recipe, &self.entries[index].label))? else {
            return Ok("there is no layer of it yet".into());
        };
        let record: Value = serde_json::from_str(&before.parts).unwrap_or_default();
        let read =
            |list: &Value| list.as_array().into_iter().flatten().filter_map(Part::read).collect::<Vec<_>>();
        let mut changes = key::changes(&read(&record["start"]), &self.start, MOST_CHANGES);
        let old: Vec<Vec<Part>> = record["components"].as_array().into_iter().flatten().map(read).collect();
        if changes.is_empty() && old.len() != index + 1 {
            return Ok(format!("it was component {} and is {} now", old.len(), index + 1));
        }
        for (old, new) in old.iter().zip(&self.entries).take(index + 1) {
            changes.extend(key::changes(old, &new.inputs.parts, MOST_CHANGES));
        }
        changes.truncate(MOST_CHANGES);
        Ok(match changes.is_empty() {
            true => "its layer was removed".into(),
            false => changes.join("; "),
        })
    }
}

/// The component of that label, or of that name without its version or its folder.
pub fn position<'l>(labels: impl Iterator<Item = &'l str> + Clone, name: &str) -> Option<usize> {
    let plain = |label: &str| {
        let file = [".yml", ".yaml", ".json"].iter().find_map(|end| label.strip_suffix(end));
        match file {
            Some(path) => path.rsplit('/').next().unwrap_or(path).to_owned(),
            None => label.split('/').next().unwrap_or(label).to_owned(),
        }
    };
    let exact = labels.clone().position(|label| label == name);
    exact.or_else(|| labels.clone().position(|label| plain(label) == plain(name)))
}
