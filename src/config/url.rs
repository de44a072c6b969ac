//! URLs of members: where to listen, where others find us.
//!
//! Member and cluster ids are hashes of these texts, so a URL is kept as it was written. The
//! crate `url` is of no use here: it adds a slash, drops port 80 and lowers the host's case.

use std::fmt;
use std::net::IpAddr;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
    /// A socket in the file system.
    Unix,
    /// The same, with TLS.
    Unixs,
}

/// One URL without path, of a scheme that etcd knows. Compared and ordered by its text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct MemberUrl {
    text: String,
}

impl MemberUrl {
    /// Reads one URL; the error is etcd's, and names the URL.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let Some(scheme) = scheme_name(text)? else {
            return Err(format!("URL scheme must be http, https, unix, or unixs: {text}"));
        };
        let lowered = scheme.to_ascii_lowercase();
        let rest = &text[scheme.len()..];
        match lowered.as_str() {
            "http" | "https" => check_host_and_port(text, rest)?,
            "unix" | "unixs" => {}
            _ => return Err(format!("URL scheme must be http, https, unix, or unixs: {text}")),
        }
        Ok(Self { text: format!("{lowered}{rest}") })
    }

    /// Reads a comma-separated list: sorted, without repetition.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, String> {
        let mut urls = text.split(',').map(Self::parse).collect::<Result<Vec<_>, _>>()?;
        urls.sort();
        urls.dedup();
        Ok(urls)
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn scheme(&self) -> Scheme {
        match self.text.split(':').next() {
            Some("https") => Scheme::Https,
            Some("unix") => Scheme::Unix,
            Some("unixs") => Scheme::Unixs,
            _ => Scheme::Http,
        }
    }

    pub fn is_tls(&self) -> bool {
        matches!(self.scheme(), Scheme::Https | Scheme::Unixs)
    }

    /// Host and port as written (`[::1]:2380`); of a socket in the file system, its path.
    pub fn address(&self) -> &str {
        let rest = self.text.split_once(':').map_or("", |(_, rest)| rest);
        rest.strip_prefix("//").unwrap_or(rest)
    }

    /// Name or address of the host, without port and brackets. Empty if none is given.
    pub fn host(&self) -> &str {
        let host = self.address().rsplit_once(':').map_or(self.address(), |(host, _)| host);
        host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
    }

    /// The port; 0, which lets the system choose, when the text ends at the colon.
    pub fn port(&self) -> u16 {
        self.address().rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(0)
    }

    /// Whether a port can be that number: a URL may have any.
    pub fn check_port(&self) -> Result<(), String> {
        let port = self.address().rsplit_once(':').map_or("", |(_, port)| port);
        let is_socket_file = matches!(self.scheme(), Scheme::Unix | Scheme::Unixs);
        if is_socket_file || port.is_empty() || port.parse::<u16>().is_ok() {
            return Ok(());
        }
        Err(format!("address {port}: invalid port"))
    }

    /// A host to listen on must be an address, or the one name that means the same everywhere.
    pub fn check_can_bind(&self) -> Result<(), String> {
        let is_socket_file = matches!(self.scheme(), Scheme::Unix | Scheme::Unixs);
        if is_socket_file || self.host() == "localhost" || self.host().parse::<IpAddr>().is_ok() {
            return Ok(());
        }
        Err(format!("expected IP in URL for binding ({self})"))
    }

    /// A host that others shall dial must have a name.
    pub fn check_has_host(&self) -> Result<(), String> {
        if self.host().is_empty() { Err(format!("unexpected empty host ({self})")) } else { Ok(()) }
    }
}

impl fmt::Display for MemberUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for MemberUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// `a,b` of a list.
pub fn joined(urls: &[MemberUrl]) -> String {
    urls.iter().map(MemberUrl::as_str).collect::<Vec<_>>().join(",")
}

/// What stands before the first colon, if that can be a scheme.
fn scheme_name(text: &str) -> Result<Option<&str>, String> {
    if text.chars().any(|c| c.is_ascii_control()) {
        return Err(format!("parse {text:?}: net/url: invalid control character in URL"));
    }
    let Some((before, _)) = text.split_once(':') else {
        return Ok(None);
    };
    if before.is_empty() {
        return Err(format!("parse {text:?}: missing protocol scheme"));
    }
    let may_follow = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    let starts_well = before.starts_with(|c: char| c.is_ascii_alphabetic());
    if starts_well && before.chars().all(may_follow) {
        return Ok(Some(before));
    }
    if before.contains('/') {
        return Ok(None);
    }
    Err(format!("parse {text:?}: first path segment in URL cannot contain colon"))
}

/// `rest` is what follows the scheme's name.
fn check_host_and_port(text: &str, rest: &str) -> Result<(), String> {
    let no_port = || Err(format!(r#"URL address does not have the form "host:port": {text}"#));
    let Some(rest) = rest.strip_prefix("://") else {
        return no_port();
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if let Some(bad) = authority.chars().find(|c| c.is_whitespace() || "<>\"@%\\^`{|}".contains(*c))
    {
        return Err(format!(
            "parse {text:?}: invalid character {:?} in host name",
            bad.to_string()
        ));
    }
    let port = match authority.strip_prefix('[') {
        Some(inside) => match inside.split_once(']') {
            Some((_, after)) => after,
            None => return Err(format!("parse {text:?}: missing ']' in host")),
        },
        None => &authority[authority.find(':').unwrap_or(authority.len())..],
    };
    let digits = port.strip_prefix(':').unwrap_or(port);
    if !port.is_empty() && (digits == port || !is_port(digits)) {
        return Err(format!("parse {text:?}: invalid port {port:?} after host"));
    }
    if port.is_empty() {
        return no_port();
    }
    if path.is_empty() { Ok(()) } else { Err(format!("URL must not contain a path: {text}")) }
}

fn is_port(digits: &str) -> bool {
    digits.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> MemberUrl {
        MemberUrl::parse(text).unwrap()
    }

    #[test]
    fn text_is_kept_and_taken_apart() {
        // Text, scheme, address, host, port.
        let table = [
            ("http://localhost:2379", Scheme::Http, "localhost:2379", "localhost", 2379),
            ("https://10.0.0.1:80", Scheme::Https, "10.0.0.1:80", "10.0.0.1", 80),
            ("http://[::1]:2380", Scheme::Http, "[::1]:2380", "::1", 2380),
            (
                "http://Node-1.Example:2380",
                Scheme::Http,
                "Node-1.Example:2380",
                "Node-1.Example",
                2380,
            ),
            ("http://127.0.0.1:", Scheme::Http, "127.0.0.1:", "127.0.0.1", 0),
            ("http://:1", Scheme::Http, ":1", "", 1),
            ("unix://localhost:2379", Scheme::Unix, "localhost:2379", "localhost", 2379),
            ("unixs:///run/quoin.sock", Scheme::Unixs, "/run/quoin.sock", "/run/quoin.sock", 0),
        ];
        for (text, scheme, address, host, port) in table {
            let url = url(text);
            assert_eq!(url.as_str(), text);
            assert_eq!(url.to_string(), text);
            assert_eq!((url.scheme(), url.address()), (scheme, address), "{text}");
            assert_eq!((url.host(), url.port()), (host, port), "{text}");
        }
        assert_eq!(url(" HTTP://Host:1 ").as_str(), "http://Host:1");
        assert!(url("https://a:1").is_tls() && url("unixs://a").is_tls());
        assert!(!url("http://a:1").is_tls() && !url("unix://a").is_tls());
    }

    #[test]
    fn what_is_no_member_url_is_refused_as_by_etcd() {
        let table = [
            ("http://x", r#"URL address does not have the form "host:port": http://x"#),
            ("http://", r#"URL address does not have the form "host:port": http://"#),
            ("http:1.2.3.4:5", r#"URL address does not have the form "host:port": http:1.2.3.4:5"#),
            ("http://a:b:1", r#"parse "http://a:b:1": invalid port ":b:1" after host"#),
            ("http://[::1]", r#"URL address does not have the form "host:port": http://[::1]"#),
            ("http://1.2.3.4:1/p", "URL must not contain a path: http://1.2.3.4:1/p"),
            ("http://1.2.3.4:1/", "URL must not contain a path: http://1.2.3.4:1/"),
            ("ftp://1.1.1.1:1", "URL scheme must be http, https, unix, or unixs: ftp://1.1.1.1:1"),
            ("localhost:2379", "URL scheme must be http, https, unix, or unixs: localhost:2379"),
            ("bad", "URL scheme must be http, https, unix, or unixs: bad"),
            ("", "URL scheme must be http, https, unix, or unixs: "),
            ("http://a:bad", r#"parse "http://a:bad": invalid port ":bad" after host"#),
            ("http://a:-1", r#"parse "http://a:-1": invalid port ":-1" after host"#),
            ("http://[::1]x:1", r#"parse "http://[::1]x:1": invalid port "x:1" after host"#),
            ("http://[::1:2379", r#"parse "http://[::1:2379": missing ']' in host"#),
            ("1.2.3.4:1", r#"parse "1.2.3.4:1": first path segment in URL cannot contain colon"#),
            ("://a:1", r#"parse "://a:1": missing protocol scheme"#),
            ("http://a b:1", r#"parse "http://a b:1": invalid character " " in host name"#),
        ];
        for (text, expected) in table {
            assert_eq!(MemberUrl::parse(text), Err(expected.to_string()), "{text}");
        }
    }

    #[test]
    fn lists_are_sorted_and_have_no_repetition() {
        let urls = MemberUrl::parse_list("http://b:1, http://a:1,http://b:1").unwrap();
        assert_eq!(joined(&urls), "http://a:1,http://b:1");
        assert!(MemberUrl::parse_list("http://a:1,").is_err());
    }

    #[test]
    fn bind_wants_an_address_and_dial_wants_a_host() {
        for text in ["http://localhost:1", "http://0.0.0.0:1", "http://[::]:1", "unix://any:1"] {
            assert_eq!(url(text).check_can_bind(), Ok(()), "{text}");
        }
        for text in ["http://x:1", "http://:1", "https://node.example:1"] {
            let expected = format!("expected IP in URL for binding ({text})");
            assert_eq!(url(text).check_can_bind(), Err(expected));
        }
        for text in ["http://x:65535", "http://x:", "unix://x:99999"] {
            assert_eq!(url(text).check_port(), Ok(()), "{text}");
        }
        assert_eq!(
            url("http://[::1]:65536").check_port(),
            Err("address 65536: invalid port".to_owned())
        );
        assert_eq!(url("http://x:1").check_has_host(), Ok(()));
        assert_eq!(
            url("http://:1").check_has_host(),
            Err("unexpected empty host (http://:1)".into())
        );
    }
}
