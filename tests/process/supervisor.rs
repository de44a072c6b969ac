//! What a supervisor hears and sees, and the gateway.

use crate::cluster::{Cluster, Engine, Exit, Ports, Process, Setup, eventually, product};
use crate::on_each_engine;
use std::ffi::OsString;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

on_each_engine![
    a_supervisor_hears_of_start_life_and_stop,
    lines_go_to_all_outputs_in_the_form_asked_for,
    two_processes_share_a_port_if_both_ask_for_it,
    a_gateway_passes_on_to_members_that_live,
    all_files_that_may_be_open_are_used,
];

/// What the next message says.
fn heard(socket: &UnixDatagram) -> String {
    let mut message = [0; 4096];
    let size = socket.recv(&mut message).expect("a message");
    String::from_utf8_lossy(&message[..size]).trim().to_owned()
}

async fn a_supervisor_hears_of_start_life_and_stop(engine: Engine) {
    let cluster = Cluster::prepare(&Setup::new(engine, 1)).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut command = vec![product().binary.clone().into_os_string()];
    command.extend(cluster.members[0].flags.iter().map(OsString::from));
    let path = path.display().to_string();
    let variables = [("NOTIFY_SOCKET", path.as_str()), ("WATCHDOG_USEC", "40000")];
    let mut process = Process::start(&command, &variables, &cluster.folder().join("start.log"));
    // It may live for a while before it is ready.
    while heard(&socket) != "READY=1" {}
    let text = "successfully notified init daemon";
    process.says(text).await.unwrap();
    assert!(process.output().contains("ready to serve client requests"));
    if product().ours {
        for _ in 0..3 {
            assert_eq!(heard(&socket), "WATCHDOG=1");
        }
        process.ask_to_stop();
        while heard(&socket) != "STOPPING=1" {}
        assert_eq!(process.end().await, Exit::Signal(15));
    }
}

async fn all_files_that_may_be_open_are_used(engine: Engine) {
    let mut cluster = Cluster::prepare(&Setup::new(engine, 1)).await;
    let wrapper = ["prlimit", "--nofile=256:4000"].map(str::to_owned);
    cluster.members[0].wrap_command(wrapper.to_vec());
    cluster.start_all().await.expect("a member with few files");
    let pid = cluster.members[0].pid().expect("a process");
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("its limits");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a line");
    let numbers: Vec<&str> = line.split_whitespace().skip(3).take(2).collect();
    assert_eq!(numbers, ["4000", "4000"]);
    // More connections than the lower limit allows, all of them served.
    let address = cluster.members[0].endpoint.replace("http://", "");
    let mut open = Vec::new();
    for _ in 0..300 {
        open.push(tokio::net::TcpStream::connect(&address).await.expect("a connection"));
    }
    let last = open.last_mut().expect("the last one");
    last.write_all(b"GET /health HTTP/1.0\r\n\r\n").await.expect("a request");
    let mut answer = String::new();
    last.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.contains(r#""health":"true""#), "{answer}");
}

async fn lines_go_to_all_outputs_in_the_form_asked_for(engine: Engine) {
    let setup = Setup::new(engine, 1).flag("--log-format=console");
    let mut cluster = Cluster::prepare(&setup).await;
    let file = cluster.folder().join("lines.log");
    let outputs = format!("--log-outputs=stderr,{}", file.display());
    cluster.members[0].flags.extend([outputs, "--enable-log-rotation".to_owned()]);
    cluster.spawn(0);
    let text = "serving client traffic insecurely; this is strongly discouraged!";
    cluster.members[0].process().says(text).await.unwrap();
    let stderr = cluster.members[0].output();
    let lines = eventually("the same lines in the file", async || {
        let lines = std::fs::read_to_string(&file).unwrap_or_default();
        if lines.contains(text) { Ok(lines) } else { Err(lines) }
    })
    .await;
    let line = lines.lines().find(|line| line.contains(text)).unwrap();
    assert!(stderr.contains(line), "{stderr}");
    let parts: Vec<&str> = line.split('\t').collect();
    assert_eq!((parts.len(), parts[3]), (5, text), "{line}");
    assert!(["info", "warn"].contains(&parts[1]), "{line}");
    assert!(parts[4].starts_with('{') && parts[2].contains(':'), "{line}");
    assert!(!lines.contains("\tdebug\t"), "{lines}");
}

async fn two_processes_share_a_port_if_both_ask_for_it(engine: Engine) {
    let setup = Setup::new(engine, 1).flag("--socket-reuse-port");
    let mut first = Cluster::prepare(&setup).await;
    let mut second = Cluster::prepare(&setup).await;
    let port = first.members[0].flags.iter().find(|f| f.starts_with("--listen-client-urls="));
    let port = port.unwrap().clone();
    second.members[0].flags.push(port.clone());
    first.start_all().await.unwrap();
    second.start_all().await.unwrap();
    // One that does not ask is refused.
    let mut third = Cluster::prepare(&Setup::new(engine, 1)).await;
    third.members[0].flags.push(port);
    third.spawn(0);
    assert_eq!(third.members[0].ended().await, Exit::Code(1));
}

async fn a_gateway_passes_on_to_members_that_live(engine: Engine) {
    let mut cluster = Setup::new(engine, 3).start().await;
    let mut ports = Ports::reserve();
    let address = format!("127.0.0.1:{}", ports.take());
    let command: Vec<String> = [
        &product().binary.display().to_string(),
        "gateway",
        "start",
        "--retry-delay=200ms",
        &format!("--listen-addr={address}"),
        &format!("--endpoints={}", cluster.endpoints().join(",")),
    ]
    .map(str::to_owned)
    .into();
    let mut gateway = Process::start(&command, &[], &cluster.folder().join("gateway.log"));
    gateway.says("ready to proxy client requests").await.unwrap();
    let endpoint = [format!("http://{address}")];
    let put = async |key: &str| {
        let mut client = etcd_client::Client::connect(&endpoint, None).await?;
        client.put(key, "value", None).await
    };
    for key in ["a", "b", "c"] {
        put(key).await.unwrap();
    }
    cluster.kill(1);
    eventually("puts over the members that are left", async || {
        for key in ["a", "b", "c"] {
            put(key).await.map_err(|error| error.to_string())?;
        }
        Ok(())
    })
    .await;
    gateway.says("deactivated endpoint").await.unwrap();
    cluster.restart(1).await;
    gateway.says("\"activated\"").await.unwrap();
    put("d").await.unwrap();
}
