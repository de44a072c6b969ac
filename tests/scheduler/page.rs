//! The page, in a real browser: submit, watch, cancel, rerun, wrong input. Where there is no Chromium it
//! says so and passes.

use crate::browser::Browser;
use crate::cluster::{Cluster, Engine, Folder};
use crate::http::Caller;
use crate::on_each_engine;
use crate::service::{Service, case};
use crate::team::Team;
use serde_json::json;

on_each_engine![
    the_page_submits_follows_reruns_and_cancels,
    the_page_shows_failures_slots_tags_and_what_is_set_apart,
    the_page_shows_what_runs_and_says_when_nobody_answers,
];

/// A browser beside a team with a scheduler.
struct Desk {
    browser: Browser,
    team: Team,
    url: String,
    caller: Caller,
    service: Service,
    // After the browser, which writes to it.
    folder: Folder,
}

impl Desk {
    /// None where there is no Chromium.
    async fn start(engine: Engine) -> Option<Desk> {
        let folder = Folder::new();
        let Some(browser) = Browser::start(folder.path()).await else {
            eprintln!("skipped: the page in a browser, since there is no chromium");
            return None;
        };
        let mut team = Team::new(Cluster::start(engine, 1).await);
        team.start_scheduler().says("leading the scheduler").await.unwrap();
        let url = team.service_url(0).await;
        let (caller, service) = (Caller::new(&url), Service::start().await);
        Some(Desk { browser, team, url, caller, service, folder })
    }
}

const STATE: &str = "document.querySelector('.head .pill')?.textContent";
/// A name that would run if the page took it for markup.
const SLY: &str = "<img src=x onerror=document.title=1>";

async fn the_page_submits_follows_reruns_and_cancels(engine: Engine) {
    let Some(Desk { browser, mut team, url, caller, service, .. }) = Desk::start(engine).await
    else {
        return;
    };
    for (id, ms, more) in [
        ("bad", 5, json!({})),
        ("good", 5, json!({"name": SLY})),
        ("later", 5, json!({"case_pre": "good"})),
        ("long", 20_000, json!({"mutual_tag": "printer"})),
    ] {
        let case = case(&service, id, ms, more);
        assert_eq!(caller.call("POST", "/v1/testcases", case).await.status, 201);
    }
    team.start_worker("w1", 2, &[]).await;
    browser.open(&format!("{url}/#/runs")).await;
    browser.until("document.body.innerText.includes('No runs yet')").await;

    // Wrong input is told where it was typed, and nothing is submitted.
    browser.key("n").await;
    let pick = |id: &str| {
        format!(
            "[...document.querySelectorAll('.pick label')].find(l => \
             l.querySelector('span')?.textContent === '{id}')?.querySelector('input')"
        )
    };
    browser.click(&pick("later")).await;
    browser.press_button("Submit").await;
    let problem = "document.querySelector('dialog .problem').textContent";
    let told = browser.until(problem).await;
    assert!(told.as_str().unwrap().starts_with("case later waits for good"), "{told}");
    browser.picture("wrong-input").await;

    // Put right, it runs, and the page follows it to its end.
    for id in ["good", "bad"] {
        browser.click(&pick(id)).await;
    }
    // A field that is left empty is told where it is, and not sent as none.
    let repeats = "[...document.querySelectorAll('dialog .fields input[type=number]')].pop()";
    browser.until(&format!("(({repeats}).value = '', true)")).await;
    browser.press_button("Submit").await;
    browser.until(&format!("document.activeElement === {repeats}")).await;
    browser.until(&format!("(({repeats}).value = 50, true)")).await;
    browser.press_button("Submit").await;
    browser.until("location.hash.startsWith('#/runs/')").await;
    browser.until(&format!("{STATE} === 'failed'")).await;
    let run = browser.value("location.hash.split('/')[2]").await.unwrap();
    let run = run.as_str().unwrap().to_owned();
    let legend = browser.until("document.querySelector('.legend').textContent").await;
    assert_eq!(legend, "passed 100failed 50");
    browser.until("document.body.innerText.includes('Efficiency')").await;
    browser.picture("run").await;
    browser.press_button("Failures").await;
    browser.click("document.querySelector('details.group summary')").await;
    browser.click("document.querySelector('details.group details.failure summary')").await;
    let output = browser
        .until("document.querySelector('details.group details.failure[open] pre')?.textContent")
        .await;
    assert!(output.as_str().unwrap().contains("expected"), "{output}");
    browser.picture("failures").await;
    browser.press_button("Slots").await;
    browser.until("document.querySelector('canvas')?.width > 300").await;
    browser.picture("slots").await;

    // What somebody has seen of a list is there again for who comes back to it, as is what it was narrowed by.
    browser.press_button("Tasks").await;
    let rows = "document.querySelectorAll('tbody tr').length";
    browser.until(&format!("{rows} === 100")).await;
    browser.press_button("Show more").await;
    browser.until(&format!("{rows} === 150")).await;
    browser.value("scrollTo(0, document.body.scrollHeight)").await.unwrap();
    browser.until("history.state?.tasks_seen?.top > 1000").await;
    browser.click("document.querySelectorAll('tbody tr')[145]").await;
    browser.until("/^#.runs.[^/]+.\\d+.\\d+$/.test(location.hash)").await;
    browser.value("history.back()").await.unwrap();
    browser.until(&format!("{rows} === 150 && scrollY > 1000")).await;
    let field = "document.querySelector('input[aria-label=Case]')";
    let narrow = format!(
        "(() => {{ {field}.value = 'bad'; {field}.dispatchEvent(new Event('input')); return true }})()"
    );
    let narrowed = format!(
        "{field}?.value === 'bad' && [...document.querySelectorAll('tbody tr td:first-child')]\
         .map(e => e.textContent).every(text => text === 'bad') && !!document.querySelector('tbody tr')"
    );
    browser.until(&narrow).await;
    browser.until(&narrowed).await;
    browser.click("document.querySelector('tbody tr')").await;
    browser.until("document.body.innerText.includes('Back to the run') || /^#.runs.[^/]+.\\d+.\\d+$/.test(location.hash)").await;
    browser.value("history.back()").await.unwrap();
    browser.until(&narrowed).await;

    // What failed again is a run of its own, with the failures alone.
    browser.press_button("Rerun failed").await;
    browser.until(&format!("!location.hash.includes('{run}') && {STATE} === 'failed'")).await;
    browser.until(&format!("document.body.innerText.includes('Repeats run {run}')")).await;
    browser.until("document.querySelector('.fact b').textContent === '50 of 50'").await;

    // A run that takes long is seen waiting for its tag, and canceled.
    browser.open(&format!("{url}/#/cases/long")).await;
    browser.until("document.querySelector('h1')?.textContent === 'long'").await;
    browser.press_button("Submit a run").await;
    browser
        .until(
            "(() => { const e = document.querySelector('dialog .pick input[type=number]'); \
             if (!e) return false; e.value = 3; e.dispatchEvent(new Event('input')); return true })()",
        )
        .await;
    // What was picked stays so, with its repeats, when something else is looked for.
    let search = |text: &str| {
        format!(
            "(() => {{ const e = document.querySelector('dialog input[type=search]'); \
             e.value = '{text}'; e.dispatchEvent(new Event('input')); return true }})()"
        )
    };
    let shown = "[...document.querySelectorAll('.pick label span')].map(e => e.textContent)";
    browser.until(&search("bad")).await;
    browser.until(&format!("{shown}.join() === 'bad'")).await;
    browser.until(&search("")).await;
    browser.until(&format!("{shown}[0] === 'long'")).await;
    let repeats = browser.value("document.querySelector('dialog .pick input').checked && document.querySelector('dialog .pick input[type=number]').value");
    assert_eq!(repeats.await.unwrap(), "3");
    browser.until("document.querySelector('dialog').innerText.includes('1 picked: 3 tasks')").await;
    browser.press_button("Submit").await;
    browser.until(&format!("location.hash.startsWith('#/runs/') && {STATE} === 'running'")).await;
    browser.press_button("Waiting").await;
    browser
        .until("document.body.innerText.includes('tag printer is held by case long on w1')")
        .await;
    browser.until("document.body.innerText.includes('w1 has held printer for ')").await;
    browser.picture("waiting").await;
    browser.press_button("Cancel").await;
    browser.click("document.querySelector('dialog .main')").await;
    browser.until(&format!("{STATE} === 'canceled'")).await;

    // A person gives a verdict.
    let look = json!({"id": "look", "kind": "manual", "name": "look at it", "steps": "look"});
    assert_eq!(caller.call("POST", "/v1/testcases", look).await.status, 201);
    let made = caller.call("POST", "/v1/runs", json!({"cases": [{"case": "look"}]})).await;
    let manual = made.body["run"].as_str().unwrap();
    team.waits_for_people(manual).await;
    browser.open(&format!("{url}/#/runs/{manual}/0/0")).await;
    browser.until("!!document.querySelector('input[placeholder=\"What was seen\"]')").await;
    browser.picture("verdict").await;
    browser.press_button("failed").await;
    browser.until(&format!("{STATE} === 'failed'")).await;
    browser.until("document.body.innerText.includes('Attempt 1, judged by a person')").await;

    // Keys, language and colours; and what was typed is text, whatever it looks like.
    browser.key("g").await;
    browser.key("c").await;
    browser.until("location.hash === '#/cases'").await;
    browser.until("document.querySelectorAll('tbody tr').length === 5").await;
    browser.until(&format!("document.body.innerText.includes({SLY:?})")).await;
    browser.picture("cases").await;
    browser.key("j").await;
    browser.key("Enter").await;
    browser.until("location.hash === '#/cases/bad'").await;
    browser.key("d").await;
    browser.until("document.documentElement.dataset.theme === 'dark'").await;
    browser.key("l").await;
    browser.until("document.querySelector('nav').textContent.startsWith('运行')").await;
    browser.picture("case-dark-chinese").await;
    for (key, hash) in [("w", "workers"), ("t", "tags"), ("e", "environments"), ("q", "queues")] {
        browser.key("g").await;
        browser.key(key).await;
        browser
            .until(&format!("location.hash === '#/{hash}' && !!document.querySelector('h1')"))
            .await;
    }
    // An environment is checked when somebody asks for it.
    browser.key("l").await;
    let lab = json!({"id": "lab", "check": {"url": service.url("lab", 1), "every": 3_600}});
    assert_eq!(caller.call("POST", "/v1/environments", lab).await.status, 201);
    browser.open(&format!("{url}/#/environments")).await;
    browser
        .until("[...document.querySelectorAll('button')].some(b => b.textContent === 'Check now')")
        .await;
    browser.press_button("Check now").await;
    let told = "[...document.querySelectorAll('#messages div')].some(m => m.textContent.endsWith('answered 405'))";
    browser.until(told).await;
    browser.until("document.querySelector('tbody .pill')?.textContent === 'bad'").await;
    browser.picture("environments").await;

    // Somebody else has changed what is edited: what was typed may be saved all the same. What he changes next
    // is seen without asking.
    browser.open(&format!("{url}/#/cases/look")).await;
    browser.until(&says("look at it")).await;
    browser.press_button("Edit").await;
    let replace = "(() => { const e = document.querySelector('dialog[open] textarea'); if (!e) return false; \
                   e.value = e.value.replace('look at it', 'mine'); return true })()";
    browser.until(replace).await;
    let patched = caller.call("PATCH", "/v1/testcases/look", json!({"name": "theirs"})).await;
    assert_eq!(patched.status, 200, "{}", patched.body);
    browser.press_button("Save").await;
    let version = &patched.body["version"];
    let told = format!("It is at version {version} now. Save again to replace that.");
    browser.until(&format!("document.querySelector('dialog').innerText.includes({told:?})")).await;
    browser.press_button("Save").await;
    browser.until(&says("\"name\": \"mine\"")).await;
    browser.value("document.activeElement.blur()").await.unwrap();
    let patched = caller.call("PATCH", "/v1/testcases/look", json!({"name": "theirs again"})).await;
    assert_eq!(patched.status, 200, "{}", patched.body);
    browser.until(&says("theirs again")).await;
    // The link to the content is none to another page.
    browser.click("document.querySelector('a.skip')").await;
    browser.until("location.hash === '#/cases/look' && document.activeElement.id === 'main'").await;
    assert_eq!(browser.problems(), [""; 0]);
}

/// Whether nothing but tables, within their own box, is wider than the window, and no words stand letter below letter.
const FITS: &str = "document.documentElement.scrollWidth <= document.documentElement.clientWidth \
    && [...document.querySelectorAll('td, .pick label span, .message, .names')].every(e => \
       e.innerText.trim().length < 8 || !e.checkVisibility() || e.offsetWidth >= 60) \
    && [...document.querySelectorAll('header *, main *, dialog[open] *')].every(e => \
       e.closest('.wide, pre') || e.getBoundingClientRect().right <= innerWidth + 1)";

/// Gives what is typed into the field of a dialog that has this name.
fn typed(field: &str, text: &str) -> String {
    format!(
        "(() => {{ const e = document.querySelector('dialog[open] {field}'); if (!e) return false; \
         e.value = {text:?}; e.dispatchEvent(new Event('input')); return true }})()"
    )
}

fn says(text: &str) -> String {
    format!("document.querySelector('main').innerText.includes({text:?})")
}

async fn the_page_shows_failures_slots_tags_and_what_is_set_apart(engine: Engine) {
    let Some(Desk { folder, browser, mut team, url, caller, service }) = Desk::start(engine).await
    else {
        return;
    };
    let retries = json!({"retries": {"test": 1, "backoff_ms": 1}});
    for (id, ms, more) in [
        ("bad", 5, retries),
        ("good", 5, json!({"owner": "Ann"})),
        ("shop.checkout.of_a_basket_with_many_books", 5, json!({"name": "a basket with books"})),
        ("long", 20_000, json!({"mutual_tag": "printer"})),
    ] {
        let case = case(&service, id, ms, more);
        assert_eq!(caller.call("POST", "/v1/testcases", case).await.status, 201);
    }
    let worker = "a-worker-whose-name-is-much-longer-than-the-place-for-it.example.org";
    team.start_worker(worker, 2, &[]).await;
    let submit = async |spec| {
        let made = caller.call("POST", "/v1/runs", spec).await;
        made.body["run"].as_str().unwrap().to_owned()
    };
    let both = json!([{"case": "bad"}, {"case": "good"}]);
    let first = submit(json!({"cases": both, "repeats": 4, "name": "nightly"})).await;
    team.ended(&first).await;
    browser.open(&format!("{url}/#/cases/bad")).await;
    browser.until(&says("Fails since")).await;
    browser.until(&format!("{} && {}", says(&first), says("revision "))).await;
    let good = json!({"url": service.url("well", 5)});
    assert_eq!(caller.call("PATCH", "/v1/testcases/bad", good).await.status, 200);
    let second = submit(json!({"cases": both, "repeats": 4, "name": "nightly"})).await;
    team.ended(&second).await;

    // The list tells retries and efficiency, and a run how fast it was.
    browser.open(&format!("{url}/#/runs")).await;
    let cells = format!(
        "[...document.querySelectorAll('tbody tr')].find(r => r.innerText.includes({first:?}))\
         ?.innerText.split(/[\\n\\t]+/).join('|')"
    );
    let told = format!("(row => row?.includes('8 of 8|4|') && row.includes(' %|'))({cells})");
    browser.until(&told).await;
    browser.open(&format!("{url}/#/runs/{first}")).await;
    browser.until(&says("Tasks a second")).await;
    browser.until(&says("Retries")).await;

    // Failures that are alike are one group; another run shows what was mended; the report is there.
    browser.press_button("Failures").await;
    let group = browser.until("document.querySelector('details.group summary')?.innerText").await;
    let group = group.as_str().unwrap();
    assert!(group.contains('4') && group.contains("product") && group.contains("bad"), "{group}");
    let choose = |select: &str, value: &str| {
        format!(
            "(() => {{ const s = document.querySelector('{select}'); \
             if (![...s?.options || []].some(o => o.value === {value:?})) return false; \
             s.value = {value:?}; s.dispatchEvent(new Event('change')); return true }})()"
        )
    };
    browser.until(&choose("select[aria-label=\"Compare with\"]", &second)).await;
    browser.until(&says("newly failing 1")).await;
    browser.picture("compared").await;
    for form in ["html", "junit", "json"] {
        browser
            .until(&format!(
                "!!document.querySelector('a[download][href$=\"report?form={form}\"]')"
            ))
            .await;
    }

    // Slots, by keyboard: what is reached is told, with the worker's whole name.
    browser.press_button("Slots").await;
    browser.until("document.querySelector('canvas')?.width > 300").await;
    browser.until("(document.querySelector('canvas').focus(), true)").await;
    let tip = "document.querySelector('.tip').innerText";
    browser.key("End").await;
    browser.until(&format!("{tip}.includes({worker:?}) && {tip}.includes('Repeat')")).await;
    browser.until(&choose("select[aria-label=\"Colours\"]", "gap")).await;
    browser.until(&says("first start")).await;
    browser.until("(document.querySelector('canvas').focus(), true)").await;
    browser.key("Home").await;
    browser.until(&format!("{tip}.includes('idle: first start')")).await;
    // An attempt comes soon, perhaps after one more gap.
    let mut steps = 0;
    while browser.value(&format!("{tip}.includes('Repeat')")).await != Ok(json!(true)) {
        browser.key("ArrowRight").await;
        steps += 1;
        assert!(steps < 10, "no attempt within ten steps");
    }
    browser.picture("slots-gaps").await;

    // The run is told again, step by step.
    browser.press_button("Replay").await;
    browser.until(&says("the run ends: failed")).await;
    browser.until("(document.querySelector('.slider').focus(), true)").await;
    browser.key("Home").await;
    browser.until(&says("submitted: 8 tasks")).await;
    browser.key("ArrowRight").await;
    browser.until(&says("Running then 1")).await;
    browser.until(&says(&format!("{worker} starts"))).await;
    browser.picture("replay").await;

    // Tags: who holds one since when, who waits, and how it is taken.
    let long = submit(json!({"cases": [{"case": "long"}], "repeats": 3})).await;
    browser.open(&format!("{url}/#/tags")).await;
    browser.until(&says("2 tasks")).await;
    browser.until(&says(" ago")).await;
    browser.picture("tags").await;
    let holder = "document.querySelector('tbody tr td:nth-child(3)').innerText.split(' ago')[0]";
    let held = caller.get("/v1/tags").await.body["items"][0]["holders"][0]["claim"].clone();
    assert!(browser.value(holder).await.unwrap().as_str().unwrap().contains("long"));
    browser.press_button("Release").await;
    browser.until(&typed("input[name=reason]", "it hangs")).await;
    browser.press_button("Release").await;
    crate::cluster::eventually("another holder", async || {
        let tags = caller.get("/v1/tags").await.body;
        let next = &tags["items"][0]["holders"][0]["claim"];
        if next.is_null() || *next == held { Err(tags.to_string()) } else { Ok(()) }
    })
    .await;
    assert_eq!(
        caller.call("POST", &format!("/v1/runs/{long}/cancel"), json!({})).await.status,
        202
    );
    team.ended(&long).await;

    // A case is muted with a reason for some days, once; then it is on the list of such cases.
    browser.open(&format!("{url}/#/cases/good")).await;
    browser.until(&says("Owner: Ann")).await;
    browser.press_button("Mute").await;
    browser.until(&typed("input[name=reason]", "it shakes")).await;
    browser.until(&typed("input[type=number]", "7")).await;
    browser.press_button("Mute").await;
    browser.until(&says("it shakes · until 20")).await;
    let muted = caller.get("/v1/testcases/good").await.body;
    assert_eq!((&muted["state"], &muted["state_reason"]), (&json!("muted"), &json!("it shakes")));
    browser.key("g").await;
    browser.key("f").await;
    browser.until(&format!("location.hash === '#/flaky' && {}", says("it shakes"))).await;
    browser.picture("flaky").await;
    // Somebody else changes it meanwhile: his change is not lost.
    let other = json!({"owner": "Bob"});
    assert_eq!(caller.call("PATCH", "/v1/testcases/good", other).await.status, 200);
    let of_good = |word: &str| {
        format!(
            "[...document.querySelectorAll('tbody tr')].find(r => r.innerText.startsWith('good'))\
             ?.querySelectorAll('button').values().find(b => b.textContent === {word:?})"
        )
    };
    browser.click(&of_good("Skip")).await;
    browser.until(&typed("input[name=reason]", "no use")).await;
    browser.press_button("Skip").await;
    browser
        .until("document.querySelector('dialog .problem').innerText.includes('has version')")
        .await;
    browser.press_button("Close").await;
    browser.until(&says("Bob")).await;
    browser.click(&of_good("Enable")).await;
    browser.until(&format!("!{}", says("good"))).await;

    // An environment is set apart with a reason, and deleted.
    assert_eq!(caller.call("POST", "/v1/environments", json!({"id": "lab"})).await.status, 201);
    browser.open(&format!("{url}/#/environments")).await;
    browser.until(&says("lab")).await;
    browser.press_button("Maintenance").await;
    browser.until(&typed("input[name=reason]", "new disks")).await;
    browser.press_button("Maintenance").await;
    browser.until(&says("new disks")).await;
    browser.press_button("Delete").await;
    browser.press_button("Delete").await;
    browser.until(&says("No environments")).await;

    // What is nowhere is told in plain words, and what the service says in the user's language.
    browser.open(&format!("{url}/#/runs/{first}/x/y")).await;
    browser.until(&says("There is no such page")).await;
    browser.until(&says("Back to the run")).await;
    browser.key("l").await;
    browser.until(&says("没有这个页面")).await;
    browser.open(&format!("{url}/#/runs/nobody")).await;
    browser.until(&says("没有运行 nobody")).await;
    browser.key("l").await;

    // Lists are narrowed by owner; the queue of runs that name none is there, though nobody has set it.
    browser.open(&format!("{url}/#/cases")).await;
    browser.until(&says("good")).await;
    let of_nobody = "(e => { if (!e) return false; e.value = 'nobody'; \
                     e.dispatchEvent(new Event('input')); return true })\
                     (document.querySelector('input[aria-label=\"Owner\"]'))";
    browser.until(of_nobody).await;
    browser.until(&says("No cases fit.")).await;
    browser.open(&format!("{url}/#/queues")).await;
    browser.until("document.querySelector('tbody tr')?.innerText.startsWith('default')").await;

    // A narrow window: only tables are wider, in a box of their own.
    let narrow = json!({"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": false});
    browser.call("Emulation.setDeviceMetricsOverride", narrow).await;
    for hash in
        ["runs", "cases", "cases/good", "flaky", "environments", "workers", "tags", "queues"]
    {
        browser.open(&format!("{url}/#/{hash}")).await;
        browser.until(&format!("!!document.querySelector('h1') && {FITS}")).await;
    }
    browser.open(&format!("{url}/#/runs/{first}")).await;
    for tab in ["Overview", "Waiting", "Tasks", "Failures", "Slots", "Replay"] {
        browser.press_button(tab).await;
        browser.until(FITS).await;
    }
    browser.press_button("Overview").await;
    browser.key("n").await;
    browser.until(&format!("!!document.querySelector('dialog[open] .pick label') && {FITS}")).await;
    browser.picture("submit-narrow").await;
    browser.press_button("Close").await;
    browser.press_button("Log in").await;
    browser
        .until(&format!(
            "!!document.querySelector('dialog[open] input[autocomplete=username]') && {FITS}"
        ))
        .await;
    browser.press_button("Close").await;
    let report = caller.get(&format!("/v1/runs/{first}/report?form=html")).await;
    let file = folder.path().join("report.html");
    std::fs::write(&file, report.body.as_str().unwrap()).unwrap();
    browser.open(&format!("file://{}", file.display())).await;
    browser
        .until(
            "!!document.querySelector('svg') && document.documentElement.scrollWidth <= innerWidth",
        )
        .await;
    browser.picture("report-narrow").await;
    assert_eq!(browser.problems(), [""; 0]);
}

/// Where a mouse is pressed beside a dialog.
async fn click_beside(browser: &Browser) {
    for kind in ["mousePressed", "mouseReleased"] {
        let event = json!({"type": kind, "x": 5, "y": 400, "button": "left", "clickCount": 1});
        browser.call("Input.dispatchMouseEvent", event).await;
    }
}

async fn the_page_shows_what_runs_and_says_when_nobody_answers(engine: Engine) {
    let Some(Desk { browser, mut team, url, caller, service, folder: _folder }) =
        Desk::start(engine).await
    else {
        return;
    };
    let muted = json!({"state": "muted", "state_reason": "it shakes"});
    let steps = json!({
        "kind": "manual",
        "steps": [{"action": "open {{base}}", "expected": "the shop"}, "buy a book"],
        "expected_result": "a receipt",
    });
    for (id, ms, more) in [
        ("badly", 5, json!({})),
        ("badly-muted", 5, muted),
        ("long", 60_000, json!({"timeout_ms": 120_000})),
        ("look", 1, steps),
    ] {
        let case = case(&service, id, ms, more);
        assert_eq!(caller.call("POST", "/v1/testcases", case).await.status, 201);
    }
    let lab = json!({"id": "lab", "config": {"base": "shop.example"}});
    assert_eq!(caller.call("POST", "/v1/environments", lab).await.status, 201);
    let submit = async |cases| {
        let spec = json!({"cases": cases, "environments": ["lab"]});
        let made = caller.call("POST", "/v1/runs", spec).await;
        made.body["run"].as_str().unwrap().to_owned()
    };
    let run = submit(json!([{"case": "badly"}, {"case": "badly-muted"}, {"case": "long"}])).await;

    // Without workers it waits for them; what they have is shown while it runs, and each of their slots.
    browser.open(&format!("{url}/#/runs/{run}")).await;
    browser.until(&format!("{STATE} === 'waiting'")).await;
    browser.picture("waiting-run").await;
    team.start_worker("w1", 2, &[]).await;
    team.start_worker("w2", 1, &["--label", "never=used"]).await;
    browser.until(&format!("{STATE} === 'running'")).await;
    browser.press_button("Tasks").await;
    let cells = "[...document.querySelectorAll('tbody tr')].find(r => r.innerText.startsWith('long'))\
                 ?.innerText.split(/[\\n\\t]+/)";
    let running = format!(
        "(c => c?.includes('running') && c.includes('w1') && / m?s$/.test(c.at(-1)))({cells})"
    );
    browser.until(&running).await;
    browser.until("!!document.querySelector('tbody .s-muted')").await;
    browser.picture("tasks-running").await;
    browser.press_button("Slots").await;
    // Two slots of one worker and one of the other, which never ran anything.
    browser.until("document.querySelector('canvas')?.style.height === '68px'").await;
    browser.until("(document.querySelector('canvas').focus(), true)").await;
    // In which of its slots it is nobody says.
    let tip = "document.querySelector('.tip').innerText";
    let running = format!("/running\\s+long .* s$/.test({tip})");
    let mut rows = 0;
    browser.key("End").await;
    while browser.value(&running).await != Ok(json!(true)) {
        browser.key("ArrowDown").await;
        browser.key("End").await;
        rows += 1;
        let told = browser.value(tip).await;
        assert!(rows < 3, "no row has what runs: {told:?}");
    }
    browser.picture("slots-running").await;

    // The address keeps the tab, through a reload and on the way back.
    browser.press_button("Failures").await;
    browser.until("location.hash.endsWith('?tab=failures')").await;
    browser.call("Page.reload", json!({})).await;
    let chosen =
        "document.querySelector('[aria-selected=true]')?.textContent.startsWith('Failures')";
    browser.until("performance.getEntriesByType('navigation')[0].type === 'reload'").await;
    browser.until(chosen).await;
    // A muted failure says so, and why; each failure leads to its task and its case.
    browser.click("document.querySelector('details.group > summary')").await;
    let why = "document.querySelector('details.group .s-muted[title*=\"it shakes\"]')?.title";
    browser.until(why).await;
    let opened = "[...document.querySelectorAll('details.group details.failure')]\
                  .find(f => f.innerText.includes('badly') && !f.innerText.includes('muted'))";
    browser.click(&format!("{opened}?.querySelector('summary')")).await;
    browser.until(&format!("!!{opened}?.querySelector('a[href=\"#/cases/badly\"]')")).await;
    browser.picture("failures-muted").await;
    browser.click(&format!("{opened}?.querySelector('a[href$=\"{run}/0/0\"]')")).await;
    browser.until(&format!("location.hash.endsWith('{run}/0/0') && {}", says("Attempt 1"))).await;
    browser.until("(history.back(), true)").await;
    browser.until(chosen).await;

    // A task says where it is and who runs it since when; a manual one what is to be done.
    browser.open(&format!("{url}/#/runs/{run}/2/0")).await;
    browser.until(&says("Attempt 1 on w1")).await;
    browser.until(&format!("{} && {}", says("Environment lab"), says("since "))).await;
    browser.until(&format!("!{}", says("Nothing has run yet"))).await;
    let manual = submit(json!([{"case": "look"}])).await;
    browser.open(&format!("{url}/#/runs/{manual}/0/0")).await;
    let steps = "[...document.querySelectorAll('ol.steps li')].map(s => s.innerText).join('|')";
    browser
        .until(&format!("{steps} === 'open shop.example\\nExpected: the shop|buy a book'"))
        .await;
    browser.until(&says("Expected: a receipt")).await;
    browser.picture("manual").await;

    // What somebody has typed is not lost by a slip.
    browser.open(&format!("{url}/#/environments")).await;
    browser.press_button("New environment").await;
    browser.until(&typed("textarea", "{\"id\": \"long work\"}")).await;
    // As typing does.
    browser
        .until(
            "(document.querySelector('dialog textarea').dispatchEvent(\
             new Event('input', {bubbles: true})), true)",
        )
        .await;
    click_beside(&browser).await;
    browser.key("Escape").await;
    browser
        .until(
            "document.querySelector('dialog[open]')?.innerText.includes('Esc once more') \
             && document.querySelector('dialog textarea').value.includes('long work')",
        )
        .await;
    browser.key("Escape").await;
    browser.until("!document.querySelector('dialog[open]')").await;
    browser.key("?").await;
    browser.until("!!document.querySelector('dialog[open] kbd')").await;
    click_beside(&browser).await;
    browser.until("!document.querySelector('dialog[open]')").await;
    // A list is drawn again by itself.
    assert_eq!(caller.call("POST", "/v1/environments", json!({"id": "other"})).await.status, 201);
    browser.until(&says("other")).await;

    // With its scheduler dead, the page says so, and does not go on counting.
    browser.open(&format!("{url}/#/runs/{run}")).await;
    browser.until(&format!("{STATE} === 'running'")).await;
    team.schedulers.clear();
    browser.until(&format!("{STATE}?.startsWith('no connection since ')")).await;
    let time = "document.querySelectorAll('.fact b')[1].textContent";
    let before = browser.value(time).await.unwrap();
    let asked =
        "performance.getEntriesByType('resource').filter(e => e.name.endsWith('/bound')).length";
    let times = browser.value(asked).await.unwrap();
    browser.until(&format!("{asked} >= {times} + 2")).await;
    assert_eq!(browser.value(time).await.unwrap(), before, "it counts what it does not know");
    browser.picture("no-connection").await;
    assert_eq!(browser.problems(), [""; 0]);
}
