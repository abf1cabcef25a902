use std::path::Path;
use std::process::Command;

use super::fixture::Fixture;
use testkit::blocking::{free_port, until};

/// Makes a CA, and certificates of it for the server at 127.0.0.1 and for a client.
fn certificates(folder: &Path) {
    let openssl = |args: &[&str]| {
        let output = Command::new("openssl").args(args).current_dir(folder).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
    let ca = ["req", "-x509", "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.pem"];
    openssl(&[&ca[..], &ec].concat());
    for (name, san) in [("server", "subjectAltName=IP:127.0.0.1"), ("client", "subjectAltName=DNS:client")] {
        let (key, pem) = (format!("{name}.key"), format!("{name}.pem"));
        let of_ca = ["req", "-x509", "-CA", "ca.pem", "-CAkey", "ca.key", "-subj", "/CN=x", "-addext", san];
        let files = ["-addext", "basicConstraints=critical,CA:FALSE", "-keyout", &key, "-out", &pem];
        openssl(&[&of_ca[..], &files, &ec].concat());
    }
}

#[test]
fn the_port_speaks_tls_and_takes_the_clients_that_it_should() {
    let fixture = Fixture::start("");
    certificates(fixture.folder());
    let file = |name: &str| fixture.folder().join(name).to_str().unwrap().to_owned();
    let (ca, cert, key) = (file("ca.pem"), file("server.pem"), file("server.key"));
    let (client, client_key) = (file("client.pem"), file("client.key"));
    let addr = format!("127.0.0.1:{}", free_port());
    let mutual = ["--listen", &addr, "--listen-cert", &cert, "--listen-key", &key, "--listen-client-ca", &ca];
    let _running = fixture.run(&mutual, &[]);
    let probe = |more: &[&str]| fixture.probe(&[&["--addr", &addr], more].concat());
    let identity = ["--cacert", &ca, "--cert", &client, "--key", &client_key];
    until("it serves", || (probe(&identity).code == 0).then_some(()));
    assert!([2, 3].contains(&probe(&["--cacert", &ca]).code), "a client without a certificate");
    assert!([2, 3].contains(&probe(&[]).code), "a client without TLS");
    assert!(
        [2, 3].contains(&probe(&["--cacert", &client, "--cert", &client, "--key", &client_key]).code),
        "another CA"
    );

    let get = |more: &[&str]| {
        let mut curl = Command::new("curl");
        curl.args(["-s", "-m", "5", "--cacert", &ca, &format!("https://{addr}/healthz")]).args(more);
        String::from_utf8(curl.output().unwrap().stdout).unwrap()
    };
    assert!(get(&["--cert", &client, "--key", &client_key]).contains("(all): serving"));
    assert!(get(&["--cert", &client, "--key", &client_key, "--http1.1"]).contains("(all): serving"));
    assert_eq!(get(&[]), "");
    fixture.say("plan", &mutual).is(0, &["nothing to do"]);
}

#[test]
fn a_certificate_that_will_not_do_is_told_with_its_flag() {
    let fixture = Fixture::start("");
    certificates(fixture.folder());
    let file = |name: &str| fixture.folder().join(name).to_str().unwrap().to_owned();
    let (cert, key, other) = (file("server.pem"), file("server.key"), file("client.key"));
    fixture.say("run", &["--listen-cert", &cert]).is(64, &["--listen-key"]);
    fixture
        .say("run", &["--listen-cert", "/nowhere", "--listen-key", &key])
        .is(78, &["--listen-cert /nowhere"]);
    fixture.say("run", &["--listen-cert", &cert, "--listen-key", &other]).is(78, &["--listen-key"]);
    fixture
        .say("run", &["--listen-cert", &key, "--listen-key", &key])
        .is(78, &["there is no certificate in it"]);
}
