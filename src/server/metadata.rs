//! The checks of a call's metadata that come before everything else.

use super::validate;
use crate::error::RequestError;
use crate::replica::Handle;
use tonic::Status;
use tonic::metadata::MetadataMap;

/// Checks the metadata of a call.
///
/// # Errors
/// `NotSupportedForLearner`; `NoLeader` when the client demands one and there is none; `InvalidClientApiVersion` when the
/// client's version is not text.
pub(super) fn check(handle: &Handle, metadata: &MetadataMap) -> Result<(), Status> {
    if handle.is_learner() {
        return Err(RequestError::NotSupportedForLearner.into());
    }
    check_on_learner(handle, metadata)
}

/// Like [`check`], for the few calls that a learner answers too.
///
/// # Errors
/// As those of [`check`], but for `NotSupportedForLearner`.
pub(super) fn check_on_learner(handle: &Handle, metadata: &MetadataMap) -> Result<(), Status> {
    if metadata.is_empty() {
        return Ok(());
    }
    validate::client_api_version(metadata)?;
    if validate::requires_leader(metadata) && handle.leader().is_none() {
        return Err(RequestError::NoLeader.into());
    }
    Ok(())
}
