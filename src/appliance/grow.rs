//! Takes the root to the end of a disk that has become larger.

use std::io::Cursor;

use kiln_protocol::message::Operation;

use super::facts::PartitionTable;
use super::tree::{Access, Tree};
use super::volumes::Scan;
use super::{Appliance, ApplianceError, DiskProblem};
use crate::guest::{Guest, GuestFiles};
use crate::support::wait::Patience;

impl Appliance {
    /// Grows the root's partition and file system to the end of the disk.
    ///
    /// The disk file has its new size before the appliance starts. A root that fills its disk already
    /// stays as it is.
    pub async fn grow(&self, patience: &Patience) -> Result<(), ApplianceError> {
        let scan = self.scan(patience).await?;
        let tree = self.enter(&scan, Access::Read, patience).await?;
        let (root, size) = (scan.volumes[tree.root].number, scan.size);
        self.leave(tree, patience).await?;
        let cannot = |reason: &str| DiskProblem::CannotGrow { to: size, reason: reason.into() };
        let scan = match (scan.kind, root) {
            (PartitionTable::None, _) => scan,
            (PartitionTable::Gpt, Some(number)) => self.grow_partition(scan, number, patience).await?,
            (PartitionTable::Mbr, _) => {
                return Err(cannot("its partition table is an old MBR, which kiln does not change").into());
            }
            (PartitionTable::Gpt, None) => return Err(cannot("the root has no number").into()),
        };
        let tree = self.enter(&scan, Access::Write, patience).await?;
        let grown = self.grow_root(&tree, patience).await;
        self.leave(tree, patience).await?;
        grown
    }

    async fn grow_partition(
        &self,
        scan: Scan,
        number: u32,
        patience: &Patience,
    ) -> Result<Scan, ApplianceError> {
        let mut table = scan.table.expect("a GPT has its table");
        table
            .grow(number, scan.size)
            .map_err(|e| DiskProblem::CannotGrow { to: scan.size, reason: e.to_string() })?;
        for (offset, bytes) in table.writes() {
            let write = Operation::WriteAt { path: self.disk.clone(), offset };
            let written = self.guest().send(write, &mut Cursor::new(bytes), patience).await;
            written.map_err(ApplianceError::during("writing the partition table"))?;
        }
        let reread = Operation::RereadPartitions { device: self.disk.clone() };
        self.guest()
            .act(reread, patience)
            .await
            .map_err(ApplianceError::during("reading the table again"))?;
        self.scan(patience).await
    }

    async fn grow_root(&self, tree: &Tree, patience: &Patience) -> Result<(), ApplianceError> {
        // The agent looks for the mount and its device from the appliance's own root.
        self.step_out(patience).await?;
        let grow = Operation::GrowFilesystem { target: Self::places(tree)[0].clone() };
        let grown = self.guest().call(grow, patience).await;
        grown.map_err(ApplianceError::during("growing the root file system"))?;
        self.step_in(patience).await
    }
}
