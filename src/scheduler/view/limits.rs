//! How many tasks of a run may share something: a tag, an environment, the run's queue.

use super::book::{RunBook, parse};
use crate::scheduler::keys;
use crate::scheduler::model::{Environment, LanePlan};
use crate::scheduler::planner::Shared;
use crate::scheduler::store::Kv;
use std::collections::BTreeMap;

/// How much environments and the run's queue take at once, of those that are limited.
#[derive(Debug, Default)]
pub(super) struct Limits {
    environments: BTreeMap<String, u32>,
    queue: Option<u32>,
}

impl Limits {
    /// `find` gives keys as they are now. What an environment took when the run was submitted counts as well:
    /// the more of both bounds what was possible.
    pub(super) fn new<'k>(
        submitted: &[Environment],
        queue: &str,
        find: impl Fn(&str) -> Option<&'k Kv>,
    ) -> Self {
        let now = |id: &str| find(&keys::environment(id)).and_then(parse::<Environment>);
        let most = |then: &Environment| {
            let capacity = now(&then.id).map_or(then.capacity, |now| now.capacity);
            let most = then.capacity.zip(capacity).map(|(then, now)| then.max(now));
            most.map(|most| (then.id.clone(), most))
        };
        let queue = find(&keys::queue(queue)).and_then(parse::<serde_json::Value>);
        let queue = queue.and_then(|queue| queue["limit"].as_u64());
        Self {
            environments: submitted.iter().filter_map(most).collect(),
            queue: queue.and_then(|limit| u32::try_from(limit).ok()),
        }
    }
}

impl RunBook {
    /// How many tasks may share something, unless all may.
    pub(super) fn capacity(&self, share: Shared<'_>) -> Option<u32> {
        match share {
            Shared::Tag(tag) => Some(self.capacities.get(tag).copied().unwrap_or(1)),
            Shared::Environment(environment) => self.limits.environments.get(environment).copied(),
            Shared::Queue => self.limits.queue,
        }
    }
}

/// What a lane's tasks have while they run, tags first.
pub(super) fn shares(plan: &LanePlan) -> impl Iterator<Item = Shared<'_>> {
    let tags = plan.tags.iter().map(|tag| Shared::Tag(tag));
    tags.chain([Shared::Environment(&plan.environment), Shared::Queue])
}
