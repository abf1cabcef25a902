//! Checks against small real servers.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::probe::{CheckTls, Expected};
use crate::supervise::{AppLife, Exit};
use leasehold::AppHealth;

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
    performed(&config("http:/healthz", timeout), server(answer).await).await
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
    assert_eq!(performed(&config("http:/", PATIENCE), addr).await, Ok(()));
    tokio::time::timeout(PATIENCE, endless).await.expect("the probe hung up").unwrap();
}

#[tokio::test]
async fn a_refused_connection_fails_both_ways() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    assert_eq!(performed(&config("tcp", PATIENCE), addr).await, Ok(()));
    drop(listener);
    for check in ["tcp", "http:/"] {
        let error = performed(&config(check, PATIENCE), addr).await.unwrap_err();
        assert!(error.contains("cannot connect") && error.contains("refused"), "{error}");
    }
}

#[tokio::test]
async fn the_watch_tells_of_an_app_that_comes_goes_and_returns() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    let (publish, mut told) = watch::channel(AppHealth::default());
    let (tell, life) = watch::channel(AppLife { starts: 1, ended: None });
    tokio::spawn(watch(config("tcp", PATIENCE), addr, 1, Processes::none(), life, publish));
    let mut until = async |wanted: fn(&AppHealth) -> bool| {
        let seen = tokio::time::timeout(PATIENCE, told.wait_for(wanted)).await;
        drop(seen.expect("it is told in time").unwrap());
    };

    until(|health| matches!(health, AppHealth::NotYet(_))).await;
    let listener = TcpListener::bind(addr).await.unwrap();
    until(|health| matches!(health, AppHealth::Up(_))).await;
    drop(listener);
    until(|health| matches!(health, AppHealth::Down(cause) if cause.contains("refused"))).await;
    let _listener = TcpListener::bind(addr).await.unwrap();
    until(|health| matches!(health, AppHealth::Up(_))).await;

    // The port still takes connections (somebody inherited it, say), and yet the app is gone.
    tell.send_replace(AppLife { starts: 1, ended: Some(Exit::Signal(9)) });
    until(|health| matches!(health, AppHealth::Down(cause) if cause.contains("SIGKILL"))).await;
    tell.send_replace(AppLife { starts: 2, ended: None });
    until(|health| matches!(health, AppHealth::Up(_))).await;
    // Both at once, before anybody looked.
    tell.send_modify(|life| life.starts = 3);
    until(|health| matches!(health, AppHealth::Down(cause) if cause.contains("started again"))).await;
    until(|health| matches!(health, AppHealth::Up(_))).await;
}

#[tokio::test]
async fn without_a_check_the_app_is_well_as_long_as_it_is_there() {
    let addr = "127.0.0.1:9".parse().unwrap();
    let (publish, mut told) = watch::channel(AppHealth::default());
    let (tell, life) = watch::channel(AppLife { starts: 1, ended: None });
    tokio::spawn(watch(config("none", PATIENCE), addr, 1, Processes::none(), life, publish));
    let mut until = async |wanted: fn(&AppHealth) -> bool| {
        let seen = tokio::time::timeout(PATIENCE, told.wait_for(wanted)).await;
        drop(seen.expect("it is told in time").unwrap());
    };
    until(|health| matches!(health, AppHealth::Up(_))).await;
    tell.send_replace(AppLife { starts: 1, ended: Some(Exit::Code(1)) });
    until(|health| matches!(health, AppHealth::Down(_))).await;
    tell.send_replace(AppLife { starts: 2, ended: None });
    until(|health| matches!(health, AppHealth::Up(_))).await;
}

#[tokio::test]
async fn a_body_without_the_text_fails_and_a_header_is_sent() {
    let addr = server(Some(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nstarting")).await;
    let mut asked = config("http:/healthz", PATIENCE);
    asked.expected.body = Some("start".parse().unwrap());
    assert_eq!(performed(&asked, addr).await, Ok(()));
    asked.expected.body = Some("ready".parse().unwrap());
    let error = performed(&asked, addr).await.unwrap_err();
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
    assert_eq!(performed(&asked, addr).await, Ok(()));
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
    let beside = daemon::port::Beside { tls: tls.checked().unwrap(), ..daemon::port::Beside::default() };
    tokio::spawn(daemon::port::serve(listener, served, beside, tokio_util::sync::CancellationToken::new()));

    let checked = async |check: &str, ca: Option<&str>| {
        let ca = ca.map(|name| dir.path().join(name));
        let mut asked = config(check, PATIENCE);
        asked.tls = Some(CheckTls::new(ca.as_deref(), None).unwrap());
        performed(&asked, addr).await
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
        daemon::port::Beside::default(),
        tokio_util::sync::CancellationToken::new(),
    ));
    for check in ["grpc", "grpc:app.v1.App"] {
        assert_eq!(performed(&config(check, PATIENCE), addr).await, Ok(()), "{check}");
    }
    let error = performed(&config("grpc:other", PATIENCE), addr).await.unwrap_err();
    assert!(error.contains("NOT_SERVING"), "{error}");
    let error = performed(&config("grpc:nobody", PATIENCE), addr).await.unwrap_err();
    assert!(error.contains("NotFound"), "{error}");
    let silent = server(None).await;
    let error = performed(&config("grpc", Duration::from_millis(100)), silent).await.unwrap_err();
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
