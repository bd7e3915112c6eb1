//! `Reservation`: an entry is admitted before it is encoded, so that `pending_bytes_max` bounds
//! memory.

use std::sync::Arc;

use crate::error::Result;
use crate::frame::Unit;
use crate::lsn::LsnRange;
use crate::options::Durability;
use crate::store::Disk;

use super::group::SleepPoint;
use super::{Commit, Led, Step, Wanted};

/// Room for an entry that is still to be encoded. Its bytes count as pending until its records have
/// their LSNs, or it is dropped.
#[derive(Debug)]
pub(crate) struct Reservation<'a, D: Disk> {
    pub(super) commit: &'a Commit<D>,
    pub(super) bytes: usize,
}

impl<D: Disk> Reservation<'_, D> {
    /// Appends the entry, and returns once its records are as durable as the mode says.
    pub(crate) fn append(mut self, unit: Unit<'_>) -> Result<LsnRange> {
        let commit = self.commit;
        let mut state = commit.lock();
        let mut slot: Option<Arc<SleepPoint>> = None;
        let entered = loop {
            match commit.next_step(&state, Wanted::Reserved) {
                Step::Enter => break Ok(()),
                Step::Refuse(error) => break Err(error),
                Step::Lead => {
                    let led = commit.lead(state, None);
                    state = commit.lock();
                    if let Led::Failed(error) = led {
                        break Err(error);
                    }
                }
                Step::Wait => {
                    let own = slot.get_or_insert_with(|| state.enter_queue(0)).clone();
                    commit.counters.waits.add(1);
                    state = state.wait(&own);
                }
            }
        };
        if let Some(own) = slot {
            state.leave_queue(&own, 0);
        }
        state.reserved_bytes -= self.bytes;
        self.bytes = 0;
        match entered {
            Ok(()) if commit.mode == Durability::Buffered => {
                let pushed = state.push(unit);
                // Threads that wait for room may write it out now.
                commit.shared.pass_on(state);
                pushed
            }
            Ok(()) => commit.push_records(state, unit),
            Err(error) => {
                commit.shared.pass_on(state);
                Err(error)
            }
        }
    }
}

impl<D: Disk> Drop for Reservation<'_, D> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            let mut state = self.commit.lock();
            state.reserved_bytes -= self.bytes;
            self.commit.shared.pass_on(state);
        }
    }
}
