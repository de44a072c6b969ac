//! Where the definitions of files stand, so that what is wrong with one is told with its line.

use super::desk::Trouble;
use crate::scheduler::catalog::Definition;
use crate::scheduler::model::Refusal;
use crate::scheduler::plan_file::Given;
use crate::scheduler::submit::SubmitError;
use std::collections::BTreeMap;
use std::path::Path;

/// File and line by what refusals say that they are about.
#[derive(Default)]
pub(super) struct Places(BTreeMap<String, String>);

impl Places {
    pub(super) fn add<T: Definition>(&mut self, file: &Path, given: &[Given<T>]) {
        for one in given {
            let place = format!("{}: line {}", file.display(), one.line);
            self.0.insert(format!("{} {}", T::WHAT, one.value.id()), place);
        }
    }

    /// The same with file and line, if it is about one of the definitions.
    pub(super) fn locate(&self, trouble: Trouble) -> Trouble {
        let Trouble::Submit(SubmitError::Refused(refusal)) = trouble else { return trouble };
        let place = refusal.about.as_ref().and_then(|about| self.0.get(about));
        match place {
            Some(place) => {
                let message = format!("{place}: {}", refusal.message);
                Refusal { message, ..refusal }.into()
            }
            None => refusal.into(),
        }
    }
}
