//! Where a build and its image stand.

use std::fmt;

/// A unit of the engine. The API shows stages as workflow step executions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    Prepare,
    Boot,
    Provision,
    Seal,
    Capture,
    Test,
    Distribute,
}

/// Status of an image, as EC2 Image Builder has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ImageStatus {
    Pending,
    Creating,
    Building,
    Testing,
    Distributing,
    Integrating,
    Available,
    Failed,
    Cancelled,
    Deprecated,
    Disabled,
    Deleted,
}

impl Stage {
    pub const ALL: [Stage; 7] = [
        Stage::Prepare,
        Stage::Boot,
        Stage::Provision,
        Stage::Seal,
        Stage::Capture,
        Stage::Test,
        Stage::Distribute,
    ];

    pub fn parse(s: &str) -> Option<Stage> {
        Stage::ALL.into_iter().find(|x| x.as_str() == s)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Stage::Prepare => "prepare",
            Stage::Boot => "boot",
            Stage::Provision => "provision",
            Stage::Seal => "seal",
            Stage::Capture => "capture",
            Stage::Test => "test",
            Stage::Distribute => "distribute",
        }
    }
}

impl ImageStatus {
    pub const ALL: [ImageStatus; 12] = [
        ImageStatus::Pending,
        ImageStatus::Creating,
        ImageStatus::Building,
        ImageStatus::Testing,
        ImageStatus::Distributing,
        ImageStatus::Integrating,
        ImageStatus::Available,
        ImageStatus::Failed,
        ImageStatus::Cancelled,
        ImageStatus::Deprecated,
        ImageStatus::Disabled,
        ImageStatus::Deleted,
    ];

    /// The API's spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            ImageStatus::Pending => "PENDING",
            ImageStatus::Creating => "CREATING",
            ImageStatus::Building => "BUILDING",
            ImageStatus::Testing => "TESTING",
            ImageStatus::Distributing => "DISTRIBUTING",
            ImageStatus::Integrating => "INTEGRATING",
            ImageStatus::Available => "AVAILABLE",
            ImageStatus::Failed => "FAILED",
            ImageStatus::Cancelled => "CANCELLED",
            ImageStatus::Deprecated => "DEPRECATED",
            ImageStatus::Disabled => "DISABLED",
            ImageStatus::Deleted => "DELETED",
        }
    }

    /// The moves an image may make. Those of a build go forward only; a build may end at any time;
    /// what became AVAILABLE is moved on by its owner. FAILED and CANCELLED re-enter by a retry.
    pub fn may_become(self, next: ImageStatus) -> bool {
        use ImageStatus::*;
        let rank = |s| match s {
            Pending => Some(0),
            Creating => Some(1),
            Building => Some(2),
            Testing => Some(3),
            Distributing => Some(4),
            Integrating => Some(5),
            _ => None,
        };
        match (self, next) {
            (Deleted, _) => false,
            (Pending | Creating, Available) => false,
            (from, Available | Failed | Cancelled) if !from.is_final() => true,
            (Deprecated, Available) | (Disabled, Available) => true,
            (Available | Deprecated | Disabled, Deprecated | Disabled) => self != next,
            (from, Deleted) => from.is_final(),
            (Failed | Cancelled, Creating | Building | Testing | Distributing) => true,
            (from, to) => matches!((rank(from), rank(to)), (Some(a), Some(b)) if a < b),
        }
    }

    pub fn parse(s: &str) -> Option<ImageStatus> {
        ImageStatus::ALL.into_iter().find(|x| x.as_str() == s)
    }

    /// No build is going on and none has to be waited for.
    pub fn is_final(self) -> bool {
        !matches!(
            self,
            ImageStatus::Pending
                | ImageStatus::Creating
                | ImageStatus::Building
                | ImageStatus::Testing
                | ImageStatus::Distributing
                | ImageStatus::Integrating
        )
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for ImageStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
