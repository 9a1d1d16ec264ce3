//! What documents may ask of the host.

use super::fetch::Fetching;

/// What there is outside of the guest that a run's documents can reach.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// None: actions that fetch from the network fail.
    pub fetching: Option<Fetching>,
}
