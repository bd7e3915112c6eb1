//! Epochs: a producer that starts anew under its id shuts out the one before.

use std::collections::BTreeMap;

use super::{Check, Kind, values};
use crate::history::{Epoch, Nanos, Outcome, Produce, Value};

impl Check<'_> {
    /// After a record of an epoch, there is none of a lower one, none is acknowledged, and only
    /// such a one is refused for its epoch.
    pub(super) fn epochs_hold(&mut self) {
        let mut by_producer: BTreeMap<u32, Vec<(u64, &Produce)>> = BTreeMap::new();
        for own in &self.produced {
            if let Some(Epoch { producer, number }) = own.epoch {
                by_producer.entry(producer).or_default().push((number, own));
            }
        }
        let mut wrong = Vec::new();
        for (producer, requests) in &by_producer {
            self.find_fenced_records(*producer, requests, &mut wrong);
            find_fenced_answers(*producer, requests, &mut wrong);
            find_false_fences(*producer, requests, &mut wrong);
        }
        for (offset, text) in wrong {
            self.tell(Kind::Epoch, offset, text);
        }
    }

    /// Records of a lower epoch behind those of a higher one.
    fn find_fenced_records(&self, producer: u32, requests: &[(u64, &Produce)], wrong: &mut Wrong) {
        let mut epochs: BTreeMap<Value, u64> = BTreeMap::new();
        for (epoch, own) in requests {
            epochs.extend(values(own).map(|value| (value, *epoch)));
        }
        let mut highest = 0;
        for (offset, value) in &self.at {
            let Some(epoch) = epochs.get(value) else { continue };
            if *epoch < highest {
                let text = format!(
                    "producer {producer}: {value} of epoch {epoch} is at offset {offset}, behind \
                     epoch {highest}"
                );
                wrong.push((Some(*offset), text));
            }
            highest = highest.max(*epoch);
        }
    }
}

type Wrong = Vec<(Option<u64>, String)>;

/// Requests that were sent after a higher epoch was acknowledged, and are acknowledged.
fn find_fenced_answers(producer: u32, requests: &[(u64, &Produce)], wrong: &mut Wrong) {
    let acknowledged = requests.iter().filter_map(|(epoch, own)| match own.outcome {
        Outcome::Acknowledged { offset, .. } => Some((*epoch, *own, offset)),
        _ => None,
    });
    let mut acknowledged: Vec<(u64, &Produce, u64)> = acknowledged.collect();
    let mut known: Vec<(Nanos, u64)> =
        acknowledged.iter().map(|(epoch, own, _)| (own.end, *epoch)).collect();
    known.sort_unstable();
    acknowledged.sort_by_key(|(_, own, _)| own.sent);
    let mut known = known.into_iter().peekable();
    let mut highest = 0;
    for (epoch, own, offset) in acknowledged {
        while let Some((_, epoch)) = known.next_if(|(at, _)| *at < own.sent) {
            highest = highest.max(epoch);
        }
        if epoch < highest {
            let text = format!(
                "producer {producer}: {} of epoch {epoch} is acknowledged, and was sent after epoch \
                 {highest} was",
                own.first
            );
            wrong.push((Some(offset), text));
        }
    }
}

/// Requests that were refused for an epoch that was not there.
fn find_false_fences(producer: u32, requests: &[(u64, &Produce)], wrong: &mut Wrong) {
    for (epoch, own) in requests {
        let Outcome::Fenced { epoch: by } = own.outcome else { continue };
        let is_there =
            requests.iter().any(|(number, other)| *number == by && other.start < own.end);
        if by <= *epoch || !is_there {
            let text = format!(
                "producer {producer}: {} of epoch {epoch} is refused for epoch {by}, which no client \
                 had sent",
                own.first
            );
            wrong.push((None, text));
        }
    }
}
