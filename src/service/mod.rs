//! L6: use cases, one file per resource. What a face (the command line, later others) calls.

pub mod base;
pub mod build;
pub mod component;
pub mod diff;
pub mod doctor;
pub mod image;
pub mod lineage;
pub mod log;
pub mod run;
pub mod shell;
pub mod store;
mod subject;

use crate::base::Store;
use crate::build::lock::Nursery;
use crate::build::plan::{Host, Shelf};
use crate::build::recover::{self, Reconciled};
use crate::catalog::Catalog;
use crate::catalog::home::Home;
use crate::component::World;
use crate::machine::accelerator::Choice;
use crate::model::Failure;
use crate::support::wait::Patience;
use std::path::Path;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// One home folder, opened.
pub struct Service {
    pub catalog: Arc<Catalog>,
    pub bases: Store,
    /// What dead kilns had left, now in order.
    pub reconciled: Vec<Reconciled>,
    nursery: Nursery,
}

impl Service {
    /// Opens a home folder and puts in order what builds of dead kilns left. Where another kiln does that
    /// now, `tell` is called, and `cancel` ends the wait.
    pub fn open(home: &Path, cancel: &CancellationToken, tell: fn(&str)) -> Result<Service, Failure> {
        let catalog = Catalog::open(Home::new(home))?;
        let nursery = Nursery::new(&catalog, cancel, tell);
        let reconciled = recover::reconcile(&catalog, &nursery)?;
        Ok(Service { catalog: Arc::new(catalog), bases: Store::new(home), reconciled, nursery })
    }

    fn shelf<'a>(&'a self, world: &'a World, patience: &Patience) -> Shelf<'a> {
        Shelf { catalog: &self.catalog, bases: &self.bases, world, patience: patience.clone() }
    }
}

/// This machine, with what the user wants guests to be run with.
pub fn host(choice: Choice, only_plan: bool) -> Host {
    let processors = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
    Host { choice, only_plan, processors }
}
