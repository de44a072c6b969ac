//! The page: files that are part of the program and served as they are. It needs nothing else, from
//! nowhere else.

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Path, content type and bytes of each file.
pub(super) const FILES: &[(&str, &str, &[u8])] = &[
    ("/", "text/html; charset=utf-8", include_bytes!("index.html")),
    ("/page.css", "text/css; charset=utf-8", include_bytes!("page.css")),
    ("/page.js", SCRIPT, include_bytes!("page.js")),
    ("/api.js", SCRIPT, include_bytes!("api.js")),
    ("/cases.js", SCRIPT, include_bytes!("cases.js")),
    ("/failures.js", SCRIPT, include_bytes!("failures.js")),
    ("/flaky.js", SCRIPT, include_bytes!("flaky.js")),
    ("/parts.js", SCRIPT, include_bytes!("parts.js")),
    ("/places.js", SCRIPT, include_bytes!("places.js")),
    ("/replay.js", SCRIPT, include_bytes!("replay.js")),
    ("/run.js", SCRIPT, include_bytes!("run.js")),
    ("/runs.js", SCRIPT, include_bytes!("runs.js")),
    ("/submit.js", SCRIPT, include_bytes!("submit.js")),
    ("/task.js", SCRIPT, include_bytes!("task.js")),
    ("/timeline.js", SCRIPT, include_bytes!("timeline.js")),
    ("/told.js", SCRIPT, include_bytes!("told.js")),
    ("/words.js", SCRIPT, include_bytes!("words.js")),
];
