//! HTTP/1.1 as probes, browsers and scripts speak it, with nothing added or hidden.

use crate::cluster::{Cluster, LIMIT};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

pub struct Page {
    pub status: u16,
    /// In lower case, a line each.
    pub headers: String,
    pub body: String,
}

impl Page {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e} in {:?}", self.body))
    }

    /// The value of a header, if it is there.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// Host and port of a member's client listener.
pub fn address(cluster: &Cluster, member: usize) -> String {
    cluster.members[member].endpoint.strip_prefix("http://").unwrap().to_owned()
}

/// One request to a member without headers of its own or a body.
pub async fn http(cluster: &Cluster, member: usize, method: &str, path: &str) -> Page {
    send(&address(cluster, member), method, path, &[], b"").await
}

/// One request; a header that is given replaces the one that is sent by default.
pub async fn send(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Page {
    let mut all = headers.to_vec();
    all.push(("Connection", "close"));
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&head(address, method, path, &all, body.len())).await.unwrap();
        // A server that answers before it has read all closes early.
        let _refused = stream.write_all(body).await;
        let mut answer = vec![];
        let _reset = stream.read_to_end(&mut answer).await;
        answer
    };
    let answer = tokio::time::timeout(LIMIT, exchange).await.expect("an answer in time");
    let (mut page, rest) = page(&answer).unwrap_or_else(|| {
        panic!("no HTTP answer: {:?}", String::from_utf8_lossy(&answer));
    });
    let mut body = rest.to_vec();
    if page.header("transfer-encoding") == Some("chunked") {
        let mut encoded = std::mem::take(&mut body);
        while let Some(chunk) = chunk(&mut encoded) {
            body.extend(chunk);
        }
    }
    page.body = String::from_utf8(body).unwrap();
    page
}

fn head(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    length: usize,
) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\n");
    if headers.iter().all(|(name, _)| *name != "Host") {
        head += &format!("Host: {address}\r\n");
    }
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    if length > 0 || method == "POST" {
        head += &format!("Content-Length: {length}\r\n");
    }
    (head + "\r\n").into_bytes()
}

/// Status and headers, and what follows them, once they are there.
pub fn page(answer: &[u8]) -> Option<(Page, &[u8])> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).unwrap();
    let (first, headers) = head.split_once("\r\n").unwrap_or((head, ""));
    let status = first.split(' ').nth(1)?.parse().ok()?;
    let headers = headers.replace("\r\n", "\n");
    let headers: Vec<String> = headers
        .lines()
        .map(|line| match line.split_once(':') {
            Some((name, value)) => format!("{}: {}", name.to_lowercase(), value.trim()),
            None => line.to_owned(),
        })
        .collect();
    let page = Page { status, headers: headers.join("\n"), body: String::new() };
    Some((page, &answer[end + 4..]))
}

/// Takes a whole chunk off what has arrived; none if it is not all there, or is the last.
fn chunk(encoded: &mut Vec<u8>) -> Option<Vec<u8>> {
    let end = encoded.windows(2).position(|two| two == b"\r\n")?;
    let length = std::str::from_utf8(&encoded[..end]).ok()?;
    let length = usize::from_str_radix(length, 16).ok().filter(|length| *length > 0)?;
    let data = encoded.get(end + 2..end + 2 + length)?.to_vec();
    encoded.get(end + 2 + length..end + 4 + length)?;
    encoded.drain(..end + 4 + length);
    Some(data)
}

/// A POST whose answer comes line by line.
pub struct Lines {
    stream: TcpStream,
    encoded: Vec<u8>,
    decoded: Vec<u8>,
    pub page: Page,
}

impl Lines {
    /// Returns once the answer's head has come.
    pub async fn open(address: &str, path: &str, body: &str) -> Lines {
        Self::open_with(address, path, &[], body).await
    }

    pub async fn open_with(
        address: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Lines {
        let opening = async {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(&head(address, "POST", path, headers, body.len())).await.unwrap();
            stream.write_all(body.as_bytes()).await.unwrap();
            let mut answer = vec![];
            loop {
                if let Some((page, rest)) = page(&answer) {
                    let encoded = rest.to_vec();
                    return Lines { stream, encoded, decoded: vec![], page };
                }
                assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "closed");
            }
        };
        tokio::time::timeout(LIMIT, opening).await.expect("an answer in time")
    }

    /// The next line, without its end.
    pub async fn next(&mut self) -> String {
        self.maybe_next().await.expect("another line before the connection closes")
    }

    /// The next line if the connection does not close first.
    pub async fn maybe_next(&mut self) -> Option<String> {
        let reading = async {
            loop {
                if let Some(end) = self.decoded.iter().position(|byte| *byte == b'\n') {
                    let line = self.decoded.drain(..=end).collect::<Vec<u8>>();
                    return Some(String::from_utf8(line).unwrap().trim_end().to_owned());
                }
                match chunk(&mut self.encoded) {
                    Some(data) => self.decoded.extend(data),
                    None => {
                        if self.stream.read_buf(&mut self.encoded).await.unwrap() == 0 {
                            return None;
                        }
                    }
                }
            }
        };
        tokio::time::timeout(LIMIT, reading).await.expect("a line in time")
    }
}
