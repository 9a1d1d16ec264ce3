//! What the engine keeps of an image beside the catalog's columns.

use crate::catalog::image::Image;
use crate::model::{Failure, FailureKind, Firmware};
use serde_json::{Value, json};

/// How an image is booted.
#[derive(Clone, Debug, PartialEq)]
pub struct Details {
    pub firmware: Vec<Firmware>,
    /// MiB of the machine it was built in.
    pub memory: u64,
    pub cpu: String,
    /// `virtio` or `nvme`.
    pub interface: String,
}

impl Details {
    pub fn json(&self) -> Value {
        json!({
            "firmware": self.firmware.iter().map(|f| f.as_str()).collect::<Vec<_>>(),
            "memory": self.memory,
            "cpu": self.cpu,
            "interface": self.interface,
        })
    }

    pub fn read(image: &Image) -> Result<Details, Failure> {
        let value: Value = serde_json::from_str(&image.details).unwrap_or_default();
        let text = |name: &str| value[name].as_str().map(str::to_owned);
        let parse = || {
            Some(Details {
                firmware: value["firmware"]
                    .as_array()?
                    .iter()
                    .map(|f| f.as_str()?.parse().ok())
                    .collect::<Option<_>>()?,
                memory: value["memory"].as_u64()?,
                cpu: text("cpu")?,
                interface: text("interface")?,
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

impl Details {
    pub fn of(plan: &super::plan::Plan) -> Details {
        let settings = &plan.recipe.settings;
        Details {
            firmware: plan.parent.firmware.clone(),
            memory: settings.memory,
            cpu: plan.cpu.clone(),
            interface: settings.disk.as_str().into(),
        }
    }
}
