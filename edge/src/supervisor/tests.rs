//! The whole edge in this process: two cores' worth of threads, real sockets, a real file.

use super::*;
use crate::config::load;
use crate::media::Sharing;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use tempfile::TempDir;
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(30);

/// A loopback address that no other test of this machine uses.
fn own_address() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [high, low] = (std::process::id() as u16).to_be_bytes();
    Ipv4Addr::new(127, high | 0x80, low, NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A configuration file of its own.
struct Site {
    directory: TempDir,
    address: Ipv4Addr,
}

impl Site {
    fn new() -> Self {
        Site {
            directory: tempfile::tempdir().unwrap(),
            address: own_address(),
        }
    }

    fn sip(&self, port: u16) -> SocketAddr {
        (self.address, port).into()
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("edge.toml")
    }

    /// Writes the file with listeners on `ports`, and `more` at its end.
    fn write(&self, ports: &[u16], more: &str) -> Settings {
        let address = self.address;
        let mut text = format!(
            "[media]\naddresses = [\"{address}\"]\nports = \"20000-20999\"\n\
             [admin]\naddress = \"{address}:9090\"\ntoken_file = \"token\"\n\
             [cdr]\npath = \"cdr.jsonl\"\n"
        );
        for port in ports {
            text += &format!(
                "[[listen]]\nname = \"l{port}\"\ntransport = \"tcp\"\naddress = \"{address}:{port}\"\n"
            );
        }
        text +=
            "[[trunk]]\nname = \"peer\"\nallow = [\"127.0.0.0/8\"]\nuri = \"sip:127.0.0.9:5070\"\n";
        text += more;
        std::fs::write(self.file(), text).unwrap();
        load(&self.file()).unwrap_or_else(|error| panic!("{error}"))
    }
}

fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// Sends OPTIONS and returns the status line of the answer.
fn options(stream: &mut TcpStream) -> String {
    let to = stream.peer_addr().unwrap();
    let from = stream.local_addr().unwrap();
    let request = format!(
        "OPTIONS sip:{to} SIP/2.0\r\nVia: SIP/2.0/TCP {from};branch=z9hG4bK1\r\nMax-Forwards: 70\r\n\
         From: <sip:probe@{from}>;tag=1\r\nTo: <sip:{to}>\r\nCall-ID: {from}\r\nCSeq: 1 OPTIONS\r\n\
         Content-Length: 0\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    while !answer.windows(2).any(|pair| pair == b"\r\n") {
        let mut buffer = [0; 2048];
        let length = stream.read(&mut buffer).unwrap();
        assert_ne!(length, 0, "closed without an answer");
        answer.extend_from_slice(&buffer[..length]);
    }
    let text = String::from_utf8(answer).unwrap();
    text.lines().next().unwrap().to_owned()
}

async fn options_async(to: SocketAddr) -> String {
    tokio::task::spawn_blocking(move || options(&mut connect(to)))
        .await
        .unwrap()
}

#[tokio::test]
async fn it_starts_answers_reloads_and_stops() {
    let site = Site::new();
    let settings = site.write(&[5060], "");
    let (handle, _requests) = SupervisorHandle::new(settings.protocol.clone());
    let mut edge = Running::start(settings, &handle).await.unwrap();
    // More than one connection: the kernel spreads them over the cores.
    for _ in 0..8 {
        assert_eq!(options_async(site.sip(5060)).await, "SIP/2.0 200 OK");
    }

    // A listener comes, one stays.
    site.write(&[5060, 5062], "");
    let done = edge.reload(&handle).await.unwrap();
    assert_eq!(done.trunks_added, Vec::<String>::new());
    assert_eq!(options_async(site.sip(5062)).await, "SIP/2.0 200 OK");
    assert_eq!(options_async(site.sip(5060)).await, "SIP/2.0 200 OK");
    assert_eq!(handle.config().listeners.len(), 2);

    // A trunk and a key that needs a restart come, a listener goes, and with it the places of those after it.
    let kept: Vec<TcpStream> = (0..8).map(|_| connect(site.sip(5062))).collect();
    let more = "[[trunk]]\nname = \"other\"\nuri = \"sip:127.0.0.10:5070\"\n";
    site.write(&[5062], more);
    let text = std::fs::read_to_string(site.file()).unwrap();
    std::fs::write(site.file(), text.replace("20000-20999", "20000-21999")).unwrap();
    let done = edge.reload(&handle).await.unwrap();
    assert_eq!(done.trunks_added, ["other"]);
    assert_eq!(done.needs_restart, ["[media]"]);
    assert_eq!(options_async(site.sip(5062)).await, "SIP/2.0 200 OK");
    let over_kept = tokio::task::spawn_blocking(move || {
        let each = kept.into_iter().map(|mut stream| options(&mut stream));
        each.collect::<Vec<_>>()
    });
    assert_eq!(over_kept.await.unwrap(), ["SIP/2.0 200 OK"; 8]);
    let gone = site.sip(5060);
    let closed = async {
        while TcpStream::connect(gone).is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, closed).await.unwrap();

    timeout(DEADLINE, edge.stop()).await.unwrap();
    assert!(TcpStream::connect(site.sip(5062)).is_err());
}

#[tokio::test]
async fn a_reload_that_cannot_be_put_in_force_changes_nothing() {
    let site = Site::new();
    let settings = site.write(&[5060], "");
    let (handle, _requests) = SupervisorHandle::new(settings.protocol.clone());
    let mut edge = Running::start(settings, &handle).await.unwrap();

    site.write(&[5060], "");
    std::fs::write(site.file(), "[sip]\nt1 = 500\n").unwrap();
    let fault = edge.reload(&handle).await.unwrap_err();
    assert!(fault.contains("edge.toml:2"), "{fault}");

    let taken = TcpListener::bind(site.sip(5064)).unwrap();
    site.write(&[5060, 5062, 5064], "");
    let fault = edge.reload(&handle).await.unwrap_err();
    let address = taken.local_addr().unwrap();
    assert_eq!(
        fault,
        format!("listener \"l5064\": address {address} is in use by another socket")
    );
    assert_eq!(handle.config().listeners.len(), 1);
    assert_eq!(options_async(site.sip(5060)).await, "SIP/2.0 200 OK");
    assert!(TcpStream::connect(site.sip(5062)).is_err());
    timeout(DEADLINE, edge.stop()).await.unwrap();
}

#[tokio::test]
async fn what_stands_in_the_way_of_a_start_is_named() {
    let site = Site::new();
    let taken = TcpListener::bind(site.sip(5060)).unwrap();
    let settings = site.write(&[5060], "");
    let (handle, _requests) = SupervisorHandle::new(settings.protocol.clone());
    let Err(error) = Running::start(settings, &handle).await else {
        panic!("the address is taken");
    };
    assert_eq!(
        error.to_string(),
        format!(
            "listener \"l5060\": address {} is in use by another socket",
            taken.local_addr().unwrap()
        )
    );

    let site = Site::new();
    let settings = site.write(&[5060], "");
    std::fs::create_dir(site.directory.path().join("cdr.jsonl")).unwrap();
    let (handle, _requests) = SupervisorHandle::new(settings.protocol.clone());
    let Err(error) = Running::start(settings, &handle).await else {
        panic!("the CDR file is a directory");
    };
    assert!(matches!(error, RunError::Cdr(_)), "{error}");
    // Nothing is left behind that holds the address.
    TcpListener::bind(site.sip(5060)).unwrap();
}

#[tokio::test]
async fn a_second_edge_on_the_same_address_is_refused_although_it_shares_the_port() {
    let site = Site::new();
    let settings = site.write(&[5060], "");
    let (handle, _requests) = SupervisorHandle::new(settings.protocol.clone());
    let mut edge = Running::start(settings.clone(), &handle).await.unwrap();
    assert!(matches!(
        Running::start(settings, &handle).await,
        Err(RunError::Listen(ListenError::InUse { .. }))
    ));
    timeout(DEADLINE, edge.stop()).await.unwrap();
}

/// Two that use the same media ports without sockets would not notice.
#[tokio::test]
async fn a_second_edge_with_the_same_media_ports_is_refused_where_these_have_no_sockets() {
    let site = Site::new();
    let settings = site.write(&[5060], "");
    let (handle, _requests) = SupervisorHandle::new(settings.protocol.clone());
    let mut edge = Running::start(settings, &handle).await.unwrap();
    let sharing = edge.shared_media.sharing();
    let other = site.write(&[5062], "");
    match Running::start(other.clone(), &handle).await {
        Err(RunError::MediaPorts(error)) => {
            assert_eq!(sharing, Some(Sharing::Ports));
            let text = error.to_string();
            assert!(text.contains("20000-20999"), "{text}");
        }
        Err(error) if sharing == Some(Sharing::Ports) => panic!("{error}"),
        Ok(_) => panic!("both have the same admin address"),
        Err(_) => println!("SKIPPED: media ports have sockets here"),
    }
    timeout(DEADLINE, edge.stop()).await.unwrap();
    drop(edge);
    let mut next = Running::start(other, &handle).await.unwrap();
    assert_eq!(next.shared_media.sharing(), sharing);
    timeout(DEADLINE, next.stop()).await.unwrap();
}

#[tokio::test]
async fn a_drain_without_calls_ends_at_once_and_new_calls_are_refused_meanwhile() {
    let site = Site::new();
    let settings = site.write(&[5060], "");
    let (handle, mut requests) = SupervisorHandle::new(settings.protocol.clone());
    let mut edge = Running::start(settings, &handle).await.unwrap();
    handle.enter(Phase::Ready);
    handle.drain().unwrap();
    let mut signals = Signals::install().await.unwrap();
    let served = edge.serve(&handle, &mut signals, &mut requests);
    timeout(DEADLINE, served).await.unwrap().unwrap();
    assert_eq!(handle.phase(), Phase::Draining);
    timeout(DEADLINE, edge.stop()).await.unwrap();
}

#[tokio::test]
async fn requests_come_from_any_thread_and_are_answered() {
    let site = Site::new();
    let settings = site.write(&[5060], "");
    let (handle, mut requests) = SupervisorHandle::new(settings.protocol.clone());
    let mut edge = Running::start(settings, &handle).await.unwrap();
    handle.enter(Phase::Ready);
    let asking = {
        let handle = handle.clone();
        std::thread::spawn(move || {
            let done = handle.reload();
            handle.drain().unwrap();
            done
        })
    };
    let mut signals = Signals::install().await.unwrap();
    let served = edge.serve(&handle, &mut signals, &mut requests);
    timeout(DEADLINE, served).await.unwrap().unwrap();
    assert_eq!(asking.join().unwrap(), Ok(Reloaded::default()));
    timeout(DEADLINE, edge.stop()).await.unwrap();
    drop(requests);
    assert_eq!(handle.reload(), Err(RequestError::Unavailable));
}

#[tokio::test]
async fn xdp_that_cannot_be_attached_is_a_problem_and_no_obstacle() {
    let site = Site::new();
    let mut settings = site.write(&[5060], "");
    settings.access.interfaces = vec!["no-such-if0".to_owned()];
    let (handle, _requests) = SupervisorHandle::new(settings.protocol.clone());
    assert_eq!(handle.problems(), Vec::<String>::new());
    let mut edge = Running::start(settings, &handle).await.unwrap();
    let problems = handle.problems();
    assert!(
        matches!(&problems[..], [one] if one.starts_with("access: ")),
        "{problems:?}"
    );
    assert_eq!(options_async(site.sip(5060)).await, "SIP/2.0 200 OK");
    // A reload without the interface makes it good.
    edge.reload(&handle).await.unwrap();
    assert_eq!(handle.problems(), Vec::<String>::new());
    timeout(DEADLINE, edge.stop()).await.unwrap();
}
