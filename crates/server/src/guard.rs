//! Who may do what.
use tonic::{Extensions, Status};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Produce,
    Consume,
    Admin,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Guard;

impl Guard {
    pub(crate) fn check(
        &self,
        _extensions: &Extensions,
        _action: Action,
        _stream: &str,
    ) -> Result<(), Status> {
        Ok(())
    }
}
