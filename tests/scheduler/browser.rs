//! A headless Chromium, spoken to over two pipes in its own protocol.

use crate::cluster::within;
use base64::Engine as _;
use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long the page may take for anything.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Browser {
    child: Child,
    to: Mutex<File>,
    said: Arc<Mutex<Vec<Value>>>,
    next: AtomicU64,
    session: Mutex<Option<String>>,
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

/// The program, if it is there.
fn program() -> Option<&'static str> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    names.into_iter().find(|name| Command::new(name).arg("--version").output().is_ok())
}

impl Browser {
    /// None where there is no Chromium.
    pub async fn start(folder: &Path) -> Option<Browser> {
        let program = program()?;
        let (down, up) = (folder.join("to-browser"), folder.join("from-browser"));
        for pipe in [&down, &up] {
            assert!(Command::new("mkfifo").arg(pipe).status().unwrap().success());
        }
        // Opened for both directions, so that neither side waits for the other to open it.
        let open = |pipe: &PathBuf| OpenOptions::new().read(true).write(true).open(pipe).unwrap();
        let (to, from) = (open(&down), open(&up));
        let line = format!(
            "exec {program} --headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage \
             --no-first-run --disable-extensions --lang=en --window-size=1280,860 \
             --user-data-dir={}/profile --remote-debugging-pipe about:blank 3<{} 4>{}",
            folder.display(),
            down.display(),
            up.display(),
        );
        let log = File::create(folder.join("browser.log")).unwrap();
        let child = Command::new("sh")
            .args(["-c", &line])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let said = Arc::new(Mutex::new(Vec::new()));
        let heard = said.clone();
        std::thread::spawn(move || {
            for message in BufReader::new(from).split(0) {
                let Ok(message) = message else { return };
                heard.lock().unwrap().extend(serde_json::from_slice::<Value>(&message).ok());
            }
        });
        let (next, session) = (AtomicU64::new(1), Mutex::new(None));
        let browser = Browser { child, to: Mutex::new(to), said, next, session };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"})).await;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = browser.call("Target.attachToTarget", attach).await;
        let session = attached["sessionId"].as_str().unwrap().to_owned();
        *browser.session.lock().unwrap() = Some(session);
        for domain in ["Page", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({})).await;
        }
        Some(browser)
    }

    pub async fn call(&self, method: &str, params: Value) -> Value {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut message = json!({"id": id, "method": method, "params": params});
        if let Some(session) = &*self.session.lock().unwrap() {
            message["sessionId"] = session.as_str().into();
        }
        let mut text = message.to_string().into_bytes();
        text.push(0);
        self.to.lock().unwrap().write_all(&text).unwrap();
        let answer = within(PATIENCE, method, async || {
            let said = self.said.lock().unwrap();
            let found = said.iter().find(|said| said["id"] == id).cloned();
            found.ok_or_else(|| "no answer".to_owned())
        })
        .await;
        assert!(answer["error"].is_null(), "{method}: {}", answer["error"]);
        answer["result"].clone()
    }

    /// Opens an address as a fresh document. Where only its fragment differs the document would stay,
    /// and what it still shows of the address before would be taken for the new one's.
    pub async fn open(&self, url: &str) {
        self.call("Page.navigate", json!({"url": "about:blank"})).await;
        self.call("Page.navigate", json!({ "url": url })).await;
    }

    /// The value of an expression in the page.
    pub async fn value(&self, expression: &str) -> Result<Value, String> {
        let asked = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let found = self.call("Runtime.evaluate", asked).await;
        match found["exceptionDetails"].is_null() {
            true => Ok(found["result"]["value"].clone()),
            false => Err(found["exceptionDetails"]["exception"]["description"].to_string()),
        }
    }

    /// Waits until an expression is true, or something else than nothing.
    pub async fn until(&self, expression: &str) -> Value {
        within(PATIENCE, expression, async || {
            match self.value(expression).await {
                Ok(Value::Null | Value::Bool(false)) => {}
                Ok(Value::String(text)) if text.is_empty() => {}
                Ok(found) => return Ok(found),
                Err(error) => return Err(error),
            }
            let text = self.value("document.body.innerText").await;
            Err(text.unwrap_or_default().as_str().unwrap_or_default().to_owned())
        })
        .await
    }

    /// Waits for an element, and clicks it.
    pub async fn click(&self, element: &str) {
        self.until(&format!("(() => {{ const e = {element}; e?.click(); return !!e; }})()")).await;
    }

    /// Clicks the button that says this, in the dialog if one is open.
    pub async fn press_button(&self, text: &str) {
        let find = format!(
            "[...(document.querySelector('dialog[open]') || document).querySelectorAll('button')]\
             .find(b => b.textContent.startsWith({text:?}) && !b.disabled)"
        );
        self.click(&find).await;
    }

    pub async fn key(&self, key: &str) {
        let text = if key == "Enter" { "\r" } else { key };
        // What a control of the browser itself does with a key follows from its number.
        let number = match key {
            "Escape" => 27,
            "End" => 35,
            "Home" => 36,
            "ArrowLeft" => 37,
            "ArrowUp" => 38,
            "ArrowRight" => 39,
            "ArrowDown" => 40,
            _ => 0,
        };
        let mut down = json!({"type": "keyDown", "key": key});
        if number > 0 {
            down["windowsVirtualKeyCode"] = number.into();
        }
        if text.chars().count() == 1 {
            down["text"] = text.into();
        }
        self.call("Input.dispatchKeyEvent", down).await;
        self.call("Input.dispatchKeyEvent", json!({"type": "keyUp", "key": key})).await;
    }

    /// What went wrong in the page so far, but for calls that were answered with an error.
    pub fn problems(&self) -> Vec<String> {
        let said = self.said.lock().unwrap();
        let told = said.iter().filter_map(|said| match said["method"].as_str() {
            Some("Runtime.exceptionThrown") => Some(&said["params"]["exceptionDetails"]),
            Some("Log.entryAdded") => {
                let entry = &said["params"]["entry"];
                let is_bad = entry["level"] == "error" && entry["source"] != "network";
                is_bad.then_some(entry)
            }
            _ => None,
        });
        told.map(Value::to_string).collect()
    }

    /// Keeps a picture of the page in the folder that QUOIN_TEST_SCREENSHOTS names, if it does.
    pub async fn picture(&self, name: &str) {
        let Some(folder) = std::env::var_os("QUOIN_TEST_SCREENSHOTS") else { return };
        let found = self.call("Page.captureScreenshot", json!({"format": "png"})).await;
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(found["data"].as_str().unwrap())
            .unwrap();
        std::fs::write(PathBuf::from(folder).join(format!("{name}.png")), bytes).unwrap();
    }
}
