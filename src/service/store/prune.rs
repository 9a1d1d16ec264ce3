//! Dropping layers, least recently used first, and never one that something needs.

use crate::catalog::CatalogError;
use crate::catalog::artifact::Artifact;
use crate::catalog::layer::Layer;
use crate::model::Failure;
use crate::service::Service;
use std::collections::{BTreeMap, BTreeSet};

/// What is to go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// No more than what is over so many bytes.
    pub to: Option<u64>,
    /// Only what was not used since, in ms since the epoch.
    pub unused_since: Option<i64>,
    /// Nothing is dropped, only told.
    pub dry_run: bool,
}

/// A layer that was dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pruned {
    pub layer: Layer,
    pub bytes: u64,
}

/// What the store has, at one moment.
pub(super) struct Picture {
    /// Least recently used first.
    pub layers: Vec<Layer>,
    pub artifacts: BTreeMap<String, Artifact>,
    /// Digests that something needs: images, builds, runs, what one of them kept; with all that these
    /// stand on.
    pub needed: BTreeSet<String>,
}

impl Picture {
    pub fn take(t: &crate::catalog::Transaction) -> Result<Picture, CatalogError> {
        t.release_pins()?;
        let artifacts = t.list_artifacts()?.into_iter().map(|a| (a.digest.clone(), a)).collect();
        Ok(Picture::new(t.list_layers()?, artifacts, t.held_artifacts()?))
    }

    fn new(layers: Vec<Layer>, artifacts: BTreeMap<String, Artifact>, held: Vec<String>) -> Picture {
        let mut needed = BTreeSet::new();
        for digest in held {
            downwards(&mut needed, digest, &artifacts);
        }
        // What nobody refers to any more goes by itself: no layer has to make room for it.
        let mut referred = needed.clone();
        for layer in &layers {
            downwards(&mut referred, layer.disk.clone(), &artifacts);
        }
        let artifacts = artifacts.into_iter().filter(|(digest, _)| referred.contains(digest)).collect();
        Picture { layers, artifacts, needed }
    }

    /// Layers whose disk serves nothing but later builds.
    pub fn spare(&self) -> impl Iterator<Item = &Layer> {
        self.layers.iter().filter(|layer| !self.needed.contains(&layer.disk))
    }

    /// Bytes of the disks that serve nothing but later builds.
    pub fn spare_bytes(&self) -> u64 {
        self.artifacts.values().filter(|a| !self.needed.contains(&a.digest)).map(own_bytes).sum()
    }

    /// The layers to drop, in that order. One goes only when nothing stands on it.
    pub fn choose(&self, wish: &Wish) -> Vec<Pruned> {
        let mut above: BTreeMap<&str, u32> = BTreeMap::new();
        for backing in self.artifacts.values().filter_map(|a| a.backing.as_deref()) {
            *above.entry(backing).or_default() += 1;
        }
        let mut left: Vec<&Layer> = self.spare().collect();
        let mut bytes = self.spare_bytes();
        let mut chosen = Vec::new();
        while wish.to.is_none_or(|to| bytes > to) {
            let free = |l: &&Layer| above.get(l.disk.as_str()).is_none_or(|count| *count == 0);
            let old = |l: &&Layer| wish.unused_since.is_none_or(|since| l.used < since);
            let Some(place) = left.iter().position(|l| free(l) && old(l)) else { break };
            let layer = left.remove(place);
            let artifact = &self.artifacts[&layer.disk];
            // Another key may have the same disk.
            if left.iter().any(|l| l.disk == layer.disk) {
                chosen.push(Pruned { layer: layer.clone(), bytes: 0 });
                continue;
            }
            // With it goes what was kept for it alone: a disk of an image that was removed, say.
            let (mut freed, mut next) = (own_bytes(artifact), artifact.backing.as_deref());
            while let Some(below) = next {
                let count = above.get_mut(below).expect("it was counted");
                *count -= 1;
                let artifact = &self.artifacts[below];
                let stays = *count > 0 || self.needed.contains(below) || left.iter().any(|l| l.disk == below);
                if stays {
                    break;
                }
                freed += own_bytes(artifact);
                next = artifact.backing.as_deref();
            }
            bytes -= freed;
            chosen.push(Pruned { layer: layer.clone(), bytes: freed });
        }
        chosen
    }
}

/// Adds a disk and all that it stands on.
fn downwards(to: &mut BTreeSet<String>, digest: String, artifacts: &BTreeMap<String, Artifact>) {
    let mut next = Some(digest);
    while let Some(digest) = next.filter(|digest| to.insert(digest.clone())) {
        next = artifacts.get(&digest).and_then(|a| a.backing.clone());
    }
}

/// That of a base image is its own matter.
fn own_bytes(artifact: &Artifact) -> u64 {
    if artifact.backing.is_some() { artifact.bytes } else { 0 }
}

/// Drops layers. What is chosen and what goes is one move: a build that begins meanwhile has pinned the layer
/// that it starts from, or finds that it has gone.
pub fn prune(service: &Service, wish: &Wish) -> Result<Vec<Pruned>, Failure> {
    if wish.dry_run {
        return Ok(service.catalog.read(|t| Ok::<_, CatalogError>(Picture::take(t)?.choose(wish)))?);
    }
    let chosen = service.catalog.write(|t| {
        let chosen = Picture::take(t)?.choose(wish);
        for pruned in &chosen {
            t.drop_layer(&pruned.layer.key)?;
        }
        Ok::<_, CatalogError>(chosen)
    })?;
    service.catalog.collect()?;
    Ok(chosen)
}

/// After a build: makes room where layers have become more than they may be.
pub fn keep_within(service: &Service, limit: Option<u64>) -> Result<Vec<Pruned>, Failure> {
    match limit {
        Some(limit) => prune(service, &Wish { to: Some(limit), ..Wish::default() }),
        None => {
            service.catalog.collect()?;
            Ok(Vec::new())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Of each disk: what it stands on (an earlier one), its bytes, when its layer was used (None: it is no
    /// layer's), whether something holds it.
    type Disk = (Option<usize>, u64, Option<i64>, bool);

    fn picture(disks: &[Disk]) -> Picture {
        let digest = |i: usize| format!("{i:04}");
        let artifacts = disks.iter().enumerate().map(|(i, disk)| Artifact {
            digest: digest(i),
            format: "qcow2".into(),
            bytes: disk.1,
            virtual_size: 1,
            backing: disk.0.map(digest),
            file: None,
        });
        let mut layers: Vec<Layer> = disks
            .iter()
            .enumerate()
            .filter_map(|(i, disk)| {
                Some(Layer {
                    key: digest(i),
                    disk: digest(i),
                    modified: 0,
                    recipe: "r".into(),
                    component: digest(i),
                    position: 0,
                    parts: "{}".into(),
                    build: "b".into(),
                    created: 0,
                    used: disk.2?,
                })
            })
            .collect();
        layers.sort_by_key(|l| l.used);
        let held = disks.iter().enumerate().filter(|(_, d)| d.3).map(|(i, _)| digest(i)).collect();
        Picture::new(layers, artifacts.map(|a| (a.digest.clone(), a)).collect(), held)
    }

    fn names(chosen: &[Pruned]) -> Vec<&str> {
        chosen.iter().map(|p| p.layer.key.trim_start_matches('0')).collect()
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first_and_tops_before_what_they_stand_on() {
        // Base, two chains on it: 1 <- 2, 3 <- 4 <- 5 (an image's disk).
        let disks = [
            (None, 100, None, false),
            (Some(0), 10, Some(1), false),
            (Some(1), 10, Some(5), false),
            (Some(0), 10, Some(2), false),
            (Some(3), 10, Some(3), false),
            (Some(4), 10, None, true),
            (Some(0), 10, Some(4), false),
        ];
        let all = picture(&disks);
        assert_eq!(all.spare_bytes(), 30);
        assert_eq!(names(&all.choose(&Wish::default())), ["6", "2", "1"]);
        let to = |to| picture(&disks).choose(&Wish { to: Some(to), ..Wish::default() });
        assert_eq!(names(&to(30)), [""; 0]);
        assert_eq!(names(&to(29)), ["6"]);
        let old = Wish { unused_since: Some(5), ..Wish::default() };
        assert_eq!(names(&picture(&disks).choose(&old)), ["6"], "1 is old, and 2 stands on it");
    }

    fn disks() -> impl Strategy<Value = Vec<Disk>> {
        let disk = (any::<u16>(), 0u64..100, proptest::option::of(0i64..50), proptest::bool::weighted(0.2));
        proptest::collection::vec(disk, 1..12).prop_map(|all| {
            let on = |i: usize, n: u16| (i > 0).then(|| usize::from(n) % i);
            all.into_iter()
                .enumerate()
                .map(|(i, (n, bytes, used, held))| (on(i, n), bytes, used, held))
                .collect()
        })
    }

    proptest! {
        #[test]
        fn property_what_is_needed_stays_and_no_disk_loses_what_it_stands_on(
            disks in disks(), to in proptest::option::of(0u64..400), since in proptest::option::of(0i64..50),
        ) {
            let picture = picture(&disks);
            let wish = Wish { to, unused_since: since, dry_run: false };
            let chosen = picture.choose(&wish);
            let mut gone = BTreeSet::new();
            for pruned in &chosen {
                prop_assert!(!picture.needed.contains(&pruned.layer.disk));
                prop_assert!(since.is_none_or(|since| pruned.layer.used < since));
                let on = |a: &&Artifact| a.backing.as_ref() == Some(&pruned.layer.disk);
                let on_it = picture.artifacts.values().filter(on);
                prop_assert!(on_it.into_iter().all(|a| gone.contains(&a.digest)), "{pruned:?}");
                gone.insert(pruned.layer.disk.clone());
                // What was nobody's goes with what stood on it.
                let mut below = picture.artifacts[&pruned.layer.disk].backing.clone();
                while let Some(digest) = below {
                    let stands = picture.artifacts.values().any(|a| a.backing.as_ref() == Some(&digest) && !gone.contains(&a.digest));
                    let is_layer = picture.layers.iter().any(|l| l.disk == digest);
                    if stands || is_layer || picture.needed.contains(&digest) { break; }
                    gone.insert(digest.clone());
                    below = picture.artifacts[&digest].backing.clone();
                }
            }
            let freed: u64 = chosen.iter().map(|p| p.bytes).sum();
            prop_assert!(freed <= picture.spare_bytes());
            // It stops as soon as there is room, and not before while there is something to drop.
            if let (Some(to), Some(last)) = (to, chosen.last()) {
                prop_assert!(picture.spare_bytes() - freed + last.bytes > to);
            }
        }
    }
}
