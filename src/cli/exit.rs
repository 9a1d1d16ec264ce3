//! Exit codes: one exhaustive map.

use crate::model::FailureKind;

pub const INPUT: u8 = 2;

pub const HELP: &str = "\
Exit codes:
  0  done                                  6  conflict: busy, or exists already
  1  the build failed                      7  this machine cannot do it (no KVM, QEMU, space)
  2  bad usage, recipe or document         8  network or cloud failed
  3  validate or test phase failed       124  timed out
  4  a policy said no                    130  interrupted
  5  not found                           141  nobody reads the output any more
 70  a defect of kiln: please report it       (docs/exit-codes.md tells more)";

pub fn code(kind: FailureKind) -> u8 {
    match kind {
        FailureKind::Build => 1,
        FailureKind::Input => INPUT,
        FailureKind::Test => 3,
        FailureKind::Policy => 4,
        FailureKind::NotFound => 5,
        FailureKind::Conflict => 6,
        FailureKind::Environment => 7,
        FailureKind::Transport => 8,
        FailureKind::TimedOut => 124,
        FailureKind::Cancelled => 130,
        FailureKind::Internal => 70,
    }
}

/// Standard output was closed by who read it; what a shell tells of a program that SIGPIPE ended.
pub const NOBODY_READS: i32 = 141;
