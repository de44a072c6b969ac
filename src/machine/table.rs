//! Reading a table of the state machine into memory when the state is opened.

use crate::error::Fatal;
use crate::storage::{Engine, Flow, Space, Value};

/// Hands every record of a space to `take`, which gives `None` for one that it cannot read.
///
/// # Errors
/// When the engine fails, or a record is damaged; `what` says of what.
pub(super) fn read_all(
    engine: &dyn Engine,
    space: Space,
    what: &str,
    take: &mut dyn FnMut(&[u8], Value<'_>) -> Option<()>,
) -> Result<(), Fatal> {
    let mut is_damaged = false;
    engine.scan(space, &[], None, &mut |key, value| {
        is_damaged = take(key, value).is_none();
        if is_damaged { Flow::Stop } else { Flow::Next }
    })?;
    match is_damaged {
        true => Err(Fatal::new(format!("read {what}: a record is damaged"))),
        false => Ok(()),
    }
}
