//! Clients that send a URL where the host name belongs, as Debian's etcdctl does in two of its commands.

use crate::cluster::{Cluster, Engine};
use crate::on_each_engine;
use std::process::Command;

on_each_engine![an_url_as_authority_is_served];

async fn an_url_as_authority_is_served(engine: Engine) {
    let cluster = Cluster::start(engine, 3).await;
    for command in [&["endpoint", "health"][..], &["endpoint", "status"], &["put", "key", "value"]]
    {
        let output = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints={}", cluster.endpoints().join(",")))
            .args(command)
            .output()
            .expect("etcdctl, which `make deps` installs");
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{command:?}: {text}");
        for endpoint in cluster.endpoints().iter().filter(|_| command[0] == "endpoint") {
            assert!(text.contains(endpoint), "{command:?} says nothing of {endpoint}: {text}");
        }
    }
}
