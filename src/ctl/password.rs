//! Who asks, and passwords that are asked for without showing them.

use std::io::{IsTerminal as _, Read as _};

use tonic::metadata::AsciiMetadataValue;

use super::client::User;
use super::failure::{ERROR, Failure};
use super::options::Options;

/// The user that the options name; asks for a missing password.
///
/// # Errors
/// When no password can be asked for, or the token is no text.
pub(super) fn user(options: &Options) -> Result<Option<User>, Failure> {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    if let Some(token) = given(&options.auth_jwt_token) {
        let token = AsciiMetadataValue::try_from(token);
        let token = token.map_err(|_| Failure::args("the token of --auth-jwt-token is no text"))?;
        return Ok(Some(User::Token(token)));
    }
    let Some(user) = given(&options.user) else { return Ok(None) };
    let (name, password) = match (given(&options.password), user.split_once(':')) {
        (Some(password), _) => (user, password),
        (None, Some((name, password))) => (name.to_owned(), password.to_owned()),
        (None, None) => {
            let password = ask("Password: ").map_err(|why| Failure::new(ERROR, why))?;
            (user, password)
        }
    };
    // etcd's client asks as nobody then.
    let is_whole = !name.is_empty() && !password.is_empty();
    Ok(is_whole.then_some(User::Password { name, password }))
}

/// Asks twice for the password of a user that is being made or changed.
///
/// # Errors
/// When nothing can be asked or the answers are of no use.
pub(super) fn ask_twice(user: &str) -> Result<String, Failure> {
    let ask = |prompt: &str| {
        ask(prompt).map_err(|why| Failure::args(format!("failed to ask password: {why}")))
    };
    let first = ask(&format!("Password of {user}: "))?;
    if first.is_empty() {
        return Err(Failure::args("empty password"));
    }
    let second = ask(&format!("Type password of {user} again for confirmation: "))?;
    match first == second {
        true => Ok(first),
        false => Err(Failure::args("given passwords are different")),
    }
}

fn ask(prompt: &str) -> Result<String, String> {
    // Without this, a script that forgets a password would stop at a terminal it knows nothing of.
    if !std::io::stdin().is_terminal() {
        return Err("standard input is no terminal".to_owned());
    }
    rpassword::prompt_password(prompt).map_err(|error| error.to_string())
}

/// The first word of standard input; nothing if there is none.
pub(super) fn from_stdin() -> String {
    let mut text = String::new();
    // What cannot be read is as good as nothing: the server refuses an empty password.
    let _unreadable = std::io::stdin().read_to_string(&mut text);
    text.split_whitespace().next().unwrap_or_default().to_owned()
}
