//! The disk's partitions, and what is on them.

use kiln_protocol::message::Operation;

use super::facts::{PartitionTable, Volume};
use super::{Appliance, ApplianceError};
use crate::disk::filesystem::{self, PROBE_BYTES};
use crate::disk::gpt::{self, GptError, HEAD_BYTES};
use crate::guest::{Guest, GuestFiles};
use crate::support::wait::Patience;

/// More partitions than anybody has are not looked at.
const MOST_VOLUMES: usize = 128;

pub(super) struct Scan {
    /// Bytes of the disk.
    pub size: u64,
    pub kind: PartitionTable,
    pub table: Option<gpt::Table>,
    pub volumes: Vec<Volume>,
    /// The boot sector begins with code.
    pub boot_code: bool,
}

impl Appliance {
    pub(super) async fn scan(&self, patience: &Patience) -> Result<Scan, ApplianceError> {
        let devices =
            self.guest().devices(patience).await.map_err(ApplianceError::during("listing devices"))?;
        let of = |d: &&kiln_protocol::message::Device| d.path == self.disk;
        let size = devices.iter().find(of).map_or(0, |d| d.size);
        let head = self.head(&self.disk, HEAD_BYTES as u64, patience).await?;
        let mut parts: Vec<_> =
            devices.iter().filter(|d| d.parent.as_deref() == Some(&self.disk)).take(MOST_VOLUMES).collect();
        parts.sort_by_key(|d| d.offset);
        let table = match gpt::Table::parse(&head, size) {
            Ok(table) => Some(table),
            Err(GptError::Absent) => None,
            Err(error) => return Err(super::DiskProblem::Gpt(error).into()),
        };
        let kind = match &table {
            Some(_) => PartitionTable::Gpt,
            None if parts.is_empty() => PartitionTable::None,
            None => PartitionTable::Mbr,
        };
        let places: Vec<(String, Option<u32>, u64, u64)> = match kind {
            PartitionTable::None => vec![(self.disk.clone(), None, 0, size)],
            _ => parts.iter().map(|d| (d.path.clone(), self.number(&d.path), d.offset, d.size)).collect(),
        };
        let mut volumes = Vec::new();
        for (device, number, offset, size) in places {
            let bytes = self.head(&device, PROBE_BYTES as u64, patience).await?;
            let entries = table.iter().flat_map(|t| &t.partitions);
            let entry = entries.into_iter().find(|p| Some(p.number) == number);
            volumes.push(Volume {
                filesystem: filesystem::probe(&bytes),
                kind: entry.map(|p| p.kind.clone()),
                partition_uuid: entry.map(|p| p.uuid.clone()),
                partition_label: entry.map(|p| p.name.clone()),
                device,
                number,
                offset,
                size,
            });
        }
        let boot_code = head.iter().take(440).any(|b| *b != 0) && head.get(510..512) == Some(&[0x55, 0xaa]);
        Ok(Scan { size, kind, table, volumes, boot_code })
    }

    /// The first bytes of a device: `length`, or fewer when it is shorter.
    async fn head(&self, device: &str, length: u64, patience: &Patience) -> Result<Vec<u8>, ApplianceError> {
        let get = Operation::Get { path: device.into(), offset: 0, length: Some(length) };
        let mut bytes = Vec::new();
        let got = self.guest().get(get, length, &mut bytes, patience).await;
        got.map_err(ApplianceError::during(format!("reading {device}")))?;
        Ok(bytes)
    }

    /// `/dev/vda2` and `/dev/nvme0n1p2` are partition 2.
    fn number(&self, device: &str) -> Option<u32> {
        let rest = device.strip_prefix(&self.disk)?;
        rest.strip_prefix('p').unwrap_or(rest).parse().ok()
    }
}
