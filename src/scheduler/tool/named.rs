//! Tasks as they are named: `case@environment#number`.

use super::desk::Trouble;
use crate::scheduler::view::{RunBook, TaskView};

/// `case@environment#number`
pub(super) fn task_name(task: &TaskView) -> String {
    match task.environment.as_str() {
        "" => format!("{}#{}", task.case, task.ordinal),
        environment => format!("{}@{environment}#{}", task.case, task.ordinal),
    }
}

/// Takes `case@environment#number` apart, of which the number may be missing, and the environment where the
/// case is in one only.
pub(super) fn parse_task(book: &RunBook, text: &str) -> Result<(u32, Option<u32>), Trouble> {
    let (lanes, ordinal) = parse_tasks(book, text)?;
    if let [lane] = lanes[..] {
        return Ok((lane, ordinal));
    }
    let lanes = lanes.iter().filter_map(|lane| book.plan.lanes.get(*lane as usize));
    let places: Vec<String> = lanes.map(|lane| lane.environment.to_string()).collect();
    let text = text.rsplit_once('#').map_or(text, |(case, _)| case);
    let places = places.join(", ");
    Err(Trouble::Usage(format!(
        "case {text} is in several environments, {places}: name it {text}@environment#number"
    )))
}

/// The same where all environments are meant if none is named.
pub(super) fn parse_tasks(book: &RunBook, text: &str) -> Result<(Vec<u32>, Option<u32>), Trouble> {
    let (name, ordinal) = match text.rsplit_once('#').map(|(name, n)| (name, n.parse().ok())) {
        Some((name, Some(ordinal))) => (name, Some(ordinal)),
        _ => (text, None),
    };
    let run = &book.spec.id;
    let mut lanes = named_lanes(book, name);
    if lanes.is_empty() {
        let text = format!("run {run} has no task {text}: name it case@environment#number");
        return Err(Trouble::Usage(text));
    }
    if let Some(ordinal) = ordinal {
        let total = |lane: &u32| book.plan.lanes.get(*lane as usize).map_or(0, |lane| lane.total);
        lanes.retain(|lane| total(lane) > ordinal);
        if lanes.is_empty() {
            return Err(Trouble::Usage(format!("run {run} has no task {text}")));
        }
    }
    Ok((lanes, ordinal))
}

/// Those of `case` or `case@environment`, of which `-` is none, as in keys.
fn named_lanes(book: &RunBook, name: &str) -> Vec<u32> {
    if let Some(lane) = book.lane_of(name, "") {
        return vec![lane];
    }
    let Some((case, environment)) = name.rsplit_once('@').filter(|(_, place)| !place.is_empty())
    else {
        let case = name.strip_suffix('@').unwrap_or(name);
        let lanes = (0..).zip(&book.plan.lanes).filter(|(_, lane)| *lane.case == *case);
        return lanes.map(|(lane, _)| lane).collect();
    };
    let lane = book.lane_of(case, environment);
    lane.or_else(|| book.lane_of(case, "").filter(|_| environment == "-")).into_iter().collect()
}
