//! `selvedge kubeconfig`: the administrator's kubeconfig of a hub, for use on another machine.
//!
//! A hub in a container or behind a service manager has its kubeconfig in a directory that its administrator does not read by
//! hand, and that kubeconfig names loopback.

use std::io::ErrorKind;

use anyhow::{Context as _, Result, bail};

use crate::cli::KubeconfigArgs;
use crate::exit;
use crate::paths::DataDir;

/// What is before the address in the file that the hub writes.
const SERVER: &str = "    server: ";

/// Prints it.
pub fn print(args: KubeconfigArgs) -> Result<()> {
    if let Some(error) = exit::mistakes(args.server.as_deref().and_then(mistake).into_iter().collect()) {
        return Err(error);
    }
    let data_dir = DataDir::new(args.data_dir)?;
    let path = data_dir.kubeconfig();
    let text = match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => bail!(
            "{} is not the data directory of a hub that has started once: it has no kubeconfig; name the hub's with --data-dir",
            data_dir.path().display()
        ),
        text => text.with_context(|| format!("failed to read {}", path.display()))?,
    };
    match args.server {
        Some(server) => {
            print!("{}", with_server(&text, &server).with_context(|| format!("failed to use {}", path.display()))?)
        }
        None => print!("{text}"),
    }
    Ok(())
}

/// What is wrong with the address of a hub.
fn mistake(server: &str) -> Option<String> {
    let is_url = server.parse::<http::Uri>().is_ok_and(|uri| {
        uri.scheme_str() == Some("https")
            && uri.host().is_some_and(|host| !host.is_empty())
            && uri.path() == "/"
            && uri.query().is_none()
            && !server.contains('@')
    });
    (!is_url).then(|| format!("--server: {server:?} is not of the form https://HOST[:PORT]"))
}

/// The file with another address. It is the hub's own form, which has one line with it: what else is there, a person has edited, and
/// is not guessed at.
fn with_server(text: &str, server: &str) -> Result<String> {
    let addresses = text.lines().filter(|line| line.starts_with(SERVER)).count();
    if addresses != 1 {
        bail!(
            "it has {addresses} addresses of a server where the hub writes one; the hub writes it anew when it starts"
        );
    }
    let lines = text.lines().map(|line| match line.starts_with(SERVER) {
        true => format!("{SERVER}{server}\n"),
        false => format!("{line}\n"),
    });
    Ok(lines.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_alone_differs() {
        let before = base_pki::kubeconfig("https://127.0.0.1:6443", "ca", "certificate", "key");
        let after = base_pki::kubeconfig("https://hub.example:443", "ca", "certificate", "key");
        assert_eq!(with_server(&before, "https://hub.example:443").expect("the hub's own form"), after);
        with_server(&(before.clone() + &before), "https://hub.example").expect_err("which of the two?");
        with_server("", "https://hub.example").expect_err("there is none");
    }

    #[test]
    fn an_address_is_of_https_and_nothing_but_an_address() {
        for server in ["https://hub.example", "https://hub.example:6443", "https://[::1]:6443", "https://10.0.0.1/"] {
            assert_eq!(mistake(server), None, "{server}");
        }
        for server in [
            "hub.example",
            "http://hub.example",
            "https://",
            "https://hub.example/api",
            "https://a b",
            "https://me@hub.example",
            "https://a\nb: c",
        ] {
            assert!(mistake(server).is_some(), "{server}");
        }
    }
}
