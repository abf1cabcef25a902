//! Checks against small real servers.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::*;
use crate::probe::{CheckTlsOptions, Expected};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(10);

fn config(check: &str, timeout: Duration) -> ProbeConfig {
    ProbeConfig {
        check: check.parse().unwrap(),
        expected: Expected::default(),
        tls: None,
        start_grace: Duration::ZERO,
        interval: Duration::from_millis(10),
        timeout,
        rise: 2,
        fall: 2,
    }
}

/// A server that reads a request and answers with `answer`, or keeps silent; then closes.
async fn server(answer: Option<&'static [u8]>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                match answer {
                    Some(answer) => drop(stream.write_all(answer).await),
                    None => std::future::pending().await,
                }
            });
        }
    });
    addr
}

async fn http(answer: Option<&'static [u8]>) -> Result<(), String> {
    let timeout = if answer.is_some() { PATIENCE } else { Duration::from_millis(100) };
    over_network(&config("http:/healthz", timeout), None, server(answer).await).await
}

#[tokio::test]
async fn a_status_of_200_to_399_passes_and_no_other() {
    assert_eq!(http(Some(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")).await, Ok(()));
    assert_eq!(http(Some(b"HTTP/1.0 204 No Content\r\n\r\n")).await, Ok(()));
    assert_eq!(http(Some(b"HTTP/1.1 302 Found\r\nlocation: /x\r\n\r\n")).await, Ok(()));
    for (answer, status) in [
        (&b"HTTP/1.1 404 Not Found\r\n\r\n"[..], "404"),
        (b"HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n", "500"),
        (b"HTTP/1.1 503 No\r\n\r\n", "503"),
    ] {
        let error = http(Some(answer)).await.unwrap_err();
        assert_eq!(error, format!("GET /healthz answered {status}, not 200-399"));
    }
}

#[tokio::test]
async fn an_app_that_hangs_fails_in_time() {
    let error = http(None).await.unwrap_err();
    assert!(error.ends_with("did not answer within 100ms"), "{error}");
}

#[tokio::test]
async fn garbage_and_a_closed_connection_fail() {
    for answer in [&b"SSH-2.0-OpenSSH_9.2\r\n"[..], b"", b"HTTP/1.1 200", b"\0\0\0\0\0\0"] {
        let error = http(Some(answer)).await.unwrap_err();
        assert!(error.starts_with("no HTTP answer from 127.0.0.1:"), "{error}");
    }
}

#[tokio::test]
async fn an_endless_head_fails_and_an_endless_body_is_not_read_to_its_end() {
    static HEAD: [u8; 200_000] = [b'x'; 200_000];
    let error = http(Some(&HEAD)).await.unwrap_err();
    assert!(error.starts_with("no HTTP answer"), "{error}");

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let endless = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 1024]).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        while stream.write_all(&HEAD).await.is_ok() {}
    });
    assert_eq!(over_network(&config("http:/", PATIENCE), None, addr).await, Ok(()));
    tokio::time::timeout(PATIENCE, endless).await.expect("the probe hung up").unwrap();
}

#[tokio::test]
async fn a_refused_connection_fails_both_ways() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    assert_eq!(over_network(&config("tcp", PATIENCE), None, addr).await, Ok(()));
    drop(listener);
    for check in ["tcp", "http:/"] {
        let error = over_network(&config(check, PATIENCE), None, addr).await.unwrap_err();
        assert!(error.contains("cannot connect") && error.contains("refused"), "{error}");
    }
}

#[tokio::test]
async fn a_body_without_the_text_fails_and_a_header_is_sent() {
    let addr = server(Some(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nstarting")).await;
    let mut asked = config("http:/healthz", PATIENCE);
    asked.expected.body = Some("start".parse().unwrap());
    assert_eq!(over_network(&asked, None, addr).await, Ok(()));
    asked.expected.body = Some("ready".parse().unwrap());
    let error = over_network(&asked, None, addr).await.unwrap_err();
    assert_eq!(error, "GET /healthz answered 200 without \"ready\" in its body");

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let seen = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 1024];
        let len = stream.read(&mut request).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        String::from_utf8_lossy(&request[..len]).into_owned()
    });
    let mut asked = config("http:/", PATIENCE);
    asked.expected.headers = ["Host: example.com", "X-Check: 1"].map(|text| text.parse().unwrap()).into();
    assert_eq!(over_network(&asked, None, addr).await, Ok(()));
    let request = seen.await.unwrap();
    assert!(request.contains("host: example.com\r\n") && request.contains("x-check: 1\r\n"), "{request}");
    assert_eq!(request.matches("host:").count(), 1, "{request}");
}

/// A CA and a certificate of it for 127.0.0.1, made by the `openssl` command.
fn certificates(dir: &std::path::Path) {
    for args in [
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.pem",
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=other -keyout other.key -out other.pem",
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=app -CA ca.pem -CAkey ca.key \
         -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE -keyout app.key -out app.pem",
    ] {
        let made =
            std::process::Command::new("openssl").args(args.split_whitespace()).current_dir(dir).output();
        let made = made.expect("openssl is installed");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
}

#[tokio::test]
async fn over_tls_the_certificate_counts_only_where_there_is_a_ca() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let tls = daemon::port::PortTlsOptions {
        listen_cert: Some(dir.path().join("app.pem")),
        listen_key: Some(dir.path().join("app.key")),
        listen_client_ca: None,
    };
    let listener = daemon::port::listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let well = [(String::new(), proto::health::Status::from(true))];
    let (_tell, served) = watch::channel(std::sync::Arc::new(std::collections::BTreeMap::from(well)));
    let services =
        daemon::port::PortServices { tls: tls.checked().unwrap(), ..daemon::port::PortServices::default() };
    tokio::spawn(daemon::port::serve(listener, served, services, tokio_util::sync::CancellationToken::new()));

    let checked = async |check: &str, ca: Option<&str>| {
        let ca = ca.map(|name| dir.path().join(name));
        let tls = CheckTls::open(&CheckTlsOptions { cacert: ca, name: None }).unwrap();
        over_network(&config(check, PATIENCE), Some(&tls), addr).await
    };
    for (check, ca) in
        [("https:/healthz", None), ("https:/healthz", Some("ca.pem")), ("grpcs", Some("ca.pem"))]
    {
        assert_eq!(checked(check, ca).await, Ok(()), "{check} {ca:?}");
    }
    for check in ["https:/healthz", "grpcs"] {
        let error = checked(check, Some("other.pem")).await.unwrap_err();
        assert!(error.contains("certificate") || error.contains("connect"), "{error}");
    }
    assert!(checked("http:/healthz", None).await.is_err(), "plain text to a TLS port");
}

#[tokio::test]
async fn grpc_health_passes_only_where_it_says_serving() {
    let listener = daemon::port::listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let named = [("", true), ("app.v1.App", true), ("other", false)];
    let statuses = named.map(|(name, serving)| (name.to_owned(), proto::health::Status::from(serving)));
    let (_tell, served) = watch::channel(std::sync::Arc::new(std::collections::BTreeMap::from(statuses)));
    tokio::spawn(daemon::port::serve(
        listener,
        served,
        daemon::port::PortServices::default(),
        tokio_util::sync::CancellationToken::new(),
    ));
    for check in ["grpc", "grpc:app.v1.App"] {
        assert_eq!(over_network(&config(check, PATIENCE), None, addr).await, Ok(()), "{check}");
    }
    let error = over_network(&config("grpc:other", PATIENCE), None, addr).await.unwrap_err();
    assert!(error.contains("NOT_SERVING"), "{error}");
    let error = over_network(&config("grpc:unknown", PATIENCE), None, addr).await.unwrap_err();
    assert!(error.contains("NotFound"), "{error}");
    let silent = server(None).await;
    let error = over_network(&config("grpc", Duration::from_millis(100)), None, silent).await.unwrap_err();
    assert!(error.contains("100"), "{error}");
}

/// The only test here with a reaper: it waits for every child of this process.
#[tokio::test]
async fn a_command_passes_by_its_exit_code_and_is_not_left_behind() {
    let (processes, reaping) = crate::supervise::start().unwrap();
    tokio::spawn(reaping);
    let addr: SocketAddr = "127.0.0.1:4711".parse().unwrap();
    let run = async |script: &str, timeout| exec::perform(&processes, script, addr, timeout).await;
    assert_eq!(
        run(r#"test "$LEASEHOLD_CHECK_ADDRESS:$LEASEHOLD_CHECK_PORT" = 127.0.0.1:4711"#, PATIENCE).await,
        Ok(())
    );
    assert_eq!(
        run("echo no >&2; exit 3", PATIENCE).await,
        Err("exec:echo no >&2; exit 3 exited with code 3".into())
    );
    let folder = tempfile::tempdir().unwrap();
    let pid = folder.path().join("pid");
    let endless = format!("sleep 600 & echo $! > {}; wait", pid.display());
    let error = run(&endless, Duration::from_millis(300)).await.unwrap_err();
    assert!(error.ends_with("did not end within 300ms"), "{error}");
    processes.settled(PATIENCE).await;
    let child = std::fs::read_to_string(&pid).unwrap();
    assert!(
        !std::path::Path::new("/proc").join(child.trim()).exists(),
        "what the command started has ended with it"
    );
}
