//! The page, in a real browser: submit, watch, cancel, rerun, wrong input. Where there is no Chromium it
//! says so and passes.

use crate::browser::Browser;
use crate::cluster::{Cluster, Engine, Folder};
use crate::http::Caller;
use crate::on_each_engine;
use crate::service::Service;
use crate::team::Team;
use serde_json::json;

on_each_engine![the_page_submits_follows_reruns_and_cancels];

const STATE: &str = "document.querySelector('.head .pill')?.textContent";
/// A name that would run if the page took it for markup.
const SLY: &str = "<img src=x onerror=document.title=1>";

async fn the_page_submits_follows_reruns_and_cancels(engine: Engine) {
    let folder = Folder::new();
    let Some(browser) = Browser::start(folder.path()).await else {
        eprintln!("skipped: the page in a browser, since there is no chromium");
        return;
    };
    let mut team = Team::new(Cluster::start(engine, 1).await);
    team.start_scheduler().says("leading the scheduler").await.unwrap();
    let url = team.service_url(0).await;
    let (caller, service) = (Caller::new(&url), Service::start().await);
    for (id, ms, more) in [
        ("bad", 5, json!({})),
        ("good", 5, json!({"name": SLY})),
        ("later", 5, json!({"case_pre": "good"})),
        ("long", 20_000, json!({"mutual_tag": "printer"})),
    ] {
        let mut case = json!({"id": id, "url": service.url(id, ms), "output": "ok"});
        case.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
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
    browser
        .until(
            "(() => { const e = [...document.querySelectorAll('dialog .fields input[type=number]')].pop(); \
             e.value = 30; return true })()",
        )
        .await;
    browser.press_button("Submit").await;
    browser.until("location.hash.startsWith('#/runs/')").await;
    browser.until(&format!("{STATE} === 'failed'")).await;
    let run = browser.value("location.hash.split('/')[2]").await.unwrap();
    let run = run.as_str().unwrap().to_owned();
    let legend = browser.until("document.querySelector('.legend').textContent").await;
    assert_eq!(legend, "passed 60failed 30");
    browser.until("document.body.innerText.includes('Efficiency')").await;
    browser.picture("run").await;
    browser.press_button("Failures").await;
    browser.click("document.querySelector('details.failure summary')").await;
    let output =
        browser.until("document.querySelector('details.failure[open] pre')?.textContent").await;
    assert!(output.as_str().unwrap().contains("expected"), "{output}");
    browser.picture("failures").await;
    browser.press_button("Slots").await;
    browser.until("document.querySelector('canvas')?.width > 300").await;
    browser.picture("slots").await;

    // What failed again is a run of its own, with the failures alone.
    browser.press_button("Rerun failed").await;
    browser.until(&format!("!location.hash.includes('{run}') && {STATE} === 'failed'")).await;
    browser.until(&format!("document.body.innerText.includes('Repeats run {run}')")).await;
    browser.until("document.querySelector('.fact b').textContent === '30 of 30'").await;

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
    browser.press_button("Submit").await;
    browser.until(&format!("location.hash.startsWith('#/runs/') && {STATE} === 'running'")).await;
    browser.press_button("Waiting").await;
    browser
        .until("document.body.innerText.includes('tag printer is held by case long on w1')")
        .await;
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
    browser.until("document.body.innerText.includes('@people')").await;

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
    assert_eq!(browser.problems(), [""; 0]);
}
