//! What a worker must know of a task: its case and environment, read once for each run and kept while
//! they are used.

use super::client::Client;
use super::keys;
use super::model::{Definitions, Environment, TestCase, Unread};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use tokio::sync::Mutex;

/// Packs of definitions that are kept: each at most 256 KiB as text.
const PACKS_MAX: usize = 64;

#[derive(Clone, Debug)]
pub(super) struct Definition {
    pub(super) case: Arc<TestCase>,
    pub(super) environment: Option<Arc<Environment>>,
}

/// Cases that were read together, the first with this number.
struct Pack {
    run: Arc<str>,
    first: u32,
    cases: Vec<Kept>,
}

/// A pack has thousands of cases, of which few may be needed.
enum Kept {
    Unread(Unread),
    Read(Arc<TestCase>),
}

impl Kept {
    fn read(&mut self) -> Result<Arc<TestCase>, String> {
        let case = match self {
            Self::Unread(case) => Arc::new(case.read().map_err(|error| error.to_string())?),
            Self::Read(case) => return Ok(case.clone()),
        };
        *self = Self::Read(case.clone());
        Ok(case)
    }
}

#[derive(Default)]
struct Shelf {
    /// By run: how many cases it has, and its environments.
    runs: BTreeMap<Arc<str>, (u32, Vec<Arc<Environment>>)>,
    packs: VecDeque<Pack>,
}

pub(super) struct Library {
    client: Client,
    /// Held while something is read, so that many tasks of a run read it once.
    shelf: Mutex<Shelf>,
}

impl Library {
    pub(super) fn new(client: Client) -> Self {
        Self { client, shelf: Mutex::default() }
    }

    /// The case and the environment of a lane of a run that was there at this revision.
    pub(super) async fn find(
        &self,
        run: &Arc<str>,
        lane: u32,
        revision: i64,
    ) -> Result<Definition, String> {
        let mut shelf = self.shelf.lock().await;
        if !shelf.runs.contains_key(run) {
            let pack = self.read(run, 0, revision).await?;
            let environments = pack.environments.into_iter().map(Arc::new).collect();
            shelf.runs.insert(run.clone(), (pack.total, environments));
            shelf.keep(run, 0, pack.cases);
        }
        let Some((total, environments)) = shelf.runs.get(run).cloned() else {
            return Err(format!("run {run} has no cases"));
        };
        let (case, place) = (lane % total.max(1), lane / total.max(1));
        let environment = environments.get(place as usize).cloned();
        if let Some(case) = shelf.case(run, case)? {
            return Ok(Definition { case, environment });
        }
        let pack = self.read(run, case, revision).await?;
        let first = pack.first;
        shelf.keep(run, first, pack.cases);
        let case = shelf.case(run, case)?;
        case.map(|case| Definition { case, environment })
            .ok_or_else(|| format!("run {run} has no lane {lane}"))
    }

    /// The pack that holds a case.
    async fn read(
        &self,
        run: &str,
        case: u32,
        revision: i64,
    ) -> Result<Definitions<Unread>, String> {
        let first = keys::definitions(run, 0);
        let end = keys::definitions(run, case + 1);
        // Definitions never change, so that a member that knows this revision need not ask the others.
        let found = match self.client.last_below_at(&first, &end, revision).await {
            Ok(found) => Ok(found),
            // That member is behind, or the revision is compacted.
            Err(_) => self.client.last_below(&first, &end).await,
        };
        let found = found.map_err(|error| error.to_string())?;
        let found = found.ok_or_else(|| format!("run {run} has no definitions"))?;
        Definitions::unread(&found.value).map_err(|error| error.to_string())
    }
}

impl Shelf {
    fn keep(&mut self, run: &Arc<str>, first: u32, cases: Vec<Unread>) {
        let cases = cases.into_iter().map(Kept::Unread).collect();
        self.packs.push_back(Pack { run: run.clone(), first, cases });
        if self.packs.len() > PACKS_MAX
            && let Some(gone) = self.packs.pop_front()
            && !self.packs.iter().any(|pack| pack.run == gone.run)
        {
            self.runs.remove(&gone.run);
        }
    }

    fn case(&mut self, run: &str, case: u32) -> Result<Option<Arc<TestCase>>, String> {
        let mut of_run = self.packs.iter_mut().filter(|pack| &*pack.run == run);
        let found =
            of_run.find_map(|pack| pack.cases.get_mut(case.checked_sub(pack.first)? as usize));
        found.map(Kept::read).transpose()
    }
}
