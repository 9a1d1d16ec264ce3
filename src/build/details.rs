//! What the engine keeps of an image beside the catalog's columns: how it is booted.

use super::plan::Plan;
use crate::appliance::DiskFacts;
use crate::boot::Holds;
use crate::catalog::image::Image;
use crate::model::{Failure, FailureKind, Firmware};
use serde_json::{Value, json};

#[derive(Clone, Debug, PartialEq)]
pub struct Details {
    pub holds: Holds,
    /// MiB of the machine it was built in.
    pub memory: u64,
    pub cpu: String,
    /// `virtio` or `nvme`.
    pub interface: String,
    /// When each of its components ran, in ms since the epoch, in their order; empty where nobody noted it.
    pub ran: Vec<i64>,
}

impl Details {
    pub fn of(plan: &Plan, facts: &DiskFacts, ran: &[i64]) -> Details {
        let settings = &plan.recipe.settings;
        Details {
            holds: Holds::of(facts),
            memory: settings.memory,
            cpu: plan.cpu.clone(),
            interface: settings.disk.as_str().into(),
            ran: ran.to_vec(),
        }
    }

    pub fn json(&self) -> Value {
        let h = &self.holds;
        json!({
            "holds": {
                "systemd": h.systemd, "nocloud": h.nocloud, "initramfsTools": h.initramfs_tools,
                "bios": h.bios, "uefi": h.uefi,
            },
            "memory": self.memory,
            "cpu": self.cpu,
            "interface": self.interface,
            "ran": self.ran,
        })
    }

    /// What the image can be booted with.
    pub fn firmware(&self) -> Vec<Firmware> {
        let all = [(self.holds.bios, Firmware::Bios), (self.holds.uefi, Firmware::Uefi)];
        all.into_iter().filter(|(can, _)| *can).map(|(_, f)| f).collect()
    }

    pub fn read(image: &Image) -> Result<Details, Failure> {
        let value: Value = serde_json::from_str(&image.details).unwrap_or_default();
        let h = &value["holds"];
        let flag = |name: &str| h[name].as_bool();
        let parse = || {
            Some(Details {
                holds: Holds {
                    systemd: h["systemd"].as_u64().map(|v| v as u32),
                    nocloud: flag("nocloud")?,
                    initramfs_tools: flag("initramfsTools")?,
                    bios: flag("bios")?,
                    uefi: flag("uefi")?,
                },
                memory: value["memory"].as_u64()?,
                cpu: value["cpu"].as_str()?.to_owned(),
                interface: value["interface"].as_str()?.to_owned(),
                ran: value["ran"].as_array().into_iter().flatten().filter_map(Value::as_i64).collect(),
            })
        };
        parse().ok_or_else(|| {
            Failure::new(
                FailureKind::Internal,
                format!("the catalog's details of image {image} cannot be read"),
            )
        })
    }
}
