//! The results as tables, as JSON, and as a page with plots.

pub(crate) mod html;
pub(crate) mod plots;
pub(crate) mod tables;

use serde::Serialize;

use crate::goals::Goal;
use crate::machine::Machine;
use crate::summary::CaseResult;
use crate::workloads::Effort;

/// Everything there is to tell of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Run {
    pub(crate) machine: Machine,
    pub(crate) version: &'static str,
    pub(crate) effort: Effort,
    pub(crate) engines: Vec<EngineLine>,
    pub(crate) cases: Vec<CaseResult>,
    pub(crate) goals: Vec<Goal>,
}

#[derive(Debug, Serialize)]
pub(crate) struct EngineLine {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) sharing: &'static str,
    pub(crate) durable: Option<&'static str>,
    pub(crate) batch: Option<&'static str>,
    pub(crate) buffered: Option<&'static str>,
    pub(crate) replay: Option<&'static str>,
}
