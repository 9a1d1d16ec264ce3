//! What an image came from, and what came from a base, an image or a component.

use super::{Service, component, image};
use crate::catalog::CatalogError;
use crate::catalog::image::Image;
use crate::catalog::lineage::UsedComponent;
use crate::model::{Failure, FailureKind, ImageStatus, VersionedName};
use std::collections::BTreeMap;

/// What an image was made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ancestry {
    /// In the order of the recipe.
    pub components: Vec<UsedComponent>,
    /// From its parent on.
    pub parents: Vec<Ancestor>,
    /// Name of the base at the root of it all, and the digest of its disk.
    pub base: Option<(String, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ancestor {
    pub image: Image,
    pub components: Vec<UsedComponent>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Base,
    Image,
    Component,
}

/// One thing and what came from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub kind: Kind,
    pub title: String,
    /// SHA-256 in hex: of a disk, or of a component's document.
    pub digest: Option<String>,
    /// Of an image.
    pub status: Option<ImageStatus>,
    pub children: Vec<Node>,
}

pub fn ancestry(service: &Service, image: &Image) -> Result<Ancestry, Failure> {
    Ok(service.catalog.read(|t| {
        let components = t.used_by(image.id)?;
        let (mut parents, mut at) = (Vec::<Ancestor>::new(), image.clone());
        while let Some(parent) = at.parent_image {
            at = t.image(parent)?;
            parents.push(Ancestor { components: t.used_by(parent)?, image: at.clone() });
        }
        let base = at.parent.map(|digest| (at.parent_name, digest));
        Ok::<_, CatalogError>(Ancestry { components, parents, base })
    })?)
}

/// Everything that came from what is called so: all bases of that name, images, or components that fit.
///
/// # Errors
/// Nothing is called so, or things of more than one kind and none is asked for.
pub fn descendants(service: &Service, name: &str, kind: Option<Kind>) -> Result<Vec<Node>, Failure> {
    let wanted = |k: Kind| kind.is_none_or(|asked| asked == k);
    let named = image::parse(name);
    let images = service.catalog.read(|t| t.list_images())?;
    let tree = Tree::of(&images);
    let mut found: Vec<(&str, Vec<Node>)> = Vec::new();
    if wanted(Kind::Base) {
        found.push(("base", bases(service, name, &images, &tree)?));
    }
    if let Ok(named) = &named {
        if wanted(Kind::Image) {
            let fits = images.iter().filter(|i| named.fits(&i.name, i.version));
            found.push(("image", fits.map(|i| tree.node(i)).collect()));
        }
        if wanted(Kind::Component) {
            found.push(("component", components(service, named, &tree)?));
        }
    }
    found.retain(|(_, nodes)| !nodes.is_empty());
    match found.len() {
        1 => Ok(found.remove(0).1),
        0 => {
            // A name that is none of a base may be a wrong one of an image.
            named?;
            let message = format!("there is no base, no image and no component `{name}`");
            Err(Failure::new(FailureKind::NotFound, message)
                .hint("kiln base list, kiln image list and kiln component list show what there is."))
        }
        _ => {
            let kinds: Vec<&str> = found.iter().map(|(kind, _)| *kind).collect();
            let message = format!("`{name}` is the name of more than one thing: {}", kinds.join(", "));
            Err(Failure::new(FailureKind::Input, message)
                .hint(format!("Say which: --kind {}", kinds.join(" or --kind "))))
        }
    }
}

/// Those that are there, and those that are gone and have images.
fn bases(service: &Service, name: &str, images: &[Image], tree: &Tree) -> Result<Vec<Node>, Failure> {
    let named = service.bases.list()?.into_iter().filter(|b| b.name == name);
    let mut all: Vec<(String, String)> = named.map(|b| (b.name.clone(), hex(&b.digest))).collect();
    if all.is_empty() {
        all.extend(service.bases.find(name)?.map(|b| (b.name.clone(), hex(&b.digest))));
    }
    for image in images.iter().filter(|i| i.parent_image.is_none() && i.parent_name == name) {
        let known = |digest: &String| all.iter().any(|(_, d)| d == digest);
        if let Some(digest) = image.parent.clone().filter(|d| !known(d)) {
            all.push((name.to_owned(), digest));
        }
    }
    let node = |(title, digest): (String, String)| {
        let on = images.iter().filter(|i| i.parent_image.is_none() && i.parent.as_ref() == Some(&digest));
        let children = on.map(|i| tree.node(i)).collect();
        Node { kind: Kind::Base, title, digest: Some(digest), status: None, children }
    };
    Ok(all.into_iter().map(node).collect())
}

fn hex(digest: &str) -> String {
    digest.trim_start_matches("sha256:").to_owned()
}

fn components(service: &Service, named: &VersionedName, tree: &Tree) -> Result<Vec<Node>, Failure> {
    let fits = component::list(service)?.into_iter().filter(|c| named.fits(&c.name, c.version));
    let node = |c: crate::catalog::component::Component| {
        let users = service.catalog.read(|t| t.users_of(c.id))?;
        let children = users.iter().map(|i| tree.node(i)).collect();
        let (title, digest) = (c.to_string(), Some(c.digest));
        Ok(Node { kind: Kind::Component, title, digest, status: None, children })
    };
    fits.map(node).collect()
}

/// Images by the image that they stand on.
struct Tree<'a> {
    children: BTreeMap<i64, Vec<&'a Image>>,
}

impl Tree<'_> {
    fn of(images: &[Image]) -> Tree<'_> {
        let mut children: BTreeMap<i64, Vec<&Image>> = BTreeMap::new();
        for image in images {
            if let Some(parent) = image.parent_image {
                children.entry(parent).or_default().push(image);
            }
        }
        Tree { children }
    }

    fn node(&self, image: &Image) -> Node {
        let children = self.children.get(&image.id).into_iter().flatten();
        Node {
            kind: Kind::Image,
            title: image.to_string(),
            digest: image.disk.clone(),
            status: Some(image.status),
            children: children.map(|i| self.node(i)).collect(),
        }
    }
}
