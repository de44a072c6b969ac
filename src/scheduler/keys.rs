//! Where everything is kept in the store. The layout is stable: other clients read and write it too.

/// All that the scheduler keeps for itself.
pub const PREFIX: &str = "/tcss/v1/";

/// Candidates for leadership, each by its lease; the lowest create revision leads.
pub const LEADERS: &str = "/tcss/v1/leader/";
/// Runs that have not ended, by id: written with the run, removed with its last result.
pub const OPEN: &str = "/tcss/v1/open/";
pub const RUNS: &str = "/tcss/v1/run/";
pub const WORKERS: &str = "/tcss/v1/worker/";
pub const BEATS: &str = "/tcss/v1/beat/";
pub const CLAIMS: &str = "/tcss/v1/claim/";
/// Tags that are held: `tag/{tag}/{unit}`.
pub const TAGS: &str = "/tcss/v1/tag/";
/// Capacities of tags that have more than one unit: `tagdef/{tag}`.
pub const TAG_DEFINITIONS: &str = "/tcss/v1/tagdef/";
pub const SEGMENTS: &str = "/tcss/v1/rseg/";
/// Segments of runs that have ended, many in one: `rblock/{run}/{n}`.
pub const BLOCKS: &str = "/tcss/v1/rblock/";
/// Runs that have ended, the newest first in the order of keys: `ended/{time}-{run}`.
pub const ENDED: &str = "/tcss/v1/ended/";
/// Runs that have ended and whose segments are not all in blocks.
pub const ROLLS: &str = "/tcss/v1/roll/";
pub const COMMANDS: &str = "/tcss/v1/cmd/";
/// The name of the command that asks a worker to leave.
pub const DRAIN: &str = "drain";
pub const QUEUES: &str = "/tcss/v1/queue/";
pub const STATS: &str = "/tcss/v1/stats/";
pub const REQUESTS: &str = "/tcss/v1/req/";
/// Services to which tasks are pushed.
pub const INSTANCES: &str = "/tcss/v1/instance/";
/// What came of the last checks of environments, and that somebody asks for one.
pub const CHECKS: &str = "/tcss/v1/check/";
pub const CHECK_WISHES: &str = "/tcss/v1/recheck/";
/// How far those were told who are posted to when runs end.
pub const HOOKS: &str = "/tcss/v1/hook/";
pub const LATE: &str = "/tcss/v1/late/";

/// What test teams see and write themselves.
pub const CASES: &str = "/testcases/";
pub const ENVIRONMENTS: &str = "/environments/";
pub const RESULTS: &str = "/results/";
pub const REPORTS: &str = "/reports/";
pub const SERVICES: &str = "/services/";

/// Lanes whose checkpoints share a key.
pub const LANES_PER_KEY: u32 = 512;

/// The worker that manual cases are given to: it is nobody's name, since it begins with an at sign.
pub const PEOPLE: &str = "@people";

/// The label of workers that run commands, which command cases require. Labels that users give do not
/// begin with an at sign.
pub const COMMANDING: &str = "@commands";

/// What stands for the environment in keys where a run names none; no environment has this id.
pub const NO_ENVIRONMENT: &str = "-";

/// Times are counted down from here in keys that sort the newest first: 11 hexadecimal digits.
const END_OF_TIME: u64 = 0xfff_ffff_ffff;

pub fn leader(lease: i64) -> String {
    format!("{LEADERS}{lease:016x}")
}

pub fn open(run: &str) -> String {
    format!("{OPEN}{run}")
}

pub fn run(run: &str) -> String {
    format!("{RUNS}{run}")
}

/// All but the spec of a run.
pub fn run_parts(run: &str) -> String {
    format!("{RUNS}{run}/")
}

/// Definitions of a run's cases, those from this one on.
pub fn definitions(run: &str, first: u32) -> String {
    format!("{}{first:010}", definition_packs(run))
}

/// All definitions of a run's cases.
pub fn definition_packs(run: &str) -> String {
    format!("{RUNS}{run}/def/")
}

/// What somebody wants of a run that goes on: paused, canceled.
pub fn control(run: &str) -> String {
    format!("{RUNS}{run}/control")
}

/// Why a claim of a run was canceled by force.
pub fn forced(run: &str, worker: &str, claim: &str) -> String {
    format!("{RUNS}{run}/forced/{worker}/{claim}")
}

pub fn status(run: &str) -> String {
    format!("{RUNS}{run}/status")
}

/// The checkpoint that holds a lane.
pub fn lanes(run: &str, lane: u32) -> String {
    format!("{RUNS}{run}/lane/{:010}", lane / LANES_PER_KEY)
}

pub fn worker(worker: &str) -> String {
    format!("{WORKERS}{worker}")
}

pub fn beat(worker: &str) -> String {
    format!("{BEATS}{worker}")
}

/// All claims of a worker.
pub fn claims(worker: &str) -> String {
    format!("{CLAIMS}{worker}/")
}

/// A claim. Its number is the leader's epoch and a count, so that no key comes twice.
pub fn claim(worker: &str, epoch: i64, number: u64) -> String {
    format!("{CLAIMS}{worker}/{epoch:x}-{number:x}")
}

/// The worker and the name of a claim, from its key.
pub fn parse_claim(key: &str) -> Option<(&str, &str)> {
    key.strip_prefix(CLAIMS)?.rsplit_once('/')
}

/// A tag's unit; `tag` may have further parts for its scope.
pub fn tag(tag: &str, unit: u32) -> String {
    format!("{TAGS}{tag}/{unit}")
}

/// The tag and its unit, from the key.
pub fn parse_tag(key: &str) -> Option<(&str, u32)> {
    let (tag, unit) = key.strip_prefix(TAGS)?.rsplit_once('/')?;
    Some((tag, unit.parse().ok()?))
}

/// Results of a claim of a worker, by the claim's name; a claim that is delivered in parts has several.
pub fn segment(run: &str, worker: &str, claim: &str, part: u32) -> String {
    format!("{SEGMENTS}{run}/{worker}-{claim}-{part}")
}

/// Results of a run.
pub fn segments(run: &str) -> String {
    format!("{SEGMENTS}{run}/")
}

/// The run, the worker and the claim's name of a segment, from its key.
pub fn parse_segment(key: &str) -> Option<(&str, &str, &str)> {
    let (run, name) = key.strip_prefix(SEGMENTS)?.split_once('/')?;
    let (name, _part) = name.rsplit_once('-')?;
    // The claim's name has a dash as well, and the worker's may have more.
    let (at, _) = name.rmatch_indices('-').nth(1)?;
    Some((run, &name[..at], &name[at + 1..]))
}

/// Segments of a run that has ended; `n` counts from 0.
pub fn block(run: &str, n: u32) -> String {
    format!("{BLOCKS}{run}/{n:06}")
}

/// All blocks of a run.
pub fn blocks(run: &str) -> String {
    format!("{BLOCKS}{run}/")
}

/// A run that ended at a time, in milliseconds since 1970.
pub fn ended(at: u64, run: &str) -> String {
    format!("{ENDED}{:011x}-{run}", END_OF_TIME.saturating_sub(at))
}

/// When a run ended, and which, from the key.
pub fn parse_ended(key: &str) -> Option<(u64, &str)> {
    let (time, run) = key.strip_prefix(ENDED)?.split_once('-')?;
    Some((END_OF_TIME.saturating_sub(u64::from_str_radix(time, 16).ok()?), run))
}

pub fn roll(run: &str) -> String {
    format!("{ROLLS}{run}")
}

/// The history of a case in an environment, which may be empty.
pub fn stats(case: &str, environment: &str) -> String {
    format!("{}{}", stats_of(case), or_none(environment))
}

/// What the keys of a case's histories begin with.
pub fn stats_of(case: &str) -> String {
    format!("{STATS}{case}/")
}

/// The case and the environment of a history, from its key.
pub fn parse_stats(key: &str) -> Option<(&str, &str)> {
    let (case, environment) = key.strip_prefix(STATS)?.split_once('/')?;
    Some((case, if environment == NO_ENVIRONMENT { "" } else { environment }))
}

/// The latest result of a case in an environment, which may be empty.
pub fn result(case: &str, environment: &str) -> String {
    format!("{RESULTS}{case}/{}", or_none(environment))
}

fn or_none(environment: &str) -> &str {
    if environment.is_empty() { NO_ENVIRONMENT } else { environment }
}

pub fn report(run: &str) -> String {
    format!("{REPORTS}{run}")
}

pub fn environment(environment: &str) -> String {
    format!("{ENVIRONMENTS}{environment}")
}

/// What came of the last check of an environment.
pub fn check(environment: &str) -> String {
    format!("{CHECKS}{environment}")
}

pub fn check_wish(environment: &str) -> String {
    format!("{CHECK_WISHES}{environment}")
}

pub fn queue(queue: &str) -> String {
    format!("{QUEUES}{queue}")
}

pub fn tag_definition(tag: &str) -> String {
    format!("{TAG_DEFINITIONS}{tag}")
}

/// Results that came too late, by the name of their segment.
pub fn late(run: &str, segment: &str) -> String {
    format!("{LATE}{run}/{segment}")
}

/// All late results of a run.
pub fn late_results(run: &str) -> String {
    format!("{LATE}{run}/")
}

/// A service to which tasks are pushed.
pub fn instance(name: &str) -> String {
    format!("{INSTANCES}{name}")
}

/// How far an address was told, by its digest.
pub fn hook(digest: &str) -> String {
    format!("{HOOKS}{digest}")
}

/// Which cases an address was told to be flaky.
pub fn hook_flaky(digest: &str) -> String {
    format!("{HOOKS}{digest}-flaky")
}

/// What a request id stands for.
pub fn request(request: &str) -> String {
    format!("{REQUESTS}{request}")
}

/// Commands to a worker.
pub fn commands(worker: &str) -> String {
    format!("{COMMANDS}{worker}/")
}

pub fn command(worker: &str, name: &str) -> String {
    format!("{COMMANDS}{worker}/{name}")
}

/// The first key behind all that start with a prefix.
pub fn range_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            break;
        }
    }
    end
}

#[cfg(test)]
mod tests {
    #[test]
    fn keys_are_taken_apart_as_they_were_made() {
        let claim = super::claim("a-b", 255, 16);
        assert_eq!(super::parse_claim(&claim), Some(("a-b", "ff-10")));
        let segment = super::segment("r1", "a-b", "ff-10", 2);
        assert_eq!(super::parse_segment(&segment), Some(("r1", "a-b", "ff-10")));
        let tag = super::tag("printer/env/lab", 3);
        assert_eq!(super::parse_tag(&tag), Some(("printer/env/lab", 3)));
        assert_eq!(super::range_end("a/"), b"a0");
        let (first, second) = (super::ended(1_000, "a-b"), super::ended(1_001, "c"));
        assert!(second < first, "the newest first");
        assert_eq!(super::parse_ended(&first), Some((1_000, "a-b")));
        for environment in ["", "lab"] {
            let stats = super::stats("pay", environment);
            assert_eq!(super::parse_stats(&stats), Some(("pay", environment)));
        }
    }
}
